//! How one request's tokens are drawn: its options resolved to plain numbers, and its randomness.

use protocol::{Options, Seed};

/// Options of one request, resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    pub temperature: f32,
    /// 0: off.
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub seed: u64,
}

impl Sampling {
    /// `random` is the seed of a request that names none.
    pub fn new(options: &Options, random: u64) -> Sampling {
        let clean =
            |value: Option<f32>, default: f32| value.filter(|v| v.is_finite()).unwrap_or(default);
        Sampling {
            temperature: clean(options.temperature, 0.8).max(0.0),
            top_k: usize::try_from(options.top_k.unwrap_or(40)).unwrap_or(0),
            top_p: clean(options.top_p, 0.9),
            min_p: clean(options.min_p, 0.0),
            seed: match options.seed() {
                Seed::Fixed(seed) => seed,
                Seed::Random => random,
            },
        }
    }

    pub fn is_greedy(&self) -> bool {
        // Below this the division overflows and the best token wins anyway.
        self.temperature < 1e-4
    }

    /// The key of one draw: a function of (seed, index) alone, so a reply does not depend on who else is in the batch.
    pub fn key(&self, index: u64) -> u64 {
        mix(self.seed, index)
    }
}

/// SplitMix64 over both numbers: neighbouring seeds and draws have nothing in common.
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
