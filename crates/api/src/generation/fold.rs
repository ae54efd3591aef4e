//! Events become parts of an answer. A whole answer is all its parts merged.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use protocol::{Delta, Event, Failure, FinishReason, TokenLogprob, ToolCall, Usage};

use super::Clock;

/// A piece of an answer, in no dialect yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Part {
    pub content: String,
    pub thinking: String,
    pub calls: Vec<Call>,
    pub logprobs: Vec<TokenLogprob>,
    /// The prompt as the tokenizer gets it, when only that was asked for.
    pub rendered: Option<(String, u32)>,
    /// In the last part only.
    pub ending: Option<Ending>,
}

/// A tool call with its place in the answer and an id, made up if the model gave none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub id: String,
    pub index: usize,
    pub call: ToolCall,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ending {
    pub reason: FinishReason,
    pub metrics: Metrics,
}

/// Durations in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    pub total: u64,
    pub load: u64,
    pub prompt_tokens: u32,
    /// Of these, what needed no computing.
    pub cached_tokens: u32,
    pub prompt: u64,
    pub generated_tokens: u32,
    pub generate: u64,
}

impl Part {
    /// What came after this.
    pub(crate) fn merge(&mut self, next: Part) {
        self.content.push_str(&next.content);
        self.thinking.push_str(&next.thinking);
        self.calls.extend(next.calls);
        self.logprobs.extend(next.logprobs);
        self.rendered = next.rendered.or(self.rendered.take());
        self.ending = next.ending.or(self.ending.take());
    }

    pub(crate) fn text_bytes(&self) -> usize {
        self.content.len() + self.thinking.len()
    }
}

/// Turns the events of one request into parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold {
    clock: Clock,
    load: Duration,
    /// Of ids made up for this answer.
    seed: u64,
    calls: usize,
}

impl Fold {
    pub(crate) fn new(clock: Clock, load: Duration) -> Fold {
        Fold { clock, load, seed: RandomState::new().hash_one(0), calls: 0 }
    }

    #[cfg(test)]
    pub(crate) fn with_seed(self, seed: u64) -> Fold {
        Fold { seed, ..self }
    }

    /// `None` for events that no client sees.
    pub(crate) fn event(&mut self, event: Event) -> Result<Option<Part>, Failure> {
        Ok(match event {
            Event::PromptRead { .. } => None,
            Event::Delta(delta) if delta.is_empty() => None,
            Event::Delta(delta) => Some(self.delta(delta)),
            Event::Rendered { prompt, images } => {
                Some(Part { rendered: Some((prompt, images)), ..Part::default() })
            }
            Event::Finished(usage) => {
                Some(Part { ending: Some(self.ending(&usage)), ..Part::default() })
            }
            Event::Failed(failure) => return Err(failure),
        })
    }

    fn delta(&mut self, delta: Delta) -> Part {
        Part {
            content: delta.content,
            thinking: delta.thinking,
            calls: delta.tool_calls.into_iter().map(|call| self.call(call)).collect(),
            logprobs: delta.logprobs,
            ..Part::default()
        }
    }

    fn call(&mut self, call: ToolCall) -> Call {
        let index = self.calls;
        self.calls += 1;
        let id = call.id.clone().filter(|id| !id.is_empty());
        Call { id: id.unwrap_or_else(|| self.id(index)), index, call }
    }

    /// `call_` and eight letters or digits.
    fn id(&self, index: usize) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut rest = self.seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let letters = std::iter::repeat_with(|| {
            let letter = LETTERS[(rest % LETTERS.len() as u64) as usize];
            rest /= LETTERS.len() as u64;
            char::from(letter)
        });
        format!("call_{}", letters.take(8).collect::<String>())
    }

    fn ending(&self, usage: &Usage) -> Ending {
        Ending {
            reason: usage.reason,
            metrics: Metrics {
                total: nanos(self.clock.elapsed()),
                load: nanos(self.load),
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: usage.cached_tokens,
                prompt: usage.prompt_nanos,
                generated_tokens: usage.generated_tokens,
                generate: usage.generate_nanos,
            },
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_up_where_the_model_gave_none() {
        let call = |id: Option<&str>| ToolCall {
            id: id.map(str::to_owned),
            name: "f".into(),
            arguments: Default::default(),
        };
        let mut fold = Fold::new(Clock::Still, Duration::ZERO).with_seed(7);
        let delta =
            Delta { tool_calls: vec![call(Some("x")), call(None), call(None)], ..Delta::default() };
        let part = fold.event(Event::Delta(delta)).unwrap().unwrap();
        let ids: Vec<&str> = part.calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(ids[0], "x");
        assert!(ids[1].starts_with("call_") && ids[1].len() == 13 && ids[1] != ids[2], "{ids:?}");
        assert_eq!(part.calls.iter().map(|call| call.index).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn merged_parts_are_the_whole() {
        let mut fold = Fold::new(Clock::Still, Duration::ZERO);
        let mut whole = Part::default();
        for text in ["a", "", "b"] {
            let delta = Delta { content: text.into(), thinking: text.into(), ..Delta::default() };
            if let Some(part) = fold.event(Event::Delta(delta)).unwrap() {
                whole.merge(part);
            }
        }
        assert_eq!((whole.content.as_str(), whole.thinking.as_str()), ("ab", "ab"));
        assert!(fold.event(Event::Failed(Failure::internal("x"))).is_err());
    }
}
