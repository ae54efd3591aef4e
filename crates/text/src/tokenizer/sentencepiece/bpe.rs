//! Byte-pair encoding as SentencePiece does it: of all neighbours that together are a piece, those with the highest
//! score are joined first, the leftmost of equals.
//!
//! There are no words in it: a text is one sequence. But most vocabularies have no piece that goes on behind a blank
//! that follows something else, so nothing is ever joined there, and what lies between two such places is a word whose
//! pieces can be remembered.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::{BLANK, Kind, Vocabulary, character_bytes};

const NONE: u32 = u32::MAX;

/// Longer words are hardly ever seen twice.
const REMEMBERED_BYTES_MAX: usize = 48;

/// The pieces of a normalised text, in order.
pub(super) fn split<'a>(vocabulary: &'a Vocabulary, text: &'a [u8], out: &mut dyn FnMut(&'a [u8])) {
    let mut joiner = Joiner::new(vocabulary);
    // The lengths of a word's pieces, as a range of all lengths.
    let mut seen: FxHashMap<&[u8], (usize, usize)> = FxHashMap::default();
    let mut lengths: Vec<usize> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (mut word, is_piece) = word(vocabulary, rest);
        rest = &rest[word.len()..];
        if is_piece {
            out(word);
            continue;
        }
        let (start, end) = *seen.entry(word).or_insert_with(|| {
            let start = lengths.len();
            joiner.split(word, &mut |piece| lengths.push(piece.len()));
            (start, lengths.len())
        });
        let is_long = word.len() > REMEMBERED_BYTES_MAX;
        if is_long {
            seen.remove(word);
        }
        for length in &lengths[start..end] {
            let (piece, behind) = word.split_at(*length);
            word = behind;
            out(piece);
        }
        if is_long {
            lengths.truncate(start);
        }
    }
}

/// The first stretch of a text that nothing joins with what is behind it; and whether it is user-defined, a piece as
/// it is.
fn word<'a>(vocabulary: &Vocabulary, text: &'a [u8]) -> (&'a [u8], bool) {
    let mut at = 0;
    while at < text.len() {
        if let Some((bytes, _)) = vocabulary.user_defined.longest(&text[at..]) {
            return if at == 0 { (&text[..bytes], true) } else { (&text[..at], false) };
        }
        let begins = text[at..].starts_with(BLANK) && at > 0 && !text[..at].ends_with(BLANK);
        if begins && vocabulary.has_words {
            break;
        }
        at += character_bytes(&text[at..]);
    }
    (&text[..at], false)
}

/// A stretch of the word; joined to its left neighbour it has no bytes any more.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    bytes: u32,
    before: u32,
    after: u32,
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
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    /// How unused pieces came about: they are taken apart again in the end.
    halves: FxHashMap<&'a [u8], (&'a [u8], &'a [u8])>,
}

impl<'a> Joiner<'a> {
    fn new(vocabulary: &'a Vocabulary) -> Joiner<'a> {
        let (symbols, pairs) = (Vec::new(), BinaryHeap::new());
        Joiner { vocabulary, symbols, pairs, halves: FxHashMap::default() }
    }

    fn split(&mut self, word: &'a [u8], out: &mut dyn FnMut(&'a [u8])) {
        self.begin(word);
        for right in 1..self.symbols.len() as u32 {
            self.consider(word, right - 1, right);
        }
        while let Some(pair) = self.pairs.pop() {
            self.join(word, &pair);
        }
        self.give_out(word, out);
    }

    /// A symbol for each character.
    fn begin(&mut self, word: &[u8]) {
        self.symbols.clear();
        self.halves.clear();
        let mut start = 0;
        while start < word.len() {
            let bytes = character_bytes(&word[start..]);
            let index = self.symbols.len() as u32;
            self.symbols.push(Symbol {
                start: start as u32,
                bytes: bytes as u32,
                before: index.checked_sub(1).unwrap_or(NONE),
                after: if start + bytes == word.len() { NONE } else { index + 1 },
            });
            start += bytes;
        }
    }

    fn consider(&mut self, word: &'a [u8], left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let (first, second) = (self.symbols[left as usize], self.symbols[right as usize]);
        let bytes = first.bytes + second.bytes;
        let whole = piece(word, first.start, bytes);
        let Some(id) = self.vocabulary.joined(whole) else { return };
        if self.vocabulary.kind(id) == Kind::Unused {
            let halves = whole.split_at(first.bytes as usize);
            self.halves.insert(whole, halves);
        }
        self.pairs.push(Pair { score: self.vocabulary.score(id), left, right, bytes });
    }

    fn join(&mut self, word: &'a [u8], pair: &Pair) {
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
        self.consider(word, left.before, pair.left);
        self.consider(word, pair.left, right.after);
    }

    fn give_out(&self, word: &'a [u8], out: &mut dyn FnMut(&'a [u8])) {
        let mut open = Vec::new();
        for symbol in self.symbols.iter().filter(|symbol| symbol.bytes > 0) {
            open.push(piece(word, symbol.start, symbol.bytes));
            while let Some(piece) = open.pop() {
                let unused = || {
                    let id = self.vocabulary.id(piece);
                    id.is_some_and(|id| self.vocabulary.kind(id) == Kind::Unused)
                };
                match self.halves.get(piece).filter(|_| unused()) {
                    Some((left, right)) => open.extend([*right, *left]),
                    None => out(piece),
                }
            }
        }
    }
}

fn piece(word: &[u8], start: u32, bytes: u32) -> &[u8] {
    &word[start as usize..(start + bytes) as usize]
}
