//! Rotary position embedding.
//!
//! Angles depend on positions alone, so they are made once in a step ([`rope_angles`]) and used by all layers and
//! heads. Frequencies are given, so stretching (linear, Llama 3, YaRN) is the caller's business.

use crate::Cpu;
use crate::element::{Floats, FloatsMut};
use crate::spread;
use crate::vector::{Body, Source, Target, Vector, on};

/// Which two numbers of a head turn together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RopeLayout {
    /// `i` and `i + dims / 2`.
    Halves,
    /// `2i` and `2i + 1`.
    Pairs,
}

/// Angles as [`rope_angles`] makes them.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    pub layout: RopeLayout,
    /// Dimensions that turn, the first of each head; even.
    pub dims: usize,
    /// `[rows, rope_width]`
    pub angles: &'a [f32],
}

/// Floats in a row of angles.
pub fn rope_width(layout: RopeLayout, dims: usize) -> usize {
    match layout {
        RopeLayout::Halves => dims,
        RopeLayout::Pairs => 2 * dims,
    }
}

/// Writes a row of angles for each position: cosines, then sines, times `amplitude` (YaRN's; else 1). `frequencies` are
/// in radians per position, `dims / 2` of them. Computed in f64: at position 1,000,000 an f32 angle is off by 0.03.
pub fn rope_angles(
    layout: RopeLayout,
    positions: &[i32],
    frequencies: &[f32],
    amplitude: f32,
    angles: &mut [f32],
) {
    let half = frequencies.len();
    let width = rope_width(layout, 2 * half);
    assert_eq!(angles.len(), positions.len() * width, "a row of angles for each position");
    if half == 0 {
        return;
    }
    for (to, &position) in angles.chunks_exact_mut(width).zip(positions) {
        for (i, &frequency) in frequencies.iter().enumerate() {
            let (sin, cos) = (f64::from(position) * f64::from(frequency)).sin_cos();
            let (sin, cos) = (sin as f32 * amplitude, cos as f32 * amplitude);
            match layout {
                RopeLayout::Halves => {
                    to[i] = cos;
                    to[half + i] = sin;
                }
                RopeLayout::Pairs => {
                    to[2 * i..2 * i + 2].fill(cos);
                    to[2 * half + 2 * i] = -sin;
                    to[2 * half + 2 * i + 1] = sin;
                }
            }
        }
    }
}

/// Rows of heads to read: head `h` of row `r` begins at `r * row_stride + h * head_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    pub data: Floats<'a>,
    pub rows: usize,
    pub heads: usize,
    pub dim: usize,
    pub row_stride: usize,
    pub head_stride: usize,
}

/// As [`Heads`], to be written.
#[derive(Debug)]
pub struct HeadsMut<'a> {
    pub data: FloatsMut<'a>,
    pub rows: usize,
    pub heads: usize,
    pub dim: usize,
    pub row_stride: usize,
    pub head_stride: usize,
}

