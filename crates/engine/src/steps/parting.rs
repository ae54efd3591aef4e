//! A step with rows of prompts that becomes late: those who are read their replies go on to the end by themselves, and the
//! prompts stay behind between two layers ([`Aside`]). They go on in the time that is left before the next token is due.
//!
//! While something is aside, no other prompt begins or goes on, and nobody touches the slots of its members: their pages
//! are not in the tree yet, and who is cancelled leaves when they are through.

use std::time::Duration;

use protocol::{Outbox, RequestId};

use super::dispatch::Member;
use super::{Part, Steps};
use crate::executor::{Executor, Hurry, Onward};
use crate::pace::{Allowance, Load};

/// When the next token is due, the one before told. Less than what readers are promised by as much as a step is late that was
/// parted at the last moment.
pub(super) const DUE: Duration = Duration::from_millis(360);

pub(super) struct Aside<E: Executor> {
    rest: E::Rest,
    members: Vec<Member<E>>,
    /// Of the whole step, and what it has taken so far.
    load: Load,
    prompt_rows: usize,
    spent: Duration,
}

impl<E: Executor> Aside<E> {
    pub fn has(&self, id: RequestId) -> bool {
        self.members.iter().any(|(member, _)| *member == id)
    }
}

impl<E: Executor> Steps<E> {
    /// What a step with prompts may take that begins so long after the last token.
    pub(super) fn allowance(&self, waited: Duration) -> Allowance {
        match self.aside {
            Some(_) => Allowance::nothing(),
            None => self.pace.beside(self.running_load(), waited),
        }
    }

    /// For a step that begins now, so long after the last token.
    pub(super) fn hurry(&self, feeds: usize, waited: Duration) -> Hurry {
        let until = self.executor.now() + self.due.saturating_sub(waited);
        Hurry { feeds, until, alone: self.alone_at_most() }
    }

    /// What a step takes in which all decode, on a machine that becomes a quarter slower.
    fn alone_at_most(&self) -> Duration {
        self.alone * 5 / 4
    }

    /// The last of these stay behind.
    pub(super) fn put_aside(
        &mut self,
        rest: E::Rest,
        others: Vec<Member<E>>,
        part: &mut Part<E::Ticket>,
    ) {
        // Nobody learns from it what a step takes in which all decode.
        part.decoded = None;
        let prompt_rows = others.iter().map(|(_, feed)| feed.rows()).sum();
        let mut load = part.load;
        for (_, feed) in &others {
            load.add(self.executor.length(feed.slot) - feed.rows(), feed.rows());
        }
        let spent = self.executor.now().saturating_sub(part.since);
        tracing::debug!(prompt_rows, ?spent, "a step is parted");
        self.aside = Some(Aside { rest, members: others, load, prompt_rows, spent });
    }

    /// Goes on with what is aside, as long as nobody waits for it; how long that took.
    pub(super) fn go_on(&mut self, out: &mut dyn Outbox) -> Duration {
        let start =
            if self.aside.is_some() { self.read(out).then(|| self.executor.now()) } else { None };
        if let (Some(start), Some(aside)) = (start, &self.aside) {
            let waits = self.batcher.running().any(|id| !aside.has(id));
            let until = start + self.due.saturating_sub(self.alone_at_most());
            self.go_on_until(if waits { until } else { Duration::MAX }, out);
        }
        if self.aside.is_none() {
            for id in std::mem::take(&mut self.leaving) {
                self.retire(id, None);
            }
        }
        start.map_or(Duration::ZERO, |start| self.executor.now().saturating_sub(start))
    }

    /// Nothing may be aside for what comes next.
    pub(super) fn go_through(&mut self, out: &mut dyn Outbox) {
        if self.aside.is_some() && self.read(out) {
            self.go_on_until(Duration::MAX, out);
        }
    }

    /// Nothing else is under way.
    fn go_on_until(&mut self, until: Duration, out: &mut dyn Outbox) {
        let Some(Aside { rest, members, load, prompt_rows, spent }) = self.aside.take() else {
            return;
        };
        let since = self.executor.now();
        let onward = self.executor.go_on(rest, until);
        let spent = spent + self.executor.now().saturating_sub(since);
        match onward {
            Ok(Onward::Rest(rest)) => {
                self.aside = Some(Aside { rest, members, load, prompt_rows, spent });
            }
            Ok(Onward::Through(ticket)) => {
                self.pace.took(load, prompt_rows, spent);
                let part = self.part(ticket, &members, since);
                self.under_way = self.draw(vec![Part { prompt_rows: 0, ..part }], out);
            }
            Err(failure) => {
                let ids: Vec<RequestId> = members.iter().map(|(id, _)| *id).collect();
                self.lose(&ids, &failure, out);
            }
        }
    }
}
