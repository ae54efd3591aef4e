//! Arithmetic with known answers, for `doctor`: does this MLX, on this device, compute what it should?
//!
//! Inputs are small closed formulas; the expected values are computed here in float64, by the definition of each operation.

use crate::cpu::{self, Input, Kernel, Output, Start};
use crate::fast::{Angles, Mask, Rope, rms_norm, scaled_dot_product_attention};
use crate::{Array, Dtype, Mode, Quantized, catch, quantized_matmul};
use std::time::{Duration, Instant};

/// One operation and how it fared.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub took: Duration,
    /// What is wrong, none where nothing is.
    pub fault: Option<String>,
}

/// Relative to the largest expected value: float32 sums of some hundred terms, with room for a GPU's faster modes.
const TOLERANCE: f64 = 2e-3;

/// Runs all checks on this thread's device.
pub fn selftest() -> Vec<Check> {
    let checks: [(_, fn() -> Trial); 7] = [
        ("matrix product", matmul),
        ("quantised product", quantised),
        ("softmax", softmax),
        ("rms norm", norm),
        ("rotary positions", rope),
        ("attention", attention),
        ("kernels of our own", kernel),
    ];
    checks.into_iter().map(|(name, trial)| run(name, trial)).collect()
}

/// What MLX computes, and what is right.
struct Trial {
    found: Array,
    expected: Vec<f64>,
}

fn run(name: &'static str, trial: fn() -> Trial) -> Check {
    let start = Instant::now();
    let fault = match catch(trial) {
        Err(error) => Some(error.to_string()),
        Ok(trial) => match trial.found.cast(Dtype::F32).to_vec::<f32>() {
            Err(error) => Some(error.to_string()),
            Ok(found) => compare(&found, &trial.expected),
        },
    };
    Check { name, took: start.elapsed(), fault }
}

fn compare(found: &[f32], expected: &[f64]) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} values instead of {}", found.len(), expected.len()));
    }
    let largest = expected.iter().fold(1e-6_f64, |most, value| most.max(value.abs()));
    let wrong = found.iter().zip(expected).position(|(f, e)| {
        let error = (f64::from(*f) - e).abs();
        error.is_nan() || error > TOLERANCE * largest
    });
    wrong.map(|i| format!("value {i} is {} instead of {}", found[i], expected[i]))
}

/// `count` values in -1..1 without a pattern that a wrong order would keep.
fn values(count: usize, seed: f64) -> Vec<f64> {
    (0..count).map(|i| f64::from(((i as f64 * 0.7391 + seed) * 12.9898).sin() as f32)).collect()
}

fn array(values: &[f64], shape: &[i32]) -> Array {
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    Array::from_slice(&values, shape)
}

/// [rows, inner] · [inner, columns]
fn product(a: &[f64], b: &[f64], inner: usize, columns: usize) -> Vec<f64> {
    let row =
        |row: &[f64], c: usize| row.iter().enumerate().map(|(k, x)| x * b[k * columns + c]).sum();
    a.chunks(inner).flat_map(|r| (0..columns).map(move |c| row(r, c))).collect()
}

fn softmax_of(row: &[f64]) -> Vec<f64> {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = row.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn matmul() -> Trial {
    let (a, b) = (values(96 * 160, 0.1), values(160 * 64, 0.2));
    let found = array(&a, &[96, 160]).matmul(&array(&b, &[160, 64]));
    Trial { found, expected: product(&a, &b, 160, 64) }
}

/// 4-bit weights in groups of 32, packed here: eight of them in a word, the first in the lowest bits.
fn quantised() -> Trial {
    let (rows, inner, columns) = (3, 64, 32);
    let x = values(rows * inner, 0.3);
    let nibbles: Vec<u32> = (0..columns * inner).map(|i| (i * 7 + i / 13) as u32 % 16).collect();
    let packed: Vec<u32> = nibbles
        .chunks(8)
        .map(|word| word.iter().rev().fold(0, |bits, nibble| bits << 4 | nibble))
        .collect();
    let groups = columns * inner / 32;
    let scales: Vec<f64> = (0..groups).map(|g| 0.125 * (1 + g % 3) as f64).collect();
    let biases: Vec<f64> = (0..groups).map(|g| -0.5 * (g % 4) as f64).collect();
    let weight = |column: usize, k: usize| {
        let (i, group) = (column * inner + k, (column * inner + k) / 32);
        f64::from(nibbles[i]) * scales[group] + biases[group]
    };
    let transposed: Vec<f64> =
        (0..inner * columns).map(|i| weight(i % columns, i / columns)).collect();
    let side = [columns as i32, inner as i32 / 32];
    let (scales, biases) = (array(&scales, &side), array(&biases, &side));
    let w = Array::from_slice(&packed, &[columns as i32, inner as i32 / 8]);
    let q = Quantized {
        w: &w,
        scales: &scales,
        biases: Some(&biases),
        group_size: 32,
        bits: 4,
        mode: Mode::Affine,
    };
    let found = quantized_matmul(&array(&x, &[rows as i32, inner as i32]), &q, true);
    Trial { found, expected: product(&x, &transposed, inner, columns) }
}

fn softmax() -> Trial {
    let x: Vec<f64> = values(4 * 100, 0.4).iter().map(|value| value * 9.0).collect();
    Trial {
        found: array(&x, &[4, 100]).softmax(&[-1]),
        expected: x.chunks(100).flat_map(softmax_of).collect(),
    }
}

fn norm() -> Trial {
    let (x, weight) = (values(5 * 64, 0.5), values(64, 0.6));
    let row = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / 64.0;
        row.iter().zip(&weight).map(|(v, w)| v / (mean + 1e-5).sqrt() * w).collect()
    };
    Trial {
        found: rms_norm(&array(&x, &[5, 64]), Some(&array(&weight, &[64])), 1e-5),
        expected: x.chunks(64).flat_map(row).collect(),
    }
}

