//! Few rows: keys are turned a block at a time, values are read as they lie, once for up to four rows.

// Tiles of registers are arrays of arrays: numbering them says more than iterating.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::history::{Cell, with_cell};
use super::many::{pack_keys, product};
use super::schedule::{Merge as MergeOf, Task};
use super::softmax::Running;
use super::{Attention, Block, Call, KEYS, PART_KEYS, Piece};
use crate::vector::{Body, LANES_MAX, Source, Vector};

/// Rows (queries times heads of a group) up to which a task goes this way.
pub(super) const ROWS_MAX: usize = 8;

/// Keys that memory is asked for early: the next block's, because between reading keys of a block and of the next one
/// lie its values.
const AHEAD: usize = KEYS;

/// Rows that share one reading.
const TOGETHER: usize = 4;

/// Queries, turned keys, scores and sums of a task, the latter of a part and of those before it.
pub(super) fn work_floats(attention: &Attention<'_>) -> usize {
    let (dim, width) = (padded(attention.queries.dim), padded(attention.value_dim));
    ROWS_MAX * (dim + KEYS + 2 * width) + KEYS * dim
}

/// Sums, maxima and denominators of a part of so many rows.
pub(super) fn part_floats(attention: &Attention<'_>, rows: usize) -> usize {
    rows * (padded(attention.value_dim) + 2)
}

/// Whole vectors, whichever they are.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES_MAX)
}

pub(super) struct Few<'a> {
    pub call: &'a Call<'a>,
    pub task: &'a Task,
    pub work: *mut f32,
    /// Where results go that are not the end of it: one for each part, but one for all where the task has the first part.
    pub partial: Option<*mut f32>,
    /// From one of those to the next.
    pub part_floats: usize,
}

/// Pointers into a task's memory.
struct Work {
    rows: usize,
    queries: *mut f32,
    query_stride: usize,
    keys: *mut f32,
    scores: *mut f32,
    sum_stride: usize,
}

impl Body for Few<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (attention, task) = (self.call.attention, self.task);
        let segment = &attention.segments[task.segment];
        let (query_stride, sum_stride) =
            (padded(attention.queries.dim), padded(attention.value_dim));
        let rows = task.queries.len() * attention.group();
        // SAFETY: `work_floats` has room for all, and `partial` for as many parts as there are.
        unsafe {
            let keys = self.work.add(ROWS_MAX * query_stride);
            let scores = keys.add(KEYS * query_stride);
            let spare = scores.add(ROWS_MAX * KEYS);
            let work = Work { rows, queries: self.work, query_stride, keys, scores, sum_stride };
            work.load_queries::<V>(attention, segment.row, task);
            let sums = self.partial.unwrap_or(spare.add(ROWS_MAX * sum_stride));
            let mut running = [Running::NEW; ROWS_MAX];
            let mut left = task.keys.clone();
            let part = segment.first_of(&left, PART_KEYS).keys;
            left.start = part.end;
            work.part::<V>(attention, task, part, sums, &mut running);
            if !task.leads {
                store(sums, sum_stride, &running[..rows]);
            }
            let mut number = 0;
            while !left.is_empty() {
                let part = segment.first_of(&left, PART_KEYS).keys;
                left.start = part.end;
                number += 1;
                let mut own = [Running::NEW; ROWS_MAX];
                if task.leads {
                    work.part::<V>(attention, task, part, spare, &mut own);
                    join::<V>(&mut running[..rows], &own, sums, spare, sum_stride);
                } else {
                    let sums = sums.add(number * self.part_floats);
                    work.part::<V>(attention, task, part, sums, &mut own);
                    store(sums, sum_stride, &own[..rows]);
                }
            }
            if task.leads && self.partial.is_some() {
                store(sums, sum_stride, &running[..rows]);
            } else if task.leads {
                let at = (task.segment, task.kv_head);
                finish::<V>(self.call, at, &task.queries, sums, sum_stride, &running[..rows]);
            }
        }
    }
}

/// Maxima and denominators go behind the sums.
#[allow(clippy::missing_safety_doc)]
unsafe fn store(sums: *mut f32, stride: usize, running: &[Running]) {
    // SAFETY: `part_floats` has room for them.
    unsafe {
        let ends = sums.add(running.len() * stride).cast::<[f32; 2]>();
        for (row, running) in running.iter().enumerate() {
            *ends.add(row) = [running.max, running.sum];
        }
    }
}

/// What `store` stored of row `row` of `rows`.
#[allow(clippy::missing_safety_doc)]
unsafe fn stored(sums: *const f32, stride: usize, rows: usize, row: usize) -> Running {
    // SAFETY: as above.
    let [max, sum] = unsafe { *sums.add(rows * stride).cast::<[f32; 2]>().add(row) };
    Running { max, sum }
}

