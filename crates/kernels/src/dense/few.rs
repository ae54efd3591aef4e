//! Products of few rows: the weights stream through once, and lanes run along a weight row.

use super::weights::{Float, GROUP};
use crate::simd::{Simd, each, float_entry_points};

/// Weight rows, and what to do with them.
pub(crate) struct Few<'a> {
    pub weights: *const u8,
    pub row_bytes: usize,
    pub rows: usize,
    pub columns: usize,
    /// A row of `columns / GROUP` for each weight row, where the type has scales.
    pub scales: *const f32,
    /// Rows of floats, padded with zeros to whole vectors.
    pub x: &'a [*const f32],
    /// `[x.len()][rows]`
    pub out: *mut f32,
}

float_entry_points! {
    /// The loop for one type of weight on one instruction set.
    pub(crate) fn entry<C: Float>(args: &Few<'_>) = few
}

/// How far ahead weights are asked for.
const AHEAD_BYTES: usize = 2048;

#[inline(always)]
unsafe fn few<V: Simd, C: Float>(args: &Few<'_>) {
    let mut first = 0;
    // SAFETY: as in `crate::simd`; `first + N` stays within the rows of activations.
    unsafe {
        while first < args.x.len() {
            first += match args.x.len() - first {
                1 => columns::<V, C, 1, 4>(args, first),
                2 => columns::<V, C, 2, 4>(args, first),
                left if const { V::LANES == 16 } && left >= 8 => columns::<V, C, 8, 1>(args, first),
                _ => columns::<V, C, 4, 2>(args, first),
            }
        }
    }
}

/// All weight rows, `R` at a time, against up to `N` rows of activations; `N * R` is at most eight. Where fewer are left
/// of either, the last is computed again: cheaper than a loop for each count, which all have to be compiled.
#[inline(always)]
unsafe fn columns<V: Simd, C: Float, const N: usize, const R: usize>(
    args: &Few<'_>,
    first: usize,
) -> usize {
    let count = N.min(args.x.len() - first);
    let x: [*const f32; N] = each(|i| args.x[first + i.min(count - 1)]);
    // SAFETY: as in `crate::simd`.
    unsafe {
        for row in (0..args.rows).step_by(R) {
            let sums = weight_rows::<V, C, N, R>(args, row, &x);
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
unsafe fn weight_rows<V: Simd, C: Float, const N: usize, const R: usize>(
    args: &Few<'_>,
    row: usize,
    x: &[*const f32; N],
) -> [f32; 8] {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let last = args.rows - 1;
        let weights: [*const u8; R] =
            each(|r| args.weights.add((row + r).min(last) * args.row_bytes));
        let scales: [*const f32; R] =
            each(|r| args.scales.wrapping_add((row + r).min(last) * (args.columns / GROUP)));
        let whole = args.columns - args.columns % V::LANES;
        let mut sums = [[V::zero(); N]; R];
        for k in (0..whole).step_by(V::LANES) {
            for r in 0..R {
                let from = weights[r].add(k * C::BYTES);
                V::prefetch(from.wrapping_add(AHEAD_BYTES));
                add::<V, C, N>(&mut sums[r], from, scales[r], x, k);
            }
        }
        if whole < args.columns {
            for r in 0..R {
                let mut buffer = [0u8; 64];
                let from = weights[r].add(whole * C::BYTES);
                let bytes = (args.columns - whole) * C::BYTES;
                from.copy_to_nonoverlapping(buffer.as_mut_ptr(), bytes);
                add::<V, C, N>(&mut sums[r], buffer.as_ptr(), scales[r], x, whole);
            }
        }
        let mut all = [V::zero(); 8];
        for (r, sums) in sums.iter().enumerate() {
            all[r * N..(r + 1) * N].copy_from_slice(sums);
        }
        V::sums_of_eight(&all, N * R > 4)
    }
}

#[inline(always)]
unsafe fn add<V: Simd, C: Float, const N: usize>(
    sums: &mut [V::F; N],
    from: *const u8,
    scales: *const f32,
    x: &[*const f32; N],
    k: usize,
) {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let mut weights = C::load::<V>(from);
        if C::SCALED {
            weights = V::mul(weights, V::splat(*scales.add(k / GROUP)));
        }
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = V::fma(weights, V::load(x.add(k)), *sum);
        }
    }
}
