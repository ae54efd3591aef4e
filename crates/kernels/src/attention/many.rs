//! Many rows: block by block, keys transposed and values brought to f32 once for all rows of the block.

// Tiles of registers are arrays of arrays: numbering them says more than iterating.
#![allow(clippy::needless_range_loop)]

use super::few::{finish, join, load_query};
use super::history::{Cell, with_cell};
use super::schedule::Task;
use super::softmax::Running;
use super::{Attention, Block, Call, KEYS, PART_KEYS, Piece, Segment};
use crate::vector::{Body, LANES_MAX, Vector};

/// Rows in a block, queries times heads of a group; a multiple of `TILE_ROWS`. With heads of 128, its memory is 250 KiB.
pub(super) const ROWS_MAX: usize = 96;

/// Rows of a register tile.
const TILE_ROWS: usize = 6;

pub(super) fn work_floats(attention: &Attention<'_>) -> usize {
    let (dim, width) = widths(attention);
    let rows = rows_max(attention);
    // The last for sums with running maximum and denominator, of a part and of those before it.
    rows * dim + KEYS * dim + KEYS * width + rows * KEYS + 2 * rows * (width + 2)
}

/// Groups larger than a block are one block.
fn rows_max(attention: &Attention<'_>) -> usize {
    ROWS_MAX.max(attention.group())
}

fn widths(attention: &Attention<'_>) -> (usize, usize) {
    let padded = |dim: usize| dim.next_multiple_of(LANES_MAX);
    (padded(attention.queries.dim), padded(attention.value_dim))
}

pub(super) struct Many<'a> {
    pub call: &'a Call<'a>,
    pub task: &'a Task,
    pub work: *mut f32,
}

/// Pointers into a task's memory.
struct Work {
    rows: usize,
    queries: *mut f32,
    keys: *mut f32,
    values: *mut f32,
    scores: *mut f32,
}

impl Body for Many<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (attention, task) = (self.call.attention, self.task);
        let segment = &attention.segments[task.segment];
        let (dim_padded, width) = widths(attention);
        let (rows, rows_max) = (task.queries.len() * attention.group(), rows_max(attention));
        // SAFETY: `work_floats` has room for all.
        unsafe {
            let keys = self.work.add(rows_max * dim_padded);
            let values = keys.add(KEYS * dim_padded);
            let scores = values.add(KEYS * width);
            let work = Work { rows, queries: self.work, keys, values, scores };
            work.load_queries::<V>(attention, task);
            let sums = scores.add(rows_max * KEYS);
            let spare = sums.add(rows_max * width);
            let running = spare.add(rows_max * width).cast::<Running>();
            let [running, own] = [running, running.add(rows_max)].map(|running| {
                (0..rows).for_each(|row| running.add(row).write(Running::NEW));
                std::slice::from_raw_parts_mut(running, rows)
            });
            let mut left = task.keys.clone();
            let part = segment.first_of(&left, PART_KEYS).keys;
            left.start = part.end;
            work.part::<V>(attention, task, part, sums, running);
            while !left.is_empty() {
                let part = segment.first_of(&left, PART_KEYS).keys;
                left.start = part.end;
                work.part::<V>(attention, task, part, spare, own);
                join::<V>(running, own, sums, spare, width);
            }
            let at = (task.segment, task.kv_head);
            finish::<V>(self.call, at, &task.queries, sums, width, running);
        }
    }
}

#[allow(clippy::missing_safety_doc)]
impl Work {
    #[inline(always)]
    unsafe fn load_queries<V: Vector>(&self, attention: &Attention<'_>, task: &Task) {
        let segment = &attention.segments[task.segment];
        let (group, (stride, _)) = (attention.group(), widths(attention));
        for row in 0..self.rows {
            let head = task.kv_head * group + row % group;
            let query = segment.row + task.queries.start + row / group;
            let from = attention.queries.at(query, head);
            // SAFETY: as in `vector`.
            unsafe {
                let to = self.queries.add(row * stride);
                load_query::<V>(from, attention.queries.dim, attention.scale, to);
            }
        }
    }

