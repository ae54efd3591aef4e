//! Products of few rows: the weights stream through once.
//!
//! As many weight rows as a vector has lanes are read side by side, a block of columns at a time, and meet their few rows
//! of activations at once. For one row this is bound by memory. Every product is added up exactly as [`super::many`] does
//! it, span after span, so that its bits do not depend on how many rows there are
//! (`docs/decisions/0013-row-invariance.md`).

use super::activations::{Row, SPAN};
use super::codec::Codec;
use super::scales;
use crate::ahead::Ahead;
use crate::simd::{Dot, Simd, each, entry_points};
use crate::tasks::FEW_MAX;

/// Weight rows of a call at most: as many as the widest vector has lanes.
pub(crate) const ROWS: usize = 16;

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
    let groups = args.columns / args.group;
    // SAFETY: as in `crate::simd`; `ROWS` is a multiple of `LANES`.
    unsafe {
        for row in (0..args.rows).step_by(V::LANES) {
            let rows = V::LANES.min(args.rows - row);
            let (scales, biases) = (args.turned, args.turned.add(groups * V::LANES));
            let from = row * groups;
            scales::turn::<V>((args.scales.add(from), groups), rows, groups, (scales, V::LANES));
            scales::turn::<V>((args.biases.add(from), groups), rows, groups, (biases, V::LANES));
            let turned = Turned { scales, biases, shift: args.group.trailing_zeros() };
            if const { C::SMALL_GROUPS } && args.group < SPAN {
                weight_rows::<V, D, C, 16>(args, row, turned);
            } else {
                weight_rows::<V, D, C, SPAN>(args, row, turned);
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
struct Lines {
    codes: [*const u8; 16],
    ahead: [*const u8; 16],
    row_bytes: usize,
    /// Blocks that may be read where they lie; the rest goes through a buffer.
    direct: usize,
}

impl Lines {
    #[inline(always)]
    fn new<V: Simd, C: Codec>(args: &Few<'_>, row: usize) -> Lines {
        let bytes = C::block::<V>() * C::BITS / 8;
        let (row_bytes, last) = (args.columns * C::BITS / 8, args.rows - 1);
        let codes: [*const u8; 16] =
            each(|r| args.codes.wrapping_add((row + r).min(last) * row_bytes));
        let ahead = each(|r| args.ahead.of(codes[r], row_bytes, V::LANES));
        let readable = args.codes_end as usize - codes[V::LANES - 1] as usize;
        let direct = (readable + bytes).saturating_sub(C::reads::<V>()) / bytes;
        Lines { codes, ahead, row_bytes, direct: direct.min(row_bytes / bytes) }
    }

    fn blocks<V: Simd, C: Codec>(&self) -> usize {
        self.row_bytes.div_ceil(C::block::<V>() * C::BITS / 8)
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

/// Scales and biases of a vector of weight rows, `[groups][LANES]`.
#[derive(Clone, Copy)]
struct Turned {
    scales: *const f32,
    biases: *const f32,
    /// The group's logarithm.
    shift: u32,
}

impl Turned {
    /// Adds a span's integers, which begin at `column`, to the sums of `N` rows; the order of `super::many`.
    #[inline(always)]
    unsafe fn add<V: Simd, C: Codec, const N: usize>(
        &self,
        sums: &mut [V::F; N],
        dots: &[V::I; N],
        rows: &[Row; N],
        column: usize,
    ) {
        let group = column >> self.shift;
        // SAFETY: as in `crate::simd`.
        unsafe {
            let scale = V::load(self.scales.add(group * V::LANES));
            for i in 0..N {
                let x_scale = V::splat(*rows[i].scales.add(column / (4 * C::PLANES)));
                sums[i] = V::fma(V::to_f32(dots[i]), V::mul(scale, x_scale), sums[i]);
            }
            if column == group << self.shift {
                let bias = V::load(self.biases.add(group * V::LANES));
                for i in 0..N {
                    sums[i] = V::fma(bias, V::splat(*rows[i].sums.add(group)), sums[i]);
                }
            }
        }
    }
}

/// The products of up to a vector of weight rows, from `row` on. `S` columns make a span.
#[inline(always)]
unsafe fn weight_rows<V: Simd, D: Dot<V>, C: Codec, const S: usize>(
    args: &Few<'_>,
    row: usize,
    turned: Turned,
) {
    let lines = Lines::new::<V, C>(args, row);
    // SAFETY: as in `crate::simd`.
    unsafe {
        let mut totals = [V::zero(); FEW_MAX];
        if let [x] = args.x {
            totals[0] = alone::<V, D, C, S>(&lines, args.columns, turned, x);
        } else {
            together::<V, D, C, S>(args, &lines, turned, &mut totals);
        }
        for (i, &total) in totals.iter().enumerate().take(args.x.len()) {
            V::store(args.out.add(i * ROWS + row), total);
        }
    }
}

/// One row of activations. Lanes run along the weight rows, and the integers are turned: fewer instructions than to turn
/// the codes, as long as nobody else needs them.
#[inline(always)]
unsafe fn alone<V: Simd, D: Dot<V>, C: Codec, const S: usize>(
    lines: &Lines,
    columns: usize,
    turned: Turned,
    x: &Row,
) -> V::F {
    // Lanes of a span, and of what `part_sums` gives.
    let (span, part) = const { (S / 4 / C::PLANES, if S / 4 / C::PLANES < 4 { 2 } else { 4 }) };
    let step = const { blocks::<V, C>() };
    // SAFETY: as in `crate::simd`; activations are padded to whole blocks.
    unsafe {
        let mut sums = [V::zero()];
        let mut dots = [V::zero_ints(); 16];
        // Parts of all blocks.
        let mut parts = [V::zero_ints(); 16];
        for first in (0..lines.blocks::<V, C>()).step_by(step) {
            for block in 0..step {
                let b = first + block;
                let x: [V::B; 4] = each(|plane| match plane < C::PLANES {
                    true => V::load_bytes(x.codes.add((b * C::PLANES + plane) * V::BYTES)),
                    false => V::splat_byte(0),
                });
                for (r, to) in dots.iter_mut().enumerate().take(V::LANES) {
                    let planes = C::split::<V>(lines.load::<V, C>(r, b));
                    let mut dot = D::start();
                    for (&codes, &x) in planes.iter().zip(&x).take(C::PLANES) {
                        dot = D::dot(dot, D::prepare(codes), x);
                    }
                    *to = D::widen(dot);
                }
                V::part_sums(dots.as_mut_ptr(), part == 2);
                let count = const { V::LANES / if S / 4 / C::PLANES < 4 { 2 } else { 4 } };
                parts[block * count..][..count].copy_from_slice(&dots[..count]);
            }
            let start = first * C::block::<V>();
            let left = columns - start;
            for s in 0..left.min(step * C::block::<V>()) / S {
                let mut dots = *parts.get_unchecked(s * span / part);
                for more in 1..span / part {
                    dots = V::add_ints(dots, *parts.get_unchecked(s * span / part + more));
                }
                turned.add::<V, C, 1>(&mut sums, &[dots], &[*x], start + s * S);
            }
        }
        sums[0]
    }
}

/// Several rows: codes are turned once for all of them.
#[inline(always)]
unsafe fn together<V: Simd, D: Dot<V>, C: Codec, const S: usize>(
    args: &Few<'_>,
    lines: &Lines,
    turned: Turned,
    totals: &mut [V::F; FEW_MAX],
) {
    let step = const { blocks::<V, C>() };
    // SAFETY: as in `crate::simd`.
    unsafe {
        let mut lanes = [V::splat_byte(0); 16];
        for first in (0..lines.blocks::<V, C>()).step_by(step) {
            for block in 0..step {
                let lanes = &mut lanes[block * V::LANES..][..V::LANES];
                for (r, to) in lanes.iter_mut().enumerate() {
                    *to = lines.load::<V, C>(r, first + block);
                }
                V::transpose(lanes.as_mut_ptr());
            }
            let part = Part { lanes: &lanes, first, columns: args.columns, turned };
            let mut x = 0;
            while x < args.x.len() {
                x += match args.x.len() - x {
                    1..=2 => part.add::<V, D, C, S, 2>(args.x, x, totals),
                    left if const { V::LANES == 16 } && left > 4 => {
                        part.add::<V, D, C, S, 8>(args.x, x, totals)
                    }
                    _ => part.add::<V, D, C, S, 4>(args.x, x, totals),
                };
            }
        }
    }
}

/// Turned codes of a vector of weight rows.
struct Part<'a, B> {
    lanes: &'a [B; 16],
    /// Number of its first block.
    first: usize,
    /// Of the whole row.
    columns: usize,
    turned: Turned,
}

impl<B: Copy> Part<'_, B> {
    /// Adds the products with up to `N` rows of activations from `x` on to their totals; gives `N`. Where fewer are left,
    /// the last is computed again: cheaper than a loop for each count, which all have to be compiled.
    #[inline(always)]
    unsafe fn add<V: Simd<B = B>, D: Dot<V>, C: Codec, const S: usize, const N: usize>(
        &self,
        all: &[Row],
        x: usize,
        totals: &mut [V::F; FEW_MAX],
    ) -> usize {
        let last = all.len() - 1;
        let rows: [Row; N] = each(|i| all[(x + i).min(last)]);
        let totals = totals.as_mut_ptr();
        // Lanes that make a span.
        let span = const { S / 4 / C::PLANES };
        let start = self.first * C::block::<V>();
        let spans = (self.columns - start).min(const { blocks::<V, C>() } * C::block::<V>()) / S;
        // SAFETY: as in `crate::simd`; activations are padded to whole blocks, and there are at most `FEW_MAX`.
        unsafe {
            let mut sums: [V::F; N] = each(|i| *totals.add((x + i).min(last)));
            for s in 0..spans {
                let dots = self.dots::<V, D, C, N>(s * span, span, &rows);
                self.turned.add::<V, C, N>(&mut sums, &dots, &rows, start + s * S);
            }
            for (i, &sum) in sums.iter().enumerate() {
                *totals.add((x + i).min(last)) = sum;
            }
        }
        N
    }

    /// The integer part of a span: `count` lanes from `first` on.
    #[inline(always)]
    unsafe fn dots<V: Simd<B = B>, D: Dot<V>, C: Codec, const N: usize>(
        &self,
        first: usize,
        count: usize,
        rows: &[Row; N],
    ) -> [V::I; N] {
        // SAFETY: as in `crate::simd`.
        unsafe {
            let mut wide = [V::zero_ints(); N];
            let mut sums = [D::start(); N];
            let mut added = 0;
            for lane in first..first + count {
                let planes = C::split::<V>(*self.lanes.get_unchecked(lane));
                let (block, lane) = match const { blocks::<V, C>() } {
                    1 => (0, lane),
                    _ => (lane / V::LANES, lane % V::LANES),
                };
                let at = ((self.first + block) * C::PLANES * V::LANES + lane) * 4;
                for (plane, &codes) in planes.iter().enumerate().take(C::PLANES) {
                    let codes = D::prepare(codes);
                    for (sum, x) in sums.iter_mut().zip(rows) {
                        let x = V::splat_dword(x.codes.add(at + plane * V::BYTES));
                        *sum = D::dot(*sum, codes, x);
                    }
                    added += 1;
                    if D::STEPS < 8 && added % D::STEPS == 0 {
                        for (wide, sum) in wide.iter_mut().zip(&mut sums) {
                            *wide = V::add_ints(*wide, D::widen(*sum));
                            *sum = D::start();
                        }
                    }
                }
            }
            if D::STEPS < 8 { wide } else { each(|i| D::widen(sums[i])) }
        }
    }
}
