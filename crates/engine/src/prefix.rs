//! Nothing is computed twice: finished sequences stay in the model's memory, and a new prompt starts from the longest
//! beginning it shares with one of them. The interface is that of a tree over tokens; today it searches a short list.
//!
//! Invariants: an entry's slot remembers exactly its `tokens`; a slot handed out is no longer in the list; at least one
//! token of a prompt is always left to compute, because its result is what the first token is drawn from.

use crate::executor::Executor;

/// Sequences kept. Price: each holds its keys and values, e.g. 112 KiB a token for a 0.6B model in bf16.
const ENTRIES_MAX: usize = 8;

/// Shorter matches are not worth holding two references to one buffer.
const MATCH_TOKENS_MIN: usize = 8;

pub(crate) struct PrefixCache<Slot> {
    /// Least recently used first.
    entries: Vec<Entry<Slot>>,
}

struct Entry<Slot> {
    tokens: Vec<u32>,
    slot: Slot,
}

impl<Slot: Copy + Eq + std::fmt::Debug> PrefixCache<Slot> {
    pub fn new() -> PrefixCache<Slot> {
        PrefixCache { entries: Vec::new() }
    }

    /// A slot for this prompt, and how many of its tokens the slot already remembers.
    pub fn take(
        &mut self,
        prompt: &[u32],
        executor: &mut impl Executor<Slot = Slot>,
    ) -> (Slot, usize) {
        let limit = prompt.len().saturating_sub(1);
        let best = self.nearest(&prompt[..limit]);
        let Some((index, matched)) =
            best.filter(|(_, matched)| *matched >= MATCH_TOKENS_MIN.min(limit).max(1))
        else {
            return (executor.open(), 0);
        };
        // A conversation that goes on takes its own past over; one that only shares its beginning leaves the rest alone.
        if matched * 2 >= self.entries[index].tokens.len() {
            let entry = self.entries.remove(index);
            executor.rewind(entry.slot, matched);
            return (entry.slot, matched);
        }
        let entry = self.entries.remove(index);
        let slot = executor.fork(entry.slot, matched);
        self.entries.push(entry);
        (slot, matched)
    }

    /// Keeps a sequence that ended; `tokens` is what its slot remembers.
    pub fn give(
        &mut self,
        tokens: Vec<u32>,
        slot: Slot,
        executor: &mut impl Executor<Slot = Slot>,
    ) {
        debug_assert_eq!(
            executor.length(slot),
            tokens.len(),
            "the slot remembers other tokens than it is kept under"
        );
        if tokens.is_empty() {
            return executor.close(slot);
        }
        // What is a beginning of the new one adds nothing.
        for entry in self.entries.extract_if(.., |entry| tokens.starts_with(&entry.tokens)) {
            executor.close(entry.slot);
        }
        self.entries.push(Entry { tokens, slot });
        while self.entries.len() > ENTRIES_MAX {
            self.evict(executor);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Frees the least recently used sequence; false if there is none.
    pub fn evict(&mut self, executor: &mut impl Executor<Slot = Slot>) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        executor.close(self.entries.remove(0).slot);
        true
    }

    fn nearest(&self, prompt: &[u32]) -> Option<(usize, usize)> {
        let matches = self
            .entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (index, shared(&entry.tokens, prompt)));
        // The last of equals: the most recently used.
        matches.max_by_key(|(_, matched)| *matched)
    }
}

fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::ScriptedExecutor;

    fn kept(conversations: &[&[u32]]) -> (PrefixCache<usize>, ScriptedExecutor) {
        let mut executor = ScriptedExecutor::new();
        let mut cache = PrefixCache::new();
        for tokens in conversations {
            let slot = executor.open_with(tokens);
            cache.give(tokens.to_vec(), slot, &mut executor);
        }
        (cache, executor)
    }

    fn check(conversations: &[&[u32]], prompt: &[u32], matched: usize, slots_after: usize) {
        let (mut cache, mut executor) = kept(conversations);
        let (slot, got) = cache.take(prompt, &mut executor);
        assert_eq!(got, matched);
        assert_eq!(executor.remembered(slot), prompt[..matched]);
        assert_eq!(executor.open_slots(), slots_after);
    }

    const LONG: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

    #[test]
    fn the_longest_shared_beginning_wins() {
        check(&[], LONG, 0, 1);
        // The same prompt again: all but one token.
        check(&[LONG], LONG, 19, 1);
        // Only the beginning is shared, the rest stays for others.
        check(&[LONG], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 99, 98], 9, 2);
        check(&[&LONG[..12], LONG], LONG, 19, 1);
        // Too little in common.
        check(&[LONG], &[1, 2, 3, 99, 98, 97, 96, 95, 94, 93, 92], 0, 2);
    }

    #[test]
    fn the_list_is_bounded() {
        let conversations: Vec<Vec<u32>> = (0..20u32).map(|n| vec![n; 10]).collect();
        let (cache, executor) = kept(&conversations.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!((cache.entries.len(), executor.open_slots()), (ENTRIES_MAX, ENTRIES_MAX));
    }
}
