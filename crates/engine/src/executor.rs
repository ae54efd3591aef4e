//! The seam between deciding and computing. Above it nobody touches an array; below it nobody knows a request.
//!
//! `dispatch` starts a step and returns at once, `collect` waits for what it sampled. One step may be under way while the
//! one before it is read: a feed of [`Input::Previous`] takes the token that the slot sampled last, whether or not anybody
//! has seen it yet.

use protocol::{Failure, MemoryReport, TokenLogprob};
use text::constraint::Mask;

use crate::sampling::Sampling;

pub(crate) trait Executor {
    /// A sequence's place in the model's memory.
    type Slot: Copy + Eq + std::fmt::Debug;
    /// A step under way.
    type Ticket;

    fn open(&mut self) -> Self::Slot;
    fn close(&mut self, slot: Self::Slot);
    /// Tokens that the slot remembers, those of steps under way included.
    fn length(&self, slot: Self::Slot) -> usize;
    /// Forgets all but the first `length` tokens.
    fn rewind(&mut self, slot: Self::Slot, length: usize);
    /// Another slot that remembers the first `length` tokens of this one.
    fn fork(&mut self, slot: Self::Slot, length: usize) -> Self::Slot;

    fn dispatch(&mut self, feeds: &[Feed<Self::Slot>]) -> Result<Self::Ticket, Failure>;
    /// Draws for the feeds that wait for a mask, in order; with none given, any token may be drawn. Must come before
    /// anything else is done with a step that has such feeds.
    fn draw(&mut self, ticket: &mut Self::Ticket, masks: &[Option<Mask>]) -> Result<(), Failure>;
    /// For each feed that draws, in order: what it drew.
    fn collect(&mut self, ticket: Self::Ticket) -> Result<Vec<Drawn>, Failure>;

    fn memory(&self) -> MemoryReport;
}

/// One sequence's part in a step.
#[derive(Clone, Debug)]
pub(crate) struct Feed<Slot> {
    pub slot: Slot,
    pub input: Input,
    /// Whether a token is drawn after the last one fed.
    pub draw: Option<Draw>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Tokens(Vec<u32>),
    /// The token that this slot drew last.
    Previous,
}

#[derive(Clone, Debug)]
pub(crate) struct Draw {
    pub sampling: Sampling,
    /// Counts the draws of the sequence: with the seed it fixes the randomness, whoever else is in the batch.
    pub index: u64,
    pub logprobs: Option<u8>,
    /// The token is drawn later, by [`Executor::draw`]: what it may be depends on the one before it, which nobody has
    /// seen yet. The step itself need not wait for that.
    pub masked: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawn {
    pub token: u32,
    /// Token ids and natural logarithms; bytes are filled in by whoever knows the tokenizer.
    pub logprob: Option<TokenLogprob>,
}
