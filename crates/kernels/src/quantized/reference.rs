//! The plain form: one weight after the other, in f32 activations. What the others are tested against, and what runs
//! where there is nothing better.

use super::matrix::{Kind, QuantizedMatrix};
use super::scales::e4m3;
use crate::element::Floats;

/// Twice the values of the 4-bit float.
const FLOAT4: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Row `row` of `matrix` as floats.
pub(crate) fn dequantize_row(matrix: &QuantizedMatrix<'_>, row: usize, to: &mut [f32]) {
    let codes = &matrix.codes[row * matrix.row_bytes()..][..matrix.row_bytes()];
    let (bits, group) = (matrix.kind.bits(), matrix.kind.group());
    for (g, to) in to.chunks_exact_mut(group).enumerate() {
        let index = row * matrix.groups() + g;
        let scale = matrix.scales.get(index) * matrix.factor(row);
        let bias = matrix.biases.map_or(0.0, |biases| biases.get(index));
        for (i, to) in to.iter_mut().enumerate() {
            let code = code(codes, bits, g * group + i);
            *to = match matrix.kind {
                Kind::Affine { .. } => scale * f32::from(code) + bias,
                Kind::Mxfp4 | Kind::Nvfp4 => scale * FLOAT4[usize::from(code)],
                Kind::Mxfp8 => scale * e4m3(code),
            };
        }
    }
}

/// Codes lie one after the other, the lowest bits first, over byte boundaries where need be.
fn code(codes: &[u8], bits: usize, index: usize) -> u8 {
    let (byte, bit) = (index * bits / 8, index * bits % 8);
    let pair = u16::from(codes[byte]) | u16::from(*codes.get(byte + 1).unwrap_or(&0)) << 8;
    (pair >> bit) as u8 & (0xff >> (8 - bits))
}

/// Some independent sums, so that the additions need not wait for each other.
pub(crate) fn dot(weights: &[f32], x: Floats<'_>) -> f32 {
    let mut sums = [0f32; 8];
    for (i, weight) in weights.iter().enumerate() {
        sums[i % 8] += weight * x.get(i);
    }
    sums.iter().sum()
}
