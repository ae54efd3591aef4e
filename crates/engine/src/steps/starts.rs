//! Who has a place in memory. What a sequence may need is reserved before it starts, in pages: all of it where the length
//! of its reply was asked for; for an open-ended one its prompt and a usual reply, and then more as it grows. When there is
//! no more, what only the tree has goes first; then the latest sequence steps back into line, from where it goes on later:
//! its pages stay in the tree as long as they can, and what is lost of them is computed again. So memory never overcommits,
//! and whoever came first always gets on.

use std::collections::HashMap;
use std::time::Instant;

use protocol::{Outbox, RequestId};

use super::Steps;
use super::parting::Aside;
use crate::batcher::{Desk, Start};
use crate::executor::Executor;
use crate::persist::{Brought, Shelf};
use crate::prefix::Tree;
use crate::sequence::{Place, Sequence};

/// Tokens reserved at first for a reply that may become as long as the context. Price: a longer one may have to wait in
/// the middle, a shorter one keeps others waiting for nothing.
const REPLY_TOKENS_USUAL: usize = 512;

/// By how much the reservation of an open-ended sequence grows.
const GROWTH_TOKENS: usize = 256;

/// Tokens that one step may add to a running sequence, drafts included.
pub(crate) const STEP_TOKENS_MAX: usize = 32;

/// A recurrent state is kept at least every so many tokens of a prompt. Price: its bytes.
const STATE_TOKENS: usize = 1024;

/// Fewer tokens than this on a page are not worth keeping it.
const TAIL_TOKENS_MIN: usize = 8;

/// Says to the batcher who can start.
pub(super) struct Door<'a, E: Executor> {
    pub executor: &'a mut E,
    pub tree: &'a mut Tree<E::Page, E::State>,
    pub sequences: &'a mut HashMap<RequestId, Sequence<E>>,
    pub shelf: &'a mut Option<Shelf>,
    pub aside: Option<&'a Aside<E>>,
    pub out: &'a dyn Outbox,
}

impl<E: Executor> Desk for Door<'_, E> {
    fn is_ready(&self, id: RequestId) -> bool {
        self.out.ready(id) && !self.aside.is_some_and(|aside| aside.has(id))
    }

    fn breaks(&self, id: RequestId) -> &[usize] {
        self.sequences.get(&id).map_or(&[], |sequence| &sequence.breaks)
    }

    fn start(&mut self, id: RequestId) -> Start {
        let Some(sequence) = self.sequences.get(&id) else { return Start::Later };
        // What is under way for one that stepped back is read first.
        let is_unread = sequence.draws > sequence.generated_tokens() as u64;
        if is_unread || self.is_computed_elsewhere(sequence) {
            return Start::Later;
        }
        let is_busy = || self.sequences.values().any(|other| other.place.is_some());
        if let Some(shelf) = self.shelf
            && shelf.bring(id, &sequence.tokens, is_busy(), self.tree, self.executor)
                == Brought::Some
        {
            return Start::Later;
        }
        let page_tokens = self.executor.page_tokens();
        let reserved_pages = first_tokens(sequence).div_ceil(page_tokens);
        let found = self.beginning(id);
        // A page that only a running sequence has is shared and not stood on.
        let whole = (found.length / page_tokens).min(found.nodes.len());
        // Not on a page of which only a part fits: it will be copied, or be its own when it has left the tree.
        let nodes = found.nodes[..whole].to_vec();
        self.tree.enter(&nodes);
        let room = Room::new(self.executor, self.tree, self.sequences.values());
        let lane_bytes = self.executor.lane_bytes(reserved_pages * page_tokens);
        if !room.has(reserved_pages - whole, 1, lane_bytes) {
            self.tree.leave(&nodes);
            self.shelf.iter_mut().for_each(|shelf| shelf.let_go(id, self.tree));
            return Start::NoRoom;
        }
        let slot = self.executor.open_on(&found.pages, found.length, found.state.as_ref());
        self.shelf.iter_mut().for_each(|shelf| shelf.let_go(id, self.tree));
        let place = Place {
            slot,
            nodes,
            reserved_pages,
            own_pages: whole,
            states: Vec::new(),
            state_at: found.length,
        };
        self.settle(id, place, found.length)
    }
}

