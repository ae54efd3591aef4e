//! What two replies to one request may differ in. On the CPU: nothing (docs/decisions/0013-row-invariance.md). On a GPU
//! MLX's products add in an order that depends on how many rows there are, so a batch, a prefix or a draft changes last
//! bits: as long as two replies say the same, and where they part, their log-probabilities are near; what comes behind
//! tells nothing, nor does it that one ends where the other goes on.

mod distances;

use distances::distances;
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
    let distances = distances(found, expected);
    let apart = distances.iter().fold(0.0, |most, distance| distance.max(most));
    println!("{what}: {apart} apart, {} of {} tokens", distances.len(), expected.len());
    assert!(apart <= APART_MAX, "{what}: {apart} apart");
}
