//! Unigram segmentation (arXiv:1804.10959): the pieces with the highest sum of scores, found in one pass that keeps the
//! best way to each byte. Sums are rounded to single precision after each piece, as SentencePiece's are: ties and near
//! ties are decided by it.

use super::super::trie::ROOT;
use super::{Kind, Vocabulary, character_bytes};

/// What an unknown character scores below the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// What a user-defined piece scores for each byte but one: hardly any sum of scores, being logarithms, is above it.
const USER_DEFINED_BONUS: f32 = 0.1;

const NONE: u32 = u32::MAX;

/// The best way to a place: where its last piece starts, and the sum of its scores.
#[derive(Clone, Copy)]
struct Way {
    start: u32,
    score: f32,
}

/// The pieces of a normalised text, in order.
pub(super) fn split<'a>(vocabulary: &'a Vocabulary, text: &'a [u8], out: &mut dyn FnMut(&'a [u8])) {
    let mut ways = vec![Way { start: NONE, score: 0.0 }; text.len() + 1];
    let mut start = 0;
    while start < text.len() {
        let single = character_bytes(&text[start..]);
        if !extend(vocabulary, text, start, single, &mut ways) {
            let score = (vocabulary.lowest_score - UNKNOWN_PENALTY) + ways[start].score;
            offer(&mut ways[start + single], start, score);
        }
        start += single;
    }
    let mut cuts = vec![text.len()];
    while let Some(end) = cuts.last().copied().filter(|end| *end > 0) {
        cuts.push(ways[end].start as usize);
    }
    cuts.reverse();
    cuts.windows(2).for_each(|cut| out(&text[cut[0]..cut[1]]));
}

/// Offers every piece that begins at `start`; whether the single character there is one of them.
fn extend(
    vocabulary: &Vocabulary,
    text: &[u8],
    start: usize,
    single: usize,
    ways: &mut [Way],
) -> bool {
    let so_far = ways[start].score;
    let mut has_single = false;
    let mut node = ROOT;
    for (index, byte) in text[start..].iter().enumerate() {
        let Some(next) = vocabulary.matched.step(node, *byte) else { break };
        node = next;
        let Some(id) = vocabulary.matched.value(node) else { continue };
        let bytes = index + 1;
        let score = match vocabulary.kind(id) {
            Kind::Unused => continue,
            Kind::UserDefined => index as f32 * USER_DEFINED_BONUS,
            _ => vocabulary.score(id),
        };
        offer(&mut ways[start + bytes], start, score + so_far);
        has_single |= bytes == single;
    }
    has_single
}

fn offer(way: &mut Way, start: usize, score: f32) {
    if way.start == NONE || score > way.score {
        *way = Way { start: start as u32, score };
    }
}
