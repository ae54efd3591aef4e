//! Attention over what a cache remembers.

use mlx::Array;

use mlx::fast::Ragged;

use crate::cache::{History, Part};

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
            let ragged: Vec<Ragged<'_>> = parts.iter().map(Part::ragged).collect();
            let causal = mask == Mask::Causal;
            if let Some(out) = mlx::fast::ragged_attention(queries, &ragged, scale, causal) {
                return out;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::cache::{Cache, Memory};

    const HEADS: usize = 4;
    const KV_HEADS: usize = 2;
    const WIDTH: usize = 8;
    const SCALE: f32 = 0.3;

    fn numbers(rows: usize, width: usize, seed: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 252.0 - 2.0;
        (0..rows * width).map(value).collect()
    }

    /// One query row against the keys and values of its own sequence, by the definition.
    fn by_definition(query: &[f32], keys: &[f32], values: &[f32], seen: usize) -> Vec<f32> {
        let of = |rows: &[f32], position: usize, head: usize| {
            let begin = (position * KV_HEADS + head * KV_HEADS / HEADS) * WIDTH;
            rows[begin..begin + WIDTH].to_vec()
        };
        let mut out = Vec::new();
        for (head, query) in query.chunks(WIDTH).enumerate() {
            let score =
                |p| of(keys, p, head).iter().zip(query).map(|(k, q)| k * q).sum::<f32>() * SCALE;
            let weights: Vec<f32> = (0..seen).map(|position| score(position).exp()).collect();
            let sum: f32 = weights.iter().sum();
            out.extend((0..WIDTH).map(|i| {
                let terms =
                    weights.iter().enumerate().map(|(p, weight)| weight * of(values, p, head)[i]);
                terms.sum::<f32>() / sum
            }));
        }
        out
    }

    /// Sequences of these lengths in one batch, after two tokens each that went before.
    fn check(lengths: &[usize], mask: Mask) {
        mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
        let (mut memory, mut cache) = (Memory::new([]), Cache::key_value());
        let slots: Vec<_> = lengths.iter().map(|_| memory.open()).collect();
        let (mut keys, mut values) = (vec![Vec::new(); slots.len()], vec![Vec::new(); slots.len()]);
        let before = vec![2; slots.len()];
        for (pass, lengths) in [&before[..], lengths].into_iter().enumerate() {
            let parts: Vec<_> = slots.iter().copied().zip(lengths.iter().copied()).collect();
            let rows: usize = lengths.iter().sum();
            let batch = Batch::new(mlx::zeros(&[rows as i32], mlx::Dtype::U32), &parts, &memory);
            let make = |width: usize, seed: usize| numbers(rows, width, seed + 3 * pass);
            let (q, k, v) =
                (make(HEADS * WIDTH, 0), make(KV_HEADS * WIDTH, 1), make(KV_HEADS * WIDTH, 2));
            let split = |x: &[f32], heads: usize| {
                let x = Array::from_slice(x, &[rows as i32, (heads * WIDTH) as i32]);
                batch.split_heads(&x, heads as i32)
            };
            let _ = memory.step(&batch);
            let history = cache.append(&batch, &split(&k, KV_HEADS), &split(&v, KV_HEADS));
            let out = attend(&split(&q, HEADS), &history, SCALE, mask);
            let found: Vec<f32> = batch.merge_heads(&out).to_vec().unwrap();
            for (index, segment) in batch.segments.iter().enumerate() {
                let all = |x: &[f32], width: usize| {
                    x[segment.start * width..(segment.start + segment.length) * width].to_vec()
                };
                keys[index].extend(all(&k, KV_HEADS * WIDTH));
                values[index].extend(all(&v, KV_HEADS * WIDTH));
                let total = segment.position + segment.length;
                for row in 0..segment.length {
                    let at = (segment.start + row) * HEADS * WIDTH;
                    let seen =
                        if mask == Mask::Causal { segment.position + row + 1 } else { total };
                    let expected = by_definition(
                        &q[at..at + HEADS * WIDTH],
                        &keys[index],
                        &values[index],
                        seen,
                    );
                    for (found, expected) in found[at..].iter().zip(&expected) {
                        let what = format!("{lengths:?} {mask:?}, sequence {index}, row {row}");
                        assert!((found - expected).abs() < 1e-5, "{what}: {found}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn attention_is_what_its_definition_says() {
        for mask in [Mask::Causal, Mask::Full] {
            check(&[1], mask);
            check(&[5], mask);
            check(&[1, 1, 1], mask);
            check(&[3, 3], mask);
            check(&[4, 1, 2], mask);
        }
    }
}
