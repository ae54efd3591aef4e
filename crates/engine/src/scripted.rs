//! An executor without a model, for the tests of the step loop: it remembers what it was fed, and the token it draws is a
//! function of that alone, so that a sequence's reply is known before it is served.

use std::collections::BTreeMap;

use protocol::{Failure, FailureKind, MemoryReport};

use text::constraint::Mask;

use crate::executor::{Drawn, Executor, Feed, Input};

/// The end token of the tokenizer that these tests use.
pub(crate) const END: u32 = 500;

#[derive(Default)]
pub(crate) struct ScriptedExecutor {
    slots: BTreeMap<usize, Slot>,
    next_slot: usize,
    /// Tokens computed, and the longest single step.
    pub computed: usize,
    pub longest_step: usize,
    /// The step after this many fails.
    pub fail_after: Option<usize>,
}

#[derive(Clone, Default)]
struct Slot {
    tokens: Vec<u32>,
    drawn: Option<u32>,
}

/// The token that follows this history.
pub(crate) fn next(history: &[u32]) -> u32 {
    let hash = history.iter().fold(17u32, |hash, token| hash.wrapping_mul(31).wrapping_add(*token));
    if hash.is_multiple_of(41) { END } else { 1 + hash % 400 }
}

/// The token that follows it within a form: an end if there may be one, now and then.
pub(crate) fn next_of(history: &[u32], mask: &Mask) -> u32 {
    let hash = history.iter().fold(29u32, |hash, token| hash.wrapping_mul(37).wrapping_add(*token));
    let ids: Vec<u32> = mask.ids().collect();
    match mask.allows(END) && hash.is_multiple_of(3) {
        true => END,
        false => ids[hash as usize / 7 % ids.len()],
    }
}

/// A step, and which of its draws wait for a mask, with their slots.
pub(crate) struct ScriptedTicket {
    drawn: Vec<Drawn>,
    waiting: Vec<(usize, usize)>,
}

impl ScriptedExecutor {
    pub fn new() -> ScriptedExecutor {
        ScriptedExecutor::default()
    }

    pub fn open_with(&mut self, tokens: &[u32]) -> usize {
        let slot = self.open();
        self.slots.insert(slot, Slot { tokens: tokens.to_vec(), drawn: None });
        slot
    }

    pub fn remembered(&self, slot: usize) -> &[u32] {
        &self.slots[&slot].tokens
    }

    pub fn open_slots(&self) -> usize {
        self.slots.len()
    }
}

impl Executor for ScriptedExecutor {
    type Slot = usize;
    type Ticket = ScriptedTicket;

    fn open(&mut self) -> usize {
        self.next_slot += 1;
        self.slots.insert(self.next_slot, Slot::default());
        self.next_slot
    }

    fn close(&mut self, slot: usize) {
        assert!(self.slots.remove(&slot).is_some(), "slot {slot} was closed twice");
    }

    fn length(&self, slot: usize) -> usize {
        self.slots[&slot].tokens.len()
    }

    fn rewind(&mut self, slot: usize, length: usize) {
        let tokens = &mut self.slots.get_mut(&slot).unwrap().tokens;
        assert!(length <= tokens.len(), "rewound forward");
        tokens.truncate(length);
    }

    fn fork(&mut self, slot: usize, length: usize) -> usize {
        let tokens = self.slots[&slot].tokens[..length].to_vec();
        self.open_with(&tokens)
    }

    fn dispatch(&mut self, feeds: &[Feed<usize>]) -> Result<ScriptedTicket, Failure> {
        if let Some(left) = &mut self.fail_after {
            if *left == 0 {
                self.fail_after = None;
                return Err(Failure::new(FailureKind::NoRoom, "scripted failure"));
            }
            *left -= 1;
        }
        let mut drawn = Vec::new();
        let mut waiting = Vec::new();
        let mut fed = 0;
        for feed in feeds {
            let slot = self.slots.get_mut(&feed.slot).expect("fed a closed slot");
            match &feed.input {
                Input::Tokens(tokens) => slot.tokens.extend(tokens),
                Input::Previous => slot.tokens.push(slot.drawn.expect("nothing was drawn before")),
            }
            fed += if let Input::Tokens(tokens) = &feed.input { tokens.len() } else { 1 };
            if let Some(draw) = &feed.draw {
                if draw.masked {
                    waiting.push((drawn.len(), feed.slot));
                }
                let token = next(&slot.tokens);
                slot.drawn = Some(token);
                drawn.push(Drawn { token, logprob: None });
            }
        }
        self.computed += fed;
        self.longest_step = self.longest_step.max(fed);
        Ok(ScriptedTicket { drawn, waiting })
    }

    fn draw(&mut self, ticket: &mut ScriptedTicket, masks: &[Option<Mask>]) -> Result<(), Failure> {
        assert_eq!(ticket.waiting.len(), masks.len(), "each waiting draw has its mask");
        for ((row, slot), mask) in ticket.waiting.drain(..).zip(masks) {
            // Who has left has no slot any more.
            if let (Some(mask), Some(slot)) = (mask, self.slots.get_mut(&slot)) {
                let token = next_of(&slot.tokens, mask);
                slot.drawn = Some(token);
                ticket.drawn[row].token = token;
            }
        }
        Ok(())
    }

    fn collect(&mut self, ticket: ScriptedTicket) -> Result<Vec<Drawn>, Failure> {
        assert!(ticket.waiting.is_empty(), "a draw is still waiting");
        Ok(ticket.drawn)
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport::default()
    }
}
