//! Scores of a block: its keys are turned once for all rows that read them, then each lane is a key.

// Tiles of registers are arrays of arrays: numbering them says more than iterating.
#![allow(clippy::needless_range_loop)]

use super::history::{Cell, with_cell};
use super::{Block, KEYS, Piece, Segment};
use crate::vector::{LANES_MAX, Vector};

/// Keys that memory is asked for early: the next block's, because between reading keys of a block and of the next one
/// lie its values.
pub(super) const AHEAD: usize = KEYS;

/// Rows of a register tile.
const TILE_ROWS: usize = 6;

/// Keys of one head.
pub(super) struct Keys<'a> {
    pub segment: &'a Segment<'a>,
    pub kv_head: usize,
    pub dim: usize,
}

#[allow(clippy::missing_safety_doc)]
impl Keys<'_> {
    /// Scores `[rows][KEYS]`, each at its key's place in the block; `turned` has room for `[dim][KEYS]`.
    #[inline(always)]
    pub unsafe fn score<V: Vector>(
        &self,
        block: &Block,
        rows: usize,
        queries: (*const f32, usize),
        turned: *mut f32,
        scores: *mut f32,
    ) {
        let Keys { segment, kv_head, dim } = *self;
        let mut column = block.lead();
        // SAFETY: as in `vector`.
        unsafe {
            for Piece { span, token, count } in segment.pieces(&block.keys) {
                let ahead = segment.ahead(block.first() + column + AHEAD);
                let ahead = ahead
                    .map_or(std::ptr::null(), |(span, token)| span.keys.address(kv_head, token));
                with_cell!(&span.keys, kv_head, token, |cell| {
                    pack::<V, _>((cell, span.keys.token_stride, count), ahead, dim, turned, column);
                });
                column += count;
            }
            let skipped = block.lead() - block.lead() % V::LANES;
            let keys = (turned.add(skipped).cast_const(), KEYS);
            product::<V>(
                rows,
                block.end() - skipped,
                dim,
                queries,
                keys,
                (scores.add(skipped), KEYS),
                false,
            );
        }
    }
}

/// Keys as `[dim][KEYS]` from place `column` on; as many from `ahead` on are asked for.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn pack<V: Vector, C: Cell>(
    (keys, stride, count): (C, usize, usize),
    ahead: *const u8,
    dim: usize,
    to: *mut f32,
    column: usize,
) {
    // SAFETY: as in `vector`.
    unsafe {
        for k in (0..count).step_by(V::LANES) {
            let (at, here) = (column + k, V::LANES.min(count - k));
            let store = |i: usize, v: V::F| {
                let to = to.add(i * KEYS + at);
                if at + V::LANES <= KEYS {
                    V::store(to, v);
                } else {
                    V::store_part(to, v, KEYS - at);
                }
            };
            let mut i = 0;
            while C::PAIRS && i + 2 * V::LANES <= dim {
                let mut square = [V::zero(); LANES_MAX];
                for row in 0..here {
                    C::announce(ahead, (k + row) * stride + i);
                    square[row] = keys.at((k + row) * stride).load_pairs::<V>(i);
                }
                V::transpose(square.as_mut_ptr());
                for row in 0..V::LANES {
                    let [even, odd] = V::split_bf16_pairs(square[row]);
                    store(i + 2 * row, even);
                    store(i + 2 * row + 1, odd);
                }
                i += 2 * V::LANES;
            }
            while i < dim {
                let mut square = [V::zero(); LANES_MAX];
                for row in 0..here {
                    C::announce(ahead, (k + row) * stride + i);
                    square[row] = keys.at((k + row) * stride).load_to::<V>(i, dim);
                }
                V::transpose(square.as_mut_ptr());
                for row in 0..V::LANES.min(dim - i) {
                    store(i + row, square[row]);
                }
                i += V::LANES;
            }
        }
    }
}

/// `c[rows, columns] (+)= a[rows, depth] · b[depth, columns]`, each with its stride; whole vectors of columns.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(super) unsafe fn product<V: Vector>(
    rows: usize,
    columns: usize,
    depth: usize,
    a: (*const f32, usize),
    b: (*const f32, usize),
    c: (*mut f32, usize),
    add: bool,
) {
    let mut column = 0;
    // SAFETY: as in `vector`.
    unsafe {
        while column < columns {
            let vectors = (columns - column).div_ceil(V::LANES);
            let b = (b.0.add(column), b.1);
            let c = (c.0.add(column), c.1);
            column += V::LANES
                * match vectors {
                    4.. if V::TILE_VECTORS == 4 => strip::<V, 4>(rows, depth, a, b, c, add),
                    2.. => strip::<V, 2>(rows, depth, a, b, c, add),
                    _ => strip::<V, 1>(rows, depth, a, b, c, add),
                };
        }
    }
}

/// `N` vectors of columns; gives `N`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn strip<V: Vector, const N: usize>(
    rows: usize,
    depth: usize,
    a: (*const f32, usize),
    b: (*const f32, usize),
    c: (*mut f32, usize),
    add: bool,
) -> usize {
    let mut row = 0;
    // SAFETY: as in `vector`.
    unsafe {
        while row < rows {
            let a = (a.0.add(row * a.1), a.1);
            let c = (c.0.add(row * c.1), c.1);
            row += match rows - row {
                TILE_ROWS.. => tile::<V, TILE_ROWS, N>(depth, a, b, c, add),
                4.. => tile::<V, 4, N>(depth, a, b, c, add),
                2.. => tile::<V, 2, N>(depth, a, b, c, add),
                _ => tile::<V, 1, N>(depth, a, b, c, add),
            };
        }
    }
    N
}

/// `R` rows by `N` vectors in registers; gives `R`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn tile<V: Vector, const R: usize, const N: usize>(
    depth: usize,
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    (c, c_stride): (*mut f32, usize),
    add: bool,
) -> usize {
    // SAFETY: as in `vector`.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        if add {
            for r in 0..R {
                for n in 0..N {
                    sums[r][n] = V::load(c.add(r * c_stride + n * V::LANES));
                }
            }
        }
        for k in 0..depth {
            let row = b.add(k * b_stride);
            let mut vectors = [V::zero(); N];
            for (n, v) in vectors.iter_mut().enumerate() {
                *v = V::load(row.add(n * V::LANES));
            }
            for r in 0..R {
                let factor = V::splat(*a.add(r * a_stride + k));
                for n in 0..N {
                    sums[r][n] = V::fma(vectors[n], factor, sums[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                V::store(c.add(r * c_stride + n * V::LANES), sums[r][n]);
            }
        }
    }
    R
}
