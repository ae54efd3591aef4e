//! Few rows: keys and values are read as they lie, each once for up to four rows.

// Tiles of registers are arrays of arrays: numbering them says more than iterating.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::history::{Cell, with_cell};
use super::schedule::{Merge as MergeOf, Task};
use super::softmax::Running;
use super::{Attention, Call, Piece};
use crate::vector::{Body, LANES_MAX, Source, Vector};

/// Rows (queries times heads of a group) up to which a task goes this way.
pub(super) const ROWS_MAX: usize = 8;

/// Keys in a block: their scores and their bytes stay in the nearest cache.
const KEYS: usize = 64;

/// Keys that memory is asked for early: the next block's, because between reading keys of a block and of the next one
/// lie its values.
const AHEAD: usize = KEYS;

/// Rows that share one reading.
const TOGETHER: usize = 4;

/// Queries, scores and sums of a task.
pub(super) fn work_floats(attention: &Attention<'_>) -> usize {
    ROWS_MAX * (padded(attention.queries.dim) + KEYS + padded(attention.value_dim))
}

/// Sums, maxima and denominators of a part.
pub(super) fn part_floats(attention: &Attention<'_>) -> usize {
    ROWS_MAX * (padded(attention.value_dim) + 2)
}

/// Whole vectors, whichever they are.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES_MAX)
}

pub(super) struct Few<'a> {
    pub call: &'a Call<'a>,
    pub task: &'a Task,
    pub work: *mut f32,
    /// Where the result goes if it is a part.
    pub partial: Option<*mut f32>,
}

/// Pointers into a task's memory.
struct Work {
    rows: usize,
    queries: *mut f32,
    query_stride: usize,
    scores: *mut f32,
    sums: *mut f32,
    sum_stride: usize,
}

impl Body for Few<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (attention, task) = (self.call.attention, self.task);
        let segment = &attention.segments[task.segment];
        let (group, dim, value_dim) =
            (attention.group(), attention.queries.dim, attention.value_dim);
        let rows = task.queries.len() * group;
        let (query_stride, sum_stride) = (padded(dim), padded(value_dim));
        // SAFETY: `work_floats` has room for all.
        unsafe {
            let scores = self.work.add(ROWS_MAX * query_stride);
            let sums = scores.add(ROWS_MAX * KEYS);
            let sums = self.partial.unwrap_or(sums);
            let work = Work { rows, queries: self.work, query_stride, scores, sums, sum_stride };
            work.load_queries::<V>(attention, segment.row, task);
            sums.write_bytes(0, rows * sum_stride);
            let mut running = [Running::NEW; ROWS_MAX];
            let mut start = task.keys.start;
            while start < task.keys.end {
                let keys = start..(start + KEYS).min(task.keys.end);
                start = keys.end;
                work.score::<V>(attention, task, &keys);
                let mut past = [1f32; ROWS_MAX];
                for row in 0..rows {
                    let scores = scores.add(row * KEYS);
                    let (query, head) = (task.queries.start + row / group, row % group);
                    let head = task.kv_head * group + head;
                    attention.adjust::<V>(segment, (query, head), &keys, scores);
                    past[row] = running[row].take::<V>(scores, keys.len());
                }
                work.weigh::<V>(attention, task, &keys, &past);
            }
            match self.partial {
                Some(partial) => {
                    let ends = partial.add(ROWS_MAX * sum_stride);
                    for (row, running) in running.iter().enumerate() {
                        *ends.add(2 * row) = running.max;
                        *ends.add(2 * row + 1) = running.sum;
                    }
                }
                None => {
                    let at = (task.segment, task.kv_head);
                    finish::<V>(self.call, at, &task.queries, sums, sum_stride, &running[..rows]);
                }
            }
        }
    }
}

/// Divides and writes rows to the output.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(super) unsafe fn finish<V: Vector>(
    call: &Call<'_>,
    (segment, kv_head): (usize, usize),
    queries: &Range<usize>,
    sums: *const f32,
    stride: usize,
    running: &[Running],
) {
    let attention = call.attention;
    let (group, width) = (attention.group(), attention.value_dim);
    for (row, &running) in running.iter().enumerate() {
        let head = kv_head * group + row % group;
        let query = attention.segments[segment].row + queries.start + row / group;
        let out = call.out.at(query, head);
        // SAFETY: as in `vector`.
        unsafe {
            let share = V::splat(attention.share(head, running));
            let sums = sums.add(row * stride);
            for i in (0..width).step_by(V::LANES) {
                out.store_to::<V>(i, width, V::mul(V::load(sums.add(i)), share));
            }
        }
    }
}

