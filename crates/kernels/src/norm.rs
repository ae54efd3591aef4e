//! RMS norm and layer norm over rows, alone or with the residual sum before them.

use std::ops::Range;

use crate::Cpu;
use crate::element::Floats;
use crate::rows::{Rows, RowsMut};
use crate::spread;
use crate::vector::{Body, Source, SourceRows, Target, TargetRows, Vector, on};

/// What an RMS norm multiplies with.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    pub weight: Option<Floats<'a>>,
    /// Added to each weight: 1 for Gemma's form, else 0.
    pub weight_offset: f32,
    pub eps: f32,
}

/// `y = x / sqrt(mean(x²) + eps) * (weight + offset)`
pub fn rms_norm(cpu: &Cpu<'_>, x: &Rows<'_>, norm: &RmsNorm<'_>, y: RowsMut<'_>) {
    run(cpu, x, None, Normalise::rms(norm, x.columns), y);
}

/// `sum = x + residual`, rounded to the type of `sum`; `y` is its norm.
pub fn rms_norm_of_sum(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    residual: &Rows<'_>,
    norm: &RmsNorm<'_>,
    sum: RowsMut<'_>,
    y: RowsMut<'_>,
) {
    run(cpu, x, Some((residual, sum)), Normalise::rms(norm, x.columns), y);
}

/// `y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`
pub fn layer_norm(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    weight: Option<Floats<'_>>,
    bias: Option<Floats<'_>>,
    eps: f32,
    y: RowsMut<'_>,
) {
    run(cpu, x, None, Normalise::layer(weight, bias, eps, x.columns), y);
}

/// As [`layer_norm`], of a residual sum that is kept.
pub fn layer_norm_of_sum(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    residual: &Rows<'_>,
    (weight, bias, eps): (Option<Floats<'_>>, Option<Floats<'_>>, f32),
    sum: RowsMut<'_>,
    y: RowsMut<'_>,
) {
    let normalise = Normalise::layer(weight, bias, eps, x.columns);
    run(cpu, x, Some((residual, sum)), normalise, y);
}

/// The arithmetic on one row.
#[derive(Clone, Copy)]
struct Normalise {
    columns: usize,
    centred: bool,
    weight: Option<Source>,
    weight_offset: f32,
    bias: Option<Source>,
    eps: f32,
}

impl Normalise {
    fn rms(norm: &RmsNorm<'_>, columns: usize) -> Normalise {
        let RmsNorm { weight, weight_offset, eps } = *norm;
        Normalise { centred: false, weight_offset, ..Normalise::layer(weight, None, eps, columns) }
    }

    fn layer(
        weight: Option<Floats<'_>>,
        bias: Option<Floats<'_>>,
        eps: f32,
        columns: usize,
    ) -> Normalise {
        for values in [weight, bias].into_iter().flatten() {
            assert_eq!(values.len(), columns, "a weight for each column");
        }
        let (weight, bias) = (weight.map(Source::from), bias.map(Source::from));
        Normalise { columns, centred: true, weight, weight_offset: 0.0, bias, eps }
    }
}

fn run(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    mut residual: Option<(&Rows<'_>, RowsMut<'_>)>,
    normalise: Normalise,
    mut y: RowsMut<'_>,
) {
    let shape = (x.rows, x.columns);
    assert_eq!((y.rows, y.columns), shape, "shapes of x and y");
    if let Some((residual, sum)) = &residual {
        assert_eq!((residual.rows, residual.columns), shape, "shapes of x and the residual");
        assert_eq!((sum.rows, sum.columns), shape, "shapes of x and the sum");
    }
    let sum = residual.as_mut().map(|(from, to)| (SourceRows::from(*from), TargetRows::from(to)));
    let (x, y) = (SourceRows::from(x), TargetRows::from(&mut y));
    spread::rows(cpu, shape.0, shape.1, &|rows| {
        // SAFETY: lengths were checked, tasks have rows of their own, and `cpu.isa` was chosen for this processor.
        unsafe { on(cpu.isa, NormRows { normalise, x, sum, y, rows }) };
    });
}

