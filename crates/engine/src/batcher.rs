//! Which sequences are in a step, and with how many tokens. Pure: no arrays, no text, no clock.
//!
//! A step is one token of every running sequence and the next chunks of prompts. While anything runs, the chunks together
//! have only as many rows as its readers will not notice; alone they have many. First come, first served: a prompt is
//! computed to its end before a later one gets what is left of a step, and nobody overtakes who waits for room in memory.
//! Only who waits for another's prefix to be computed, or for a slow reader, lets others pass.

use std::collections::VecDeque;

use protocol::RequestId;

use crate::pace::Allowance;

/// Tokens of prompts computed in one step when nothing runs. Price: activations of this many rows.
pub(crate) const CHUNK_TOKENS: usize = 2048;

/// Sequences at once where `OLLAMA_NUM_PARALLEL` says nothing; memory may allow fewer. Price: one row each in every step.
pub(crate) const RUNNING_MAX: usize = 16;

/// Requests in line where `OLLAMA_MAX_QUEUE` says nothing.
pub(crate) const WAITING_MAX: usize = 1024;

/// Chunks end where pages do, unless that would cost more than this part of a step.
const ALIGNMENT_PART: usize = 8;

/// The end of a prompt is no chunk of its own if it is at most this part of one: each step has a price, whatever its rows.
const REST_PART: usize = 8;

/// What only others know.
pub(crate) trait Desk {
    /// Whether a sequence's reader can take more.
    fn is_ready(&self, id: RequestId) -> bool;
    /// Gives a place in memory to one in line.
    fn start(&mut self, id: RequestId) -> Start;
    /// Where chunks of its prompt should end if they come by, in order.
    fn breaks(&self, id: RequestId) -> &[usize];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// These of its tokens are to be computed, the last of which draws.
    Prompt {
        from: usize,
        to: usize,
    },
    /// Somebody else computes what it needs.
    Later,
    NoRoom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prompt {
        from: usize,
        to: usize,
    },
    /// One token a step.
    Running,
    /// Its last token is under way; nothing more is to be computed.
    Ending,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// One token for each of these.
    pub decode: Vec<RequestId>,
    pub prompts: Vec<Chunk>,
}

/// The next tokens of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub id: RequestId,
    pub from: usize,
    pub to: usize,
    /// Whether the prompt ends with it.
    pub is_last: bool,
}

#[derive(Debug)]
pub(crate) struct Batcher {
    limits: Limits,
    /// By arrival, both.
    line: VecDeque<(u64, RequestId)>,
    active: Vec<(u64, RequestId, Phase)>,
    arrivals: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub running_max: usize,
    pub waiting_max: usize,
    pub page_tokens: usize,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.decode.is_empty() && self.prompts.is_empty()
    }
}

impl Batcher {
    pub fn new(limits: Limits) -> Batcher {
        Batcher { limits, line: VecDeque::new(), active: Vec::new(), arrivals: 0 }
    }

    /// False when the line is full.
    #[must_use]
    pub fn join(&mut self, id: RequestId) -> bool {
        let room = self.line.len() < self.limits.waiting_max.max(1);
        if room {
            self.arrivals += 1;
            self.line.push_back((self.arrivals, id));
        }
        room
    }

    pub fn leave(&mut self, id: RequestId) {
        self.line.retain(|(_, waiting)| *waiting != id);
        self.active.retain(|(_, active, _)| *active != id);
    }

    /// An active sequence goes back to where it stood in line.
    pub fn step_back(&mut self, id: RequestId) {
        let Some(index) = self.active.iter().position(|(_, active, _)| *active == id) else {
            return;
        };
        let (arrival, id, _) = self.active.remove(index);
        let at = self.line.partition_point(|(waiting, _)| *waiting < arrival);
        self.line.insert(at, (arrival, id));
    }

    /// No further token of this sequence needs computing.
    pub fn end(&mut self, id: RequestId) {
        if let Some((.., phase)) = self.active.iter_mut().find(|(_, active, _)| *active == id) {
            *phase = Phase::Ending;
        }
    }

    /// All that draw a token in each step, by arrival.
    pub fn running(&self) -> impl Iterator<Item = RequestId> {
        let running = self.active.iter().filter(|(.., phase)| *phase == Phase::Running);
        running.map(|(_, id, _)| *id)
    }

