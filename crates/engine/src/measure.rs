//! What a step costs: the same loop that serves requests, with a clock around it. Time inside libmlxc is told apart from
//! our own by MLX's meter; what is left is batcher, sampler's bookkeeping, text and events.

use std::time::{Duration, Instant};

use mlx::cpu::parts::{self, Spent};
use protocol::{
    Engine, Event, Failure, Input, LoadModel, LoadedModel, Options, Outbox, Request, RequestId,
    Work,
};

use crate::load;

#[derive(Clone, Copy, Debug)]
pub struct Exercise {
    pub prompt_tokens: usize,
    /// Tokens decoded by each sequence.
    pub decode_tokens: usize,
    /// Sequences that run at once, with different prompts.
    pub sequences: usize,
    /// 0: greedy.
    pub temperature: f32,
    /// Also ask where the time of decoding goes, which costs each kernel two readings of the clock.
    pub parts: bool,
}

/// One round of an exercise.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of all sequences together.
    pub prompt_tokens: usize,
    pub prefill: Duration,
    pub first_token: Duration,
    pub decode_steps: usize,
    pub decode: Duration,
    /// Of `decode`, what was spent inside libmlxc, and in how many calls.
    pub decode_inside_mlx: Duration,
    pub decode_mlx_calls: u64,
    /// Of `decode`, what each kernel on the CPU took, the most first; empty if nobody asked.
    pub decode_parts: Vec<Spent>,
    pub peak_bytes: u64,
}

impl Measured {
    pub fn prefill_tokens_per_second(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill.as_secs_f64()
    }

    /// Of one sequence.
    pub fn decode_steps_per_second(&self) -> f64 {
        self.decode_steps as f64 / self.decode.as_secs_f64()
    }

    /// Ours, in each decode step.
    pub fn own_per_step(&self) -> Duration {
        self.decode.saturating_sub(self.decode_inside_mlx) / self.decode_steps.max(1) as u32
    }
}

/// A prompt that comes while others are read their replies.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// What the prompt takes by itself, to its first token.
    pub alone: Duration,
    /// What it takes beside the running replies.
    pub beside: Duration,
    /// The longest pause of a running reply between two tokens, meanwhile.
    pub longest_gap: Duration,
    pub steps: usize,
}

/// Chats that begin like one that runs.
#[derive(Clone, Copy, Debug)]
pub struct Later {
    /// To the first token of the one that runs, which computes all.
    pub first: Duration,
    /// To that of the slowest of the others, which come together.
    pub slowest: Duration,
    /// The longest step meanwhile.
    pub longest_gap: Duration,
    pub steps: usize,
}

/// A loaded model to measure again and again.
pub struct Bench {
    engine: Box<dyn Engine>,
    loaded: LoadedModel,
    rounds: u64,
}

impl Bench {
    pub fn load(job: &LoadModel) -> Result<Bench, Failure> {
        let (loaded, engine) = load::load_for_measuring(job)?;
        Ok(Bench { engine, loaded, rounds: 0 })
    }

    pub fn loaded(&self) -> &LoadedModel {
        &self.loaded
    }

    pub fn round(&mut self, exercise: Exercise) -> Result<Measured, Failure> {
        let mut tally = Tally::default();
        let base = self.rounds * 1000;
        self.rounds += 1;
        for index in 0..exercise.sequences as u64 {
            self.engine.submit(request(base + index, exercise), &mut tally);
        }
        mlx::memory::reset_peak();
        let start = Instant::now();
        // Prompts and first tokens.
        while tally.started < exercise.sequences && self.engine.step(&mut tally) == Work::More {
            tally.refused()?;
        }
        let prefill = start.elapsed();
        let start = Instant::now();
        mlx::meter::start();
        if exercise.parts {
            parts::start();
        }
        let mut steps = 0;
        while self.engine.step(&mut tally) == Work::More {
            steps += 1;
        }
        let decode = start.elapsed();
        let (inside, decode_parts) = (mlx::meter::stop(), parts::stop());
        tally.refused()?;
        Ok(Measured {
            prompt_tokens: tally.prompt_tokens,
            prefill,
            first_token: prefill,
            decode_steps: steps,
            decode,
            decode_inside_mlx: inside.time,
            decode_mlx_calls: inside.calls,
            decode_parts,
            peak_bytes: self.engine.memory().peak_bytes,
        })
    }
}