struct NormRows {
    normalise: Normalise,
    x: SourceRows,
    sum: Option<(SourceRows, TargetRows)>,
    y: TargetRows,
    rows: Range<usize>,
}

impl Body for NormRows {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let n = self.normalise;
        for row in self.rows {
            // SAFETY: as in `vector`.
            unsafe {
                let mut x = self.x.row(row);
                if let Some((residual, sum)) = &self.sum {
                    let (residual, sum) = (residual.row(row), sum.row(row));
                    for i in (0..n.columns).step_by(V::LANES) {
                        let (a, b) =
                            (x.load_to::<V>(i, n.columns), residual.load_to::<V>(i, n.columns));
                        sum.store_to::<V>(i, n.columns, V::add(a, b));
                    }
                    x = sum.source();
                }
                let mean = if n.centred { mean::<V>(x, n.columns) } else { 0.0 };
                let factor = factor(squares::<V>(x, mean, n.columns), n.columns, n.eps);
                let (mean, factor) = (V::splat(mean), V::splat(factor));
                let (offset, y) = (V::splat(n.weight_offset), self.y.row(row));
                for i in (0..n.columns).step_by(V::LANES) {
                    let mut v = V::mul(V::sub(x.load_to::<V>(i, n.columns), mean), factor);
                    if let Some(weight) = n.weight {
                        v = V::mul(v, V::add(weight.load_to::<V>(i, n.columns), offset));
                    }
                    if let Some(bias) = n.bias {
                        v = V::add(v, bias.load_to::<V>(i, n.columns));
                    }
                    y.store_to::<V>(i, n.columns, v);
                }
            }
        }
    }
}

#[inline(always)]
pub(crate) fn factor(squares: f32, columns: usize, eps: f32) -> f32 {
    1.0 / (squares / columns as f32 + eps).sqrt()
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn mean<V: Vector>(x: Source, columns: usize) -> f32 {
    // SAFETY: as in `vector`.
    unsafe {
        let mut sums = [V::zero(); 4];
        for (turn, i) in (0..columns).step_by(V::LANES).enumerate() {
            sums[turn % 4] = V::add(sums[turn % 4], x.load_to::<V>(i, columns));
        }
        V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3]))) / columns as f32
    }
}

/// The sum of `(x - mean)²`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe fn squares<V: Vector>(x: Source, mean: f32, columns: usize) -> f32 {
    // SAFETY: as in `vector`.
    unsafe {
        let (wide, centre) = (4 * V::LANES, V::splat(mean));
        let mut sums = [V::zero(); 4];
        let mut i = 0;
        while i + wide <= columns {
            for (part, sum) in sums.iter_mut().enumerate() {
                let v = V::sub(x.load::<V>(i + part * V::LANES), centre);
                *sum = V::fma(v, v, *sum);
            }
            i += wide;
        }
        let mut sum = V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
        while i + V::LANES <= columns {
            let v = V::sub(x.load::<V>(i), centre);
            sum += V::sum(V::mul(v, v));
            i += V::LANES;
        }
        for i in i..columns {
            let v = x.get(i) - mean;
            sum += v * v;
        }
        sum
    }
}

