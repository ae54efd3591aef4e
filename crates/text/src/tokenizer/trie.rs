//! Byte strings to numbers, walked byte by byte: which of many strings begin at a place of a text.
//!
//! A double array (Aoe 1989): a node is a place in one list, its child by a byte is at `base ^ byte`, and there the byte
//! stands once more to tell that the place belongs to a child of this name. A step is one look into memory. Bases differ,
//! so a place that has the right byte is the right child's.

/// What a leaf's children would be found at: nowhere.
const NOWHERE: u32 = u32::MAX;

/// Places that share all but their last byte: children of one node lie in one block.
const BLOCK: usize = 256;

/// Free places that are tried for a node's children before a new block begins. Price: holes in the list.
const TRIES_MAX: usize = 64;

/// Values are below this.
pub(crate) const VALUES_MAX: u32 = (1 << 23) - 1;

/// From the lowest bits: 9 for the byte that leads here and one (none of a free place), 23 for the value and one (none
/// where no string ends), 32 for the base of its children.
#[derive(Clone, Copy, Debug, Default)]
struct Unit(u64);

impl Unit {
    fn new(byte: u8, value: Option<u32>) -> Unit {
        let value = value.map_or(0, |value| u64::from(value) + 1);
        Unit((u64::from(byte) + 1) | (value << 9) | (u64::from(NOWHERE) << 32))
    }

    fn is_child(self, byte: u8) -> bool {
        self.0 & 0x1ff == u64::from(byte) + 1
    }

    fn value(self) -> Option<u32> {
        ((self.0 >> 9) as u32 & VALUES_MAX).checked_sub(1)
    }

