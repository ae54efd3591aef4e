//! How far the log-probabilities of two replies to one request are apart.

use protocol::TokenLogprob;

/// At each position, up to and with the one where they part.
pub fn distances(found: &[TokenLogprob], expected: &[TokenLogprob]) -> Vec<f32> {
    let both = || found.iter().zip(expected);
    let alike = both().take_while(|(a, b)| a.chosen.id == b.chosen.id).count();
    both().take(alike + 1).map(|(a, b)| distance(a, b)).collect()
}

/// Of the log-probabilities of tokens that are named on both sides; infinite where none is.
fn distance(a: &TokenLogprob, b: &TokenLogprob) -> f32 {
    let named = |x: &TokenLogprob| -> Vec<(u32, f32)> {
        x.top.iter().chain([&x.chosen]).map(|token| (token.id, token.logprob)).collect()
    };
    let others = named(b);
    let of = |(id, x): &(u32, f32)| {
        let other = others.iter().find(|(other, _)| other == id)?;
        Some((x - other.1).abs())
    };
    let distances: Vec<f32> = named(a).iter().filter_map(of).collect();
    distances.into_iter().reduce(f32::max).unwrap_or(f32::INFINITY)
}