    /// All that have a place in memory, the latest first.
    pub fn latest(&self) -> impl Iterator<Item = RequestId> {
        self.active.iter().rev().map(|(_, id, _)| *id)
    }

    /// All that wait, by arrival.
    pub fn line(&self) -> impl Iterator<Item = RequestId> {
        self.line.iter().map(|(_, id)| *id)
    }

    /// The next step, which is assumed to be made. Beside running sequences prompts get what `beside` allows.
    pub fn plan(&mut self, beside: Allowance, desk: &mut impl Desk) -> Plan {
        let decode: Vec<RequestId> = self.running().filter(|id| desk.is_ready(*id)).collect();
        let mut left = if self.running().next().is_some() { beside } else { Allowance::alone() };
        let mut prompts = Vec::new();
        let page_tokens = self.limits.page_tokens;
        for (_, id, phase) in &mut self.active {
            prompts.extend(phase.chunk(*id, &mut left, page_tokens, desk));
        }
        let mut index = 0;
        while !left.is_used_up()
            && index < self.line.len()
            && self.active.len() < self.limits.running_max
        {
            let (arrival, id) = self.line[index];
            let start = if desk.is_ready(id) { desk.start(id) } else { Start::Later };
            match start {
                Start::Later => index += 1,
                Start::NoRoom => break,
                Start::Prompt { from, to } => {
                    self.line.remove(index);
                    let mut phase = Phase::Prompt { from, to };
                    prompts.extend(phase.chunk(id, &mut left, page_tokens, desk));
                    let at = self.active.partition_point(|(active, ..)| *active < arrival);
                    self.active.insert(at, (arrival, id, phase));
                }
            }
        }
        Plan { decode, prompts }
    }
}

