//! Products of few rows: the weights stream through once, and lanes run along a weight row.
//!
//! For one row of activations this moves hardly a byte that it need not and is bound by memory. Up to four rows share
//! each vector of unpacked codes.

use super::activations::Row;
use super::codec::Codec;
use crate::simd::{Dot, Simd, entry_points};

/// Weight rows, and what to do with them.
pub(crate) struct Few<'a> {
    /// First weight row's codes; rows follow each other without gaps.
    pub codes: *const u8,
    /// One past the last byte that may be read.
    pub codes_end: *const u8,
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

#[inline(always)]
unsafe fn few<V: Simd, D: Dot<V>, C: Codec>(args: &Few<'_>) {
    let mut first = 0;
    // SAFETY: as in `crate::simd`; `first + N` stays within the rows of activations.
    unsafe {
        while first < args.x.len() {
            first += match args.x.len() - first {
                1 => columns::<V, D, C, 1>(args, first),
                2 => columns::<V, D, C, 2>(args, first),
                3 => columns::<V, D, C, 3>(args, first),
                _ => columns::<V, D, C, 4>(args, first),
            }
        }
    }
}

/// All weight rows against `N` rows of activations.
#[inline(always)]
unsafe fn columns<V: Simd, D: Dot<V>, C: Codec, const N: usize>(
    args: &Few<'_>,
    first: usize,
) -> usize {
    let row_bytes = args.columns * C::BITS / 8;
    let x: [Row; N] = std::array::from_fn(|i| args.x[first + i]);
    let lane_groups: [i32; 16] =
        std::array::from_fn(|lane| (lane * 4 * C::PLANES / args.group) as i32);
    let groups = args.columns / args.group;
    // SAFETY: as in `crate::simd`.
    unsafe {
        let lane_groups = V::load_ints(lane_groups.as_ptr());
        for row in 0..args.rows {
            let codes = args.codes.add(row * row_bytes);
            let scales = args.scales.add(row * groups);
            let mut sums = weight_row::<V, D, C, N>(args, codes, scales, lane_groups, &x);
            add_biases::<V, N>(&mut sums, args.biases.add(row * groups), groups, &x);
            for (i, sum) in sums.into_iter().enumerate() {
                *args.out.add((first + i) * args.rows + row) = V::sum(sum);
            }
        }
    }
    N
}

#[inline(always)]
unsafe fn weight_row<V: Simd, D: Dot<V>, C: Codec, const N: usize>(
    args: &Few<'_>,
    codes: *const u8,
    scales: *const f32,
    lane_groups: V::I,
    x: &[Row; N],
) -> [V::F; N] {
    let block = C::block::<V>();
    let bytes = block * C::BITS / 8;
    let row_bytes = args.columns * C::BITS / 8;
    // Blocks that may be read where they lie; the rest goes through a buffer.
    let readable = args.codes_end as usize - codes as usize;
    let direct =
        (row_bytes / bytes).min((readable + bytes).saturating_sub(C::reads::<V>()) / bytes);
    let shift = args.group.trailing_zeros();
    // SAFETY: as in `crate::simd`.
    unsafe {
        let mut sums = [V::zero(); N];
        for b in 0..direct {
            let planes = C::unpack::<V>(codes.add(b * bytes));
            let scale = V::expand(scales.add((b * block) >> shift), lane_groups);
            add_block::<V, D, C, N>(&mut sums, planes, scale, x, b);
        }
        for b in direct..row_bytes.div_ceil(bytes) {
            let mut buffer = [0u8; 128];
            let from = codes.add(b * bytes);
            from.copy_to_nonoverlapping(buffer.as_mut_ptr(), bytes.min(row_bytes - b * bytes));
            let planes = C::unpack::<V>(buffer.as_ptr());
            let scale = V::expand(scales.add((b * block) >> shift), lane_groups);
            add_block::<V, D, C, N>(&mut sums, planes, scale, x, b);
        }
        sums
    }
}

#[inline(always)]
unsafe fn add_block<V: Simd, D: Dot<V>, C: Codec, const N: usize>(
    sums: &mut [V::F; N],
    planes: [V::B; 4],
    scale: V::F,
    x: &[Row; N],
    b: usize,
) {
    // SAFETY: as in `crate::simd`; activations are padded to whole blocks.
    unsafe {
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
