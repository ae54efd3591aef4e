//! An engine without a model: for tests, and for trying a client on a machine without MLX.
//!
//! It answers with the words of [`WORDS`], one token each, twelve of them, several requests at once, and honours
//! `num_predict`, `num_ctx`, stop strings, `logprobs`, `render_only`, credit and cancellation. A token is a word with
//! the space before it; a prompt has as many tokens as words. `render_only` gives `role: content` lines.
//!
//! Words in the last user message (or raw prompt) steer it:
//!
//! | word | what happens |
//! |---|---|
//! | `!long N` | the answer has N tokens |
//! | `!say TEXT` | the answer is the rest of that line |
//! | `!think N` | N words of thinking come first, unless thinking is off |
//! | `!tool NAME JSON` | the answer ends in this tool call, a token (JSON: the arguments, one line) |
//! | `!sleep MS` | each step takes MS milliseconds while the request is in it |
//! | `!fail` | the request fails, kind `unsupported` |
//! | `!crash` | the runner dies at the request's first step |
//! | `!panic` | the engine panics at the request's first step |
//! | `!hang` | each step takes a minute while the request is in it |
//!
//! Words in the model's name steer the load: `slowload` (a second, with progress), `stuckload` (no progress, for a
//! minute), `badload` (refused as a bad model), `crashload`, `panicload`.

mod script;

use std::time::{Duration, Instant};

use protocol::{
    Delta, Engine, Event, Failure, FailureKind, FinishReason, LoadModel, LoadedModel, MemoryReport,
    Outbox, Request, RequestId, TokenChoice, TokenLogprob, Usage, Work,
};

use crate::Ready;
use script::{Script, read};

/// The answer, over and over.
pub const WORDS: [&str; 12] = [
    "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett",
    "kilo", "lima",
];

/// Of the model it pretends to be.
pub const CONTEXT_TOKENS_MAX: u32 = 4096;

/// Claimed for the model beside its files, and for each sequence.
const MODEL_BYTES: u64 = 1 << 20;
const SEQUENCE_BYTES: u64 = 1 << 10;

/// How the runner dies.
pub type Crash = Box<dyn FnMut() + Send>;

pub struct Scripted {
    info: LoadedModel,
    sequences: Vec<Sequence>,
    crash: Crash,
}

struct Sequence {
    id: RequestId,
    script: Script,
    stops: Vec<String>,
    tokens_max: u32,
    alternatives: Option<u8>,
    /// Words of the answer so far.
    generated_tokens: u32,
    /// Text that could be the start of a stop string.
    held: String,
    prompt_read: bool,
    started: Instant,
}

impl Scripted {
    /// For [`crate::serve`]: obeys the words in the model's name. `crash` ends the runner; in a process of its own
    /// that is [`std::process::abort`].
    pub fn load(
        model: LoadModel,
        progress: &mut dyn FnMut(u64, u64),
        mut crash: Crash,
    ) -> Result<Ready, Failure> {
        let name = &model.model.name;
        if name.contains("slowload") {
            for step in 1..=20 {
                std::thread::sleep(Duration::from_millis(50));
                progress(step, 20);
            }
        } else if name.contains("stuckload") {
            std::thread::sleep(Duration::from_secs(60));
        } else if name.contains("badload") {
            let message = format!("`{name}` was told to be a bad model");
            return Err(Failure::new(FailureKind::BadModel, message));
        } else if name.contains("crashload") {
            crash();
        } else if name.contains("panicload") {
            panic!("`{name}` was told to panic");
        }
        let engine = Scripted { info: describe(&model), sequences: Vec::new(), crash };
        Ok((engine.info.clone(), Box::new(engine)))
    }
}

fn describe(model: &LoadModel) -> LoadedModel {
    let file_bytes = |path| std::fs::metadata(path).map_or(0, |file| file.len());
    LoadedModel {
        architecture: "scripted".to_owned(),
        context_tokens_max: model
            .context_tokens_max
            .map_or(CONTEXT_TOKENS_MAX, |tokens| tokens.min(CONTEXT_TOKENS_MAX)),
        device: "cpu".to_owned(),
        memory_bytes: MODEL_BYTES + model.model.tensors.iter().map(file_bytes).sum::<u64>(),
    }
}

impl Engine for Scripted {
    fn submit(&mut self, request: Request, out: &mut dyn Outbox) {
        let id = request.id;
        match self.admit(request) {
            Ok(Admitted::Sequence(sequence)) => self.sequences.push(*sequence),
            Ok(Admitted::Rendered(event)) => out.send(id, event),
            Err(failure) => out.send(id, Event::Failed(failure)),
        }
    }

    fn cancel(&mut self, id: RequestId) {
        self.sequences.retain(|sequence| sequence.id != id);
    }

    fn step(&mut self, out: &mut dyn Outbox) -> Work {
        let ready = |sequence: &&Sequence| out.ready(sequence.id);
        let batch: Vec<RequestId> = self.sequences.iter().filter(ready).map(|s| s.id).collect();
        self.misbehave(&batch);
        for sequence in self.sequences.iter_mut().filter(|s| batch.contains(&s.id)) {
            sequence.step(out);
        }
        self.sequences.retain(|sequence| !sequence.is_over());
        if batch.is_empty() { Work::Idle } else { Work::More }
    }

    fn memory(&self) -> MemoryReport {
        let cache_bytes = SEQUENCE_BYTES * self.sequences.len() as u64;
        let active_bytes = self.info.memory_bytes;
        MemoryReport { active_bytes, cache_bytes, peak_bytes: active_bytes + cache_bytes }
    }
}

enum Admitted {
    Sequence(Box<Sequence>),
    Rendered(Event),
}

