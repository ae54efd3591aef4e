//! Products of few rows: the weights stream through once, and lanes run along a weight row.
//!
//! For one row of activations this moves hardly a byte that it need not and is bound by memory. Up to four rows share
//! each vector of unpacked codes.

use super::activations::Row;
use super::codec::Codec;
use crate::simd::{Dot, Simd, each, entry_points};

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
    pub x: &'a [Row],
    /// `[x.len()][rows]`
    pub out: *mut f32,
}

entry_points! {
    /// The loop for one kind of weight on one instruction set.
    pub(crate) fn entry<C: Codec>(args: &Few<'_>) = few
}

/// How far ahead codes are asked for: half a microsecond of reading, as long as busy memory takes to answer.
const AHEAD_BYTES: usize = 8192;

/// Where to ask for codes ahead of time: within a task they follow each other, behind its end lies what another thread
/// reads, and this one's next task begins elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// Of the task.
    pub end: *const u8,
    /// From the task's end to where the thread's next task probably begins.
    pub skip: isize,
}

impl Ahead {
    #[inline(always)]
    fn of(self, from: *const u8) -> *const u8 {
        let next = from.wrapping_add(AHEAD_BYTES);
        if next < self.end { next } else { next.wrapping_offset(self.skip) }
    }
}

#[inline(always)]
unsafe fn few<V: Simd, D: Dot<V>, C: Codec>(args: &Few<'_>) {
    let mut first = 0;
    // SAFETY: as in `crate::simd`; `first + N` stays within the rows of activations.
    unsafe {
        while first < args.x.len() {
            first += match args.x.len() - first {
                1 => columns::<V, D, C, 1, 4>(args, first),
                2 => columns::<V, D, C, 2, 4>(args, first),
                left if const { V::LANES == 16 } && left >= 8 => {
                    columns::<V, D, C, 8, 1>(args, first)
                }
                _ => columns::<V, D, C, 4, 2>(args, first),
            }
        }
    }
}

/// All weight rows, `R` at a time, against up to `N` rows of activations; `N * R` is at most eight. Where fewer are left
/// of either, the last is computed again: cheaper than a loop for each count, which all have to be compiled.
#[inline(always)]
unsafe fn columns<V: Simd, D: Dot<V>, C: Codec, const N: usize, const R: usize>(
    args: &Few<'_>,
    first: usize,
) -> usize {
    let count = N.min(args.x.len() - first);
    let x: [Row; N] = each(|i| args.x[first + i.min(count - 1)]);
    // SAFETY: as in `crate::simd`.
    unsafe {
        let lane_groups: [i32; 16] = each(|lane| (lane * 4 * C::PLANES / args.group) as i32);
        let lane_groups = V::load_ints(lane_groups.as_ptr());
        for row in (0..args.rows).step_by(R) {
            let sums = weight_rows::<V, D, C, N, R>(args, row, lane_groups, &x);
            for r in 0..R.min(args.rows - row) {
                for i in 0..count {
                    *args.out.add((first + i) * args.rows + row + r) = sums[r * N + i];
                }
            }
        }
    }
    count
}

/// The products of `R` weight rows from `row` on, `[R][N]`.
#[inline(always)]
unsafe fn weight_rows<V: Simd, D: Dot<V>, C: Codec, const N: usize, const R: usize>(
    args: &Few<'_>,
    row: usize,
    lane_groups: V::I,
    x: &[Row; N],
) -> [f32; 8] {
    let block = C::block::<V>();
    let bytes = block * C::BITS / 8;
    let row_bytes = args.columns * C::BITS / 8;
    let groups = args.columns / args.group;
    // SAFETY: as in `crate::simd`.
    unsafe {
        let last = args.rows - 1;
        let codes: [*const u8; R] = each(|r| args.codes.add((row + r).min(last) * row_bytes));
        let scales: [*const f32; R] = each(|r| args.scales.add((row + r).min(last) * groups));
        // Blocks that may be read where they lie; the rest goes through a buffer.
        let readable = args.codes_end as usize - codes[R - 1] as usize;
        let direct = (readable + bytes).saturating_sub(C::reads::<V>()) / bytes;
        let direct = direct.min(row_bytes / bytes);
        let mut sums = [[V::zero(); N]; R];
        for b in 0..direct {
            let group = (b * block) >> args.group.trailing_zeros();
            for r in 0..R {
                let from = codes[r].add(b * bytes);
                V::prefetch(args.ahead.of(from));
                let scale = V::expand(scales[r].add(group), lane_groups);
                add_block::<V, D, C, N>(&mut sums[r], C::load::<V>(from), scale, x, b);
            }
        }
        for b in direct..row_bytes.div_ceil(bytes) {
            let group = (b * block) >> args.group.trailing_zeros();
            for r in 0..R {
                let mut buffer = [0u8; 128];
                let from = codes[r].add(b * bytes);
                from.copy_to_nonoverlapping(buffer.as_mut_ptr(), bytes.min(row_bytes - b * bytes));
                let scale = V::expand(scales[r].add(group), lane_groups);
                add_block::<V, D, C, N>(&mut sums[r], C::load::<V>(buffer.as_ptr()), scale, x, b);
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            add_biases::<V, N>(sums, args.biases.add((row + r).min(last) * groups), groups, x);
        }
        let mut all = [V::zero(); 8];
        for (r, sums) in sums.iter().enumerate() {
            all[r * N..(r + 1) * N].copy_from_slice(sums);
        }
        V::sums_of_eight(&all, N * R > 4)
    }
}

#[inline(always)]
unsafe fn add_block<V: Simd, D: Dot<V>, C: Codec, const N: usize>(
    sums: &mut [V::F; N],
    packed: V::B,
    scale: V::F,
    x: &[Row; N],
    b: usize,
) {
    // SAFETY: as in `crate::simd`; activations are padded to whole blocks.
    unsafe {
        let planes = C::split::<V>(packed);
        for (sum, x) in sums.iter_mut().zip(x) {
            let mut dots = D::start();
            for (plane, &codes) in planes.iter().enumerate().take(C::PLANES) {
                let x = V::load_bytes(x.codes.add((b * C::PLANES + plane) * V::BYTES));
                dots = D::dot(dots, D::prepare(codes), x);
            }
            let scale = V::mul(scale, V::load(x.scales.add(b * V::LANES)));
            *sum = V::fma(V::to_f32(D::widen(dots)), scale, *sum);
        }
    }
}

/// Each group's bias times the sum of its activations.
#[inline(always)]
unsafe fn add_biases<V: Simd, const N: usize>(
    sums: &mut [V::F; N],
    biases: *const f32,
    groups: usize,
    x: &[Row; N],
) {
    // SAFETY: as in `crate::simd`; both sides may be read to a whole vector, where the activations' side is zero.
    unsafe {
        for g in (0..groups).step_by(V::LANES) {
            let bias = V::load(biases.add(g));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = V::fma(bias, V::load(x.sums.add(g)), *sum);
            }
        }
    }
}
