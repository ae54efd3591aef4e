//! Attention over what a cache remembers.

use mlx::{Array, Device, Dtype};

use crate::cache::{History, Kept, Past};

/// Which keys a query sees, as far as its cache remembers them: where that has a window, no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Those at its own position and before.
    Causal,
    /// All.
    Full,
}

/// What is done to scores.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    pub scale: f32,
    pub mask: Mask,
    /// Scores become `softcap · tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// For each query head a score that takes part in the softmax but has no value, `[heads]`.
    pub sinks: Option<&'a Array>,
}

impl AttentionOptions<'_> {
    pub fn causal(scale: f32) -> AttentionOptions<'static> {
        AttentionOptions { scale, mask: Mask::Causal, softcap: None, sinks: None }
    }
}

/// softmax(scale × queries · keysᵀ) · values, per head; queries and result as `Batch::split_heads` makes them.
pub fn attend(queries: &Array, history: &History, options: &AttentionOptions<'_>) -> Array {
    let window = history.window;
    match &history.kind {
        Kept::Pages { places, place, receipts } => {
            let AttentionOptions { scale, mask, softcap, sinks } = *options;
            let causal = mask == Mask::Causal;
            let options = mlx::pages::Options { scale, causal, window, softcap, sinks };
            receipts.attend(places, *place, queries, &options)
        }
        Kept::Together(past) => product(queries, past, window, options),
        Kept::Apart(parts) => {
            let outs: Vec<Array> = parts
                .iter()
                .map(|part| {
                    let queries = part.rows.of_heads(queries);
                    let out = product(&queries, &part.past, window, options);
                    part.rows.to_heads(&out)
                })
                .collect();
            mlx::concatenate(&outs.iter().collect::<Vec<_>>(), 0)
        }
    }
}

/// The queries are the last positions of the keys.
fn product(
    queries: &Array,
    past: &Past,
    window: Option<usize>,
    options: &AttentionOptions<'_>,
) -> Array {
    if let Some(mask) = past.mask() {
        return in_step(queries, past, mask, options);
    }
    let (length, positions) = (queries.dim(2), past.positions());
    let narrow = window.filter(|window| positions as usize > *window);
    // A single query is the last one: it sees every key of its window, and kernels without a mask are faster.
    let (positions, narrow) = match narrow {
        Some(window) if length == 1 => (window as i32, None),
        narrow => (positions, narrow),
    };
    let [keys, values] = &past.last(positions);
    let causal = options.mask == Mask::Causal && length > 1;
    let mask = narrow.map(|window| window_mask(length, positions, Some(window), causal));
    if options.softcap.is_some() {
        let mask = mask.or_else(|| causal.then(|| window_mask(length, positions, None, true)));
        return by_operations(queries, keys, values, mask.as_ref(), options);
    }
    let mask = match &mask {
        Some(mask) => mlx::fast::Mask::Array(mask),
        None if causal => mlx::fast::Mask::Causal,
        None => mlx::fast::Mask::None,
    };
    let AttentionOptions { scale, sinks, .. } = *options;
    mlx::fast::scaled_dot_product_attention(queries, keys, values, scale, mask, sinks)
}

/// A query for each lane, of lanes that end together and begin apart. Query heads of one head of keys go as rows of it:
/// with several of them MLX's kernels take a mask, and read keys and values once.
fn in_step(queries: &Array, past: &Past, mask: &Array, options: &AttentionOptions<'_>) -> Array {
    let [keys, values] = &past.whole();
    let AttentionOptions { scale, sinks, softcap, .. } = *options;
    if softcap.is_some() || mlx::device() == Device::Cpu {
        return by_operations(queries, keys, values, Some(&mask.expand_dims(&[1])), options);
    }
    let &[lanes, heads, _, width] = queries.shape() else { panic!("queries {queries:?}") };
    let kv_heads = keys.dim(1);
    let grouped = match sinks {
        None => queries.reshape(&[lanes, kv_heads, heads / kv_heads, width]),
        Some(_) => queries.clone(),
    };
    let mask = mlx::fast::Mask::Array(mask);
    let out = mlx::fast::scaled_dot_product_attention(&grouped, keys, values, scale, mask, sinks);
    out.reshape(&[lanes, heads, 1, values.dim(3)])
}

/// Which of `positions` keys the last `length` positions see, `[length, positions]`.
fn window_mask(length: i32, positions: i32, window: Option<usize>, causal: bool) -> Array {
    let range = |from: i32, to: i32| mlx::arange(f64::from(from), f64::from(to), 1.0, Dtype::I32);
    let queries = range(positions - length, positions).expand_dims(&[1]);
    let behind = queries - range(0, positions).expand_dims(&[0]);
    let near = window.map(|window| behind.less(&Array::from(window as i32)));
    let past = causal.then(|| behind.greater_equal(&Array::from(0)));
    match (near, past) {
        (Some(near), Some(past)) => near.logical_and(&past),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => mlx::ones(&[length, positions], Dtype::Bool),
    }
}

/// Where there is no fused kernel: with a cap on scores anywhere, with a mask on the CPU. In f32, because scores of 10 are
/// coarse in bf16.
fn by_operations(
    queries: &Array,
    keys: &Array,
    values: &Array,
    mask: Option<&Array>,
    options: &AttentionOptions<'_>,
) -> Array {
    let &[batch, heads, length, width] = queries.shape() else { panic!("queries {queries:?}") };
    let (kv_heads, value_dim) = (keys.dim(1), values.dim(3));
    let group = heads / kv_heads;
    let grouped = queries.cast(Dtype::F32).reshape(&[batch, kv_heads, group, length, width]);
    let [keys, values] = [keys, values].map(|x| x.cast(Dtype::F32).expand_dims(&[2]));
    let mut scores = (grouped * options.scale).matmul(&keys.swapaxes(3, 4));
    if let Some(cap) = options.softcap {
        scores = (scores * (1.0 / cap)).tanh() * cap;
    }
    scores = match mask {
        Some(mask) if mask.dtype() == Dtype::Bool => {
            mlx::where_(mask, &scores, &Array::from(f32::NEG_INFINITY))
        }
        Some(mask) => scores + mask,
        None => scores,
    };
    if let Some(sinks) = options.sinks {
        let sinks = sinks.cast(Dtype::F32).reshape(&[1, kv_heads, group, 1, 1]);
        let column = sinks.broadcast_to(&[batch, kv_heads, group, length, 1]);
        scores = mlx::concatenate(&[&scores, &column], 4);
    }
    let weights = scores.softmax(&[-1]).narrow(4, 0, keys.dim(3));
    weights.matmul(&values).reshape(&[batch, heads, length, value_dim]).cast(queries.dtype())
}

#[cfg(test)]
mod tests;
