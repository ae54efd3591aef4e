//! Products of few rows: the weights stream through once.
//!
//! As many weight rows as two vectors have lanes are read side by side, a block of columns at a time, and meet their few
//! rows of activations at once ([`together`]). For one row ([`alone`]) this is bound by memory. Every product is added up
//! exactly as [`super::many`] does it, span after span, so that its bits do not depend on how many rows there are
//! (`docs/decisions/0013-row-invariance.md`).

mod alone;
mod together;

use super::activations::{Row, SPAN};
use super::codec::Codec;
use super::scales;
use crate::ahead::Ahead;
use crate::simd::{Dot, Simd, each, entry_points};
use crate::tasks::FEW_MAX;

/// Vectors of weight rows that are worked on together.
const WIDTH: usize = 2;

/// Weight rows of a call at most: as many as the widest vectors have lanes.
pub(crate) const ROWS: usize = WIDTH * 16;

/// Weight rows, and what to do with them.
pub(crate) struct Few<'a> {
    /// First weight row's codes; rows follow each other without gaps.
    pub codes: *const u8,
    /// One past the last byte that may be read.
    pub codes_end: *const u8,
    /// Where this thread's reading goes on.
    pub ahead: Ahead,
    pub rows: usize,
    pub columns: usize,
    pub group: usize,
    /// Prepared by [`super::scales`].
    pub scales: *const f32,
    pub biases: *const f32,
    /// Room for `2 * ROWS` floats to a group.
    pub turned: *mut f32,
    pub x: &'a [Row],
    /// `[x.len()][ROWS]`
    pub out: *mut f32,
}

entry_points! {
    /// The loop for one kind of weight on one instruction set.
    pub(crate) fn entry<C: Codec>(args: &Few<'_>) = few
}

#[inline(always)]
unsafe fn few<V: Simd, D: Dot<V>, C: Codec>(args: &Few<'_>) {
    let (groups, width) = (args.columns / args.group, WIDTH * V::LANES);
    // SAFETY: as in `crate::simd`; `ROWS` is a multiple of `width`.
    unsafe {
        for row in (0..args.rows).step_by(width) {
            let (scales, biases) = (args.turned, args.turned.add(groups * width));
            for (v, row) in (row..row + width).step_by(V::LANES).enumerate() {
                let rows = V::LANES.min(args.rows.saturating_sub(row));
                for (from, to) in [(args.scales, scales), (args.biases, biases)] {
                    let from = (from.wrapping_add(row * groups), groups);
                    scales::turn::<V>(from, rows, groups, (to.add(v * V::LANES), width));
                }
            }
            let turned = Turned { scales, biases, shift: args.group.trailing_zeros() };
            if const { C::SMALL_GROUPS } && args.group < SPAN {
                weight_rows::<V, D, C, 16>(args, row, turned);
            } else {
                weight_rows::<V, D, C, SPAN>(args, row, turned);
            }
        }
    }
}

/// The products of up to two vectors of weight rows, from `row` on. `S` columns make a span.
#[inline(always)]
unsafe fn weight_rows<V: Simd, D: Dot<V>, C: Codec, const S: usize>(
    args: &Few<'_>,
    row: usize,
    turned: Turned,
) {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let mut totals = [[V::zero(); WIDTH]; FEW_MAX];
        let vectors = || (row..args.rows).step_by(V::LANES).enumerate().take(WIDTH);
        if let [x] = args.x {
            for (v, row) in vectors() {
                let (lines, turned) =
                    (Lines::new::<V, C>(args, row, V::LANES), turned.vector::<V>(v));
                totals[0][v] = alone::product::<V, D, C, S>(&lines, args.columns, turned, x);
            }
        } else if const { V::LANES == 8 && !D::FUSED } {
            // Sixteen registers do not hold more where a dot takes some itself.
            for (v, row) in vectors() {
                let (lines, turned) =
                    ([Lines::new::<V, C>(args, row, V::LANES)], turned.vector::<V>(v));
                together::products::<V, D, C, S, 1>(args, &lines, turned, v, &mut totals);
            }
        } else {
            let lines = each(|v| Lines::new::<V, C>(args, row + v * V::LANES, WIDTH * V::LANES));
            together::products::<V, D, C, S, WIDTH>(args, &lines, turned, 0, &mut totals);
        }
        for (i, totals) in totals.iter().enumerate().take(args.x.len()) {
            for (v, &total) in totals.iter().enumerate() {
                V::store(args.out.add(i * ROWS + row + v * V::LANES), total);
            }
        }
    }
}