impl<E: Executor> Door<'_, E> {
    fn settle(&mut self, id: RequestId, place: Place<E>, from: usize) -> Start {
        let Some(sequence) = self.sequences.get_mut(&id) else { return Start::Later };
        let to = sequence.tokens.len();
        if sequence.clock.first_token.is_none() {
            sequence.cached_tokens = from;
            sequence.clock.admitted = Instant::now();
        }
        if self.executor.state_bytes() > 0 {
            // Many a conversation goes on otherwise than its last prompt ended.
            let page_tokens = self.executor.page_tokens();
            sequence.add_break((to - 1) / page_tokens * page_tokens);
        }
        sequence.place = Some(place);
        Start::Prompt { from, to }
    }
}

fn first_tokens<E: Executor>(sequence: &Sequence<E>) -> usize {
    match sequence.is_open_ended {
        true => sequence.tokens_max().min(sequence.tokens.len() + REPLY_TOKENS_USUAL),
        false => sequence.tokens_max(),
    }
}

/// What is taken and what is promised, in bytes.
pub(super) struct Room {
    budget: usize,
    taken: usize,
    /// Of that, what `evict` gives back.
    spare: usize,
    promised: usize,
    /// What running sequences have beside their pages, at most.
    lanes: usize,
    page_bytes: usize,
    state_bytes: usize,
}

impl Room {
    pub fn new<'a, E: Executor + 'a>(
        executor: &E,
        tree: &Tree<E::Page, E::State>,
        sequences: impl Iterator<Item = &'a Sequence<E>>,
    ) -> Room {
        let (page_bytes, state_bytes) = (executor.page_bytes(), executor.state_bytes());
        let (mut pages, mut states, mut lanes) = (0, 0, 0);
        for place in sequences.filter_map(|sequence| sequence.place.as_ref()) {
            pages += place.reserved_pages.saturating_sub(place.own_pages);
            states += 1 + place.states.len();
            lanes += executor.lane_bytes(place.reserved_pages * executor.page_tokens());
        }
        Room {
            budget: executor.budget(),
            taken: executor.pages_in_use() * page_bytes + (tree.states() + states) * state_bytes,
            spare: tree.unused() * page_bytes + tree.states() * state_bytes,
            promised: pages * page_bytes,
            lanes,
            page_bytes,
            state_bytes,
        }
    }

    /// Whether so much more can be promised.
    pub fn has(&self, pages: usize, states: usize, lane_bytes: usize) -> bool {
        let more = pages * self.page_bytes + states * self.state_bytes + lane_bytes;
        let all = self.taken + self.promised + self.lanes + more;
        all <= self.budget.saturating_add(self.spare)
    }

    /// Whether so many pages can be taken now, before anything is given back.
    fn has_free(&self, pages: usize) -> bool {
        self.taken + self.lanes + pages * self.page_bytes <= self.budget
    }
}

impl<E: Executor> Steps<E> {
    pub(super) fn room(&self) -> Room {
        Room::new(&self.executor, &self.tree, self.sequences.values())
    }

    /// Gives back what nobody uses until so many pages can be taken.
    pub(super) fn make_room(&mut self, pages: usize) {
        while !self.room().has_free(pages) {
            if !self.tree.evict(&mut self.executor) {
                return;
            }
        }
    }

    /// Running sequences that need more than they reserved get it, or the latest ones step back.
    pub(super) fn grow(&mut self, out: &mut dyn Outbox) {
        let running: Vec<RequestId> = self.batcher.running().collect();
        for id in running {
            while !self.grows(id) {
                self.go_through(out);
                let Some(latest) = self.batcher.latest().next() else { return };
                tracing::debug!(id = latest.0, "steps back, for memory is full");
                self.step_back(latest);
            }
        }
    }

    /// False if there is no room.
    fn grows(&mut self, id: RequestId) -> bool {
        let page_tokens = self.executor.page_tokens();
        let Some(sequence) = self.sequences.get(&id) else { return true };
        let Some(place) = &sequence.place else { return true };
        let pages = |tokens: usize| tokens.min(sequence.tokens_max()).div_ceil(page_tokens);
        let tokens = self.executor.length(place.slot) + STEP_TOKENS_MAX;
        let reserved = place.reserved_pages;
        if pages(tokens) <= reserved {
            return true;
        }
        let room = self.room();
        let wishes = [pages(tokens + GROWTH_TOKENS), pages(tokens)];
        let lanes = |pages: usize| self.executor.lane_bytes(pages * page_tokens);
        let more = |pages: usize| lanes(pages) - lanes(reserved);
        let granted = wishes.into_iter().find(|pages| room.has(pages - reserved, 0, more(*pages)));
        let place = self.sequences.get_mut(&id).and_then(|sequence| sequence.place.as_mut());
        if let (Some(place), Some(pages)) = (place, granted) {
            place.reserved_pages = pages;
        }
        granted.is_some()
    }