/// `count` numbers in a buffer get their RMS norm.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe fn norm_in_place<V: Vector>(x: *mut f32, count: usize, norm: &RmsNorm<'_>) {
    let (from, to) = (SourceRows::new(Source::F32(x), 0), TargetRows::new(Target::F32(x), 0));
    let normalise = Normalise::rms(norm, count);
    // SAFETY: as in `vector`; each element is read before it is written.
    unsafe { NormRows { normalise, x: from, sum: None, y: to, rows: 0..1 }.run::<V>() };
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::element::{Element, FloatsMut};
    use crate::{Pool, isa};

    fn random<T: Element>(rng: &mut StdRng, count: usize) -> Vec<T> {
        (0..count).map(|_| T::from_f32(rng.random_range(-2.0..3.0))).collect()
    }

    fn values<T: Element>(x: &[T]) -> Vec<f64> {
        x.iter().map(|&x| f64::from(x.to_f32())).collect()
    }

    /// One row in f64.
    fn exact(x: &[f64], centred: bool, eps: f64) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = if centred { x.iter().sum::<f64>() / n } else { 0.0 };
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        x.iter().map(|x| (x - mean) / (variance + eps).sqrt()).collect()
    }

    /// All forms against f64; bf16 is off by its rounding, at most 2^-8.
    fn check(rng: &mut StdRng, rows: usize, columns: usize) {
        let pool = Pool::new(2);
        let (x, residual) =
            (random::<bf16>(rng, rows * columns), random::<f32>(rng, rows * columns));
        let (weight, bias) = (random::<f16>(rng, columns), random::<f32>(rng, columns));
        let (w, b) = (values(&weight), values(&bias));
        let view = Rows::new(Floats::Bf16(&x), rows, columns);
        let other = Rows::new(Floats::F32(&residual), rows, columns);
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let near = |got: f64, want: f64, tolerance: f64, what: &str| {
                let bound = tolerance * want.abs().max(0.5);
                let name = isa.name();
                assert!(
                    (got - want).abs() <= bound,
                    "{name} {what} {rows}×{columns}: {got} {want}"
                );
            };
            let norm =
                RmsNorm { weight: Some(Floats::F16(&weight)), weight_offset: 1.0, eps: 1e-5 };
            let mut y = vec![0f32; rows * columns];
            rms_norm(&cpu, &view, &norm, RowsMut::new(FloatsMut::F32(&mut y), rows, columns));
            for row in 0..rows {
                let range = row * columns..(row + 1) * columns;
                let want = exact(&values(&x[range.clone()]), false, 1e-5);
                for (i, got) in y[range].iter().enumerate() {
                    near(f64::from(*got), want[i] * (w[i] + 1.0), 2e-6, "rms");
                }
            }
            let mut sum = vec![bf16::ZERO; rows * columns];
            let mut y = vec![bf16::ZERO; rows * columns];
            let to_sum = RowsMut::new(FloatsMut::Bf16(&mut sum), rows, columns);
            let to_y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, columns);
            let plain = RmsNorm { weight: None, weight_offset: 0.0, eps: 1e-6 };
            rms_norm_of_sum(&cpu, &view, &other, &plain, to_sum, to_y);
            for row in 0..rows {
                let range = row * columns..(row + 1) * columns;
                // The norm is that of the rounded sum.
                let want = exact(&values(&sum[range.clone()]), false, 1e-6);
                for (i, at) in range.enumerate() {
                    let whole = f64::from(x[at].to_f32()) + f64::from(residual[at]);
                    near(f64::from(sum[at].to_f32()), whole, 0.004, "sum");
                    near(f64::from(y[at].to_f32()), want[i], 0.004, "norm of sum");
                }
            }
            let to_sum = RowsMut::new(FloatsMut::Bf16(&mut sum), rows, columns);
            let to_y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, columns);
            let parts = (Some(Floats::F16(&weight[..])), Some(Floats::F32(&bias[..])), 1e-5);
            layer_norm_of_sum(&cpu, &view, &other, parts, to_sum, to_y);
            let mut layer = vec![0f32; rows * columns];
            let to = RowsMut::new(FloatsMut::F32(&mut layer), rows, columns);
            let from = Rows::new(Floats::Bf16(&sum), rows, columns);
            layer_norm(&cpu, &from, parts.0, parts.1, 1e-5, to);
            for row in 0..rows {
                let range = row * columns..(row + 1) * columns;
                let want = exact(&values(&sum[range.clone()]), true, 1e-5);
                for (i, at) in range.enumerate() {
                    near(f64::from(layer[at]), want[i] * w[i] + b[i], 2e-5, "layer");
                    near(f64::from(y[at].to_f32()), f64::from(layer[at]), 0.004, "layer of sum");
                }
            }
        }
    }

    #[test]
    fn norms_of_all_widths() {
        let mut rng = StdRng::seed_from_u64(1);
        for (rows, columns) in [(1, 1024), (3, 128), (2, 7), (5, 40), (40, 1025), (0, 64), (1, 1)] {
            check(&mut rng, rows, columns);
        }
        for _ in 0..30 {
            let (rows, columns) = (rng.random_range(1..6), rng.random_range(2..300));
            check(&mut rng, rows, columns);
        }
    }
}
