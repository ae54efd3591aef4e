//! The seam between deciding and computing. Above it nobody touches an array; below it nobody knows a request.
//!
//! `dispatch` starts a step and returns at once, `collect` waits for what it sampled. One step may be under way while the
//! one before it is read: a feed of [`Input::Previous`] takes the token that the slot sampled last, whether or not anybody
//! has seen it yet.
//!
//! What a slot remembers lies in pages of `page_tokens` positions each, the last of them partly filled. Pages are
//! counted: one lives while a slot has it or somebody holds it. Several slots may have the same page; who writes into a
//! page that is not his alone gets a copy first. Recurrent layers add a state, which exists for one length only.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use protocol::{Failure, MemoryReport, TokenLogprob};

use crate::sampling::{Edits, Sampling};

pub(crate) trait Executor {
    /// A sequence's place in the model's memory.
    type Slot: Copy + Eq + Debug;
    /// Keys and values of `page_tokens` consecutive positions, in all layers.
    type Page: Copy + Eq + Ord + Hash + Debug;
    /// What recurrent layers know after some tokens.
    type State: Clone;
    /// A step under way.
    type Ticket;
    /// The part of a step that waits until others are through.
    type Rest;

    fn open(&mut self) -> Self::Slot;
    fn close(&mut self, slot: Self::Slot);
    /// Tokens that the slot remembers, those of steps under way included.
    fn length(&self, slot: Self::Slot) -> usize;
    /// Forgets all but the first `length` tokens; anywhere where [`Executor::can_rewind`].
    fn rewind(&mut self, slot: Self::Slot, length: usize);

    fn page_tokens(&self) -> usize;
    /// One page, in all layers.
    fn page_bytes(&self) -> usize;
    /// What a running sequence that may reach so many tokens has beside its pages, at most: 0 where pages are all.
    fn lane_bytes(&self, tokens: usize) -> usize;
    /// Recurrent state of one sequence; 0 where the model has none.
    fn state_bytes(&self) -> usize;
    /// What pages and states may take together.
    fn budget(&self) -> usize;
    fn pages_in_use(&self) -> usize;
    fn pages(&self, slot: Self::Slot) -> &[Self::Page];
    fn hold(&mut self, page: Self::Page);
    fn release(&mut self, page: Self::Page);
    /// Layers with a sliding window: this holder gives up their part of the page, the rest stays.
    #[allow(dead_code)] // Asked for by tests only: eviction does not count windows by themselves yet.
    fn release_window(&mut self, page: Self::Page);
    /// A slot that begins with the first `length` tokens of `pages`, which are all shared.
    fn open_on(
        &mut self,
        pages: &[Self::Page],
        length: usize,
        state: Option<&Self::State>,
    ) -> Self::Slot;
    /// Whether `open_on` may be asked: the parts that windows need are there, and a state where one is needed.
    fn is_resumable(
        &self,
        pages: &[Self::Page],
        length: usize,
        state: Option<&Self::State>,
    ) -> bool;
    /// A page as bytes, which only the same model in the same layout understands; waits until it is computed.
    fn export(&mut self, page: Self::Page) -> Result<Vec<u8>, Failure>;
    /// A page of bytes, held once; none if they are of something else.
    fn import(&mut self, bytes: &[u8]) -> Option<Self::Page>;
    fn export_state(&mut self, state: &Self::State) -> Result<Vec<u8>, Failure>;
    fn import_state(&mut self, bytes: &[u8]) -> Option<Self::State>;
    /// The recurrent state as of the slot's length; none where the model has none.
    fn state(&self, slot: Self::Slot) -> Option<Self::State>;
    /// Whether a slot can go back to any length: not with windows or recurrent layers.
    fn can_rewind(&self) -> bool;

    /// Starts a step. If it fails, all slots remember what they did before.
    fn dispatch(&mut self, feeds: &[Feed<Self::Slot>]) -> Result<Self::Ticket, Failure>;
    /// Whether steps are computed on the cores that everything else here runs on.
    fn shares_cores(&self) -> bool;
    /// Whether part of a step can wait while the other is computed.
    fn can_part(&self) -> bool;
    /// As `dispatch`, where some feeds cannot wait: if the step takes so long that they would be late, they are computed to
    /// the end by themselves, and a rest stays. Until it is through its slots are not touched. Returns when most of the step
    /// is computed.
    fn dispatch_by(
        &mut self,
        feeds: &[Feed<Self::Slot>],
        hurry: Hurry,
    ) -> Result<(Self::Ticket, Option<Self::Rest>), Failure>;
    /// Goes on with a rest, until then or to its end. If it fails, its slots are useless.
    fn go_on(
        &mut self,
        rest: Self::Rest,
        until: Duration,
    ) -> Result<Onward<Self::Ticket, Self::Rest>, Failure>;
    /// Makes the late draws, in order. Must come before anything else is done with a step that has such draws.
    fn draw(&mut self, ticket: &mut Self::Ticket, edits: &[Edits]) -> Result<(), Failure>;
    /// For each feed that draws, in order: what its rows drew. If it fails, the slots of this step and of those after it
    /// are useless.
    fn collect(&mut self, ticket: Self::Ticket) -> Result<Vec<Vec<Drawn>>, Failure>;

    fn memory(&self) -> MemoryReport;
    /// Since whenever: what a step took is the difference.
    fn now(&self) -> Duration;
}

/// What a step owes to those who are read their replies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hurry {
    /// The first feeds, as many as these, cannot wait.
    pub feeds: usize,
    /// By when they are to be through, by `Executor::now`.
    pub until: Duration,
    /// What a step takes in which they are by themselves.
    pub alone: Duration,
}

/// How far a rest has come.
pub(crate) enum Onward<Ticket, Rest> {
    Through(Ticket),
    Rest(Rest),
}

/// One sequence's part in a step.
#[derive(Clone, Debug)]
pub(crate) struct Feed<Slot> {
    pub slot: Slot,
    pub input: Input,
    /// One for each of the feed's last rows: tokens drawn after them. None in the middle of a prompt; several where
    /// drafted tokens are verified. [`Input::Previous`] means the last of them.
    pub draws: Vec<Draw>,
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
    /// What is done to the logits first, where that is known: always, or because the tokens before are.
    pub edits: Edits,
    /// The token is drawn later, by [`Executor::draw`], which says what is done to the logits: that depends on the token
    /// before it, which nobody has seen yet. The step itself need not wait for that.
    pub late: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawn {
    pub token: u32,
    /// Token ids and natural logarithms; bytes are filled in by whoever knows the tokenizer.
    pub logprob: Option<TokenLogprob>,
}

impl<Slot: Copy> Feed<Slot> {
    /// Cuts its tokens in half and gives the second one, if there are two.
    pub fn split(&mut self) -> Option<Feed<Slot>> {
        let Input::Tokens(tokens) = &mut self.input else { return None };
        let half = tokens.len() / 2;
        // Rows that draw stay together.
        if half == 0 || self.draws.len() > tokens.len() - half {
            return None;
        }
        let rest = Input::Tokens(tokens.split_off(half));
        Some(Feed { slot: self.slot, input: rest, draws: std::mem::take(&mut self.draws) })
    }

    pub fn rows(&self) -> usize {
        match &self.input {
            Input::Tokens(tokens) => tokens.len(),
            Input::Previous => 1,
        }
    }
}
