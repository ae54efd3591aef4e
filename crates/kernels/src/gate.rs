//! Activation functions, alone and as gates.

use std::ops::Range;

use crate::Cpu;
use crate::rows::{Rows, RowsMut};
use crate::spread;
use crate::vector::{Body, SourceRows, TargetRows, Vector, math, on};

/// A function of one number. Errors are those of the exponentials in `vector::math`, some units in the last place.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// With the error function.
    Gelu,
    /// The form with tanh.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`
    GeluQuick,
    Relu,
    ReluSquared,
    Sigmoid,
    Tanh,
}

/// How a gate meets the value it lets through.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Gate {
    /// `f(gate) * up`
    Times(Activation),
    /// gpt-oss: `gate * sigmoid(alpha * gate) * (up + 1)`, the gate at most `limit`, up within ±`limit`.
    Clamped { alpha: f32, limit: f32 },
}

/// `y = f(x)`
pub fn activate(cpu: &Cpu<'_>, f: Activation, x: &Rows<'_>, mut y: RowsMut<'_>) {
    assert_eq!((x.rows, x.columns), (y.rows, y.columns), "shapes of x and y");
    let (rows, columns) = (x.rows, x.columns);
    let (x, y) = (SourceRows::from(x), TargetRows::from(&mut y));
    spread::rows(cpu, rows, 2 * columns, &|rows| {
        // SAFETY: lengths were checked, tasks have rows of their own, and `cpu.isa` was chosen for this processor.
        unsafe { on(cpu.isa, Activate { f, x, y, rows, columns }) };
    });
}

/// `y = gate(gates) up`. Where one product made both, as `[gate | up]` rows, the two are views of the same data at
/// twice the stride.
pub fn gated(cpu: &Cpu<'_>, gate: Gate, gates: &Rows<'_>, ups: &Rows<'_>, mut y: RowsMut<'_>) {
    let (rows, columns) = (y.rows, y.columns);
    assert_eq!((gates.rows, gates.columns), (rows, columns), "shapes of gates and y");
    assert_eq!((ups.rows, ups.columns), (rows, columns), "shapes of ups and y");
    let (gates, ups, y) = (gates.into(), ups.into(), TargetRows::from(&mut y));
    // SAFETY: lengths were checked.
    unsafe { gated_rows(cpu, gate, [gates, ups], y, (rows, columns)) };
}

/// As [`gated`], by pointer; `y` may be where the gates or the ups are.
///
/// # Safety
/// All have as many rows of as many columns, and nobody else touches them.
pub(crate) unsafe fn gated_rows(
    cpu: &Cpu<'_>,
    gate: Gate,
    [gates, ups]: [SourceRows; 2],
    y: TargetRows,
    (rows, columns): (usize, usize),
) {
    spread::rows(cpu, rows, 2 * columns, &|rows| {
        // SAFETY: tasks have rows of their own, each value is read before it is written, and `cpu.isa` was chosen for
        // this processor.
        unsafe { on(cpu.isa, Gated { gate, gates, ups, y, rows, columns }) };
    });
}

struct Activate {
    f: Activation,
    x: SourceRows,
    y: TargetRows,
    rows: Range<usize>,
    columns: usize,
}

impl Body for Activate {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in self.rows.clone() {
            let (x, y) = (self.x.row(row), self.y.row(row));
            for i in (0..self.columns).step_by(V::LANES) {
                // SAFETY: as in `vector`.
                unsafe {
                    let v = apply::<V>(self.f, x.load_to::<V>(i, self.columns));
                    y.store_to::<V>(i, self.columns, v);
                }
            }
        }
    }
}

struct Gated {
    gate: Gate,
    gates: SourceRows,
    ups: SourceRows,
    y: TargetRows,
    rows: Range<usize>,
    columns: usize,
}

