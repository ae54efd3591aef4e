//! Byte-pair encoding over bytes, word by word: neighbours are joined in the order the vocabulary was trained in.
//!
//! Two kinds of vocabularies say what joins when. GPT-2's list pairs of tokens; tiktoken's give each token a rank, and
//! whatever two neighbours spell a token may become it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;
use tokenizers::NormalizedString;

use super::splits::Splits;

const NONE: u32 = u32::MAX;
const LAST_RANK: u32 = NONE - 1;

/// Longer words are joined with the help of a heap: searching all of a word for each join is quadratic.
const SEARCHED_PARTS_MAX: usize = 48;

/// Longer words are hardly ever seen twice.
const REMEMBERED_BYTES_MAX: usize = 48;

#[derive(Debug)]
pub(crate) struct BytePair {
    pub splits: Splits,
    /// The text is composed (NFC) first.
    pub composed: bool,
    /// A word that is a token is not put together from its parts.
    pub whole_words: bool,
    pub tokens: FxHashMap<Box<[u8]>, u32>,
    pub joins: Joins,
}

#[derive(Debug)]
pub(crate) enum Joins {
    /// Two neighbours that spell a token, in the order of ids.
    Spelled,
    /// By the two tokens, `left << 32 | right`: the pair's place in the order, and what it becomes.
    Pairs(FxHashMap<u64, (u32, u32)>),
}

#[derive(Clone, Copy)]
struct Part {
    start: u32,
    end: u32,
    id: u32,
    /// Place in the order of joining it with the part behind it, and what that gives.
    rank: u32,
    joined: u32,
    before: u32,
    after: u32,
}

