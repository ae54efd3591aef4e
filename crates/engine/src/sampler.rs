//! From logits to a token, as a graph: nothing here waits for the device, so the next step can be dispatched before
//! this one's token is read.
//!
//! Order: temperature 0 takes the best; else the best `top_k`, divided by the temperature, softmax, `top_p`
//! (keep while what came before is below it), `min_p` (relative to the best), and one draw from what is left.
//! A draw's randomness is a function of (seed, index of the draw) alone, so a reply does not depend on who else is in
//! the batch. Log-probabilities are those of the raw logits.

use mlx::{Array, Dtype};
use text::constraint::Mask;

use crate::sampling::Sampling;

/// The best token of each row: `[rows, vocabulary]` → u32 `[rows]`.
pub(crate) fn greedy(logits: &Array) -> Array {
    logits.argmax(-1, false).cast(Dtype::U32)
}

/// `logits` [1, vocabulary] with only the mask's tokens left.
pub(crate) fn masked(logits: &Array, mask: &Mask) -> Array {
    let width = logits.shape()[1];
    let allowed = bytes(mask, width as usize);
    let allowed = Array::from_slice(&allowed, &[1, width]).cast(Dtype::Bool);
    let nothing = Array::scalar(f64::NEG_INFINITY, logits.dtype());
    mlx::where_(&allowed, logits, &nothing)
}

/// A byte for each token: 1 if it may be drawn.
fn bytes(mask: &Mask, width: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(width + 32);
    for word in mask.words().iter().take(width.div_ceil(32)) {
        for byte in word.to_le_bytes() {
            bytes.extend_from_slice(&SPREAD[byte as usize]);
        }
    }
    // The model may have more logits than the tokenizer has tokens, and the other way round.
    bytes.resize(width, 0);
    bytes
}

/// The eight bits of a byte, lowest first.
const SPREAD: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            table[byte][bit] = (byte >> bit & 1) as u8;
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Draws from `logits` [1, vocabulary]; the token id as u32 [1].
pub(crate) fn draw(sampling: &Sampling, logits: &Array, index: u64) -> Array {
    if sampling.is_greedy() {
        return greedy(logits);
    }
    let vocabulary = logits.shape()[1] as usize;
    let count = if sampling.top_k == 0 { vocabulary } else { sampling.top_k.min(vocabulary) };
    let (ids, logits) = best(&logits.cast(Dtype::F32), count);
    let logits = &logits / sampling.temperature;
    let kept = keep(sampling, &logits.softmax(&[-1]));
    let logits = mlx::where_(&kept, &logits, &Array::scalar(f64::NEG_INFINITY, Dtype::F32));
    let key = mlx::random::key(sampling.key(index));
    let position = mlx::random::categorical(&logits, -1, &key).cast(Dtype::U32);
    ids.take_along_axis(&position.expand_dims(&[-1]), -1).squeeze(&[-1])
}

/// Which of the candidates, best first, may be drawn. The best one always may.
fn keep(sampling: &Sampling, probabilities: &Array) -> Array {
    let before = probabilities.cumsum_before(-1);
    let best = probabilities.narrow(-1, 0, 1);
    let likely = probabilities.greater_equal(&(&best * sampling.min_p.clamp(0.0, 1.0)));
    if sampling.top_p >= 1.0 {
        return likely;
    }
    let inside = before.less(&limit(sampling.top_p.max(0.0)));
    let first = before.less_equal(&limit(0.0));
    inside.logical_or(&first).logical_and(&likely)
}

fn limit(value: f32) -> Array {
    Array::scalar(f64::from(value), Dtype::F32)
}

/// The `count` largest of `logits` [1, n], best first: ids u32 [1, count] and values.
fn best(logits: &Array, count: usize) -> (Array, Array) {
    let size = logits.shape()[1] as usize;
    let negated = -logits;
    let ids = if count < size {
        let part = negated.argpartition(count as i32 - 1, -1).narrow(-1, 0, count as i32);
        let order = negated.take_along_axis(&part, -1).argsort(-1);
        part.take_along_axis(&order, -1)
    } else {
        negated.argsort(-1)
    };
    let values = logits.take_along_axis(&ids, -1);
    (ids.cast(Dtype::U32), values)
}

