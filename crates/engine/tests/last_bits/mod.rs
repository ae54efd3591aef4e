//! What two replies to one request may differ in. On the CPU: nothing (docs/decisions/0013-row-invariance.md). On a GPU
//! MLX's products add in an order that depends on how many rows there are, so a batch, a prefix or a draft changes last
//! bits: as long as two replies say the same, and where they part, their log-probabilities are near; what comes behind
//! tells nothing, nor does it that one ends where the other goes on.

use mlx::Device;
use protocol::TokenLogprob;

/// So far are log-probabilities of one position apart at most, of models that compute in bf16: there logits between 32 and
/// 64 are multiples of 1/4, and one step of the token's and one of the others' is what another order of additions may do.
const APART_MAX: f32 = 0.5;

/// Both came with some of the most probable tokens of each position.
#[track_caller]
pub fn assert_alike(what: &str, found: &[TokenLogprob], expected: &[TokenLogprob]) {
    if mlx::device() == Device::Cpu {
        assert_eq!(found, expected, "{what}");
        return;
    }
    let both = || found.iter().zip(expected);
    let alike = both().take_while(|(a, b)| a.chosen.id == b.chosen.id).count();
    let apart = both().take(alike + 1).map(|(a, b)| distance(a, b)).fold(0.0, f32::max);
    println!("{what}: {apart} apart, {alike} of {} tokens are the same", expected.len());
    assert!(apart <= APART_MAX, "{what}: {apart} apart");
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
