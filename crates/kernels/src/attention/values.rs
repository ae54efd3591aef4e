//! Weighted values of a block are added to sums. For few rows values are read as they lie, once for up to four of them;
//! for more they are brought to f32 once for all. Either way a sum takes them one after the other.

// Tiles of registers are arrays of arrays: numbering them says more than iterating.
#![allow(clippy::needless_range_loop)]

use super::history::{Cell, Soon, with_cell};
use super::keys::product;
use super::task::padded;
use super::{Block, FEW_ROWS_MAX, KEYS, Piece, Segment, Span};
use crate::vector::Vector;

/// Rows that share one reading where they are few.
const TOGETHER: usize = 4;

/// Values of one head.
pub(super) struct Values<'a> {
    pub segment: &'a Segment<'a>,
    pub kv_head: usize,
    pub width: usize,
    /// Of keys.
    pub dim: usize,
}

#[allow(clippy::missing_safety_doc)]
impl Values<'_> {
    /// `sums = sums * past + weights · values` for each row, of which `weights` are `[rows][KEYS]`; `brought` has room for
    /// the block's values.
    #[inline(always)]
    pub unsafe fn weigh<V: Vector>(
        &self,
        block: &Block,
        rows: usize,
        weights: *mut f32,
        past: *const f32,
        brought: *mut f32,
        sums: (*mut f32, usize),
    ) {
        let Values { segment, kv_head, width, dim } = *self;
        // The next block's keys.
        let of = |span: &Span<'_>, token, tokens| span.keys.soon(kv_head, token, tokens, dim);
        let mut soon = segment.soon(block.keys.end, of);
        // SAFETY: as in `vector`.
        unsafe {
            let weights = weights.add(block.lead()).cast_const();
            if rows <= FEW_ROWS_MAX {
                return self.weigh_few::<V>(block, rows, weights, past, sums, &mut soon);
            }
            self.bring::<V>(block, brought);
            for row in 0..rows {
                let past = *past.add(row);
                if past != 1.0 {
                    multiply::<V>(sums.0.add(row * sums.1), sums.1, past);
                }
            }
            let values = (brought.cast_const(), padded(width));
            let size = [rows, sums.1, block.keys.len()];
            product::<V>(size, (weights, KEYS), values, sums, true, &mut soon);
        }
    }

    #[inline(always)]
    unsafe fn weigh_few<V: Vector>(
        &self,
        block: &Block,
        rows: usize,
        weights: *const f32,
        past: *const f32,
        (sums, sum_stride): (*mut f32, usize),
        soon: &mut Soon,
    ) {
        let Values { segment, kv_head, width, .. } = *self;
        let mut key = 0;
        for Piece { span, token, count } in segment.pieces(&block.keys) {
            // SAFETY: as in `vector`.
            unsafe {
                with_cell!(&span.values, kv_head, token, |cell| {
                    let mut row = 0;
                    while row < rows {
                        let sums = (sums.add(row * sum_stride), sum_stride);
                        let weights = weights.add(row * KEYS + key);
                        let values = (cell, span.values.token_stride, count);
                        let past = if key == 0 { past.add(row) } else { [1.0; TOGETHER].as_ptr() };
                        row += match rows - row {
                            TOGETHER.. => sum_values::<V, _, TOGETHER>(
                                sums, width, weights, past, values, soon,
                            ),
                            2.. => sum_values::<V, _, 2>(sums, width, weights, past, values, soon),
                            _ => sum_values::<V, _, 1>(sums, width, weights, past, values, soon),
                        };
                    }
                });
            }
            key += count;
        }
    }

    /// Values as `[key][width]`, padded with zeros: what pads the width is multiplied too, and must be finite.
    #[inline(always)]
    unsafe fn bring<V: Vector>(&self, block: &Block, to: *mut f32) {
        let Values { segment, kv_head, width, .. } = *self;
        let mut key = 0;
        for Piece { span, token, count } in segment.pieces(&block.keys) {
            // SAFETY: as in `vector`.
            unsafe {
                with_cell!(&span.values, kv_head, token, |cell| {
                    for k in 0..count {
                        let value = cell.at(k * span.values.token_stride);
                        let to = to.add((key + k) * padded(width));
                        for i in (0..width).step_by(V::LANES) {
                            V::store(to.add(i), value.load_to::<V>(i, width));
                        }
                        for i in width.next_multiple_of(V::LANES)..padded(width) {
                            *to.add(i) = 0.0;
                        }
                    }
                });
            }
            key += count;
        }
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn multiply<V: Vector>(row: *mut f32, width: usize, factor: f32) {
    // SAFETY: as in `vector`.
    unsafe {
        let factor = V::splat(factor);
        for i in (0..width).step_by(V::LANES) {
            V::store(row.add(i), V::mul(V::load(row.add(i)), factor));
        }
    }
}

/// `R` rows of sums, each first multiplied with its `past`, plus `count` weighted values; gives `R`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn sum_values<V: Vector, C: Cell, const R: usize>(
    (sums, sum_stride): (*mut f32, usize),
    width: usize,
    weights: *const f32,
    past: *const f32,
    (values, stride, count): (C, usize, usize),
    soon: &mut Soon,
) -> usize {
    const WIDE: usize = 4;
    let mut i = 0;
    // SAFETY: as in `vector`; sums are padded to whole vectors.
    unsafe {
        while i < width {
            let wide = V::TILE_VECTORS == WIDE && i + WIDE * V::LANES <= width;
            let pair = !wide && i + 2 * V::LANES <= width;
            let sums = (sums.add(i), sum_stride);
            let cells = (values.at(i), stride, count);
            if wide {
                columns::<V, C, R, WIDE>(sums, weights, past, cells, soon);
                i += WIDE * V::LANES;
            } else if pair {
                columns::<V, C, R, 2>(sums, weights, past, cells, soon);
                i += 2 * V::LANES;
            } else {
                last_columns::<V, C, R>(sums, weights, past, cells, (width - i).min(V::LANES));
                i += V::LANES;
            }
        }
    }
    R
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn columns<V: Vector, C: Cell, const R: usize, const N: usize>(
    (sums, sum_stride): (*mut f32, usize),
    weights: *const f32,
    past: *const f32,
    (values, stride, count): (C, usize, usize),
    soon: &mut Soon,
) {
    // SAFETY: as in `vector`.
    unsafe {
        let mut total = [[V::zero(); N]; R];
        for r in 0..R {
            for n in 0..N {
                let sum = V::load(sums.add(r * sum_stride + n * V::LANES));
                total[r][n] = V::mul(sum, V::splat(*past.add(r)));
            }
        }
        for k in 0..count {
            let value = values.at(k * stride);
            soon.lines(N.div_ceil(2));
            for n in 0..N {
                let v = value.load::<V>(n * V::LANES);
                for r in 0..R {
                    let weight = V::splat(*weights.add(r * KEYS + k));
                    total[r][n] = V::fma(v, weight, total[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                V::store(sums.add(r * sum_stride + n * V::LANES), total[r][n]);
            }
        }
    }
}

/// As `columns`, for `width` columns at most a vector.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn last_columns<V: Vector, C: Cell, const R: usize>(
    (sums, sum_stride): (*mut f32, usize),
    weights: *const f32,
    past: *const f32,
    (values, stride, count): (C, usize, usize),
    width: usize,
) {
    // SAFETY: as in `vector`.
    unsafe {
        for r in 0..R {
            let at = sums.add(r * sum_stride);
            let mut total = V::mul(V::load(at), V::splat(*past.add(r)));
            for k in 0..count {
                let v = values.at(k * stride).load_to::<V>(0, width);
                total = V::fma(v, V::splat(*weights.add(r * KEYS + k)), total);
            }
            V::store(at, total);
        }
    }
}