    fn base(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn with_base(self, base: u32) -> Unit {
        Unit((self.0 & u64::from(u32::MAX)) | (u64::from(base) << 32))
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Trie {
    units: Vec<Unit>,
    root: u32,
}

impl Trie {
    /// A string given twice keeps its last value. The empty string is never found.
    pub(crate) fn new<K: AsRef<[u8]>>(strings: impl IntoIterator<Item = (K, u32)>) -> Trie {
        let mut strings: Vec<(K, u32)> = strings.into_iter().collect();
        strings.retain(|(key, value)| !key.as_ref().is_empty() && *value < VALUES_MAX);
        strings.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        match strings.is_empty() {
            true => Trie { units: Vec::new(), root: NOWHERE },
            false => Builder::default().build(&strings),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Length and value of every string that `text` begins with, the shortest first.
    pub(crate) fn prefixes(&self, text: &[u8]) -> impl Iterator<Item = (usize, u32)> {
        let mut base = if self.is_empty() { NOWHERE } else { self.root };
        let units = text.iter().map_while(move |byte| {
            let unit = self.units.get((base ^ u32::from(*byte)) as usize)?;
            base = unit.base();
            unit.is_child(*byte).then_some(unit)
        });
        units.zip(1..).filter_map(|(unit, length)| Some((length, unit.value()?)))
    }

    /// Length and value of the longest string that `text` begins with.
    pub(crate) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }
}

/// Strings that share their first bytes, and the place of the node which those lead to.
struct Group<'s, K> {
    strings: &'s [(K, u32)],
    depth: usize,
    parent: Option<usize>,
}

/// Places that no node has yet, in a ring that begins and ends at the first place, which stays without a node.
#[derive(Default)]
struct Builder {
    units: Vec<Unit>,
    next: Vec<u32>,
    before: Vec<u32>,
    is_base: Vec<bool>,
}

impl Builder {
    fn build<K: AsRef<[u8]>>(mut self, sorted: &[(K, u32)]) -> Trie {
        self.add_block();
        let mut root = NOWHERE;
        let mut open = vec![Group { strings: sorted, depth: 0, parent: None }];
        while let Some(Group { strings, depth, parent }) = open.pop() {
            let byte = |(key, _): &(K, u32)| key.as_ref()[depth];
            let ended = strings.iter().take_while(|(key, _)| key.as_ref().len() == depth).count();
            let groups: Vec<&[(K, u32)]> =
                strings[ended..].chunk_by(|a, b| byte(a) == byte(b)).collect();
            let Some(first) = groups.first() else { continue };
            let bytes: Vec<u8> = groups.iter().map(|group| byte(&group[0])).collect();
            let base = self.place(byte(&first[0]), &bytes);
            match parent {
                Some(parent) => self.units[parent] = self.units[parent].with_base(base),
                None => root = base,
            }
            for (group, byte) in groups.into_iter().zip(bytes) {
                let at = base as usize ^ usize::from(byte);
                let ends = group.iter().take_while(|(key, _)| key.as_ref().len() == depth + 1);
                self.units[at] = Unit::new(byte, ends.last().map(|(_, value)| *value));
                self.take(at);
                open.push(Group { strings: group, depth: depth + 1, parent: Some(at) });
            }
        }
        Trie { units: self.units, root }
    }

    /// A base of its own whose places for these bytes are free.
    fn place(&mut self, first: u8, bytes: &[u8]) -> u32 {
        let mut at = self.next[0] as usize;
        for _ in 0..TRIES_MAX {
            if at == 0 {
                break;
            }
            let base = at ^ usize::from(first);
            let is_free = |byte: &u8| {
                let at = base ^ usize::from(*byte);
                at != 0 && self.units[at].0 == 0
            };
            if !self.is_base[base] && bytes.iter().all(is_free) {
                self.is_base[base] = true;
                return base as u32;
            }
            at = self.next[at] as usize;
        }
        let base = self.units.len();
        self.add_block();
        self.is_base[base] = true;
        base as u32
    }

    fn add_block(&mut self) {
        let (start, end) = (self.units.len(), self.units.len() + BLOCK);
        self.units.resize(end, Unit::default());
        self.is_base.resize(end, false);
        self.next.extend((start..end).map(|at| at as u32 + 1));
        self.before.extend((start..end).map(|at| (at as u32).wrapping_sub(1)));
        // The ring goes on from its last place, and back to the first.
        if start == 0 {
            (self.next[end - 1], self.before[0]) = (0, end as u32 - 1);
            return;
        }
        let last = self.before[0];
        self.next[last as usize] = start as u32;
        self.before[start] = last;
        self.next[end - 1] = 0;
        self.before[0] = end as u32 - 1;
    }

    fn take(&mut self, at: usize) {
        let (before, next) = (self.before[at], self.next[at]);
        self.next[before as usize] = next;
        self.before[next as usize] = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(keys: &[&str]) -> Trie {
        Trie::new(keys.iter().zip(0..).map(|(key, value)| (key.as_bytes(), value)))
    }

    #[track_caller]
    fn check(keys: &[&str], text: &str, expected: Option<(usize, u32)>) {
        assert_eq!(trie(keys).longest(text.as_bytes()), expected, "{keys:?} in {text:?}");
    }

    #[test]
    fn the_longest_string_is_found() {
        check(&["a", "abc", "b"], "abcd", Some((3, 1)));
        check(&["a", "abc", "b"], "abd", Some((1, 0)));
        check(&["a", "abc", "b"], "c", None);
        check(&["é", "e"], "é", Some((2, 0)));
        check(&["", "x"], "y", None);
        check(&["x", "x"], "x", Some((1, 1)));
        check(&["\0", "\0\0a"], "\0\0", Some((1, 0)));
        check(&[], "x", None);
        check(&["\u{0}a"], "", None);
    }

    #[test]
    fn every_string_is_found_and_no_other() {
        let mut random = crate::random::Random(4);
        for (letters, count) in [(2, 300), (256, 3000), (16, 20_000)] {
            let mut word = || -> Vec<u8> {
                (0..random.below(7) + 1).map(|_| (random.below(letters) * 251) as u8).collect()
            };
            let words: Vec<Vec<u8>> = (0..count).map(|_| word()).collect();
            let all = Trie::new(words.iter().zip(0..));
            let known: std::collections::BTreeMap<&[u8], u32> =
                words.iter().map(Vec::as_slice).zip(0..).collect();
            let others: Vec<Vec<u8>> = (0..2000).map(|_| word()).collect();
            for text in words.iter().chain(&others) {
                let lengths = 1..=text.len();
                let expected: Vec<(usize, u32)> = lengths
                    .filter_map(|length| Some((length, *known.get(&text[..length])?)))
                    .collect();
                assert_eq!(all.prefixes(text).collect::<Vec<_>>(), expected, "{text:?}");
            }
        }
    }
}