impl<'a> Heads<'a> {
    /// `[rows, heads, dim]` without gaps.
    pub fn new(data: Floats<'a>, rows: usize, heads: usize, dim: usize) -> Heads<'a> {
        Heads { data, rows, heads, dim, row_stride: heads * dim, head_stride: dim }
    }

    pub(crate) fn check(&self) {
        let last = (self.rows.max(1) - 1) * self.row_stride;
        let last = last + (self.heads.max(1) - 1) * self.head_stride + self.dim;
        let empty = self.rows == 0 || self.heads == 0;
        assert!(empty || last <= self.data.len(), "heads end at {last} of {}", self.data.len());
    }

    pub(crate) fn at(&self, row: usize, head: usize) -> Source {
        Source::from(self.data).at(row * self.row_stride + head * self.head_stride)
    }
}

impl<'a> HeadsMut<'a> {
    /// `[rows, heads, dim]` without gaps.
    pub fn new(data: FloatsMut<'a>, rows: usize, heads: usize, dim: usize) -> HeadsMut<'a> {
        HeadsMut { data, rows, heads, dim, row_stride: heads * dim, head_stride: dim }
    }

    /// Panics when the slice is too short or heads overlap: kernels write through pointers.
    pub(crate) fn shared(&mut self) -> SharedHeads {
        let last = (self.rows.max(1) - 1) * self.row_stride;
        let last = last + (self.heads.max(1) - 1) * self.head_stride + self.dim;
        let empty = self.rows == 0 || self.heads == 0;
        assert!(empty || last <= self.data.len(), "heads end at {last} of {}", self.data.len());
        let (row, head) = (self.row_stride, self.head_stride);
        let disjoint = empty || disjoint((self.rows, row), (self.heads, head), self.dim);
        assert!(disjoint, "heads at strides {row} and {head} overlap");
        SharedHeads { to: (&mut self.data).into(), row_stride: row, head_stride: head }
    }
}

/// Whether stretches of `dim`, (count, stride) in two directions, keep clear of each other: either rows contain heads
/// or heads contain rows.
pub(crate) fn disjoint(rows: (usize, usize), heads: (usize, usize), dim: usize) -> bool {
    let nested = |inner: (usize, usize), outer: (usize, usize)| {
        let (count, stride) = inner;
        (stride >= dim || count < 2)
            && (outer.1 >= (count.max(1) - 1) * stride + dim || outer.0 < 2)
    };
    nested(heads, rows) || nested(rows, heads)
}

/// Heads as several threads write them, each its own.
#[derive(Clone, Copy)]
pub(crate) struct SharedHeads {
    to: Target,
    row_stride: usize,
    head_stride: usize,
}

impl SharedHeads {
    #[inline(always)]
    pub fn at(&self, row: usize, head: usize) -> Target {
        self.to.at(row * self.row_stride + head * self.head_stride)
    }
}

/// Turns the heads of `x`; dimensions past `rope.dims` are copied.
pub fn rope(cpu: &Cpu<'_>, x: &Heads<'_>, rope: &Rope<'_>, mut y: HeadsMut<'_>) {
    assert_eq!((x.rows, x.heads, x.dim), (y.rows, y.heads, y.dim), "shapes of x and y");
    x.check();
    rope.check(x.rows, x.dim);
    let y = y.shared();
    spread::rows(cpu, x.rows, x.heads * x.dim, &|rows| {
        for row in rows {
            for head in 0..x.heads {
                let (from, to) = (x.at(row, head), y.at(row, head));
                let turn = Turn::new(rope, row, x.dim, from, to);
                // SAFETY: lengths were checked, heads are disjoint, and `cpu.isa` was chosen for this processor.
                unsafe { on(cpu.isa, turn) };
            }
        }
    });
}

impl Rope<'_> {
    pub(crate) fn check(&self, rows: usize, dim: usize) {
        let dims = self.dims;
        assert!(dims.is_multiple_of(2) && dims <= dim, "{dims} of {dim} dimensions turn");
        assert_eq!(self.angles.len(), rows * rope_width(self.layout, dims), "angles for each row");
    }
}

/// One head; `from` and `to` may be the same.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    layout: RopeLayout,
    dims: usize,
    dim: usize,
    angles: *const f32,
    from: Source,
    to: Target,
}

impl Turn {
    pub fn new(rope: &Rope<'_>, row: usize, dim: usize, from: Source, to: Target) -> Turn {
        let angles = rope.angles[row * rope_width(rope.layout, rope.dims)..].as_ptr();
        Turn { layout: rope.layout, dims: rope.dims, dim, angles, from, to }
    }
}

