//! Drafts without a model: what followed the last few tokens when they came before, in the prompt or in the reply.

use std::collections::HashMap;

use crate::speculation::{Ask, Drafter};
use protocol::RequestId;

/// Tokens that have to agree. Fewer would find a match everywhere, and a wrong one.
const MATCH_TOKENS: usize = 3;

type Key = [u32; MATCH_TOKENS];

/// For every sequence, where each run of [`MATCH_TOKENS`] tokens came last.
#[derive(Default)]
pub(crate) struct Lookup {
    sequences: HashMap<RequestId, Seen>,
}

#[derive(Default)]
struct Seen {
    /// The position behind it.
    ends: HashMap<Key, usize>,
    /// Runs that end here or before are in the map.
    known: usize,
}

impl Drafter for Lookup {
    fn propose(&mut self, asks: &[Ask<'_>]) -> Vec<Vec<u32>> {
        let draft = |ask: &Ask<'_>| {
            let seen = self.sequences.entry(ask.id).or_default();
            seen.after(ask.tokens).map_or(Vec::new(), |at| continued(ask.tokens, at, ask.depth))
        };
        asks.iter().map(draft).collect()
    }

    /// The last token is still under way: whether what is known without it has come before.
    fn may_propose(&mut self, id: RequestId, tokens: &[u32]) -> bool {
        self.sequences.entry(id).or_default().after(tokens).is_some()
    }

    fn forget(&mut self, id: RequestId) {
        self.sequences.remove(&id);
    }
}

impl Seen {
    /// Where the last tokens came before: the position behind them.
    fn after(&mut self, tokens: &[u32]) -> Option<usize> {
        // The run at the very end is the one that is looked for.
        for end in self.known.max(MATCH_TOKENS - 1) + 1..tokens.len() {
            if let Some(key) = run_before(tokens, end) {
                self.ends.insert(key, end);
            }
            self.known = end;
        }
        self.ends.get(&run_before(tokens, tokens.len())?).copied()
    }
}

fn run_before(tokens: &[u32], end: usize) -> Option<Key> {
    tokens.get(end.checked_sub(MATCH_TOKENS)?..end)?.try_into().ok()
}

/// What follows position `at`; where that runs into the end, the draft itself goes on, so that a loop is followed round.
fn continued(tokens: &[u32], at: usize, count: usize) -> Vec<u32> {
    let mut draft: Vec<u32> = Vec::with_capacity(count);
    for position in at..at + count {
        draft.push(match tokens.get(position) {
            Some(token) => *token,
            None => draft[position - tokens.len()],
        });
    }
    draft
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speculation::tests::ask;

    fn check(tokens: &[u32], depth: usize, expected: &[u32]) {
        let mut lookup = Lookup::default();
        // Token by token, as a reply grows: what is found does not depend on when it was looked for.
        for length in 0..tokens.len() {
            lookup.propose(&[ask(1, &tokens[..length], depth)]);
        }
        for mut lookup in [lookup, Lookup::default()] {
            assert_eq!(lookup.propose(&[ask(1, tokens, depth)]), [expected], "{tokens:?}");
            assert_eq!(lookup.may_propose(RequestId(1), tokens), !expected.is_empty());
        }
    }

    #[test]
    fn what_came_before_comes_again() {
        check(&[], 4, &[]);
        check(&[1, 2], 4, &[]);
        check(&[1, 2, 3], 4, &[]);
        check(&[1, 2, 3, 4, 5, 6, 1, 2, 3], 2, &[4, 5]);
        check(&[1, 2, 3, 4, 5, 6, 1, 2, 3], 4, &[4, 5, 6, 1]);
        check(&[1, 2, 3, 4, 5, 6, 2, 3], 4, &[]);
        // The last time counts.
        check(&[1, 2, 3, 4, 1, 2, 3, 5, 9, 1, 2, 3], 2, &[5, 9]);
        // Round and round.
        check(&[7, 7, 7, 7], 5, &[7, 7, 7, 7, 7]);
        check(&[1, 2, 1, 2, 1], 5, &[2, 1, 2, 1, 2]);
    }

    #[test]
    fn sequences_are_told_apart() {
        let mut lookup = Lookup::default();
        let tokens = [1, 2, 3, 4, 1, 2, 3];
        assert_eq!(
            lookup.propose(&[ask(1, &tokens, 2), ask(2, &[1, 2, 3], 2)]),
            [vec![4, 1], vec![]]
        );
        lookup.forget(RequestId(1));
        assert!(lookup.sequences.len() == 1);
    }
}
