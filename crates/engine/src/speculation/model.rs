//! Drafts of a small model with the same tokens. It has a memory of its own, in which it follows the sequences that it
//! is asked for; it draws with their randomness, so that it says the same as the large model wherever both think alike.
//!
//! What it remembers of a sequence may lag behind, or have gone astray with a draft: each ask says all tokens, and what
//! differs is forgotten and read anew. It never fails anybody: who cannot be drafted for gets no draft, and that is so too
//! where its memory is full.

use std::collections::{HashMap, VecDeque};

use protocol::{Failure, RequestId};

use crate::executor::{Draw, Executor, Feed, Input};
use crate::speculation::{Ask, Drafter};

/// Tokens that it reads in one step. Price: activations of this many rows of a small model.
const CHUNK_TOKENS: usize = 1024;

/// It reads what it lacks of a sequence before it drafts, unless that is as little as one draft leaves open.
const TURN_TOKENS: usize = 16;

/// Ended sequences whose beginning others may take over. Price: their keys and values in a small model's memory.
const ENDED_MAX: usize = 4;

pub(crate) struct ModelDrafter<E: Executor> {
    executor: E,
    context_tokens_max: usize,
    followed: HashMap<RequestId, Followed<E::Slot>>,
    /// The latest last.
    ended: VecDeque<Followed<E::Slot>>,
}

struct Followed<Slot> {
    slot: Slot,
    /// What the slot remembers.
    tokens: Vec<u32>,
    /// It has no more than these.
    pages: usize,
}

impl<E: Executor> ModelDrafter<E> {
    pub fn new(executor: E, context_tokens_max: usize) -> ModelDrafter<E> {
        let (followed, ended) = (HashMap::new(), VecDeque::new());
        ModelDrafter { executor, context_tokens_max, followed, ended }
    }

