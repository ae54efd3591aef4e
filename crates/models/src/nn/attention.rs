//! Attention over what a cache remembers.

use mlx::Array;

use crate::cache::History;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Those at its own position and before.
    Causal,
    /// All.
    Full,
}

/// softmax(scale × queries · keysᵀ) · values, per head; queries and result as `Batch::split_heads` makes them.
pub fn attend(queries: &Array, history: &History, scale: f32, mask: Mask) -> Array {
    match history {
        History::Together(past) => product(queries, &past.keys, &past.values, scale, mask),
        History::Apart(parts) => {
            let outs: Vec<Array> = parts
                .iter()
                .map(|part| {
                    let queries = part.rows.of_heads(queries);
                    let out = product(&queries, &part.past.keys, &part.past.values, scale, mask);
                    part.rows.to_heads(&out)
                })
                .collect();
            mlx::concatenate(&outs.iter().collect::<Vec<_>>(), 0)
        }
    }
}

fn product(queries: &Array, keys: &Array, values: &Array, scale: f32, mask: Mask) -> Array {
    // A single query is the last one: it sees every key, and kernels without a mask are faster.
    let alone = queries.shape()[2] == 1;
    let mask = match mask {
        Mask::Causal if !alone => mlx::fast::Mask::Causal,
        _ => mlx::fast::Mask::None,
    };
    mlx::fast::scaled_dot_product_attention(queries, keys, values, scale, mask, None)
}
