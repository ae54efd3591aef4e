//! One request on its way: the tokens known so far, what its reader has been told, and what it cost.

use std::time::Instant;

use protocol::{FinishReason, Options, Usage};
use text::constraint::Constraint;

use crate::executor::Executor;
use crate::output::Output;
use crate::prefix::NodeId;
use crate::sampling::{Edits, Sampling, Window};

pub(crate) struct Sequence<E: Executor> {
    /// The prompt, then what was generated and read; never an end token.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// Tokens that it may have at once.
    pub context_tokens: usize,
    /// If its beginning may be given up when it has that many: how much of it stays.
    pub keep_tokens: Option<usize>,
    /// Tokens that were given up.
    pub dropped_tokens: usize,
    /// How many of the prompt's tokens were found in a cache.
    pub cached_tokens: usize,
    /// Its place in the model's memory, while it has one.
    pub place: Option<Place<E>>,
    /// Draws that were dispatched; those read are `generated_tokens()`.
    pub draws: u64,
    /// Upper limit of `draws`.
    pub draws_max: u64,
    /// Whether it says itself how long it may become; the context is no such word.
    pub is_open_ended: bool,
    /// Where chunks of its tokens should end, because a state is kept there.
    pub breaks: Vec<usize>,
    /// How often it had to begin anew because a step failed.
    pub failures: u32,
    pub sampling: Sampling,
    /// Tokens that may be drafted at once.
    pub draft_tokens_max: usize,
    /// What penalties look at; none where there are none.
    pub window: Option<Window>,
    pub logprobs: Option<u8>,
    pub output: Output,
    /// What its reply has to look like, if that was asked.
    pub constraint: Option<Constraint>,
    pub clock: Clock,
}

pub(crate) struct Place<E: Executor> {
    pub slot: E::Slot,
    /// The nodes of the prefix tree it stands on: its first whole pages.
    pub nodes: Vec<NodeId>,
    /// Pages that it may have, those it has included.
    pub reserved_pages: usize,
    /// Pages that it has for good; a page that others have too may still have to be copied.
    pub own_pages: usize,
    /// Recurrent states that wait for their page to be in the tree, by length.
    pub states: Vec<(usize, E::State)>,
    /// Where the last one was kept.
    pub state_at: usize,
}

/// When what happened.
pub(crate) struct Clock {
    pub admitted: Instant,
    pub first_token: Option<Instant>,
}

impl<E: Executor> Sequence<E> {
    /// Tokens that it may come to have in memory.
    pub fn tokens_max(&self) -> usize {
        self.context_tokens.min(self.prompt_tokens + self.draws_max as usize)
    }

    /// As many draws can be made before it ends or its context is full.
    pub fn draws_for_now(&self) -> u64 {
        let room = (self.context_tokens + self.dropped_tokens).saturating_sub(self.prompt_tokens);
        self.draws_max.min(room as u64)
    }

    /// When the context is full: gives up half of what may go, the oldest of it. False if nothing may.
    pub fn shift(&mut self) -> bool {
        let Some(keep) = self.keep_tokens.map(|keep| keep.min(self.context_tokens - 1)) else {
            return false;
        };
        let drop = ((self.context_tokens - keep) / 2).max(1);
        self.tokens.drain(keep..keep + drop);
        self.dropped_tokens += drop;
        self.breaks.clear();
        true
    }

    /// A chunk of its tokens should end here, because a state is kept.
    pub fn add_break(&mut self, at: usize) {
        if let Err(index) = self.breaks.binary_search(&at) {
            self.breaks.insert(index, at);
        }
    }

    pub fn generated_tokens(&self) -> usize {
        self.tokens.len() + self.dropped_tokens - self.prompt_tokens
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

    /// What was dispatched and not read comes to nothing.
    pub fn forget_draws(&mut self) {
        self.draws = self.generated_tokens() as u64;
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

/// A reply whose context shifts may be so many contexts long, as in Ollama.
const SHIFTED_CONTEXTS_MAX: u64 = 10;

/// How many tokens may be drawn: `num_predict` where it says something, and never past the context unless that shifts.
pub(crate) fn draws_max(options: &Options, prompt_tokens: usize, context_tokens: usize) -> u64 {
    let room = match options.shift {
        Some(true) => context_tokens as u64 * SHIFTED_CONTEXTS_MAX,
        _ => context_tokens.saturating_sub(prompt_tokens) as u64,
    };
    match options.num_predict {
        Some(wanted) if wanted > 0 => room.min(wanted as u64),
        _ => room,
    }
}

/// Tokens kept at the beginning when the context shifts, where nothing is said: as in Ollama.
const KEEP_TOKENS: usize = 4;

/// How much of the beginning stays when the context shifts; none if it does not. Below 0 is the whole prompt.
pub(crate) fn keep_tokens(options: &Options, prompt_tokens: usize) -> Option<usize> {
    let keep = match options.num_keep {
        Some(wanted) => usize::try_from(wanted).unwrap_or(prompt_tokens),
        None => KEEP_TOKENS,
    };
    options.shift.filter(|shifts| *shifts).map(|_| keep)
}

/// How many tokens may be drafted at once: as many as pay, unless `draft_num_predict` says fewer; 0 is none.
pub(crate) fn draft_tokens_max(options: &Options) -> usize {
    match options.draft_num_predict {
        Some(wanted) if wanted >= 0 => usize::try_from(wanted).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

/// The context of one request: what it asks for, within what the model was loaded with.
pub(crate) fn context_tokens(options: &Options, context_tokens_max: usize) -> usize {
    match options.num_ctx {
        Some(wanted) if wanted > 0 => context_tokens_max.min(wanted as usize),
        _ => context_tokens_max,
    }
}