impl Bench {
    /// A prompt of so many tokens, alone and then beside `running` replies.
    pub fn beside(&mut self, running: usize, prompt_tokens: usize) -> Result<Beside, Failure> {
        let base = self.rounds * 1000;
        self.rounds += 1;
        let mut tally = Tally::default();
        let one = Exercise {
            prompt_tokens,
            decode_tokens: 1,
            sequences: 1,
            temperature: 0.0,
            parts: false,
        };
        let (alone, ..) = self.until_started(vec![request(base, one)], 1, &mut tally)?;
        while self.engine.step(&mut tally) == Work::More {}
        let mut tally = Tally::default();
        let short = Exercise { prompt_tokens: 20, decode_tokens: 1000, ..one };
        for index in 1..=running as u64 {
            self.engine.submit(request(base + index, short), &mut tally);
        }
        let mut warm = 0;
        while tally.started < running || warm < 20 {
            warm += usize::from(tally.started == running);
            self.engine.step(&mut tally);
            tally.refused()?;
        }
        let last = base + running as u64 + 1;
        let (beside, longest_gap, steps) =
            self.until_started(vec![request(last, one)], running + 1, &mut tally)?;
        (1..=running as u64).for_each(|index| self.engine.cancel(RequestId(base + index)));
        while self.engine.step(&mut tally) == Work::More {}
        Ok(Beside { alone, beside, longest_gap, steps })
    }

    /// `chats` prompts that share so many tokens and have some of their own: one, and then the others while it is answered.
    pub fn later(
        &mut self,
        chats: usize,
        shared_tokens: usize,
        own_tokens: usize,
    ) -> Result<Later, Failure> {
        let base = self.rounds * 1000;
        self.rounds += 1;
        let mut tally = Tally::default();
        let exercise = Exercise {
            prompt_tokens: shared_tokens,
            decode_tokens: 1000,
            sequences: 1,
            temperature: 0.0,
            parts: false,
        };
        let chat = |id: u64| {
            let mut chat = request(base, exercise);
            if let Input::Raw { prompt } = &mut chat.input {
                *prompt += &format!(" {}{}", letters(id), " b".repeat(own_tokens));
            }
            Request { id: RequestId(base + id), ..chat }
        };
        let (first, ..) = self.until_started(vec![chat(0)], 1, &mut tally)?;
        let others = (1..chats as u64).map(chat).collect();
        let (slowest, longest_gap, steps) = self.until_started(others, chats, &mut tally)?;
        (0..chats as u64).for_each(|id| self.engine.cancel(RequestId(base + id)));
        while self.engine.step(&mut tally) == Work::More {}
        Ok(Later { first, slowest, longest_gap, steps })
    }

    /// How long it takes until so many have begun their replies, the longest step, and how many there were.
    fn until_started(
        &mut self,
        requests: Vec<Request>,
        started: usize,
        tally: &mut Tally,
    ) -> Result<(Duration, Duration, usize), Failure> {
        let start = Instant::now();
        let (mut longest, mut steps) = (Duration::ZERO, 0);
        requests.into_iter().for_each(|request| self.engine.submit(request, tally));
        while tally.started < started {
            let step = Instant::now();
            self.engine.step(tally);
            longest = longest.max(step.elapsed());
            steps += 1;
            tally.refused()?;
        }
        Ok((start.elapsed(), longest, steps))
    }
}

/// Prompts differ from the first token on, so that no round finds another's past in the cache.
fn request(id: u64, exercise: Exercise) -> Request {
    let prompt = letters(id) + &" a".repeat(exercise.prompt_tokens);
    Request {
        options: Options {
            num_predict: Some(exercise.decode_tokens as i64),
            temperature: Some(exercise.temperature),
            seed: Some(1),
            ..Options::default()
        },
        ..Request::raw(RequestId(id), prompt)
    }
}

fn letters(number: u64) -> String {
    number.to_string().chars().map(|digit| (b'a' + digit as u8 - b'0') as char).collect()
}

#[derive(Default)]
struct Tally {
    started: usize,
    prompt_tokens: usize,
    failure: Option<Failure>,
}

impl Tally {
    fn refused(&mut self) -> Result<(), Failure> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

impl Outbox for Tally {
    fn send(&mut self, _: RequestId, event: Event) {
        match event {
            Event::PromptRead { prompt_tokens, .. } => {
                self.started += 1;
                self.prompt_tokens += prompt_tokens as usize;
            }
            Event::Failed(failure) => self.failure = Some(failure),
            _ => {}
        }
    }

    fn ready(&self, _: RequestId) -> bool {
        true
    }
}