/// The next part of each row joins those before it.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(super) unsafe fn join<V: Vector>(
    running: &mut [Running],
    other: &[Running],
    to: *mut f32,
    from: *const f32,
    stride: usize,
) {
    for (row, (running, &other)) in running.iter_mut().zip(other).enumerate() {
        let (joined, a, b) = running.join(other);
        *running = joined;
        // SAFETY: as in `vector`.
        unsafe {
            let (to, from) = (to.add(row * stride), from.add(row * stride));
            for i in (0..stride).step_by(V::LANES) {
                let new = V::mul(V::load(from.add(i)), V::splat(b));
                V::store(to.add(i), V::fma(V::load(to.add(i)), V::splat(a), new));
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

    /// The keys of one part, into new sums.
    #[inline(always)]
    unsafe fn part<V: Vector>(
        &self,
        attention: &Attention<'_>,
        task: &Task,
        part: Range<usize>,
        sums: *mut f32,
        running: &mut [Running; ROWS_MAX],
    ) {
        let segment = &attention.segments[task.segment];
        let group = attention.group();
        // SAFETY: as in `vector`.
        unsafe {
            sums.write_bytes(0, self.rows * self.sum_stride);
            let mut left = part;
            while !left.is_empty() {
                let block = segment.first_of(&left, KEYS);
                left.start = block.keys.end;
                self.score::<V>(attention, task, &block);
                let mut past = [1f32; ROWS_MAX];
                for row in 0..self.rows {
                    let scores = self.scores.add(row * KEYS);
                    let (query, head) = (task.queries.start + row / group, row % group);
                    let head = task.kv_head * group + head;
                    attention.adjust::<V>(segment, (query, head), &block, scores);
                    past[row] = running[row].take::<V>(scores, block.end());
                }
                self.weigh::<V>(attention, task, &block, sums, &past);
            }
        }
    }

    /// Scores of all rows against the block's keys.
    #[inline(always)]
    unsafe fn score<V: Vector>(&self, attention: &Attention<'_>, task: &Task, block: &Block) {
        let segment = &attention.segments[task.segment];
        let dim = attention.queries.dim;
        let mut column = block.lead;
        // SAFETY: as in `vector`.
        unsafe {
            for Piece { span, token, count } in segment.pieces(&block.keys) {
                let ahead = segment.ahead(block.keys.start + column - block.lead + AHEAD);
                let ahead = ahead.map_or(std::ptr::null(), |(span, token)| {
                    span.keys.address(task.kv_head, token)
                });
                with_cell!(&span.keys, task.kv_head, token, |cell| {
                    let keys = (cell, span.keys.token_stride, count);
                    pack_keys::<V, _, true>(keys, ahead, dim, self.keys, column);
                });
                column += count;
            }
            let skipped = block.lead - block.lead % V::LANES;
            let queries = (self.queries.cast_const(), self.query_stride);
            let keys = (self.keys.add(skipped).cast_const(), KEYS);
            let to = (self.scores.add(skipped), KEYS);
            product::<V>(self.rows, block.end() - skipped, dim, queries, keys, to, false);
        }
    }

    /// Adds the weighted values of the block to the sums.
    #[inline(always)]
    unsafe fn weigh<V: Vector>(
        &self,
        attention: &Attention<'_>,
        task: &Task,
        block: &Block,
        sums: *mut f32,
        past: &[f32; ROWS_MAX],
    ) {
        let segment = &attention.segments[task.segment];
        let width = attention.value_dim;
        let mut column = block.lead;
        for Piece { span, token, count } in segment.pieces(&block.keys) {
            let ahead = segment.ahead(block.keys.start + column - block.lead + AHEAD);
            let ahead = ahead
                .map_or(std::ptr::null(), |(span, token)| span.values.address(task.kv_head, token));
            // SAFETY: as in `vector`.
            unsafe {
                with_cell!(&span.values, task.kv_head, token, |cell| {
                    let mut row = 0;
                    while row < self.rows {
                        let sums = (sums.add(row * self.sum_stride), self.sum_stride);
                        let weights = self.scores.add(row * KEYS + column).cast_const();
                        let values = (cell, span.values.token_stride, count, ahead);
                        let past =
                            if column == block.lead { &past[row..] } else { &[1.0; TOGETHER] };
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
    pub part_floats: usize,
}

impl Body for Merge<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let attention = self.call.attention;
        let rows = self.merge.queries.len() * attention.group();
        let stride = padded(attention.value_dim);
        // SAFETY: as in `vector`.
        unsafe {
            let part = |part: usize| self.partial.add(part * self.part_floats);
            let all = |sums: *mut f32| {
                let mut running = [Running::NEW; ROWS_MAX];
                for (row, running) in running.iter_mut().enumerate().take(rows) {
                    *running = stored(sums, stride, rows, row);
                }
                running
            };
            let mut parts = self.merge.parts.clone();
            let sums = part(parts.start);
            let mut running = all(sums);
            parts.start += 1;
            for number in parts {
                let own = all(part(number));
                join::<V>(&mut running[..rows], &own, sums, part(number), stride);
            }
            let at = (self.merge.segment, self.merge.kv_head);
            finish::<V>(self.call, at, &self.merge.queries, sums, stride, &running[..rows]);
        }
    }
}
