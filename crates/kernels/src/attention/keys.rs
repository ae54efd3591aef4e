//! Scores of a block: its keys are turned once for all rows that read them, then each lane is a key.

// Tiles of registers are arrays of arrays: numbering them says more than iterating.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::history::{Cell, Soon, with_cell};
use super::{Block, FEW_ROWS_MAX, KEYS, Piece, Segment, Span};
use crate::vector::{LANES_MAX, Vector};

/// Rows of a register tile.
const TILE_ROWS: usize = 6;

/// Steps of a tile after which lines are asked for.
const STEPS: usize = 16;

/// Keys of one head.
pub(super) struct Keys<'a> {
    pub segment: &'a Segment<'a>,
    pub kv_head: usize,
    pub dim: usize,
    /// Of values.
    pub width: usize,
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
        let Keys { segment, kv_head, dim, width } = *self;
        // The block's values, which are read next.
        let of = |span: &Span<'_>, token, tokens| span.values.soon(kv_head, token, tokens, width);
        let mut soon = segment.soon(block.keys.start, of);
        // Rows enough to hide their way are worked on while they come, few while keys are turned.
        let mut none = Soon::NOTHING;
        let while_turning = if rows <= FEW_ROWS_MAX { &mut soon } else { &mut none };
        let mut column = block.lead();
        // SAFETY: as in `vector`.
        unsafe {
            for Piece { span, token, count } in segment.pieces(&block.keys) {
                with_cell!(&span.keys, kv_head, token, |cell| {
                    let keys = (cell, span.keys.token_stride, count);
                    turn::<V, _>(keys, while_turning, dim, turned, column);
                });
                column += count;
            }
            let skipped = block.lead() - block.lead() % V::LANES;
            let size = [rows, block.end() - skipped, dim];
            let keys = (turned.add(skipped).cast_const(), KEYS);
            let to = (scores.add(skipped), KEYS);
            product::<V>(size, queries, keys, to, false, &mut soon);
        }
    }
}

/// Keys as `[dim][KEYS]` from place `column` on.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn turn<V: Vector, C: Cell>(
    (keys, stride, count): (C, usize, usize),
    soon: &mut Soon,
    dim: usize,
    to: *mut f32,
    column: usize,
) {
    // SAFETY: as in `vector`.
    unsafe {
        for k in (0..count).step_by(V::LANES) {
            let (keys, at) = (keys.at(k * stride), column + k);
            let here = V::LANES.min(count - k);
            let mut i = 0;
            while C::PAIRS && i + 2 * V::LANES <= dim {
                soon.lines(V::LANES);
                let pairs = square::<V, C, true>(keys, stride, here, i..dim);
                for row in 0..V::LANES {
                    let [even, odd] = V::split_bf16_pairs(pairs[row]);
                    place::<V>(to.add((i + 2 * row) * KEYS), at, even);
                    place::<V>(to.add((i + 2 * row + 1) * KEYS), at, odd);
                }
                i += 2 * V::LANES;
            }
            while i < dim {
                soon.lines(V::LANES);
                let square = square::<V, C, false>(keys, stride, here, i..dim);
                for row in 0..V::LANES.min(dim - i) {
                    place::<V>(to.add((i + row) * KEYS), at, square[row]);
                }
                i += V::LANES;
            }
        }
    }
}

/// A vector of numbers (or of pairs of them) from `range` on of each of `here` keys, turned: a lane is a key.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn square<V: Vector, C: Cell, const PAIRS: bool>(
    keys: C,
    stride: usize,
    here: usize,
    range: Range<usize>,
) -> [V::F; LANES_MAX] {
    // SAFETY: as in `vector`.
    unsafe {
        let mut square = [V::zero(); LANES_MAX];
        // Whole squares, which nearly all are, stay in registers.
        if here == V::LANES && (PAIRS || range.len() >= V::LANES) {
            for row in 0..V::LANES {
                let key = keys.at(row * stride);
                square[row] = if PAIRS {
                    key.load_pairs::<V>(range.start)
                } else {
                    key.load::<V>(range.start)
                };
            }
            V::transpose(square.as_mut_ptr());
            return square;
        }
        for row in 0..here {
            let key = keys.at(row * stride);
            square[row] = if PAIRS {
                key.load_pairs::<V>(range.start)
            } else {
                key.load_to::<V>(range.start, range.end)
            };
        }
        V::transpose(square.as_mut_ptr());
        square
    }
}

/// Into a row of `KEYS`, from `at` on.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn place<V: Vector>(row: *mut f32, at: usize, v: V::F) {
    // SAFETY: as in `vector`.
    unsafe {
        if at + V::LANES <= KEYS {
            V::store(row.add(at), v);
        } else {
            V::store_part(row.add(at), v, KEYS - at);
        }
    }
}

/// `c[rows, columns] (+)= a[rows, depth] · b[depth, columns]`, each with its stride; whole vectors of columns. What will be
/// read soon is asked for meanwhile.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(super) unsafe fn product<V: Vector>(
    [rows, columns, depth]: [usize; 3],
    a: (*const f32, usize),
    b: (*const f32, usize),
    c: (*mut f32, usize),
    add: bool,
    soon: &mut Soon,
) {
    let tiles = rows.div_ceil(TILE_ROWS) * columns.div_ceil(V::TILE_VECTORS * V::LANES);
    let lines = soon.left().div_ceil((tiles * depth.div_ceil(STEPS)).max(1));
    let mut column = 0;
    // SAFETY: as in `vector`.
    unsafe {
        while column < columns {
            let vectors = (columns - column).div_ceil(V::LANES);
            let b = (b.0.add(column), b.1);
            let c = (c.0.add(column), c.1);
            let size = [rows, depth];
            column += V::LANES
                * match vectors {
                    4.. if V::TILE_VECTORS == 4 => strip::<V, 4>(size, a, b, c, add, (soon, lines)),
                    2.. => strip::<V, 2>(size, a, b, c, add, (soon, lines)),
                    _ => strip::<V, 1>(size, a, b, c, add, (soon, lines)),
                };
        }
    }
}

/// `N` vectors of columns; gives `N`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn strip<V: Vector, const N: usize>(
    [rows, depth]: [usize; 2],
    a: (*const f32, usize),
    b: (*const f32, usize),
    c: (*mut f32, usize),
    add: bool,
    (soon, lines): (&mut Soon, usize),
) -> usize {
    let mut row = 0;
    // SAFETY: as in `vector`.
    unsafe {
        while row < rows {
            let a = (a.0.add(row * a.1), a.1);
            let c = (c.0.add(row * c.1), c.1);
            let soon = (&mut *soon, lines);
            row += match rows - row {
                TILE_ROWS.. => tile::<V, TILE_ROWS, N>(depth, a, b, c, add, soon),
                4.. => tile::<V, 4, N>(depth, a, b, c, add, soon),
                2.. => tile::<V, 2, N>(depth, a, b, c, add, soon),
                _ => tile::<V, 1, N>(depth, a, b, c, add, soon),
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
    (soon, lines): (&mut Soon, usize),
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
        for start in (0..depth).step_by(STEPS) {
            soon.lines(lines);
            for k in start..depth.min(start + STEPS) {
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
        }
        for r in 0..R {
            for n in 0..N {
                V::store(c.add(r * c_stride + n * V::LANES), sums[r][n]);
            }
        }
    }
    R
}
