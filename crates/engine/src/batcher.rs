//! Which sequences are in a step. Pure: no arrays, no text, no clock.
//!
//! A step is either one chunk of one prompt or one token for every running sequence. While anything runs, prompts and
//! running sequences take turns, so that a long prompt never stalls a running reply by more than one chunk. First come,
//! first served; what does not fit waits in line.

use std::collections::VecDeque;

use protocol::RequestId;

/// Tokens of a prompt computed in one step. Price: activations of this many rows, and the longest pause between two tokens
/// of somebody else's reply.
pub(crate) const CHUNK_TOKENS: usize = 2048;

/// Sequences that run at once. Price: one row each in every step and their keys and values.
pub(crate) const RUNNING_MAX: usize = 16;

/// Requests in line. The scheduler refuses earlier; this one bounds the queue whoever the caller is.
pub(crate) const WAITING_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// This many tokens of the prompt are still to be computed.
    Prompt { left: usize },
    /// One token a step.
    Running,
    /// Its last token is under way; nothing more is to be computed.
    Ending,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Idle,
    /// The next `tokens` of this sequence's prompt.
    Prompt {
        id: RequestId,
        tokens: usize,
    },
    /// One token for each of these.
    Decode(Vec<RequestId>),
}

#[derive(Debug, Default)]
pub(crate) struct Batcher {
    waiting: VecDeque<RequestId>,
    active: Vec<(RequestId, Phase)>,
    /// Whose turn it was last.
    prompt_was_last: bool,
}

impl Batcher {
    /// False when the line is full.
    #[must_use]
    pub fn join(&mut self, id: RequestId) -> bool {
        let room = self.waiting.len() < WAITING_MAX;
        if room {
            self.waiting.push_back(id);
        }
        room
    }

    pub fn leave(&mut self, id: RequestId) {
        self.waiting.retain(|waiting| *waiting != id);
        self.active.retain(|(active, _)| *active != id);
    }

    /// The next in line, if there is room for it. The caller then says with `start` what it has to compute.
    pub fn admit(&mut self) -> Option<RequestId> {
        (self.active.len() < RUNNING_MAX).then(|| self.waiting.pop_front()).flatten()
    }

    pub fn start(&mut self, id: RequestId, prompt_tokens: usize) {
        self.active.push((id, Phase::Prompt { left: prompt_tokens }));
    }

    /// No further token of this sequence needs computing.
    pub fn end(&mut self, id: RequestId) {
        if let Some((_, phase)) = self.active.iter_mut().find(|(active, _)| *active == id) {
            *phase = Phase::Ending;
        }
    }

    /// The next step; `ready` tells whether a sequence's reader can take more. Assumes that the step is then made.
    pub fn plan(&mut self, ready: impl Fn(RequestId) -> bool) -> Plan {
        let running: Vec<RequestId> = self
            .active
            .iter()
            .filter(|(id, phase)| *phase == Phase::Running && ready(*id))
            .map(|(id, _)| *id)
            .collect();
        let prompt = self.active.iter_mut().find_map(|(id, phase)| match phase {
            Phase::Prompt { left } => Some((*id, *left, phase)),
            Phase::Running | Phase::Ending => None,
        });
        match prompt {
            Some((id, left, phase)) if running.is_empty() || !self.prompt_was_last => {
                self.prompt_was_last = true;
                let tokens = left.min(CHUNK_TOKENS);
                *phase = if tokens == left {
                    Phase::Running
                } else {
                    Phase::Prompt { left: left - tokens }
                };
                Plan::Prompt { id, tokens }
            }
            _ if running.is_empty() => Plan::Idle,
            _ => {
                self.prompt_was_last = false;
                Plan::Decode(running)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RequestId = RequestId(1);
    const B: RequestId = RequestId(2);

    fn started(prompts: &[(RequestId, usize)]) -> Batcher {
        let mut batcher = Batcher::default();
        for (id, tokens) in prompts {
            assert!(batcher.join(*id));
            assert_eq!(batcher.admit(), Some(*id));
            batcher.start(*id, *tokens);
        }
        batcher
    }

    fn check(batcher: &mut Batcher, expected: Plan) {
        assert_eq!(batcher.plan(|_| true), expected);
    }

    #[test]
    fn a_long_prompt_comes_in_chunks_and_then_runs() {
        let mut batcher = started(&[(A, CHUNK_TOKENS + 3)]);
        check(&mut batcher, Plan::Prompt { id: A, tokens: CHUNK_TOKENS });
        check(&mut batcher, Plan::Prompt { id: A, tokens: 3 });
        check(&mut batcher, Plan::Decode(vec![A]));
        batcher.end(A);
        check(&mut batcher, Plan::Idle);
    }

    #[test]
    fn a_prompt_and_a_running_reply_take_turns() {
        let mut batcher = started(&[(A, 1), (B, 2 * CHUNK_TOKENS)]);
        check(&mut batcher, Plan::Prompt { id: A, tokens: 1 });
        check(&mut batcher, Plan::Decode(vec![A]));
        check(&mut batcher, Plan::Prompt { id: B, tokens: CHUNK_TOKENS });
        check(&mut batcher, Plan::Decode(vec![A]));
        check(&mut batcher, Plan::Prompt { id: B, tokens: CHUNK_TOKENS });
        check(&mut batcher, Plan::Decode(vec![A, B]));
    }

    #[test]
    fn a_slow_reader_pauses_only_itself() {
        let mut batcher = started(&[(A, 1), (B, 1)]);
        check(&mut batcher, Plan::Prompt { id: A, tokens: 1 });
        check(&mut batcher, Plan::Decode(vec![A]));
        check(&mut batcher, Plan::Prompt { id: B, tokens: 1 });
        assert_eq!(batcher.plan(|id| id == B), Plan::Decode(vec![B]));
        assert_eq!(batcher.plan(|_| false), Plan::Idle);
    }

    #[test]
    fn the_line_is_bounded_and_in_order() {
        let mut batcher = Batcher::default();
        for id in 0..WAITING_MAX as u64 {
            assert!(batcher.join(RequestId(id)));
        }
        assert!(!batcher.join(RequestId(u64::MAX)));
        batcher.leave(RequestId(0));
        for id in 1..=RUNNING_MAX as u64 {
            assert_eq!(batcher.admit(), Some(RequestId(id)));
            batcher.start(RequestId(id), 1);
        }
        assert_eq!(batcher.admit(), None);
    }
}
