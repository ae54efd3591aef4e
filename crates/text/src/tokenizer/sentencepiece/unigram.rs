//! Unigram segmentation (arXiv:1804.10959): the pieces with the highest sum of scores, found in one pass that keeps the
//! best way to each byte. Sums are rounded to single precision after each piece, and begin anew from zero when they have
//! become large, both exactly as SentencePiece's do: ties and near ties are decided by it.

use super::{Kind, Piece, Vocabulary, character_bytes};

/// What an unknown character scores below the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// What a user-defined piece scores for each byte but one: hardly any sum of scores, being logarithms, is above it.
const USER_DEFINED_BONUS: f64 = 0.1;

/// Larger sums are not precise enough: what all open ways share is taken off them.
const SCORE_MAX: f32 = 100_000.0;

const NONE: u32 = u32::MAX;

/// The best way to a place: where its last piece starts, which one that is, and the sum of its scores.
#[derive(Clone, Copy)]
struct Way {
    start: u32,
    piece: u32,
    score: f32,
}

/// What a piece adds to a sum.
pub(super) fn score(piece: &Piece) -> f32 {
    match piece.kind {
        Kind::UserDefined => (USER_DEFINED_BONUS * (piece.text.len() as f64 - 1.0)) as f32,
        _ => piece.score,
    }
}

/// The pieces of a normalised text, in order, each with its number unless it is unknown.
pub(super) fn split<'a>(
    vocabulary: &Vocabulary,
    text: &'a [u8],
    out: &mut dyn FnMut(&'a [u8], Option<u32>),
) {
    let ways = ways(vocabulary, text);
    let mut pieces = Vec::with_capacity(text.len() / 4 + 1);
    let mut end = text.len();
    while end > 0 {
        let Way { start, piece, .. } = ways[end];
        pieces.push((start as usize, end, piece));
        end = start as usize;
    }
    for (start, end, piece) in pieces.into_iter().rev() {
        out(&text[start..end], Some(piece).filter(|piece| *piece != NONE));
    }
}

/// To each place of the text.
fn ways(vocabulary: &Vocabulary, text: &[u8]) -> Vec<Way> {
    let unknown = vocabulary.lowest_score - UNKNOWN_PENALTY;
    let mut ways = vec![Way { start: NONE, piece: NONE, score: 0.0 }; text.len() + 1];
    // The furthest place that a way leads to.
    let mut furthest = 0;
    let mut start = 0;
    while start < text.len() {
        if ways[start].score.abs() > SCORE_MAX {
            begin_anew(&mut ways[start..=furthest]);
        }
        let so_far = ways[start].score;
        let single = character_bytes(&text[start..]);
        let mut has_single = false;
        for (bytes, piece) in vocabulary.matched.prefixes(&text[start..]) {
            offer(&mut ways[start + bytes], start, piece, vocabulary.score(piece) + so_far);
            furthest = furthest.max(start + bytes);
            has_single |= bytes == single;
        }
        if !has_single {
            offer(&mut ways[start + single], start, NONE, unknown + so_far);
            furthest = furthest.max(start + single);
        }
        start += single;
    }
    ways
}

/// From the first of these places on, which has a way or is the text's beginning.
fn begin_anew(ways: &mut [Way]) {
    let offset = ways[0].score;
    for (index, way) in ways.iter_mut().enumerate() {
        if index == 0 || way.start != NONE {
            way.score -= offset;
        }
    }
}

fn offer(way: &mut Way, start: usize, piece: u32, score: f32) {
    if way.start == NONE || score > way.score {
        *way = Way { start: start as u32, piece, score };
    }
}