    /// Back into line, with nothing lost that others do not need more.
    pub(super) fn step_back(&mut self, id: RequestId) {
        self.batcher.step_back(id);
        if let Some(mut sequence) = self.sequences.remove(&id) {
            self.give_up_place(&mut sequence, None);
            self.sequences.insert(id, sequence);
        }
    }

    /// A sequence that fills its context and may go on does so without its oldest part: what stays is a prompt like any
    /// other, of which the tree has the beginning.
    pub(super) fn shift_if_full(&mut self, id: RequestId) {
        let is_full =
            |sequence: &&mut Sequence<E>| sequence.tokens.len() >= sequence.context_tokens;
        if self.sequences.get_mut(&id).filter(is_full).is_none_or(|s| s.keep_tokens.is_none()) {
            return;
        }
        self.speculation.forget(id);
        self.step_back(id);
        self.sequences.get_mut(&id).map(Sequence::shift);
    }

    /// Puts a sequence's whole pages into the tree, as far as its tokens are known, and the states that belong there.
    pub(super) fn keep(&mut self, id: RequestId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let Some(place) = &mut sequence.place else { return };
        let page_tokens = self.executor.page_tokens();
        let known = self.executor.length(place.slot).min(sequence.tokens.len());
        if known / page_tokens <= place.nodes.len() {
            return;
        }
        let pages = self.executor.pages(place.slot).to_vec();
        let tokens = &sequence.tokens[..known];
        self.tree.extend(&mut place.nodes, tokens, &pages, &mut self.executor);
        let whole = place.nodes.len() * page_tokens;
        for (at, state) in place.states.extract_if(.., |(at, _)| *at <= whole) {
            let index = (at - 1) / page_tokens;
            self.tree.add_state(place.nodes[index], at - index * page_tokens, state);
        }
    }

    /// After a chunk of a prompt: the state there, if it is worth keeping.
    pub(super) fn note_state(&mut self, id: RequestId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let Some(place) = &mut sequence.place else { return };
        let at = self.executor.length(place.slot);
        let is_wanted = at == sequence.tokens.len()
            || sequence.breaks.contains(&at)
            || at >= place.state_at + STATE_TOKENS;
        if is_wanted && let Some(state) = self.executor.state(place.slot) {
            place.states.push((at, state));
            place.state_at = at;
        }
    }

    /// Closes a slot; what it remembers stays for others. `end` is the token that came after the known ones.
    pub(super) fn give_up_place(&mut self, sequence: &mut Sequence<E>, end: Option<u32>) {
        let Some(mut place) = sequence.place.take() else { return };
        let tokens = &mut sequence.tokens;
        tokens.extend(end);
        let page_tokens = self.executor.page_tokens();
        let length = self.executor.length(place.slot);
        let known = length.min(tokens.len());
        self.shelf.iter_mut().for_each(|shelf| shelf.keep(&tokens[..known]));
        let pages = self.executor.pages(place.slot).to_vec();
        self.tree.extend(&mut place.nodes, &tokens[..known], &pages, &mut self.executor);
        if length == known && length > 0 {
            place.states.extend(self.executor.state(place.slot).map(|state| (length, state)));
        }
        let whole = place.nodes.len() * page_tokens;
        let has_state = place.states.iter().any(|(at, _)| *at > whole);
        let is_tail = known < whole + page_tokens && known > whole;
        let is_worth_it = known >= whole + TAIL_TOKENS_MIN || has_state;
        let tail = (is_tail && is_worth_it).then(|| {
            let page = pages[place.nodes.len()];
            self.tree.add_tail(&place.nodes, &tokens[whole..known], page, &mut self.executor)
        });
        for (at, state) in std::mem::take(&mut place.states) {
            let index = (at - 1) / page_tokens;
            let node = place.nodes.get(index).copied().or(tail);
            if let Some(node) = node.filter(|_| at <= known) {
                self.tree.add_state(node, at - index * page_tokens, state);
            }
        }
        if end.is_some() {
            tokens.pop();
        }
        self.executor.close(place.slot);
        self.tree.leave(&place.nodes);
        self.make_room(0);
    }

    /// Closes a slot that cannot be trusted.
    pub(super) fn drop_place(&mut self, id: RequestId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        sequence.forget_draws();
        if let Some(place) = sequence.place.take() {
            self.executor.close(place.slot);
            self.tree.leave(&place.nodes);
        }
    }
}
