//! Rows of a table by number: token embeddings, dense and quantised.

use crate::Cpu;
use crate::quantized::{Kind, QuantizedMatrix, e4m3};
use crate::rows::{Rows, RowsMut};
use crate::spread;
use crate::vector::{Body, Source, SourceRows, Target, TargetRows, Vector, copy, on};

/// `y[i] = table[ids[i]]`. Panics on a number past the table's end: the lookup goes through pointers.
pub fn embed(cpu: &Cpu<'_>, table: &Rows<'_>, ids: &[u32], mut y: RowsMut<'_>) {
    check_ids(ids, table.rows, (table.columns, y.columns), y.rows);
    let columns = table.columns;
    let (table, y) = (SourceRows::from(table), TargetRows::from(&mut y));
    spread::rows(cpu, ids.len(), columns, &|rows| {
        for row in rows {
            let from = table.row(ids[row] as usize);
            // SAFETY: numbers and lengths were checked, and `cpu.isa` was chosen for this processor.
            unsafe { on(cpu.isa, copy(from, y.row(row), columns)) };
        }
    });
}

/// As [`embed`], from a quantised table.
pub fn embed_quantized(
    cpu: &Cpu<'_>,
    table: &QuantizedMatrix<'_>,
    ids: &[u32],
    mut y: RowsMut<'_>,
) {
    let (rows, columns) = table.shape();
    check_ids(ids, rows, (columns, y.columns), y.rows);
    let y = TargetRows::from(&mut y);
    spread::rows(cpu, ids.len(), 2 * columns, &|rows| {
        for row in rows {
            let body = DequantizeRow { table, row: ids[row] as usize, to: y.row(row) };
            // SAFETY: numbers and lengths were checked, and `cpu.isa` was chosen for this processor.
            unsafe { on(cpu.isa, body) };
        }
    });
}

fn check_ids(ids: &[u32], table_rows: usize, (columns, y_columns): (usize, usize), y_rows: usize) {
    assert_eq!((ids.len(), columns), (y_rows, y_columns), "shape of y");
    let past = ids.iter().find(|&&id| id as usize >= table_rows);
    assert!(past.is_none(), "row {past:?} of a table of {table_rows}");
}

/// The largest group, and so the most codes that are unpacked at a time.
const GROUP_MAX: usize = 128;

/// Twice the values of the 4-bit float.
const FLOAT4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

struct DequantizeRow<'a> {
    table: &'a QuantizedMatrix<'a>,
    row: usize,
    to: Target,
}

