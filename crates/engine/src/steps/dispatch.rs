//! From a plan to a step under way: what each member is fed and draws, and what becomes of a step for which there is no
//! memory. It is tried again without what is kept for others, then in halves, at last row by row.

use std::collections::HashMap;
use std::time::Duration;

use protocol::{FailureKind, Outbox, RequestId};

use super::{Part, Steps};
use crate::batcher::{Chunk, Plan};
use crate::executor::{Draw, Executor, Feed, Hurry, Input};
use crate::pace::Load;
use crate::sampling::Edits;
use crate::sequence::Sequence;

pub(super) type Member<E> = (RequestId, Feed<<E as Executor>::Slot>);

/// Which attempt it is to start a step.
enum Attempt {
    First(Option<Hurry>),
    Again,
}

impl<E: Executor> Steps<E> {
    /// What the next tokens of running replies cost.
    pub(super) fn running_load(&self) -> Load {
        let mut load = Load::default();
        let running = self.batcher.running().filter_map(|id| self.sequences.get(&id));
        for place in running.filter_map(|sequence| sequence.place.as_ref()) {
            load.add(self.executor.length(place.slot), 1);
        }
        load
    }

    /// Starts the planned step; whoever cannot be computed is told so.
    pub(super) fn dispatch(
        &mut self,
        plan: Plan,
        waited: Duration,
        out: &mut dyn Outbox,
    ) -> Vec<Part<E::Ticket>> {
        let decode = plan.decode.iter().filter_map(|id| self.decode_feed(*id));
        let mut members: Vec<Member<E>> = decode.collect();
        let urgent = members.len();
        members.extend(plan.prompts.iter().filter_map(|chunk| self.prompt_feed(*chunk)));
        let mut parts = Vec::new();
        if !members.is_empty() {
            self.make_room(members.iter().map(|member| self.new_pages(member)).sum());
            let can_part = (1..members.len()).contains(&urgent) && self.executor.can_part();
            let hurry = can_part.then(|| self.hurry(urgent, waited));
            self.attempt(members, Attempt::First(hurry), &mut parts, out);
        }
        parts
    }

    /// Where memory is short the members go one half after the other, at last row by row.
    fn attempt(
        &mut self,
        mut members: Vec<Member<E>>,
        attempt: Attempt,
        parts: &mut Vec<Part<E::Ticket>>,
        out: &mut dyn Outbox,
    ) {
        let feeds: Vec<Feed<E::Slot>> = members.iter().map(|(_, feed)| feed.clone()).collect();
        let since = self.executor.now();
        let started = match attempt {
            Attempt::First(Some(hurry)) => self
                .executor
                .dispatch_by(&feeds, hurry)
                .map(|(ticket, rest)| (ticket, rest.map(|rest| (rest, hurry.feeds)))),
            _ => self.executor.dispatch(&feeds).map(|ticket| (ticket, None)),
        };
        let failure = match started {
            Ok((ticket, None)) => return parts.push(self.whole_part(ticket, &members, since)),
            Ok((ticket, Some((rest, urgent)))) => {
                let others = members.split_off(urgent);
                let mut part = self.part(ticket, &members, since);
                self.put_aside(rest, others, &mut part);
                return parts.push(part);
            }
            Err(failure) => failure,
        };
        let ids: Vec<RequestId> = members.iter().map(|(id, _)| *id).collect();
        if failure.kind != FailureKind::NoRoom {
            return self.fail(&ids, &failure, out);
        }
        tracing::warn!(sequences = ids.len(), "a step had no room");
        self.give_all_back();
        if let Attempt::First(_) = attempt {
            return self.attempt(members, Attempt::Again, parts, out);
        }
        let half = match &mut members[..] {
            [(id, feed)] => match self.drop_draft(*id, feed) {
                true => Some(Vec::new()),
                false => feed.split().map(|rest| vec![(*id, rest)]),
            },
            many => {
                let half = many.len() / 2;
                Some(members.split_off(half))
            }
        };
        let Some(rest) = half else { return self.fail(&ids, &failure, out) };
        self.attempt(members, Attempt::Again, parts, out);
        let rest: Vec<_> =
            rest.into_iter().filter(|(id, _)| self.sequences.contains_key(id)).collect();
        if !rest.is_empty() {
            self.attempt(rest, Attempt::Again, parts, out);
        }
    }

    /// What is kept for requests that may come goes.
    pub(crate) fn give_all_back(&mut self) {
        while self.tree.evict(&mut self.executor) {}
        self.speculation.give_back();
    }

    /// A step that was started.
    fn whole_part(
        &mut self,
        ticket: E::Ticket,
        members: &[Member<E>],
        since: Duration,
    ) -> Part<E::Ticket> {
        let mut part = self.part(ticket, members, since);
        if part.drawing.is_empty() {
            // It is computed already.
            let took = self.executor.now().saturating_sub(since);
            self.pace.took(part.load, part.prompt_rows, took);
            part.prompt_rows = 0;
        }
        part
    }