impl Phase {
    /// Its next chunk, of as many rows as are left, which it takes.
    fn chunk(
        &mut self,
        id: RequestId,
        left: &mut Allowance,
        page_tokens: usize,
        desk: &impl Desk,
    ) -> Option<Chunk> {
        let Phase::Prompt { from, to: end } = *self else { return None };
        let rows = left.rows(from);
        if rows == 0 {
            return None;
        }
        let rest = rows + rows / REST_PART;
        let is_near = end - from <= rest && rest <= CHUNK_TOKENS;
        let mut to = if is_near { end } else { end.min(from + rows) };
        let aligned = to / page_tokens * page_tokens;
        if to < end && aligned > from && (to - aligned) * ALIGNMENT_PART <= rows {
            to = aligned;
        }
        if let Some(earlier) = desk.breaks(id).iter().find(|at| (from + 1..to).contains(*at)) {
            to = *earlier;
        }
        left.take(from, to - from);
        *self = if to == end { Phase::Running } else { Phase::Prompt { from: to, to: end } };
        Some(Chunk { id, from, to, is_last: to == end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    const A: RequestId = RequestId(1);
    const B: RequestId = RequestId(2);
    const C: RequestId = RequestId(3);
    const PAGE: usize = 64;

    #[derive(Default)]
    struct Books {
        prompts: HashMap<RequestId, usize>,
        breaks: HashMap<RequestId, Vec<usize>>,
        slow: HashSet<RequestId>,
        later: HashSet<RequestId>,
        no_room: HashSet<RequestId>,
    }

    impl Desk for Books {
        fn is_ready(&self, id: RequestId) -> bool {
            !self.slow.contains(&id)
        }

        fn start(&mut self, id: RequestId) -> Start {
            match id {
                _ if self.later.contains(&id) => Start::Later,
                _ if self.no_room.contains(&id) => Start::NoRoom,
                _ => Start::Prompt { from: 0, to: self.prompts[&id] },
            }
        }

        fn breaks(&self, id: RequestId) -> &[usize] {
            self.breaks.get(&id).map_or(&[], Vec::as_slice)
        }
    }

    fn joined(prompts: &[(RequestId, usize)]) -> (Batcher, Books) {
        let limits = Limits { running_max: 2, waiting_max: 3, page_tokens: PAGE };
        let mut batcher = Batcher::new(limits);
        prompts.iter().for_each(|(id, _)| assert!(batcher.join(*id)));
        (batcher, Books { prompts: prompts.iter().copied().collect(), ..Books::default() })
    }

    #[track_caller]
    fn check(
        batcher: &mut Batcher,
        books: &mut Books,
        decode: &[RequestId],
        prompts: &[(RequestId, usize, usize)],
    ) {
        let plan = batcher.plan(Allowance::of_rows(100), books);
        let chunks: Vec<_> = plan.prompts.iter().map(|c| (c.id, c.from, c.to)).collect();
        assert_eq!((&plan.decode[..], &chunks[..]), (decode, prompts));
    }

    #[test]
    fn a_long_prompt_comes_in_chunks_and_then_runs() {
        let (mut batcher, mut books) = joined(&[(A, CHUNK_TOKENS + 3)]);
        check(&mut batcher, &mut books, &[], &[(A, 0, CHUNK_TOKENS)]);
        check(&mut batcher, &mut books, &[], &[(A, CHUNK_TOKENS, CHUNK_TOKENS + 3)]);
        check(&mut batcher, &mut books, &[A], &[]);
        batcher.end(A);
        check(&mut batcher, &mut books, &[], &[]);
    }

    #[test]
    fn prompts_go_beside_running_replies_in_the_order_they_came() {
        let (mut batcher, mut books) = joined(&[(A, 1), (B, 290), (C, 5)]);
        check(&mut batcher, &mut books, &[], &[(A, 0, 1), (B, 0, 290)]);
        batcher.leave(B);
        let _ = batcher.join(B);
        // C came before B now.
        check(&mut batcher, &mut books, &[A], &[(C, 0, 5)]);
        batcher.leave(C);
        // The end of a page, unless that costs too much of the step.
        check(&mut batcher, &mut books, &[A], &[(B, 0, 100)]);
        check(&mut batcher, &mut books, &[A], &[(B, 100, 192)]);
        books.breaks.insert(B, vec![100, 250]);
        check(&mut batcher, &mut books, &[A], &[(B, 192, 250)]);
        check(&mut batcher, &mut books, &[A], &[(B, 250, 290)]);
        check(&mut batcher, &mut books, &[A, B], &[]);
    }

    #[test]
    fn the_end_of_a_prompt_is_no_step_of_its_own() {
        let (mut batcher, mut books) = joined(&[(A, 1)]);
        check(&mut batcher, &mut books, &[], &[(A, 0, 1)]);
        books.prompts.insert(B, 212);
        let _ = batcher.join(B);
        check(&mut batcher, &mut books, &[A], &[(B, 0, 100)]);
        check(&mut batcher, &mut books, &[A], &[(B, 100, 212)]);
        check(&mut batcher, &mut books, &[A, B], &[]);
    }

    #[test]
    fn a_slow_reader_pauses_only_itself() {
        let (mut batcher, mut books) = joined(&[(A, 1), (B, 1)]);
        check(&mut batcher, &mut books, &[], &[(A, 0, 1), (B, 0, 1)]);
        books.slow.insert(A);
        check(&mut batcher, &mut books, &[B], &[]);
        books.slow.insert(B);
        check(&mut batcher, &mut books, &[], &[]);
        batcher.step_back(A);
        let _ = batcher.join(C);
        books.prompts.insert(C, 2);
        check(&mut batcher, &mut books, &[], &[(C, 0, 2)]);
    }

    #[test]
    fn who_needs_room_is_not_overtaken_and_who_follows_is() {
        let (mut batcher, mut books) = joined(&[(A, 1), (B, 1), (C, 1)]);
        books.later.insert(A);
        books.no_room.insert(B);
        check(&mut batcher, &mut books, &[], &[]);
        books.no_room.clear();
        check(&mut batcher, &mut books, &[], &[(B, 0, 1), (C, 0, 1)]);
        batcher.leave(B);
        books.later.clear();
        check(&mut batcher, &mut books, &[C], &[(A, 0, 1)]);
        check(&mut batcher, &mut books, &[A, C], &[]);
    }

    #[test]
    fn the_line_and_the_running_are_bounded() {
        let (mut batcher, mut books) = joined(&[(A, 1), (B, 1), (C, 1)]);
        assert!(!batcher.join(RequestId(4)));
        check(&mut batcher, &mut books, &[], &[(A, 0, 1), (B, 0, 1)]);
        check(&mut batcher, &mut books, &[A, B], &[]);
        batcher.step_back(A);
        check(&mut batcher, &mut books, &[B], &[(A, 0, 1)]);
    }
}