/// Blocks that are worked on together: at least a span of 32 columns.
const fn blocks<V: Simd, C: Codec>() -> usize {
    let block = V::BYTES * C::PLANES;
    if block < SPAN { SPAN / block } else { 1 }
}

/// Codes of up to a vector of weight rows: where they are, and where reading goes on.
#[derive(Clone, Copy)]
struct Lines {
    codes: [*const u8; 16],
    ahead: [*const u8; 16],
    row_bytes: usize,
    /// Blocks that may be read where they lie; the rest goes through a buffer.
    direct: usize,
}

impl Lines {
    /// From `row` on; so many are read `together`.
    #[inline(always)]
    fn new<V: Simd, C: Codec>(args: &Few<'_>, row: usize, together: usize) -> Lines {
        let bytes = C::block::<V>() * C::BITS / 8;
        let (row_bytes, last) = (args.columns * C::BITS / 8, args.rows - 1);
        let codes: [*const u8; 16] =
            each(|r| args.codes.wrapping_add((row + r).min(last) * row_bytes));
        let ahead = each(|r| args.ahead.of(codes[r], row_bytes, together));
        let readable = args.codes_end as usize - codes[V::LANES - 1] as usize;
        let direct = (readable + bytes).saturating_sub(C::reads::<V>()) / bytes;
        Lines { codes, ahead, row_bytes, direct: direct.min(row_bytes / bytes) }
    }

    fn blocks<V: Simd, C: Codec>(&self) -> usize {
        self.row_bytes.div_ceil(C::block::<V>() * C::BITS / 8)
    }

    /// Block `b` of all rows, turned: a lane for each row.
    #[inline(always)]
    unsafe fn turn<V: Simd, C: Codec>(&self, b: usize, to: *mut V::B) {
        // SAFETY: as in `crate::simd`; there is room for as many.
        unsafe {
            for r in 0..V::LANES {
                *to.add(r) = self.load::<V, C>(r, b);
            }
            V::transpose(to);
        }
    }

    /// Block `b` of row `r`.
    #[inline(always)]
    unsafe fn load<V: Simd, C: Codec>(&self, r: usize, b: usize) -> V::B {
        let bytes = C::block::<V>() * C::BITS / 8;
        // SAFETY: as in `crate::simd`.
        unsafe {
            let from = self.codes.get_unchecked(r).wrapping_add(b * bytes);
            if b < self.direct {
                V::prefetch(self.ahead.get_unchecked(r).wrapping_add(b * bytes));
                return C::load::<V>(from);
            }
            let left = self.row_bytes.saturating_sub(b * bytes).min(bytes);
            let mut buffer = [0u8; 128];
            from.copy_to_nonoverlapping(buffer.as_mut_ptr(), left);
            C::load::<V>(buffer.as_ptr())
        }
    }
}

/// Scales and biases of two vectors of weight rows, `[groups][WIDTH * LANES]`.
#[derive(Clone, Copy)]
struct Turned {
    scales: *const f32,
    biases: *const f32,
    /// The group's logarithm.
    shift: u32,
}

impl Turned {
    /// One of the vectors, at the same distances.
    #[inline(always)]
    fn vector<V: Simd>(self, v: usize) -> Turned {
        let at = |p: *const f32| p.wrapping_add(v * V::LANES);
        Turned { scales: at(self.scales), biases: at(self.biases), ..self }
    }

    /// Adds a span's integers, which begin at `column`, to the sums of `N` rows; the order of `super::many`.
    #[inline(always)]
    unsafe fn add<V: Simd, C: Codec, const N: usize, const W: usize>(
        &self,
        sums: [*mut [V::F; W]; N],
        dots: &[[V::I; W]; N],
        rows: &[Row; N],
        column: usize,
    ) {
        let group = column >> self.shift;
        let at = group * const { WIDTH * V::LANES };
        // SAFETY: as in `crate::simd`.
        unsafe {
            let scale: [V::F; W] = each(|v| V::load(self.scales.add(at + v * V::LANES)));
            for i in 0..N {
                let x_scale = V::splat(*rows[i].scales.add(column / (4 * C::PLANES)));
                for (v, sum) in (*sums[i]).iter_mut().enumerate() {
                    let scale = V::mul(scale[v], x_scale);
                    *sum = V::fma(V::to_f32(dots[i][v]), scale, *sum);
                }
            }
            if column == group << self.shift {
                let bias: [V::F; W] = each(|v| V::load(self.biases.add(at + v * V::LANES)));
                for i in 0..N {
                    let x_sum = V::splat(*rows[i].sums.add(group));
                    for (sum, &bias) in (*sums[i]).iter_mut().zip(&bias) {
                        *sum = V::fma(bias, x_sum, *sum);
                    }
                }
            }
        }
    }
}