#[allow(clippy::missing_safety_doc)]
impl Work {
    /// Queries as f32, scaled, padded with zeros.
    #[inline(always)]
    unsafe fn load_queries<V: Vector>(&self, attention: &Attention<'_>, row: usize, task: &Task) {
        let (group, dim) = (attention.group(), attention.queries.dim);
        for r in 0..self.rows {
            let head = task.kv_head * group + r % group;
            let from = attention.queries.at(row + task.queries.start + r / group, head);
            // SAFETY: as in `vector`.
            unsafe {
                load_query::<V>(
                    from,
                    dim,
                    attention.scale,
                    self.queries.add(r * self.query_stride),
                );
            }
        }
    }

    /// Scores of all rows against the block's keys.
    #[inline(always)]
    unsafe fn score<V: Vector>(&self, attention: &Attention<'_>, task: &Task, keys: &Range<usize>) {
        let segment = &attention.segments[task.segment];
        let dim = attention.queries.dim;
        let mut column = 0;
        for Piece { span, token, count } in segment.pieces(keys) {
            let ahead = segment.ahead(keys.start + column + AHEAD);
            let ahead = ahead
                .map_or(std::ptr::null(), |(span, token)| span.keys.address(task.kv_head, token));
            // SAFETY: as in `vector`.
            unsafe {
                with_cell!(&span.keys, task.kv_head, token, |cell| {
                    let mut row = 0;
                    while row < self.rows {
                        let rows = self.rows - row;
                        let q = self.queries.add(row * self.query_stride);
                        let q = (q.cast_const(), self.query_stride);
                        let to = self.scores.add(row * KEYS + column);
                        let keys = (cell, span.keys.token_stride, count, ahead);
                        row += match rows {
                            _ if V::LANES == 1 => dots::<V, _, 1>(q, dim, keys, to),
                            TOGETHER.. => dots::<V, _, TOGETHER>(q, dim, keys, to),
                            2.. => dots::<V, _, 2>(q, dim, keys, to),
                            _ => dots::<V, _, 1>(q, dim, keys, to),
                        };
                    }
                });
            }
            column += count;
        }
    }