    /// The keys of one part, into new sums.
    #[inline(always)]
    unsafe fn part<V: Vector>(
        &self,
        attention: &Attention<'_>,
        task: &Task,
        part: std::ops::Range<usize>,
        sums: *mut f32,
        running: &mut [Running],
    ) {
        let segment = &attention.segments[task.segment];
        let (group, dim) = (attention.group(), attention.queries.dim);
        let (dim_padded, width) = widths(attention);
        // SAFETY: as in `vector`.
        unsafe {
            sums.write_bytes(0, self.rows * width);
            running.fill(Running::NEW);
            let mut left = part;
            while !left.is_empty() {
                let block = segment.first_of(&left, KEYS);
                left.start = block.keys.end;
                pack::<V>(attention, segment, task.kv_head, &block, self.keys, self.values);
                let skipped = block.lead - block.lead % V::LANES;
                let q = (self.queries.cast_const(), dim_padded);
                let k = (self.keys.add(skipped).cast_const(), KEYS);
                let to = (self.scores.add(skipped), KEYS);
                product::<V>(self.rows, block.end() - skipped, dim, q, k, to, false);
                for (row, running) in running.iter_mut().enumerate() {
                    let scores = self.scores.add(row * KEYS);
                    let (query, head) = (task.queries.start + row / group, row % group);
                    let head = task.kv_head * group + head;
                    attention.adjust::<V>(segment, (query, head), &block, scores);
                    let past = running.take::<V>(scores, block.end());
                    if past != 1.0 {
                        multiply::<V>(sums.add(row * width), width, past);
                    }
                }
                let p = (self.scores.add(block.lead).cast_const(), KEYS);
                let v = (self.values.cast_const(), width);
                product::<V>(self.rows, width, block.keys.len(), p, v, (sums, width), true);
            }
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

/// Keys as `[dim][KEYS]`, each at its place in the block, values as `[key][width]`, both f32.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn pack<V: Vector>(
    attention: &Attention<'_>,
    segment: &Segment<'_>,
    kv_head: usize,
    block: &Block,
    keys_at: *mut f32,
    values_at: *mut f32,
) {
    let (dim, value_dim) = (attention.queries.dim, attention.value_dim);
    let (_, width) = widths(attention);
    let mut column = 0;
    for Piece { span, token, count } in segment.pieces(&block.keys) {
        // SAFETY: as in `vector`.
        unsafe {
            with_cell!(&span.keys, kv_head, token, |cell| {
                let stride = span.keys.token_stride;
                let column = block.lead + column;
                let keys = (cell, stride, count);
                pack_keys::<V, _, false>(keys, std::ptr::null(), dim, keys_at, column);
            });
            with_cell!(&span.values, kv_head, token, |cell| {
                for k in 0..count {
                    let value = cell.at(k * span.values.token_stride);
                    let to = values_at.add((column + k) * width);
                    for i in (0..value_dim).step_by(V::LANES) {
                        V::store(to.add(i), value.load_to::<V>(i, value_dim));
                    }
                }
            });
        }
        column += count;
    }
    // What pads the width is multiplied too, and must be finite.
    let start = value_dim.next_multiple_of(V::LANES);
    for k in 0..column {
        for i in start..width {
            // SAFETY: as in `vector`.
            unsafe { *values_at.add(k * width + i) = 0.0 };
        }
    }
}

/// Keys from place `column` on. Where `AHEAD`, as many keys from `ahead` on are asked for.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(super) unsafe fn pack_keys<V: Vector, C: Cell, const AHEAD: bool>(
    (keys, stride, count): (C, usize, usize),
    ahead: *const u8,
    dim: usize,
    to: *mut f32,
    column: usize,
) {
    // SAFETY: as in `vector`.
    unsafe {
        for k in (0..count).step_by(V::LANES) {
            let at = column + k;
            for i in (0..dim).step_by(V::LANES) {
                let mut square = [V::zero(); LANES_MAX];
                for (row, v) in square.iter_mut().enumerate().take(V::LANES.min(count - k)) {
                    let key = keys.at((k + row) * stride);
                    if AHEAD {
                        C::announce(ahead, (k + row) * stride + i);
                    }
                    *v = key.load_to::<V>(i, dim);
                }
                V::transpose(square.as_mut_ptr());
                for (row, v) in square.iter().enumerate().take(V::LANES.min(dim - i)) {
                    let to = to.add((i + row) * KEYS + at);
                    if at + V::LANES <= KEYS {
                        V::store(to, *v);
                    } else {
                        V::store_part(to, *v, KEYS - at);
                    }
                }
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
