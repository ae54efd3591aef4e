//! Byte strings to numbers, walked byte by byte: which of many strings begin at a place of a text.

use rustc_hash::FxHashMap;

const NONE: u32 = u32::MAX;
pub(crate) const ROOT: u32 = 0;

#[derive(Clone, Debug)]
pub(crate) struct Trie {
    /// Children of the root by their byte: most walks end here.
    first: Vec<u32>,
    /// Children of all others, by `node << 8 | byte`.
    children: FxHashMap<u64, u32>,
    values: Vec<u32>,
}

impl Default for Trie {
    fn default() -> Trie {
        Trie { first: vec![NONE; 256], children: FxHashMap::default(), values: vec![NONE] }
    }
}

impl Trie {
    /// A string given twice keeps its last value. The empty string is never found.
    pub(crate) fn insert(&mut self, key: &[u8], value: u32) {
        let node = key.iter().fold(ROOT, |node, byte| self.child(node, *byte));
        self.values[node as usize] = value;
    }

    fn child(&mut self, node: u32, byte: u8) -> u32 {
        let next = self.values.len() as u32;
        let child = match node {
            ROOT => &mut self.first[byte as usize],
            _ => self.children.entry(key(node, byte)).or_insert(NONE),
        };
        if *child == NONE {
            *child = next;
            self.values.push(NONE);
        }
        *child
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.len() == 1
    }

    pub(crate) fn step(&self, node: u32, byte: u8) -> Option<u32> {
        let child = match node {
            ROOT => self.first[byte as usize],
            _ => *self.children.get(&key(node, byte))?,
        };
        (child != NONE).then_some(child)
    }

    pub(crate) fn value(&self, node: u32) -> Option<u32> {
        let value = self.values[node as usize];
        (value != NONE).then_some(value)
    }

    /// Length and value of the longest string that `text` begins with.
    pub(crate) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut node = ROOT;
        let mut found = None;
        for (at, byte) in text.iter().enumerate() {
            match self.step(node, *byte) {
                Some(next) => node = next,
                None => break,
            }
            if let Some(value) = self.value(node) {
                found = Some((at + 1, value));
            }
        }
        found
    }
}

fn key(node: u32, byte: u8) -> u64 {
    u64::from(node) << 8 | u64::from(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &[&str], text: &str, expected: Option<(usize, u32)>) {
        let mut trie = Trie::default();
        for (value, key) in keys.iter().enumerate() {
            trie.insert(key.as_bytes(), value as u32);
        }
        assert_eq!(trie.longest(text.as_bytes()), expected, "{keys:?} in {text:?}");
    }

    #[test]
    fn the_longest_string_is_found() {
        check(&["a", "abc", "b"], "abcd", Some((3, 1)));
        check(&["a", "abc", "b"], "abd", Some((1, 0)));
        check(&["a", "abc", "b"], "c", None);
        check(&["é", "e"], "é", Some((2, 0)));
        check(&["", "x"], "y", None);
        check(&["x", "x"], "x", Some((1, 1)));
        check(&[], "x", None);
    }
}