    /// The same, or what became of a part of it.
    pub(super) fn part(
        &mut self,
        ticket: E::Ticket,
        members: &[Member<E>],
        since: Duration,
    ) -> Part<E::Ticket> {
        let mut prompt_rows = 0;
        let mut load = Load::default();
        let mut verified = HashMap::new();
        for (id, feed) in members {
            verified.extend(self.verifying.remove(id).map(|draft| (*id, draft)));
            let is_decoding = self.is_decoding(*id, feed);
            load.add(self.executor.length(feed.slot) - feed.rows(), feed.rows());
            if let Some(sequence) = self.sequences.get_mut(id)
                && let Some(place) = &mut sequence.place
            {
                place.own_pages = self.executor.pages(place.slot).len();
            }
            if !is_decoding {
                prompt_rows += feed.rows();
                self.note_state(*id);
                self.keep(*id);
            }
            self.count_draws(*id, feed.draws.len() as u64);
        }
        let drawing = members.iter().filter(|(_, feed)| !feed.draws.is_empty());
        let drawing: Vec<RequestId> = drawing.map(|(id, _)| *id).collect();
        let all_decode = prompt_rows == 0 && !drawing.is_empty();
        let decoded = all_decode.then_some((members.len(), load.rows));
        let drafting = std::mem::take(&mut self.drafting);
        let late = members.iter().filter(|(_, feed)| feed.draws.iter().any(|draw| draw.late));
        let late = late.map(|(id, _)| *id).collect();
        let ids = members.iter().map(|(id, _)| *id).collect();
        Part {
            ticket,
            members: ids,
            drawing,
            late,
            load,
            prompt_rows,
            decoded,
            verified,
            since,
            drafting,
        }
    }

    fn prompt_feed(&self, chunk: Chunk) -> Option<Member<E>> {
        let sequence = self.sequences.get(&chunk.id)?;
        let slot = sequence.place.as_ref()?.slot;
        let draws = chunk.is_last.then(|| draw(sequence)).into_iter().collect();
        let input = Input::Tokens(sequence.tokens[chunk.from..chunk.to].to_vec());
        Some((chunk.id, Feed { slot, input, draws }))
    }

    fn decode_feed(&self, id: RequestId) -> Option<Member<E>> {
        let sequence = self.sequences.get(&id)?;
        let slot = sequence.place.as_ref()?.slot;
        let draft = self.verifying.get(&id).map_or(&[][..], |verified| &verified.draft.tokens);
        // What was drawn last is known, or still under way.
        let last = sequence.tokens.get(self.executor.length(slot));
        let input = match last.filter(|_| self.speculation.is_on()) {
            Some(last) => Input::Tokens(std::iter::once(last).chain(draft).copied().collect()),
            None => Input::Previous,
        };
        let base = draw(sequence);
        let plain = || vec![base.clone()];
        let draws = self.verifying.get(&id).map_or_else(plain, |verified| {
            let known = |(at, edits): (usize, &Edits)| {
                let (index, edits) = (base.index + at as u64, edits.clone());
                Draw { index, edits, late: false, ..base.clone() }
            };
            verified.edits.iter().enumerate().map(known).collect()
        });
        Some((id, Feed { slot, input, draws }))
    }

    /// Pages that this step adds.
    fn new_pages(&self, (id, feed): &Member<E>) -> usize {
        let place = self.sequences.get(id).and_then(|sequence| sequence.place.as_ref());
        let own = place.map_or(0, |place| place.own_pages);
        let tokens = self.executor.length(feed.slot) + feed.rows();
        tokens.div_ceil(self.executor.page_tokens()).saturating_sub(own)
    }

    fn count_draws(&mut self, id: RequestId, draws: u64) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        sequence.draws += draws;
        if sequence.draws >= sequence.draws_for_now() {
            self.batcher.end(id);
        }
    }

    /// Draws for those that had to wait for the token before. The device computes meanwhile.
    pub(super) fn draw(
        &mut self,
        mut parts: Vec<Part<E::Ticket>>,
        out: &mut dyn Outbox,
    ) -> Vec<Part<E::Ticket>> {
        for part in parts.iter_mut().filter(|part| !part.late.is_empty()) {
            let edits: Vec<Edits> = part.late.iter().map(|id| self.edits(*id, out)).collect();
            if let Err(failure) = self.executor.draw(&mut part.ticket, &edits) {
                let members = std::mem::take(&mut part.members);
                self.lose(&members, &failure, out);
                return Vec::new();
            }
        }
        parts
    }

    /// Nothing for who has left in the meantime, or has to.
    fn edits(&mut self, id: RequestId, out: &mut dyn Outbox) -> Edits {
        match self.sequences.get_mut(&id).map(Sequence::edits) {
            Some(Ok(edits)) => edits,
            Some(Err(error)) => {
                self.give_up(id, error.into(), out);
                Edits::default()
            }
            None => Edits::default(),
        }
    }
}

fn draw<E: Executor>(sequence: &Sequence<E>) -> Draw {
    Draw {
        sampling: sequence.sampling.clone(),
        index: sequence.draws,
        logprobs: sequence.logprobs,
        edits: sequence.sampling.edits(None, None),
        late: sequence.draws_late(),
    }
}