impl Body for DequantizeRow<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let table = self.table;
        let (group, bits, groups) = (table.kind.group(), table.kind.bits(), table.groups());
        let codes = &table.codes[self.row * table.row_bytes()..][..table.row_bytes()];
        let mut values = [0i8; GROUP_MAX];
        for (g, codes) in codes.chunks_exact(group * bits / 8).enumerate() {
            let index = self.row * groups + g;
            let scale = table.scales.get(index) * table.factor(self.row);
            let bias = table.biases.map_or(0.0, |biases| biases.get(index));
            // What the signed bytes lack, and what they are too large by.
            let (shift, factor) = unpack(table.kind, codes, &mut values[..group]);
            let to = self.to.at(g * group);
            // SAFETY: as in `vector`; a group is a whole number of vectors.
            unsafe {
                if table.kind == Kind::Mxfp8 {
                    write_float8::<V>(codes, scale, to);
                    continue;
                }
                let (scale, bias) = (V::splat(scale * factor), V::splat(bias));
                for i in (0..group).step_by(V::LANES) {
                    let code = V::add(V::load_i8(values.as_ptr().add(i)), V::splat(shift));
                    to.store::<V>(i, V::fma(code, scale, bias));
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn write_float8<V: Vector>(codes: &[u8], scale: f32, to: Target) {
    let mut floats = [0f32; GROUP_MAX];
    for (float, &code) in floats.iter_mut().zip(codes) {
        *float = e4m3(code) * scale;
    }
    // SAFETY: as in `vector`.
    unsafe {
        for i in (0..codes.len()).step_by(V::LANES) {
            to.store::<V>(i, Source::F32(floats.as_ptr()).load::<V>(i));
        }
    }
}

/// Signed bytes; a value is `(byte + shift) * factor`.
#[inline(always)]
fn unpack(kind: Kind, codes: &[u8], values: &mut [i8]) -> (f32, f32) {
    match kind.bits() {
        2 => {
            for (to, &code) in values.chunks_exact_mut(4).zip(codes) {
                for (i, to) in to.iter_mut().enumerate() {
                    *to = (code >> (2 * i) & 3) as i8;
                }
            }
        }
        4 => {
            for (to, &code) in values.chunks_exact_mut(2).zip(codes) {
                (to[0], to[1]) = ((code & 15) as i8, (code >> 4) as i8);
            }
        }
        8 => {
            for (to, &code) in values.iter_mut().zip(codes) {
                *to = (code ^ 0x80) as i8;
            }
        }
        bits => {
            for (to, codes) in values.chunks_exact_mut(8).zip(codes.chunks_exact(bits)) {
                let word = codes.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
                for (i, to) in to.iter_mut().enumerate() {
                    *to = (word >> (bits * i) & ((1 << bits) - 1)) as i8;
                }
            }
        }
    }
    match kind {
        Kind::Mxfp4 | Kind::Nvfp4 => {
            values.iter_mut().for_each(|value| *value = FLOAT4[*value as usize & 15]);
            (0.0, 0.5)
        }
        Kind::Affine { bits: 8, .. } => (128.0, 1.0),
        _ => (0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::element::{Floats, FloatsMut};
    use crate::{Pool, isa};

    /// One value by MLX's definition, in f64: bit `i * bits` on, lowest first.
    fn exact(kind: Kind, codes: &[u8], i: usize, scale: f64, bias: f64) -> f64 {
        let bit = |at: usize| u32::from(codes[at / 8] >> (at % 8) & 1);
        let code = (0..kind.bits()).fold(0, |sum, b| sum | bit(i * kind.bits() + b) << b);
        let float = |exponent_bits: u32, mantissa_bits: u32| {
            let sign = if code >> (exponent_bits + mantissa_bits) == 1 { -1.0 } else { 1.0 };
            let exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1);
            let mantissa =
                f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
            let bias = (1 << (exponent_bits - 1)) - 1;
            let one = if exponent == 0 { 0.0 } else { 1.0 };
            sign * (one + mantissa) * 2f64.powi(exponent.max(1) as i32 - bias)
        };
        match kind {
            Kind::Affine { .. } => scale * f64::from(code) + bias,
            Kind::Mxfp4 | Kind::Nvfp4 => scale * float(2, 1),
            Kind::Mxfp8 => scale * float(4, 3),
        }
    }

    fn check(rng: &mut StdRng, kind: Kind, columns: usize) {
        let (rows, group) = (9, kind.group());
        let codes: Vec<u8> = (0..rows * columns * kind.bits() / 8).map(|_| rng.random()).collect();
        let count = rows * columns / group;
        let scales: Vec<f16> =
            (0..count).map(|_| f16::from_f32(rng.random_range(0.01..0.1))).collect();
        let biases: Vec<f16> =
            (0..count).map(|_| f16::from_f32(rng.random_range(-1.0..1.0))).collect();
        let bytes: Vec<u8> = (0..count).map(|_| rng.random_range(100..126)).collect();
        let table = match kind {
            Kind::Affine { bits, group } => QuantizedMatrix::affine(
                bits,
                group,
                (rows, columns),
                &codes,
                Floats::F16(&scales),
                Floats::F16(&biases),
            ),
            kind => QuantizedMatrix::floats(kind, (rows, columns), &codes, &bytes, None),
        };
        let ids = [3, 0, 8, 8, 1];
        let pool = Pool::new(2);
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let mut y = vec![0f32; ids.len() * columns];
            let to = RowsMut::new(FloatsMut::F32(&mut y), ids.len(), columns);
            embed_quantized(&cpu, &table, &ids, to);
            for (i, &got) in y.iter().enumerate() {
                let at = ids[i / columns] as usize * columns + i % columns;
                let (scale, bias) = match kind {
                    Kind::Affine { .. } => {
                        (scales[at / group].to_f32().into(), biases[at / group].to_f32().into())
                    }
                    Kind::Nvfp4 => (f64::from(e4m3(bytes[at / group])), 0.0),
                    _ => (2f64.powi(i32::from(bytes[at / group]) - 127), 0.0),
                };
                let want = exact(kind, &codes, at, scale, bias);
                let bound = 1e-6 * (want.abs() + f64::abs(bias));
                assert!((f64::from(got) - want).abs() <= bound, "{} {kind:?} {i}", isa.name());
            }
        }
    }

    #[test]
    fn every_kind() {
        let mut rng = StdRng::seed_from_u64(5);
        for bits in [2, 3, 4, 5, 6, 8] {
            for group in [32, 64, 128] {
                check(&mut rng, Kind::Affine { bits, group }, group * 3);
            }
        }
        for kind in [Kind::Mxfp4, Kind::Nvfp4] {
            check(&mut rng, kind, 96);
        }
    }

    #[test]
    fn eight_bit_floats() {
        // The pattern of NaN has no value to compare with.
        let codes: Vec<u8> = (0..=255).map(|b| if b & 0x7f == 0x7f { 0 } else { b }).collect();
        let scales = [127u8; 8];
        let table = QuantizedMatrix::floats(Kind::Mxfp8, (2, 128), &codes, &scales, None);
        let pool = Pool::new(1);
        for isa in isa::available() {
            let mut y = vec![0f32; 256];
            let to = RowsMut::new(FloatsMut::F32(&mut y), 2, 128);
            embed_quantized(&Cpu { isa, pool: &pool }, &table, &[0, 1], to);
            for (i, &got) in y.iter().enumerate() {
                let want = exact(Kind::Mxfp8, &codes, i, 1.0, 0.0);
                assert_eq!(f64::from(got), want, "{} {i}", isa.name());
            }
        }
    }

    #[test]
    fn dense_rows() {
        let table: Vec<bf16> = (0..70 * 37).map(|i| bf16::from_f32((i % 250) as f32)).collect();
        let ids: Vec<u32> = (0..2000).map(|i| i * 7 % 70).collect();
        let pool = Pool::new(2);
        for isa in isa::available() {
            let mut y = vec![f16::ZERO; ids.len() * 37];
            let rows = Rows::new(Floats::Bf16(&table), 70, 37);
            let to = RowsMut::new(FloatsMut::F16(&mut y), ids.len(), 37);
            embed(&Cpu { isa, pool: &pool }, &rows, &ids, to);
            for (i, got) in y.iter().enumerate() {
                assert_eq!(got.to_f32(), table[ids[i / 37] as usize * 37 + i % 37].to_f32());
            }
        }
    }

    #[test]
    #[should_panic(expected = "of a table of 2")]
    fn a_number_past_the_end() {
        let pool = Pool::new(1);
        let table = Rows::new(Floats::F32(&[0.0; 8]), 2, 4);
        let mut y = [0.0; 4];
        let to = RowsMut::new(FloatsMut::F32(&mut y), 1, 4);
        embed(&Cpu { isa: isa::Isa::Scalar, pool: &pool }, &table, &[2], to);
    }
}