/// What a request that asked for log-probabilities gets with a token: arrays still to be computed.
pub(crate) struct Logprobs {
    /// [1]
    pub chosen: Array,
    /// [1, n] each, most probable first.
    pub top: Option<(Array, Array)>,
}

impl Logprobs {
    pub fn new(logits: &Array, token: &Array, alternatives: u8) -> Logprobs {
        let logits = logits.cast(Dtype::F32);
        let all = &logits - &logits.logsumexp(&[-1], true);
        let chosen = all.take_along_axis(&token.expand_dims(&[-1]), -1).squeeze(&[-1]);
        let count = usize::from(alternatives).min(all.shape()[1] as usize);
        Logprobs { chosen, top: (count > 0).then(|| best(&all, count)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Options;

    /// Probabilities 0.4, 0.3, 0.2, 0.1, and twelve that are next to nothing; out of order, so that ids matter.
    const IDS: [usize; 4] = [9, 2, 14, 5];

    fn logits() -> Array {
        let mut logits = [-20.0f32; 16];
        for (id, probability) in IDS.into_iter().zip([0.4f32, 0.3, 0.2, 0.1]) {
            logits[id] = probability.ln();
        }
        Array::from_slice(&logits, &[1, 16])
    }

    fn drawn(options: &Options, seed: u64, count: u64) -> Vec<u32> {
        mlx::open().unwrap();
        let sampling = Sampling::new(options, seed);
        let draws: Vec<Array> = (0..count).map(|index| draw(&sampling, &logits(), index)).collect();
        mlx::concatenate(&draws.iter().collect::<Vec<_>>(), 0).to_vec().unwrap()
    }

    /// How often each of the four is drawn, within five standard deviations of what the options leave of them.
    fn check(options: Options, expected: [f64; 4]) {
        const DRAWS: f64 = 2000.0;
        let tokens = drawn(&options, 1, DRAWS as u64);
        for (id, share) in IDS.into_iter().zip(expected) {
            let count = tokens.iter().filter(|token| **token as usize == id).count() as f64;
            let deviation = (DRAWS * share * (1.0 - share)).sqrt();
            assert!(
                (count - DRAWS * share).abs() <= 5.0 * deviation,
                "{options:?}: {id} came {count} times"
            );
        }
    }

    fn plain() -> Options {
        Options { temperature: Some(1.0), top_k: Some(0), top_p: Some(1.0), ..Options::default() }
    }

    #[test]
    fn tokens_come_as_often_as_they_should() {
        check(plain(), [0.4, 0.3, 0.2, 0.1]);
        check(Options { top_k: Some(2), ..plain() }, [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
        // 0.4 + 0.3 is below 0.75, so the third is still in.
        check(Options { top_p: Some(0.75), ..plain() }, [4.0 / 9.0, 3.0 / 9.0, 2.0 / 9.0, 0.0]);
        check(Options { top_p: Some(0.0), ..plain() }, [1.0, 0.0, 0.0, 0.0]);
        check(Options { min_p: Some(0.6), ..plain() }, [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
        // At temperature 1/2 probabilities are squared.
        check(
            Options { temperature: Some(0.5), ..plain() },
            [16.0 / 30.0, 9.0 / 30.0, 4.0 / 30.0, 1.0 / 30.0],
        );
        check(Options { temperature: Some(0.0), ..plain() }, [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_seed_fixes_the_draws() {
        let fixed = |seed| Options { seed: Some(seed), ..plain() };
        assert_eq!(drawn(&fixed(7), 1, 50), drawn(&fixed(7), 2, 50));
        assert_ne!(drawn(&fixed(7), 1, 50), drawn(&fixed(8), 1, 50));
        assert_ne!(drawn(&plain(), 1, 50), drawn(&plain(), 2, 50));
    }

    #[test]
    fn logprobs_are_those_of_the_raw_logits() {
        mlx::open().unwrap();
        let token = Array::from_slice(&[2u32], &[1]);
        let logprobs = Logprobs::new(&logits(), &token, 3);
        let close =
            |got: f32, expected: f32| assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        close(logprobs.chosen.item().unwrap(), 0.3f32.ln());
        let (ids, values) = logprobs.top.unwrap();
        assert_eq!(ids.to_vec::<u32>().unwrap(), [9, 2, 14]);
        for (value, expected) in values.to_vec::<f32>().unwrap().into_iter().zip([0.4f32, 0.3, 0.2])
        {
            close(value, expected.ln());
        }
    }
}
