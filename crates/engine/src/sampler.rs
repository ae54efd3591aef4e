//! From logits to a token, as a graph: nothing here waits for the device, so the next step can be dispatched before
//! this one's token is read.
//!
//! Order: temperature 0 takes the best; else the best `top_k`, divided by the temperature, softmax, `top_p`
//! (keep while what came before is below it), `min_p` (relative to the best), and one draw from what is left.
//! A draw's randomness is a function of (seed, index of the draw) alone, so a reply does not depend on who else is in
//! the batch. Log-probabilities are those of the raw logits.

use mlx::{Array, Dtype};

use crate::sampling::Sampling;

/// The best token of each row: `[rows, vocabulary]` → u32 `[rows]`.
pub(crate) fn greedy(logits: &Array) -> Array {
    logits.argmax(-1, false).cast(Dtype::U32)
}

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