    /// Adds the weighted values of the block to the sums.
    #[inline(always)]
    unsafe fn weigh<V: Vector>(
        &self,
        attention: &Attention<'_>,
        task: &Task,
        keys: &Range<usize>,
        past: &[f32; ROWS_MAX],
    ) {
        let segment = &attention.segments[task.segment];
        let width = attention.value_dim;
        let mut column = 0;
        for Piece { span, token, count } in segment.pieces(keys) {
            let ahead = segment.ahead(keys.start + column + AHEAD);
            let ahead = ahead
                .map_or(std::ptr::null(), |(span, token)| span.values.address(task.kv_head, token));
            // SAFETY: as in `vector`.
            unsafe {
                with_cell!(&span.values, task.kv_head, token, |cell| {
                    let mut row = 0;
                    while row < self.rows {
                        let sums = (self.sums.add(row * self.sum_stride), self.sum_stride);
                        let weights = self.scores.add(row * KEYS + column).cast_const();
                        let values = (cell, span.values.token_stride, count, ahead);
                        let past = if column == 0 { &past[row..] } else { &[1.0; TOGETHER] };
                        row += match self.rows - row {
                            TOGETHER.. => {
                                sum_values::<V, _, TOGETHER>(sums, width, weights, past, values)
                            }
                            2.. => sum_values::<V, _, 2>(sums, width, weights, past, values),
                            _ => sum_values::<V, _, 1>(sums, width, weights, past, values),
                        };
                    }
                });
            }
            column += count;
        }
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(super) unsafe fn load_query<V: Vector>(from: Source, dim: usize, scale: f32, to: *mut f32) {
    // SAFETY: as in `vector`.
    unsafe {
        let scale = V::splat(scale);
        for i in (0..dim).step_by(V::LANES) {
            V::store(to.add(i), V::mul(from.load_to::<V>(i, dim), scale));
        }
    }
}

/// `R` rows of queries against `count` keys, as many at once as make `LANES` sums; gives `R`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn dots<V: Vector, C: Cell, const R: usize>(
    (queries, query_stride): (*const f32, usize),
    dim: usize,
    (keys, stride, count, ahead): (C, usize, usize, *const u8),
    to: *mut f32,
) -> usize {
    let at_once = V::LANES / R;
    let whole = dim - dim % V::LANES;
    // SAFETY: as in `vector`.
    unsafe {
        let mut next = 0;
        while next < count {
            let (used, first) = (at_once.min(count - next), next);
            // Past the end the last keys are read again.
            let first = if used < at_once { count.saturating_sub(at_once) } else { first };
            let block = keys.at(first * stride);
            let last = count - 1 - first;
            let mut sums = [V::zero(); LANES_MAX];
            for i in (0..whole).step_by(V::LANES) {
                for k in 0..at_once {
                    let key = block.at(k.min(last) * stride);
                    C::announce(ahead, (first + k) * stride + i);
                    let key = key.load::<V>(i);
                    for r in 0..R {
                        let query = V::load(queries.add(r * query_stride + i));
                        sums[k * R + r] = V::fma(key, query, sums[k * R + r]);
                    }
                }
            }
            if whole < dim {
                for k in 0..at_once {
                    let key = block.at(k.min(last) * stride).load_to::<V>(whole, dim);
                    for r in 0..R {
                        let query = V::load(queries.add(r * query_stride + whole));
                        sums[k * R + r] = V::fma(key, query, sums[k * R + r]);
                    }
                }
            }
            let mut totals = [0f32; LANES_MAX];
            V::store(totals.as_mut_ptr(), V::sums(sums.as_mut_ptr()));
            for k in 0..at_once.min(count) {
                for r in 0..R {
                    *to.add(r * KEYS + first + k) = totals[k * R + r];
                }
            }
            next += used;
        }
    }
    R
}

/// `R` rows of sums, each first multiplied with its `past`, plus `count` weighted values; gives `R`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn sum_values<V: Vector, C: Cell, const R: usize>(
    (sums, sum_stride): (*mut f32, usize),
    width: usize,
    weights: *const f32,
    past: &[f32],
    (values, stride, count, ahead): (C, usize, usize, *const u8),
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
                columns::<V, C, R, WIDE>(sums, weights, past, cells, (ahead, i));
                i += WIDE * V::LANES;
            } else if pair {
                columns::<V, C, R, 2>(sums, weights, past, cells, (ahead, i));
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
    past: &[f32],
    (values, stride, count): (C, usize, usize),
    (ahead, column): (*const u8, usize),
) {
    // SAFETY: as in `vector`.
    unsafe {
        let mut total = [[V::zero(); N]; R];
        for r in 0..R {
            for n in 0..N {
                let sum = V::load(sums.add(r * sum_stride + n * V::LANES));
                total[r][n] = V::mul(sum, V::splat(past[r]));
            }
        }
        for k in 0..count {
            let value = values.at(k * stride);
            for n in 0..N {
                C::announce(ahead, k * stride + column + n * V::LANES);
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
    past: &[f32],
    (values, stride, count): (C, usize, usize),
    width: usize,
) {
    // SAFETY: as in `vector`.
    unsafe {
        for r in 0..R {
            let at = sums.add(r * sum_stride);
            let mut total = V::mul(V::load(at), V::splat(past[r]));
            for k in 0..count {
                let v = values.at(k * stride).load_to::<V>(0, width);
                total = V::fma(v, V::splat(*weights.add(r * KEYS + k)), total);
            }
            V::store(at, total);
        }
    }
}

/// Parts of a history become one result.
pub(super) struct Merge<'a> {
    pub call: &'a Call<'a>,
    pub merge: &'a MergeOf,
    pub partial: *mut f32,
}

impl Body for Merge<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let attention = self.call.attention;
        let (size, stride) = (part_floats(attention), padded(attention.value_dim));
        let rows = self.merge.queries.len() * attention.group();
        let mut running = [Running::NEW; ROWS_MAX];
        // SAFETY: as in `vector`.
        unsafe {
            let first = self.partial.add(self.merge.parts.start * size);
            for part in 0..self.merge.parts.len() {
                let from = first.add(part * size);
                for (row, running) in running.iter_mut().enumerate().take(rows) {
                    let end = from.add(ROWS_MAX * stride + 2 * row);
                    let other = Running { max: *end, sum: *end.add(1) };
                    if part == 0 {
                        *running = other;
                        continue;
                    }
                    let (joined, a, b) = running.join(other);
                    *running = joined;
                    let (to, from) = (first.add(row * stride), from.add(row * stride));
                    for i in (0..stride).step_by(V::LANES) {
                        let new = V::mul(V::load(from.add(i)), V::splat(b));
                        V::store(to.add(i), V::fma(V::load(to.add(i)), V::splat(a), new));
                    }
                }
            }
            let at = (self.merge.segment, self.merge.kv_head);
            finish::<V>(self.call, at, &self.merge.queries, first, stride, &running[..rows]);
        }
    }
}