    fn draft(&mut self, asks: &[Ask<'_>]) -> Result<Vec<Vec<u32>>, Failure> {
        let members = self.follow_all(asks)?;
        let turns = members.iter().map(|at| asks[*at].depth).max().unwrap_or(0);
        // All turns are under way before the first is read: each takes the token before it where it is.
        let mut under_way = Vec::with_capacity(turns);
        for turn in 0..turns {
            let drafting: Vec<usize> =
                members.iter().copied().filter(|at| asks[*at].depth > turn).collect();
            let feeds: Vec<Feed<E::Slot>> =
                drafting.iter().map(|at| self.feed(&asks[*at], turn)).collect();
            under_way.push((drafting, self.executor.dispatch(&feeds)?));
        }
        let mut drafts = vec![Vec::new(); asks.len()];
        for (drafting, ticket) in under_way {
            for (at, drawn) in drafting.into_iter().zip(self.executor.collect(ticket)?) {
                drafts[at].extend(drawn.iter().map(|drawn| drawn.token));
            }
        }
        for at in members {
            if let Some(followed) = self.followed.get_mut(&asks[at].id) {
                // The last one was drawn and not read.
                let read = drafts[at].len().saturating_sub(1);
                followed.tokens = [asks[at].tokens, &drafts[at][..read]].concat();
            }
        }
        Ok(drafts)
    }

    /// Brings its memory to the ends of these sequences; those for which it has room.
    fn follow_all(&mut self, asks: &[Ask<'_>]) -> Result<Vec<usize>, Failure> {
        let mut members = Vec::new();
        for (at, ask) in asks.iter().enumerate().filter(|(_, ask)| ask.depth > 0) {
            let fits = ask.tokens.len() + ask.depth <= self.context_tokens_max;
            if fits && self.reserve(ask) {
                self.follow(ask)?;
                members.push(at);
            }
        }
        Ok(members)
    }

    fn feed(&self, ask: &Ask<'_>, turn: usize) -> Feed<E::Slot> {
        let followed = &self.followed[&ask.id];
        let input = match turn {
            0 => Input::Tokens(ask.tokens[followed.tokens.len()..].to_vec()),
            _ => Input::Previous,
        };
        let index = ask.index + turn as u64;
        let (sampling, edits) = (ask.sampling.clone(), ask.sampling.edits(None, None));
        let draw = Draw { sampling, index, logprobs: None, edits, late: false };
        Feed { slot: followed.slot, input, draws: vec![draw] }
    }

    /// Promises the pages that this draft needs; false if there is no room, though ended sequences make way.
    fn reserve(&mut self, ask: &Ask<'_>) -> bool {
        if !self.followed.contains_key(&ask.id) {
            let new = self.start(ask.tokens);
            self.followed.insert(ask.id, new);
        }
        let tokens = ask.tokens.len() + ask.depth;
        let pages = tokens.div_ceil(self.executor.page_tokens());
        let before = self.followed.get(&ask.id).map_or(0, |followed| followed.pages);
        let more = pages.saturating_sub(before);
        while more > 0 && !self.has_room(more) {
            let Some(oldest) = self.ended.pop_front() else { return false };
            self.executor.close(oldest.slot);
        }
        self.followed.entry(ask.id).and_modify(|followed| followed.pages = before.max(pages));
        true
    }

    fn has_room(&self, more: usize) -> bool {
        let all = self.followed.values().chain(&self.ended);
        let promised: usize = all.map(|followed| followed.pages).sum();
        let pages = promised + more;
        // Nobody holds pages of a draft model: where it has lanes, these are all.
        let lanes = self.executor.lane_bytes(pages.saturating_mul(self.executor.page_tokens()));
        let bytes = pages.saturating_mul(self.executor.page_bytes()).max(lanes);
        bytes <= self.executor.budget()
    }

    /// Brings its memory of the sequence to within a turn of the end, and at least one token before it.
    fn follow(&mut self, ask: &Ask<'_>) -> Result<(), Failure> {
        let Some(followed) = self.followed.get_mut(&ask.id) else { return Ok(()) };
        let known = shared(&followed.tokens, ask.tokens).min(ask.tokens.len().saturating_sub(1));
        if known < self.executor.length(followed.slot) {
            self.executor.rewind(followed.slot, known);
        }
        followed.tokens.truncate(known);
        while ask.tokens.len() - followed.tokens.len() > TURN_TOKENS {
            let from = followed.tokens.len();
            let to = (from + CHUNK_TOKENS).min(ask.tokens.len() - 1);
            let chunk = ask.tokens[from..to].to_vec();
            followed.tokens.extend_from_slice(&chunk);
            let feed = Feed { slot: followed.slot, input: Input::Tokens(chunk), draws: Vec::new() };
            let ticket = self.executor.dispatch(&[feed])?;
            self.executor.collect(ticket)?;
        }
        Ok(())
    }

    /// A slot for a sequence that it has not seen: that of an ended one which begins alike, if there is one.
    fn start(&mut self, tokens: &[u32]) -> Followed<E::Slot> {
        let alike = |at: &usize| shared(&self.ended[*at].tokens, tokens);
        let best = (0..self.ended.len()).max_by_key(alike).filter(|at| alike(at) > 0);
        match best.and_then(|at| self.ended.remove(at)) {
            Some(ended) => ended,
            None => Followed { slot: self.executor.open(), tokens: Vec::new(), pages: 0 },
        }
    }

    /// What these slots hold cannot be trusted.
    fn close(&mut self, asks: &[Ask<'_>]) {
        for ask in asks {
            if let Some(followed) = self.followed.remove(&ask.id) {
                self.executor.close(followed.slot);
            }
        }
    }
}

impl<E: Executor> Drafter for ModelDrafter<E> {
    fn propose(&mut self, asks: &[Ask<'_>]) -> Vec<Vec<u32>> {
        self.draft(asks).unwrap_or_else(|failure| {
            tracing::warn!(%failure.message, "the draft model failed; replies go on without it");
            self.close(asks);
            vec![Vec::new(); asks.len()]
        })
    }

    fn unread(&self, ask: &Ask<'_>) -> usize {
        let alike = |ended: &Followed<E::Slot>| shared(&ended.tokens, ask.tokens);
        let known = match self.followed.get(&ask.id) {
            Some(followed) => followed.tokens.len(),
            None => self.ended.iter().map(alike).max().unwrap_or(0),
        };
        let unread = ask.tokens.len().saturating_sub(known);
        if unread > TURN_TOKENS { unread } else { 0 }
    }

    fn read(&mut self, asks: &[Ask<'_>]) {
        if let Err(failure) = self.follow_all(asks) {
            tracing::warn!(%failure.message, "the draft model failed; replies go on without it");
            self.close(asks);
        }
    }

    fn give_back(&mut self) {
        self.ended.drain(..).for_each(|ended| self.executor.close(ended.slot));
    }

    fn forget(&mut self, id: RequestId) {
        let Some(mut followed) = self.followed.remove(&id) else { return };
        followed.pages = self.executor.pages(followed.slot).len();
        self.ended.push_back(followed);
        while self.ended.len() > ENDED_MAX {
            if let Some(oldest) = self.ended.pop_front() {
                self.executor.close(oldest.slot);
            }
        }
    }
}

fn shared(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{self, Script, ScriptedExecutor};
    use crate::speculation::tests::ask;

    /// What the scripted model says after these tokens.
    fn continued(tokens: &[u32], depth: usize) -> Vec<u32> {
        let mut tokens = tokens.to_vec();
        let next = (0..depth).map(|_| {
            tokens.push(scripted::next(&tokens));
            tokens[tokens.len() - 1]
        });
        next.collect()
    }

    #[track_caller]
    fn check(drafter: &mut ModelDrafter<ScriptedExecutor>, asks: &[(u64, &[u32], usize)]) {
        let expected: Vec<Vec<u32>> =
            asks.iter().map(|(_, tokens, depth)| continued(tokens, *depth)).collect();
        let asks: Vec<Ask<'_>> =
            asks.iter().map(|(id, tokens, depth)| ask(*id, tokens, *depth)).collect();
        assert_eq!(drafter.propose(&asks), expected);
    }

    #[test]
    fn it_follows_wherever_the_sequence_goes() {
        let mut drafter = ModelDrafter::new(ScriptedExecutor::new(), 10_000);
        let long: Vec<u32> = (0..3 * CHUNK_TOKENS as u32).map(|token| token % 300).collect();
        assert_eq!(
            [drafter.unread(&ask(2, &long, 2)), drafter.unread(&ask(1, &[1; 9], 2))],
            [long.len(), 0]
        );
        check(&mut drafter, &[(1, &[1, 2, 3], 4), (2, &long, 2)]);
        // The draft was right, was wrong from its second token on, was not used at all; and with some tokens between.
        let right = [&[1, 2, 3][..], &continued(&[1, 2, 3], 4), &[9]].concat();
        check(&mut drafter, &[(1, &right, 4), (2, &[&long[..], &[8, 8]].concat(), 1)]);
        check(&mut drafter, &[(1, &[&right[..], &[7, 7]].concat(), 3)]);
        check(&mut drafter, &[(1, &[&right[..], &[7]].concat(), 3), (3, &[4], 1)]);
        check(&mut drafter, &[(1, &[5, 5], 3)]);
        // Nothing is computed twice.
        let computed = drafter.executor.computed;
        drafter.forget(RequestId(2));
        check(&mut drafter, &[(4, &[&long[..], &[1]].concat(), 1)]);
        assert_eq!(drafter.executor.computed, computed + 1);
        for id in 0..20 {
            check(&mut drafter, &[(100 + id, &[50 + id as u32], 1)]);
            drafter.forget(RequestId(100 + id));
        }
        assert_eq!(drafter.executor.open_slots(), 3 + ENDED_MAX);
    }

    #[test]
    fn who_does_not_fit_gets_no_draft() {
        let mut drafter = ModelDrafter::new(ScriptedExecutor::new(), 10);
        let asks = [ask(1, &[1; 9], 2), ask(2, &[1; 8], 2)];
        assert_eq!(drafter.propose(&asks), [vec![], continued(&[1; 8], 2)]);
    }

    /// The executor itself minds that there are never more pages than fit.
    #[test]
    fn who_has_no_room_gets_no_draft_and_ended_ones_make_way() {
        let script = Script { budget_pages: 4, ..Script::default() };
        let mut drafter = ModelDrafter::new(ScriptedExecutor::with(script), 1000);
        let (one, two, three) = ([1; 14], [2; 14], [3; 14]);
        check(&mut drafter, &[(1, &one, 2), (2, &two, 2)]);
        let more: [Ask<'_>; 2] = [ask(1, &one, 3), ask(3, &three, 2)];
        assert_eq!(drafter.propose(&more), vec![Vec::<u32>::new(); 2]);
        check(&mut drafter, &[(1, &one, 2)]);
        drafter.forget(RequestId(2));
        check(&mut drafter, &[(3, &three, 2), (1, &one, 1)]);
        drafter.forget(RequestId(1));
        drafter.give_back();
        assert_eq!(drafter.executor.pages_in_use(), 2);
        check(&mut drafter, &[(3, &[&three[..], &[3; 12]].concat(), 6)]);
        drafter.forget(RequestId(3));
        drafter.give_back();
        assert_eq!((drafter.executor.pages_in_use(), drafter.executor.open_slots()), (0, 0));
    }

    #[test]
    fn a_failing_draft_model_starts_anew() {
        let mut executor = ScriptedExecutor::new();
        executor.fail_after = Some(1);
        let mut drafter = ModelDrafter::new(executor, 1000);
        let asks = [ask(1, &[1, 2], 3), ask(2, &[3, 4], 3)];
        assert_eq!(drafter.propose(&asks), vec![Vec::<u32>::new(); 2]);
        assert_eq!(drafter.executor.open_slots(), 0);
        check(&mut drafter, &[(1, &[1, 2], 3), (2, &[3, 4], 3)]);
    }
}