impl Body for Turn {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Turn { layout, dims, dim, angles, from, to } = self;
        let angles = Source::F32(angles);
        // SAFETY: as in `vector`.
        unsafe {
            match layout {
                RopeLayout::Halves => {
                    let half = dims / 2;
                    let (low, high) = (from, from.at(half));
                    for i in (0..half).step_by(V::LANES) {
                        let cos = angles.load_to::<V>(i, half);
                        let sin = angles.at(half).load_to::<V>(i, half);
                        let (a, b) = (low.load_to::<V>(i, half), high.load_to::<V>(i, half));
                        let first = V::sub(V::mul(a, cos), V::mul(b, sin));
                        let second = V::fma(b, cos, V::mul(a, sin));
                        to.store_to::<V>(i, half, first);
                        to.at(half).store_to::<V>(i, half, second);
                    }
                }
                RopeLayout::Pairs if V::LANES == 1 => {
                    for i in (0..dims).step_by(2) {
                        let (a, b) = (from.load::<V>(i), from.load::<V>(i + 1));
                        let (cos, sin) = (angles.load::<V>(i), angles.load::<V>(dims + i + 1));
                        to.store::<V>(i, V::sub(V::mul(a, cos), V::mul(b, sin)));
                        to.store::<V>(i + 1, V::fma(b, cos, V::mul(a, sin)));
                    }
                }
                RopeLayout::Pairs => {
                    for i in (0..dims).step_by(V::LANES) {
                        let v = from.load_to::<V>(i, dims);
                        let cos = angles.load_to::<V>(i, dims);
                        let sin = angles.at(dims).load_to::<V>(i, dims);
                        let turned = V::fma(v, cos, V::mul(V::swap_pairs(v), sin));
                        to.store_to::<V>(i, dims, turned);
                    }
                }
            }
            for i in (dims..dim).step_by(V::LANES) {
                to.store_to::<V>(i, dim, from.load_to::<V>(i, dim));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::{Pool, isa};

    fn check(layout: RopeLayout, (rows, heads, dim, dims): (usize, usize, usize, usize)) {
        let mut rng = StdRng::seed_from_u64(dim as u64);
        // Between each two heads lies one number that must not be touched.
        let stride = dim + 1;
        let x: Vec<f32> = (0..rows * heads * stride).map(|_| rng.random_range(-1.0..1.0)).collect();
        let positions: Vec<i32> = (0..rows).map(|_| rng.random_range(0..300_000)).collect();
        let frequencies: Vec<f32> =
            (0..dims / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / dims as f32)).collect();
        let mut angles = vec![0.0; rows * rope_width(layout, dims)];
        rope_angles(layout, &positions, &frequencies, 0.9, &mut angles);
        let from = Heads {
            data: Floats::F32(&x),
            rows,
            heads,
            dim,
            row_stride: heads * stride,
            head_stride: stride,
        };
        let pool = Pool::new(2);
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let table = Rope { layout, dims, angles: &angles };
            let mut y = vec![7f32; rows * heads * stride];
            let mut half = vec![bf16::ZERO; rows * heads * dim];
            let to = HeadsMut {
                data: FloatsMut::F32(&mut y),
                rows,
                heads,
                dim,
                row_stride: stride,
                head_stride: rows * stride,
            };
            rope(&cpu, &from, &table, to);
            rope(&cpu, &from, &table, HeadsMut::new(FloatsMut::Bf16(&mut half), rows, heads, dim));
            for (row, head) in (0..rows).flat_map(|r| (0..heads).map(move |h| (r, h))) {
                let x = &x[(row * heads + head) * stride..];
                let y = &y[(head * rows + row) * stride..];
                let half = &half[(row * heads + head) * dim..];
                assert_eq!(y[dim], 7.0, "the gap between heads");
                for i in 0..dim {
                    let want = exact(layout, x, i, dims, f64::from(positions[row]), &frequencies);
                    let context = format!("{} {layout:?} {row} {head} {i} of {dim}", isa.name());
                    assert!((f64::from(y[i]) - want).abs() < 4e-7, "{context}: {} {want}", y[i]);
                    assert!((f64::from(half[i].to_f32()) - want).abs() < 0.006, "{context}");
                }
            }
        }
    }

    fn exact(
        layout: RopeLayout,
        x: &[f32],
        i: usize,
        dims: usize,
        position: f64,
        frequencies: &[f32],
    ) -> f64 {
        let own = f64::from(x[i]);
        if i >= dims {
            return own;
        }
        let (pair, other, first) = match layout {
            RopeLayout::Halves => (i % (dims / 2), (i + dims / 2) % dims, i < dims / 2),
            RopeLayout::Pairs => (i / 2, i ^ 1, i.is_multiple_of(2)),
        };
        let (sin, cos) = (position * f64::from(frequencies[pair])).sin_cos();
        let other = f64::from(x[other]);
        f64::from(0.9f32) * if first { own * cos - other * sin } else { own * cos + other * sin }
    }

    #[test]
    fn both_layouts() {
        for layout in [RopeLayout::Halves, RopeLayout::Pairs] {
            for shape in [(3, 2, 128, 128), (2, 3, 64, 64), (1, 4, 80, 20), (5, 1, 72, 72)] {
                check(layout, shape);
            }
            check(layout, (40, 8, 256, 64));
            check(layout, (2, 1, 30, 14));
        }
    }
}