impl Scripted {
    fn admit(&self, request: Request) -> Result<Admitted, Failure> {
        let prompt = read(&request);
        if request.render_only {
            let event = Event::Rendered { prompt: prompt.rendered, images: prompt.images };
            return Ok(Admitted::Rendered(event));
        }
        let script = prompt.script;
        if script.fail {
            return Err(Failure::new(FailureKind::Unsupported, "the prompt asked for a failure"));
        }
        let context_max = i64::from(self.info.context_tokens_max);
        let context =
            request.options.num_ctx.filter(|&n| n > 0).unwrap_or(context_max).min(context_max);
        let room = context - i64::from(script.prompt_tokens);
        if room <= 0 {
            return Err(Failure::invalid(format!(
                "input length ({} tokens) exceeds the model's maximum context length ({context} tokens)",
                script.prompt_tokens
            )));
        }
        let wanted = request.options.num_predict.filter(|&n| n > 0).unwrap_or(room);
        Ok(Admitted::Sequence(Box::new(Sequence {
            id: request.id,
            stops: request.options.stop.unwrap_or_default(),
            tokens_max: wanted.min(room) as u32,
            alternatives: request.logprobs,
            script,
            generated_tokens: 0,
            held: String::new(),
            prompt_read: false,
            started: Instant::now(),
        })))
    }

    fn misbehave(&mut self, batch: &[RequestId]) {
        let scripts = || self.sequences.iter().filter(|s| batch.contains(&s.id)).map(|s| &s.script);
        let nap = scripts().map(|script| script.sleep).max().unwrap_or_default();
        let (crash, panic) = (scripts().any(|s| s.crash), scripts().any(|s| s.panic));
        std::thread::sleep(nap);
        if panic {
            panic!("the prompt asked for it");
        }
        if crash {
            (self.crash)();
            // In process the connection is cut by now; whatever is sent reaches nobody.
            self.sequences.clear();
        }
    }
}

impl Sequence {
    /// One token.
    fn step(&mut self, out: &mut dyn Outbox) {
        if !self.prompt_read {
            self.prompt_read = true;
            let prompt_tokens = self.script.prompt_tokens;
            out.send(self.id, Event::PromptRead { prompt_tokens, cached_tokens: 0 });
        }
        if self.generated_tokens >= self.tokens_max {
            return self.finish(FinishReason::Length, None, Delta::default(), out);
        }
        let index = self.generated_tokens;
        let Some(word) = self.script.word(index) else {
            let tool_calls: Vec<_> = self.script.tool.take().into_iter().collect();
            self.generated_tokens += tool_calls.len() as u32;
            let delta = Delta { tool_calls, ..Delta::default() };
            return self.finish(FinishReason::Stop, None, delta, out);
        };
        self.generated_tokens += 1;
        let logprobs =
            self.alternatives.map(|count| logprob(index, &word, count)).into_iter().collect();
        if index < self.script.think_tokens {
            return out
                .send(self.id, delta(Delta { thinking: word, logprobs, ..Delta::default() }));
        }
        self.held.push_str(&word);
        if let Some((at, stop)) = find_stop(&self.held, &self.stops) {
            self.held.truncate(at);
            let delta = Delta { logprobs, ..Delta::default() };
            return self.finish(FinishReason::Stop, Some(stop), delta, out);
        }
        let free = self.held.len() - possible_stop_bytes(&self.held, &self.stops);
        let content: String = self.held.drain(..free).collect();
        let news = Delta { content, logprobs, ..Delta::default() };
        if !news.is_empty() {
            out.send(self.id, delta(news));
        }
    }

    fn finish(
        &mut self,
        reason: FinishReason,
        stop: Option<String>,
        last: Delta,
        out: &mut dyn Outbox,
    ) {
        let rest = Delta { content: std::mem::take(&mut self.held), ..last };
        if !rest.is_empty() {
            out.send(self.id, delta(rest));
        }
        let usage = Usage {
            reason,
            prompt_tokens: self.script.prompt_tokens,
            cached_tokens: 0,
            generated_tokens: self.generated_tokens,
            prompt_nanos: 1_000_000,
            generate_nanos: self.started.elapsed().as_nanos() as u64 + 1,
            stop,
        };
        // Marks the sequence as over.
        self.tokens_max = u32::MAX;
        out.send(self.id, Event::Finished(usage));
    }

    fn is_over(&self) -> bool {
        self.tokens_max == u32::MAX
    }
}

fn delta(delta: Delta) -> Event {
    Event::Delta(delta)
}

/// The earliest stop string: where, and which.
fn find_stop(text: &str, stops: &[String]) -> Option<(usize, String)> {
    let found = stops.iter().filter(|stop| !stop.is_empty());
    found.filter_map(|stop| Some((text.find(stop.as_str())?, stop.clone()))).min()
}

/// How many bytes at the end of the text may become a stop string.
fn possible_stop_bytes(text: &str, stops: &[String]) -> usize {
    let starts =
        |stop: &&String, bytes: usize| text.as_bytes().ends_with(&stop.as_bytes()[..bytes]);
    let longest = |stop: &String| (1..stop.len()).rev().find(|&bytes| starts(&stop, bytes));
    stops.iter().filter_map(longest).max().unwrap_or(0)
}

fn logprob(index: u32, word: &str, alternatives: u8) -> TokenLogprob {
    let choice = |id: u32, bytes: &str, logprob| TokenChoice { id, bytes: bytes.into(), logprob };
    let chosen = choice(index, word, -0.25);
    let others = (1..u32::from(alternatives))
        .map(|n| choice(index + n, &format!(" other{n}"), -1.0 - n as f32));
    let top = (alternatives > 0).then(|| chosen.clone()).into_iter().chain(others).collect();
    TokenLogprob { chosen, top }
}

#[cfg(test)]
mod tests;