/// Two heads, positions 7, 8 and 9, halves as pairs.
fn rope() -> Trial {
    let (dims, length, offset) = (16, 3, 7);
    let x = values(2 * length * dims, 0.7);
    let turned = |(i, row): (usize, &[f64])| -> Vec<f64> {
        let position = (offset + i % length) as f64;
        let half = dims / 2;
        let at = |j: usize| {
            let angle = position * 10_000_f64.powf(-((j % half) as f64) / half as f64);
            let (sin, cos) = angle.sin_cos();
            if j < half {
                row[j] * cos - row[j + half] * sin
            } else {
                row[j - half] * sin + row[j] * cos
            }
        };
        (0..dims).map(at).collect()
    };
    let rope =
        Rope { dims: dims as i32, traditional: false, angles: Angles::Base(10_000.0), scale: 1.0 };
    Trial {
        found: rope.apply(&array(&x, &[1, 2, length as i32, dims as i32]), offset as i32),
        expected: x.chunks(dims).enumerate().flat_map(turned).collect(),
    }
}

/// Four heads of queries on two of keys, five queries that follow three positions of history, causal.
fn attention() -> Trial {
    let (heads, kv_heads, queries, keys, dim) = (4, 2, 5, 8, 64);
    let q = values(heads * queries * dim, 0.8);
    let (k, v) = (values(kv_heads * keys * dim, 0.9), values(kv_heads * keys * dim, 1.0));
    let scale = 1.0 / (dim as f64).sqrt();
    let head = |x: &[f64], h: usize, row: usize| x[(h * keys + row) * dim..][..dim].to_vec();
    let answer = |i: usize, query: &[f64]| -> Vec<f64> {
        let (h, seen) = (i / queries / (heads / kv_heads), keys - queries + i % queries + 1);
        let dot = |row: usize| {
            head(&k, h, row).iter().zip(query).map(|(a, b)| a * b).sum::<f64>() * scale
        };
        let weights = softmax_of(&(0..seen).map(dot).collect::<Vec<_>>());
        let values =
            |d: usize| weights.iter().enumerate().map(|(row, w)| w * head(&v, h, row)[d]).sum();
        (0..dim).map(values).collect()
    };
    let shape = |heads: usize, length: usize| [1, heads as i32, length as i32, dim as i32];
    let kv = |x: &[f64]| array(x, &shape(kv_heads, keys));
    let found = scaled_dot_product_attention(
        &array(&q, &shape(heads, queries)),
        &kv(&k),
        &kv(&v),
        scale as f32,
        Mask::Causal,
        None,
    );
    Trial {
        found,
        expected: q.chunks(dim).enumerate().flat_map(|(i, row)| answer(i, row)).collect(),
    }
}

/// A kernel between two operations of MLX.
fn kernel() -> Trial {
    struct Halve;
    impl Kernel for Halve {
        fn name(&self) -> &'static str {
            "halve"
        }

        fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
            let ([x], [y]) = (inputs, outputs) else { return };
            if let (Some(x), Some(y)) = (x.as_slice::<f32>(), y.as_slice::<f32>()) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x / 2.0);
            }
        }
    }
    let x = values(1000, 1.1);
    let before = array(&x, &[1000]) + 3.0;
    let halved =
        cpu::call(Halve, &[&before], &[Start::Fresh { shape: &[1000], dtype: Dtype::F32 }])
            .swap_remove(0);
    Trial { found: halved * 4.0, expected: x.iter().map(|x| (x + 3.0) * 2.0).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        crate::open().unwrap_or_else(|error| panic!("{error}"));
        let start = Instant::now();
        for check in selftest() {
            assert_eq!(check.fault, None, "{}", check.name);
        }
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "doctor would take {:?}",
            start.elapsed()
        );
    }

    #[test]
    fn a_wrong_value_is_a_fault() {
        fn check(found: &[f32], expected: &[f64], fault: bool) {
            assert_eq!(compare(found, expected).is_some(), fault, "{found:?}");
        }
        check(&[1.0, 2.0], &[1.0, 2.0], false);
        check(&[1.0, 2.0], &[1.0, 2.001], false);
        check(&[1.0, 2.0], &[1.0, 2.1], true);
        check(&[1.0, f32::NAN], &[1.0, 2.0], true);
        check(&[1.0], &[1.0, 2.0], true);
    }
}
