//! Sums, products and conversions of rows.

use crate::Cpu;
use crate::element::Floats;
use crate::rows::{Rows, RowsMut};
use crate::spread;
use crate::vector::{Body, Source, SourceRows, Target, TargetRows, Vector, math, on};

/// How two numbers become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combine {
    Add,
    Multiply,
}

/// `y = a ∘ b`
pub fn combine(cpu: &Cpu<'_>, how: Combine, a: &Rows<'_>, b: &Rows<'_>, y: RowsMut<'_>) {
    assert_eq!((a.rows, a.columns), (b.rows, b.columns), "shapes of a and b");
    run(cpu, Map::Combine(how), a, b.into(), y);
}

/// `y = a ∘ row`, the same for every row of `a`: biases and learned scales.
pub fn combine_row(cpu: &Cpu<'_>, how: Combine, a: &Rows<'_>, row: Floats<'_>, y: RowsMut<'_>) {
    assert_eq!(a.columns, row.len(), "columns of a and the row");
    run(cpu, Map::Combine(how), a, SourceRows::new(row.into(), 0), y);
}

/// `y = factor * x`; with 1, a conversion of types.
pub fn scale(cpu: &Cpu<'_>, factor: f32, x: &Rows<'_>, y: RowsMut<'_>) {
    run(cpu, Map::Scale(factor), x, x.into(), y);
}

/// `y = cap * tanh(x / cap)`
pub fn softcap(cpu: &Cpu<'_>, cap: f32, x: &Rows<'_>, y: RowsMut<'_>) {
    run(cpu, Map::Cap(cap), x, x.into(), y);
}

/// `y = a + sigmoid(gate) * b`, with a gate for each row.
pub fn gated_sum(cpu: &Cpu<'_>, a: &Rows<'_>, gates: Floats<'_>, b: &Rows<'_>, mut y: RowsMut<'_>) {
    assert_eq!((a.rows, a.columns), (b.rows, b.columns), "shapes of a and b");
    assert_eq!((a.rows, a.columns), (y.rows, y.columns), "shapes of a and y");
    assert_eq!(gates.len(), a.rows, "a gate for each row");
    let (rows, columns) = (a.rows, a.columns);
    let (a, b, y) = (SourceRows::from(a), SourceRows::from(b), TargetRows::from(&mut y));
    spread::rows(cpu, rows, columns, &|rows| {
        for row in rows {
            let map = Map::AddTimes(1.0 / (1.0 + (-gates.get(row)).exp()));
            let body = MapRow { map, a: a.row(row), b: b.row(row), y: y.row(row), columns };
            // SAFETY: lengths were checked, tasks have rows of their own, and `cpu.isa` was chosen for this processor.
            unsafe { on(cpu.isa, body) };
        }
    });
}

#[derive(Clone, Copy)]
enum Map {
    Combine(Combine),
    Scale(f32),
    Cap(f32),
    AddTimes(f32),
}

fn run(cpu: &Cpu<'_>, map: Map, a: &Rows<'_>, b: SourceRows, mut y: RowsMut<'_>) {
    assert_eq!((a.rows, a.columns), (y.rows, y.columns), "shapes of x and y");
    let (rows, columns) = (a.rows, a.columns);
    let (a, y) = (SourceRows::from(a), TargetRows::from(&mut y));
    spread::rows(cpu, rows, columns, &|rows| {
        for row in rows {
            let body = MapRow { map, a: a.row(row), b: b.row(row), y: y.row(row), columns };
            // SAFETY: lengths were checked, tasks have rows of their own, and `cpu.isa` was chosen for this processor.
            unsafe { on(cpu.isa, body) };
        }
    });
}

struct MapRow {
    map: Map,
    a: Source,
    b: Source,
    y: Target,
    columns: usize,
}

