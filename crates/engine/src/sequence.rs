//! One request on its way: the tokens known so far, what its reader has been told, and what it cost.

use std::time::Instant;

use protocol::{FinishReason, Options, Usage};
use text::constraint::Constraint;

use crate::output::Output;
use crate::sampling::{Edits, Sampling, Window};

pub(crate) struct Sequence<Slot> {
    /// The prompt, then what was generated and read; never an end token.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// How many of the prompt's tokens were found in a cache.
    pub cached_tokens: usize,
    /// Its place in the model's memory, once it was admitted.
    pub slot: Option<Slot>,
    /// Draws that were dispatched; those read are `generated_tokens()`.
    pub draws: u64,
    /// Upper limit of `draws`.
    pub draws_max: u64,
    pub sampling: Sampling,
    /// What penalties look at; none where there are none.
    pub window: Option<Window>,
    pub logprobs: Option<u8>,
    pub output: Output,
    /// What its reply has to look like, if that was asked.
    pub constraint: Option<Constraint>,
    pub clock: Clock,
}

/// When what happened.
pub(crate) struct Clock {
    pub admitted: Instant,
    pub first_token: Option<Instant>,
}

impl<Slot: Copy> Sequence<Slot> {
    pub fn generated_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Whether what a draw may be depends on the tokens before it.
    pub fn draws_late(&self) -> bool {
        self.constraint.is_some() || self.window.is_some()
    }

    /// For the draw after the last token that is known.
    pub fn edits(&mut self) -> text::Result<Edits> {
        let mask = self.constraint.as_mut().map(Constraint::mask).transpose()?;
        Ok(self.sampling.edits(self.window.as_ref(), mask))
    }

    /// Takes a token that was drawn; the reply's form, if it has one, may refuse it.
    pub fn follow(&mut self, token: u32) -> text::Result<()> {
        self.tokens.push(token);
        self.window.iter_mut().for_each(|window| window.push(token));
        self.constraint.as_mut().map_or(Ok(()), |constraint| constraint.accept(token))
    }

    /// Whether the reply's form leaves nothing that could follow.
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_complete)
    }

    pub fn usage(&self, reason: FinishReason, stop: Option<String>) -> Usage {
        let now = Instant::now();
        let first = self.clock.first_token.unwrap_or(now);
        let nanos =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_nanos() as u64;
        Usage {
            reason,
            prompt_tokens: self.prompt_tokens as u32,
            cached_tokens: self.cached_tokens as u32,
            generated_tokens: self.generated_tokens() as u32,
            prompt_nanos: nanos(self.clock.admitted, first),
            generate_nanos: nanos(first, now),
            stop,
        }
    }
}

/// How many tokens may be drawn: `num_predict` where it says something, and never past the context.
pub(crate) fn draws_max(options: &Options, prompt_tokens: usize, context_tokens: usize) -> u64 {
    let room = context_tokens.saturating_sub(prompt_tokens) as u64;
    match options.num_predict {
        Some(wanted) if wanted > 0 => room.min(wanted as u64),
        _ => room,
    }
}

/// The context of one request: what it asks for, within what the model was loaded with.
pub(crate) fn context_tokens(options: &Options, context_tokens_max: usize) -> usize {
    match options.num_ctx {
        Some(wanted) if wanted > 0 => context_tokens_max.min(wanted as usize),
        _ => context_tokens_max,
    }
}