pub(crate) fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl BytePair {
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let text = self.composed(text);
        let mut seen: FxHashMap<&[u8], (usize, usize)> = FxHashMap::default();
        self.splits.split(&text, &mut |word| {
            let word = word.as_bytes();
            if let Some((start, end)) = seen.get(word) {
                ids.extend_from_within(*start..*end);
                return;
            }
            let start = ids.len();
            self.encode_word(word, ids);
            if word.len() <= REMEMBERED_BYTES_MAX {
                seen.insert(word, (start, ids.len()));
            }
        })
    }

    fn composed<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.composed || text.is_ascii() {
            return Cow::Borrowed(text);
        }
        let mut normalized = NormalizedString::from(text);
        normalized.nfc();
        Cow::Owned(normalized.get().to_owned())
    }

    fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        if self.whole_words
            && let Some(id) = self.tokens.get(word)
        {
            ids.push(*id);
            return;
        }
        let mut parts = self.parts(word);
        if parts.len() <= SEARCHED_PARTS_MAX {
            self.join_by_search(word, &mut parts);
        } else {
            self.join_by_heap(word, &mut parts);
        }
        ids.extend(parts.iter().filter(|part| part.id != NONE).map(|part| part.id));
    }

    /// A byte each, and what its join with the next one would be.
    fn parts(&self, word: &[u8]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::with_capacity(word.len());
        for at in 0..word.len() {
            // A byte that is no token is lost, as it is to the model's makers.
            let Some(id) = self.tokens.get(&word[at..=at]) else { continue };
            let index = parts.len() as u32;
            let before = index.checked_sub(1).unwrap_or(NONE);
            let (start, end) = (at as u32, at as u32 + 1);
            let after = index + 1;
            parts.push(Part { start, end, id: *id, rank: NONE, joined: NONE, before, after });
        }
        if let Some(last) = parts.last_mut() {
            last.after = NONE;
        }
        for index in 0..parts.len() as u32 {
            self.rank(word, &mut parts, index, index + 1);
        }
        parts
    }

    fn rank(&self, word: &[u8], parts: &mut [Part], index: u32, next: u32) {
        let part = parts[index as usize];
        let joined = parts.get(next as usize).and_then(|next| match &self.joins {
            Joins::Spelled => {
                let id = self.tokens.get(&word[part.start as usize..next.end as usize])?;
                Some((*id, *id))
            }
            Joins::Pairs(pairs) => pairs.get(&pair(part.id, next.id)).copied(),
        });
        let (rank, id) = joined.unwrap_or((NONE, NONE));
        parts[index as usize].rank = rank;
        parts[index as usize].joined = id;
    }

    fn join_by_search(&self, word: &[u8], parts: &mut Vec<Part>) {
        loop {
            let best = parts.iter().enumerate().min_by_key(|(_, part)| part.rank);
            let Some((index, Part { rank: ..=LAST_RANK, .. })) = best else { return };
            parts[index].id = parts[index].joined;
            parts[index].end = parts[index + 1].end;
            parts.remove(index + 1);
            let index = index as u32;
            self.rank(word, parts, index, index + 1);
            if index > 0 {
                self.rank(word, parts, index - 1, index);
            }
        }
    }

    fn join_by_heap(&self, word: &[u8], parts: &mut [Part]) {
        let ranked = |parts: &[Part], index: u32| {
            let rank = parts[index as usize].rank;
            (rank != NONE).then_some(Reverse((rank, index)))
        };
        let mut heap: BinaryHeap<_> =
            (0..parts.len() as u32).filter_map(|index| ranked(parts, index)).collect();
        while let Some(Reverse((rank, index))) = heap.pop() {
            let part = parts[index as usize];
            if part.id == NONE || part.rank != rank {
                continue;
            }
            let next = parts[part.after as usize];
            parts[part.after as usize].id = NONE;
            parts[index as usize] =
                Part { id: part.joined, end: next.end, after: next.after, ..part };
            if next.after != NONE {
                parts[next.after as usize].before = index;
            }
            for index in [index, part.before] {
                if index != NONE {
                    self.rank(word, parts, index, parts[index as usize].after);
                    heap.extend(ranked(parts, index));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> impl Iterator<Item = (Box<[u8]>, u32)> {
        (0..=255u8).map(|byte| ([byte].into(), u32::from(byte)))
    }

    /// Ranks of all strings of `a` up to some lengths, and a few words.
    fn spelled(words: &[&str]) -> BytePair {
        let more = words.iter().zip(256..).map(|(word, id)| (word.as_bytes().into(), id));
        BytePair {
            splits: Splits::new([r"\S+|\s+"]).unwrap(),
            composed: false,
            whole_words: true,
            tokens: bytes().chain(more).collect(),
            joins: Joins::Spelled,
        }
    }

    #[track_caller]
    fn check(model: &BytePair, text: &str, expected: &[&str]) {
        let mut ids = Vec::new();
        model.encode(text, &mut ids).unwrap();
        let spell = |id: &u32| {
            let token = model.tokens.iter().find(|(_, token)| *token == id).unwrap();
            String::from_utf8_lossy(token.0).into_owned()
        };
        assert_eq!(ids.iter().map(spell).collect::<Vec<_>>(), expected, "{text:?}");
    }

    #[test]
    fn the_lowest_rank_joins_first() {
        check(&spelled(&["ab", "bc", "abc"]), "abcb ab", &["abc", "b", " ", "ab"]);
        check(&spelled(&["bc", "ab", "abc"]), "abcb", &["abc", "b"]);
        check(&spelled(&["bc", "ab"]), "abcb", &["a", "bc", "b"]);
        check(&spelled(&["aa", "aaa"]), "aaaaa", &["aa", "aaa"]);
    }

    #[test]
    fn a_heap_joins_as_a_search_does() {
        let words = ["aa", "aaa", "ab", "ba", "bab", "abab", "aab", "bb", "aaaa", "ca"];
        let model = BytePair { whole_words: false, ..spelled(&words) };
        let mut random = crate::random::Random(2);
        for _ in 0..500 {
            let letters = 0..random.below(45) + 2;
            let word: Vec<u8> = letters.map(|_| b"aabc"[random.below(4)]).collect();
            let (mut searched, mut heaped) = (model.parts(&word), model.parts(&word));
            model.join_by_search(&word, &mut searched);
            model.join_by_heap(&word, &mut heaped);
            let ids = |parts: &[Part]| -> Vec<u32> {
                parts.iter().map(|part| part.id).filter(|id| *id != NONE).collect()
            };
            assert_eq!(ids(&searched), ids(&heaped), "{}", String::from_utf8_lossy(&word));
        }
    }
}