impl Body for MapRow {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for i in (0..self.columns).step_by(V::LANES) {
            // SAFETY: as in `vector`.
            unsafe {
                let a = self.a.load_to::<V>(i, self.columns);
                let v = match self.map {
                    Map::Combine(Combine::Add) => V::add(a, self.b.load_to::<V>(i, self.columns)),
                    Map::Combine(Combine::Multiply) => {
                        V::mul(a, self.b.load_to::<V>(i, self.columns))
                    }
                    Map::Scale(factor) => V::mul(a, V::splat(factor)),
                    Map::Cap(cap) => {
                        let part = V::mul(a, V::splat(1.0 / cap));
                        V::mul(math::tanh::<V>(part), V::splat(cap))
                    }
                    Map::AddTimes(factor) => {
                        V::fma(self.b.load_to::<V>(i, self.columns), V::splat(factor), a)
                    }
                };
                self.y.store_to::<V>(i, self.columns, v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::element::{Element, FloatsMut};
    use crate::{Pool, isa};

    /// Rounding is the only difference from f32 arithmetic.
    fn check<A: Element, B: Element>(
        rows: usize,
        columns: usize,
        a: fn(&[A]) -> Floats<'_>,
        b: fn(&[B]) -> Floats<'_>,
    ) {
        let count = rows * columns;
        let xs: Vec<A> = (0..count).map(|i| A::from_f32((i % 113) as f32 / 7.0 - 8.0)).collect();
        let ys: Vec<B> = (0..count).map(|i| B::from_f32((i % 71) as f32 / 9.0 - 3.0)).collect();
        let pool = Pool::new(2);
        let (x, other) = (Rows::new(a(&xs), rows, columns), Rows::new(b(&ys), rows, columns));
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let mut y = [vec![bf16::ZERO; count], vec![bf16::ZERO; count]];
            let mut z = vec![f16::ZERO; count];
            for (y, how) in y.iter_mut().zip([Combine::Add, Combine::Multiply]) {
                combine(&cpu, how, &x, &other, RowsMut::new(FloatsMut::Bf16(y), rows, columns));
            }
            scale(&cpu, 1.5, &x, RowsMut::new(FloatsMut::F16(&mut z), rows, columns));
            let mut w = vec![0f32; count];
            let to = RowsMut::new(FloatsMut::F32(&mut w), rows, columns);
            combine_row(&cpu, Combine::Add, &x, b(&ys[..columns]), to);
            let (mut capped, mut opened) = (vec![0f32; count], vec![0f32; count]);
            softcap(&cpu, 5.0, &x, RowsMut::new(FloatsMut::F32(&mut capped), rows, columns));
            let to = RowsMut::new(FloatsMut::F32(&mut opened), rows, columns);
            gated_sum(&cpu, &x, b(&ys[..rows]), &other, to);
            for i in 0..count {
                let (a, b) = (xs[i].to_f32(), ys[i].to_f32());
                let near = |got: f32, want: f64| {
                    let off = (f64::from(got) - want).abs();
                    assert!(off <= 2e-6 * want.abs().max(1.0), "{} {i}: {got} {want}", isa.name());
                };
                near(capped[i], 5.0 * (f64::from(a) / 5.0).tanh());
                let gate = f64::from(ys[i / columns].to_f32());
                near(opened[i], f64::from(a) + f64::from(b) / (1.0 + (-gate).exp()));
                assert_eq!(y[0][i], bf16::from_f32(a + b), "{} {i}", isa.name());
                assert_eq!(y[1][i], bf16::from_f32(a * b), "{} {i}", isa.name());
                assert_eq!(z[i], f16::from_f32(a * 1.5), "{} {i}", isa.name());
                assert_eq!(w[i], a + ys[i % columns].to_f32(), "{} {i}", isa.name());
            }
        }
    }

    #[test]
    fn all_types_and_tails() {
        for (rows, columns) in [(1, 1), (2, 15), (3, 16), (1, 17), (50, 1000)] {
            check::<f32, bf16>(rows, columns, |s| Floats::F32(s), |s| Floats::Bf16(s));
            check::<bf16, f16>(rows, columns, |s| Floats::Bf16(s), |s| Floats::F16(s));
            check::<f16, f32>(rows, columns, |s| Floats::F16(s), |s| Floats::F32(s));
        }
    }
}
