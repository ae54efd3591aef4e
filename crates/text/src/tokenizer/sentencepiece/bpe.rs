//! Byte-pair encoding as SentencePiece does it: of all neighbours that together are a piece, those with the highest
//! score are joined first, the leftmost of equals. There are no words: a text is one sequence, hence the heap.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::{Kind, Vocabulary, character_bytes};

const NONE: u32 = u32::MAX;

/// A stretch of the text; joined to its left neighbour it has no bytes any more.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    bytes: u32,
    before: u32,
    after: u32,
    /// User-defined: never joined.
    frozen: bool,
}

struct Pair {
    score: f32,
    left: u32,
    right: u32,
    bytes: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

struct Joiner<'a> {
    vocabulary: &'a Vocabulary,
    text: &'a [u8],
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    /// How unused pieces came about: they are taken apart again in the end.
    halves: FxHashMap<&'a [u8], (&'a [u8], &'a [u8])>,
}

/// The pieces of a normalised text, in order.
pub(super) fn split<'a>(vocabulary: &'a Vocabulary, text: &'a [u8], out: &mut dyn FnMut(&'a [u8])) {
    let symbols = symbols(vocabulary, text);
    let mut joiner = Joiner {
        vocabulary,
        text,
        symbols,
        pairs: BinaryHeap::new(),
        halves: FxHashMap::default(),
    };
    for right in 1..joiner.symbols.len() as u32 {
        joiner.consider(right - 1, right);
    }
    while let Some(pair) = joiner.pairs.pop() {
        joiner.join(&pair);
    }
    joiner.give_out(out);
}

fn symbols(vocabulary: &Vocabulary, text: &[u8]) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    let mut start = 0;
    while start < text.len() {
        let own = vocabulary.user_defined.longest(&text[start..]);
        let bytes = own.map_or_else(|| character_bytes(&text[start..]), |(bytes, _)| bytes);
        let index = symbols.len() as u32;
        let end = start + bytes;
        symbols.push(Symbol {
            start: start as u32,
            bytes: bytes as u32,
            before: index.checked_sub(1).unwrap_or(NONE),
            after: if end == text.len() { NONE } else { index + 1 },
            frozen: own.is_some(),
        });
        start = end;
    }
    symbols
}

impl<'a> Joiner<'a> {
    fn piece(&self, start: u32, bytes: u32) -> &'a [u8] {
        &self.text[start as usize..(start + bytes) as usize]
    }

    fn consider(&mut self, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let (first, second) = (self.symbols[left as usize], self.symbols[right as usize]);
        if first.frozen || second.frozen {
            return;
        }
        let bytes = first.bytes + second.bytes;
        let whole = self.piece(first.start, bytes);
        let Some(id) = self.vocabulary.joined(whole) else { return };
        if self.vocabulary.kind(id) == Kind::Unused {
            let halves = whole.split_at(first.bytes as usize);
            self.halves.insert(whole, halves);
        }
        self.pairs.push(Pair { score: self.vocabulary.score(id), left, right, bytes });
    }

    fn join(&mut self, pair: &Pair) {
        let (left, right) = (self.symbols[pair.left as usize], self.symbols[pair.right as usize]);
        let outdated =
            left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != pair.bytes;
        if outdated {
            return;
        }
        let joined = &mut self.symbols[pair.left as usize];
        joined.bytes = pair.bytes;
        joined.after = right.after;
        self.symbols[pair.right as usize].bytes = 0;
        if right.after != NONE {
            self.symbols[right.after as usize].before = pair.left;
        }
        self.consider(left.before, pair.left);
        self.consider(pair.left, right.after);
    }

    fn give_out(&self, out: &mut dyn FnMut(&'a [u8])) {
        let mut open = Vec::new();
        for symbol in self.symbols.iter().filter(|symbol| symbol.bytes > 0) {
            open.push(self.piece(symbol.start, symbol.bytes));
            while let Some(piece) = open.pop() {
                let unused = self
                    .vocabulary
                    .id(piece)
                    .is_some_and(|id| self.vocabulary.kind(id) == Kind::Unused);
                match self.halves.get(piece).filter(|_| unused) {
                    Some((left, right)) => open.extend([*right, *left]),
                    None => out(piece),
                }
            }
        }
    }
}