impl Body for Gated {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for row in self.rows.clone() {
            let (gates, ups, y) = (self.gates.row(row), self.ups.row(row), self.y.row(row));
            for i in (0..self.columns).step_by(V::LANES) {
                // SAFETY: as in `vector`.
                unsafe {
                    let gate = gates.load_to::<V>(i, self.columns);
                    let up = ups.load_to::<V>(i, self.columns);
                    let v = match self.gate {
                        Gate::Times(f) => V::mul(apply::<V>(f, gate), up),
                        Gate::Clamped { alpha, limit } => clamped::<V>(alpha, limit, gate, up),
                    };
                    y.store_to::<V>(i, self.columns, v);
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe fn apply<V: Vector>(f: Activation, x: V::F) -> V::F {
    // SAFETY: as in `vector`.
    unsafe {
        match f {
            Activation::Silu => V::mul(x, math::sigmoid::<V>(x)),
            Activation::Gelu => V::mul(x, math::normal_cdf::<V>(x)),
            Activation::GeluTanh => {
                // ½ (1 + tanh z) = sigmoid(2z), z = √(2/π) (x + 0.044715 x³)
                let cubic = V::fma(V::mul(V::splat(0.044_715), V::mul(x, x)), x, x);
                V::mul(x, math::sigmoid::<V>(V::mul(V::splat(1.595_769), cubic)))
            }
            Activation::GeluQuick => V::mul(x, math::sigmoid::<V>(V::mul(V::splat(1.702), x))),
            Activation::Relu => V::max(V::zero(), x),
            Activation::ReluSquared => {
                let positive = V::max(V::zero(), x);
                V::mul(positive, positive)
            }
            Activation::Sigmoid => math::sigmoid::<V>(x),
            Activation::Tanh => math::tanh::<V>(x),
        }
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn clamped<V: Vector>(alpha: f32, limit: f32, gate: V::F, up: V::F) -> V::F {
    // SAFETY: as in `vector`.
    unsafe {
        let limits = V::splat(limit);
        let gate = V::min(limits, gate);
        let up = V::max(V::splat(-limit), V::min(limits, up));
        let open = V::mul(gate, math::sigmoid::<V>(V::mul(V::splat(alpha), gate)));
        V::mul(open, V::add(up, V::splat(1.0)))
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

    const ALL: [Activation; 8] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::GeluQuick,
        Activation::Relu,
        Activation::ReluSquared,
        Activation::Sigmoid,
        Activation::Tanh,
    ];

    /// `exact`'s own tail: the integral by Simpson's rule.
    fn normal_cdf(x: f64) -> f64 {
        let (from, steps) = (-12.0, 2000);
        let h = (x.max(from) - from) / f64::from(steps);
        let f = |i: i32| {
            let t = from + h * f64::from(i);
            (-t * t / 2.0).exp()
                * if i == 0 || i == steps { 1.0 } else { [2.0, 4.0][i as usize % 2] }
        };
        (0..=steps).map(f).sum::<f64>() * h / 3.0 / (2.0 * std::f64::consts::PI).sqrt()
    }

    fn exact(f: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match f {
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => x * normal_cdf(x),
            Activation::GeluTanh => {
                let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + z.tanh())
            }
            Activation::GeluQuick => x * sigmoid(1.702 * x),
            Activation::Relu => x.max(0.0),
            Activation::ReluSquared => x.max(0.0).powi(2),
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
        }
    }

    fn check(rng: &mut StdRng, rows: usize, columns: usize) {
        let pool = Pool::new(2);
        let both: Vec<f16> =
            (0..2 * rows * columns).map(|_| f16::from_f32(rng.random_range(-9.0..9.0))).collect();
        let view = |at: usize| Rows {
            data: Floats::F16(&both[at.min(both.len())..]),
            rows,
            columns,
            stride: 2 * columns,
        };
        let (gates, ups) = (view(0), view(columns));
        let pairs = (0..rows * columns).map(|i| i / columns * 2 * columns + i % columns);
        let pairs: Vec<(f64, f64)> =
            pairs.map(|i| (both[i].to_f32().into(), both[i + columns].to_f32().into())).collect();
        let wanted =
            ALL.map(|f| pairs.iter().map(|&(gate, _)| exact(f, gate)).collect::<Vec<f64>>());
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let near = |got: f32, want: f64, tolerance: f64, what: &dyn std::fmt::Debug| {
                let bound = tolerance * want.abs() + 1e-7;
                let name = isa.name();
                assert!((f64::from(got) - want).abs() <= bound, "{name} {what:?}: {got} {want}");
            };
            for (f, wanted) in ALL.into_iter().zip(&wanted) {
                let (mut y, mut z) = (vec![0f32; rows * columns], vec![bf16::ZERO; rows * columns]);
                activate(&cpu, f, &gates, RowsMut::new(FloatsMut::F32(&mut y), rows, columns));
                let to = RowsMut::new(FloatsMut::Bf16(&mut z), rows, columns);
                gated(&cpu, Gate::Times(f), &gates, &ups, to);
                for (i, (&want, &(_, up))) in wanted.iter().zip(&pairs).enumerate() {
                    near(y[i], want, 2e-6, &f);
                    near(z[i].to_f32(), want * up, 0.004, &f);
                }
            }
            let gate = Gate::Clamped { alpha: 1.702, limit: 7.0 };
            let mut y = vec![0f32; rows * columns];
            gated(&cpu, gate, &gates, &ups, RowsMut::new(FloatsMut::F32(&mut y), rows, columns));
            for (i, &(gate, up)) in pairs.iter().enumerate() {
                let (g, u) = (gate.min(7.0), up.clamp(-7.0, 7.0));
                near(y[i], g / (1.0 + (-1.702 * g).exp()) * (u + 1.0), 2e-6, &"clamped");
            }
        }
    }

    #[test]
    fn all_functions() {
        let mut rng = StdRng::seed_from_u64(3);
        for (rows, columns) in [(1, 33), (3, 64), (2, 7), (0, 5), (30, 1025)] {
            check(&mut rng, rows, columns);
        }
    }
}
