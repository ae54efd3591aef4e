//! For tests: random weights of every kind, and products in f64 to compare with.

use half::bf16;
use rand::Rng;
use rand::rngs::StdRng;

use super::activations::{SPAN, quantize_span};
use super::matrix::{Kind, QuantizedMatrix};
use super::reference;
use crate::element::Floats;

pub(crate) const KINDS: [Kind; 10] = [
    Kind::Affine { bits: 2, group: 32 },
    Kind::Affine { bits: 3, group: 64 },
    Kind::Affine { bits: 4, group: 32 },
    Kind::Affine { bits: 4, group: 64 },
    Kind::Affine { bits: 5, group: 128 },
    Kind::Affine { bits: 6, group: 64 },
    Kind::Affine { bits: 8, group: 64 },
    Kind::Mxfp4,
    Kind::Mxfp8,
    Kind::Nvfp4,
];

/// Owned weights.
pub(crate) struct Weights {
    pub kind: Kind,
    /// Rows and columns.
    pub shape: (usize, usize),
    codes: Vec<u8>,
    floats: [Vec<bf16>; 2],
    bytes: Vec<u8>,
}

impl Weights {
    pub fn random(rng: &mut StdRng, kind: Kind, shape: (usize, usize)) -> Weights {
        let scales = shape.0 * shape.1 / kind.group();
        let codes: Vec<u8> = (0..shape.0 * shape.1 * kind.bits() / 8)
            .map(|_| if kind == Kind::Mxfp8 { rng.random::<u8>() & 0xbf } else { rng.random() })
            .collect();
        let size = 1.0 / (1 << kind.bits().min(8)) as f32;
        let scale = |rng: &mut StdRng| bf16::from_f32(rng.random_range(0.5..1.5) * size);
        let bias = |rng: &mut StdRng| bf16::from_f32(rng.random_range(-0.7..-0.3));
        let byte = |rng: &mut StdRng| match kind {
            Kind::Nvfp4 => rng.random_range(0..100),
            _ => rng.random_range(115..125),
        };
        Weights {
            kind,
            shape,
            codes,
            floats: [
                (0..scales).map(|_| scale(rng)).collect(),
                (0..scales).map(|_| bias(rng)).collect(),
            ],
            bytes: (0..scales).map(|_| byte(rng)).collect(),
        }
    }

    pub fn matrix(&self) -> QuantizedMatrix<'_> {
        match self.kind {
            Kind::Affine { bits, group } => {
                let [scales, biases] = [0, 1].map(|i| Floats::Bf16(&self.floats[i]));
                QuantizedMatrix::affine(bits, group, self.shape, &self.codes, scales, biases)
            }
            kind => {
                let global = (kind == Kind::Nvfp4).then_some(500.0);
                QuantizedMatrix::floats(kind, self.shape, &self.codes, &self.bytes, global)
            }
        }
    }
}

/// What the integer products make of a row, as floats again.
pub(crate) fn rounded(row: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for span in row.chunks(SPAN) {
        let mut values = [0.0; SPAN];
        values[..span.len()].copy_from_slice(span);
        let (codes, scale) = quantize_span(&values);
        out.extend(codes.iter().take(span.len()).map(|&code| code as f32 * scale));
    }
    out
}

/// All weights of a matrix, one row after the other.
pub(crate) fn dequantized(w: &QuantizedMatrix<'_>) -> Vec<f32> {
    let mut all = vec![0.0; w.rows * w.columns];
    for (row, to) in all.chunks_exact_mut(w.columns).enumerate() {
        reference::dequantize_row(w, row, to);
    }
    all
}

/// The product in f64, and the sum of magnitudes that errors are relative to.
pub(crate) fn exact(row: &[f32], x: &[f32]) -> (f64, f64) {
    let products = || row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
    (products().sum(), products().map(f64::abs).sum())
}

/// The standard deviation of a product when each activation is off by a uniformly distributed half step.
pub(crate) fn deviation(row: &[f32], x: &[f32]) -> f64 {
    let spans = row.chunks(SPAN).zip(x.chunks(SPAN));
    let variance = spans.map(|(w, x)| {
        let step = x.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
        w.iter().map(|&w| f64::from(w * step).powi(2) / 12.0).sum::<f64>()
    });
    variance.sum::<f64>().sqrt()
}
