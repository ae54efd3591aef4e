//! One task: rows of a family over some parts of their history, and how parts become one result.
//!
//! For each block of keys: scores of all rows that read it, what is done to them, the running softmax, weighted values.
//! Nothing of it mixes rows, so a row's bits are those it has alone.

use std::ops::Range;

use super::families::{Row, Stretch, parts};
use super::schedule::{Merge as MergeOf, Plan, Task};
use super::softmax::Running;
use super::{Attention, Block, Call, KEYS, Segment, keys, values};
use crate::rope::Heads;
use crate::vector::math::exp;
use crate::vector::{Body, LANES_MAX, Source, Vector};

/// Whole vectors, whichever they are.
pub(super) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(LANES_MAX)
}

/// What a task of so many rows needs: queries, keys and values of a block, scores, sums of a part and of those before
/// it, maxima and denominators of both, and (up to a whole vector) what a block makes of earlier sums.
pub(super) fn work_floats(attention: &Attention<'_>, rows: usize) -> usize {
    let (dim, width) = (padded(attention.queries.dim), padded(attention.value_dim));
    rows * (dim + KEYS + 2 * width + 2 * RUNNING + 1) + LANES_MAX + KEYS * (dim + width)
}

/// Floats of a `Running`.
const RUNNING: usize = size_of::<Running>() / 4;

/// Sums, maxima and denominators of a part of so many rows.
pub(super) fn stored_floats(attention: &Attention<'_>, rows: usize) -> usize {
    rows * (padded(attention.value_dim) + RUNNING)
}

pub(super) struct Perform<'a> {
    pub call: &'a Call<'a>,
    pub plan: &'a Plan,
    pub task: &'a Task,
    pub work: *mut f32,
    /// Of all tasks.
    pub stored: *mut f32,
}

/// Pointers into a task's memory.
struct Work<'a> {
    attention: &'a Attention<'a>,
    kv_head: usize,
    rows: &'a [Row],
    queries: *mut f32,
    query_stride: usize,
    keys: *mut f32,
    values: *mut f32,
    /// `[rows][KEYS]`
    scores: *mut f32,
    /// For each row what a block's new maximum makes of earlier sums.
    past: *mut f32,
    sum_stride: usize,
}

/// Sums of weighted values of each row, maxima and denominators.
#[derive(Clone, Copy)]
struct Sums {
    values: *mut f32,
    running: *mut Running,
}

impl Body for Perform<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Perform { call, plan, task, .. } = self;
        let attention = call.attention;
        let rows = &plan.families.rows[task.rows.clone()];
        let (query_stride, sum_stride) =
            (padded(attention.queries.dim), padded(attention.value_dim));
        let floats = stored_floats(attention, rows.len());
        // SAFETY: `work_floats` has room for all, and the plan for what is stored.
        unsafe {
            let keys = self.work.add(rows.len() * query_stride);
            let values = keys.add(KEYS * query_stride);
            let scores = values.add(KEYS * sum_stride);
            let first = scores.add(rows.len() * KEYS);
            let second = first.add(rows.len() * sum_stride);
            let running = second.add(rows.len() * sum_stride).cast::<Running>();
            let past = running.add(2 * rows.len()).cast::<f32>();
            let work = Work {
                attention,
                kv_head: task.kv_head,
                rows,
                queries: self.work,
                query_stride,
                keys,
                values,
                scores,
                past,
                sum_stride,
            };
            let stored = task.stored.map(|at| self.stored.add(at));
            let at =
                |number: usize| Sums::stored(stored.unwrap_or(first).add(number * floats), &work);
            let all = match stored {
                Some(_) => at(0),
                None => Sums { values: first, running },
            };
            let spare = Sums { values: second, running: running.add(rows.len()) };
            work.load_queries::<V>();
            for (number, part) in
                parts(&plan.families.stretches[task.stretches.clone()]).enumerate()
            {
                if number == 0 {
                    work.part::<V>(part, all);
                } else if task.leads {
                    work.part::<V>(part, spare);
                    join::<V>(rows.len(), all, spare, sum_stride);
                } else {
                    work.part::<V>(part, at(number));
                }
            }
            if stored.is_none() {
                finish::<V>(call, task.kv_head, rows, all, sum_stride);
            }
        }
    }
}

impl Sums {
    /// Maxima and denominators are stored behind the sums.
    #[allow(clippy::missing_safety_doc)]
    unsafe fn stored(at: *mut f32, work: &Work<'_>) -> Sums {
        // SAFETY: `stored_floats` has room for both.
        let running = unsafe { at.add(work.rows.len() * work.sum_stride) };
        Sums { values: at, running: running.cast() }
    }
}

/// The next part of each row joins those before it.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn join<V: Vector>(rows: usize, to: Sums, from: Sums, stride: usize) {
    for row in 0..rows {
        // SAFETY: as in `vector`.
        unsafe {
            let (joined, a, b) = (*to.running.add(row)).join(*from.running.add(row));
            *to.running.add(row) = joined;
            let (to, from) = (to.values.add(row * stride), from.values.add(row * stride));
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
unsafe fn finish<V: Vector>(
    call: &Call<'_>,
    kv_head: usize,
    rows: &[Row],
    sums: Sums,
    stride: usize,
) {
    let attention = call.attention;
    let (group, width) = (attention.group(), attention.value_dim);
    for (number, row) in rows.iter().enumerate() {
        let head = kv_head * group + row.head;
        let out = call.out.at(row.row, head);
        // SAFETY: as in `vector`.
        unsafe {
            let share = V::splat(attention.share(head, *sums.running.add(number)));
            let sums = sums.values.add(number * stride);
            for i in (0..width).step_by(V::LANES) {
                out.store_to::<V>(i, width, V::mul(V::load(sums.add(i)), share));
            }
        }
    }
}

#[allow(clippy::missing_safety_doc)]
impl Work<'_> {
    /// Queries as f32, scaled, padded with zeros.
    #[inline(always)]
    unsafe fn load_queries<V: Vector>(&self) {
        let Heads { dim, .. } = self.attention.queries;
        for (number, row) in self.rows.iter().enumerate() {
            let head = self.kv_head * self.attention.group() + row.head;
            let from: Source = self.attention.queries.at(row.row, head);
            // SAFETY: as in `vector`.
            unsafe {
                let to = self.queries.add(number * self.query_stride);
                let scale = V::splat(self.attention.scale);
                for i in (0..dim).step_by(V::LANES) {
                    V::store(to.add(i), V::mul(from.load_to::<V>(i, dim), scale));
                }
            }
        }
    }

    /// The keys of one part, into new sums.
    #[inline(always)]
    unsafe fn part<V: Vector>(&self, stretches: &[Stretch], sums: Sums) {
        // SAFETY: as in `vector`.
        unsafe {
            sums.values.write_bytes(0, self.rows.len() * self.sum_stride);
            for row in 0..self.rows.len() {
                sums.running.add(row).write(Running::NEW);
            }
            for stretch in stretches {
                let segment = &self.attention.segments[stretch.segment];
                let mut left = stretch.keys.clone();
                while !left.is_empty() {
                    let block = Block::first_of(&left);
                    left.start = block.keys.end;
                    self.block::<V>(segment, &block, self.readers(&stretch.rows, &block), sums);
                }
            }
        }
    }

    /// Those of `rows` that see anything of the block, and what is between them.
    #[inline(always)]
    fn readers(&self, rows: &Range<usize>, block: &Block) -> Range<usize> {
        let blind = |row: usize| {
            let seen = &self.rows[row].seen;
            seen.end <= block.keys.start || seen.start >= block.keys.end
        };
        let Range { mut start, mut end } = rows.clone();
        while start < end && blind(start) {
            start += 1;
        }
        while start < end && blind(end - 1) {
            end -= 1;
        }
        start..end
    }

    #[inline(always)]
    unsafe fn block<V: Vector>(
        &self,
        segment: &Segment<'_>,
        block: &Block,
        rows: Range<usize>,
        sums: Sums,
    ) {
        let (attention, group) = (self.attention, self.attention.group());
        // SAFETY: as in `vector`.
        unsafe {
            let queries =
                (self.queries.add(rows.start * self.query_stride).cast_const(), self.query_stride);
            let scores = self.scores.add(rows.start * KEYS);
            let (kv_head, dim, width) = (self.kv_head, attention.queries.dim, attention.value_dim);
            let of = keys::Keys { segment, kv_head, dim, width };
            of.score::<V>(block, rows.len(), queries, self.keys, scores);
            for number in rows.clone() {
                let row = &self.rows[number];
                let scores = self.scores.add(number * KEYS);
                attention.adjust::<V>(row, self.kv_head * group + row.head, block, scores);
                let past = (*sums.running.add(number)).raise::<V>(scores, block.end());
                self.past.add(number).write(past);
            }
            for number in rows.clone().step_by(V::LANES) {
                let past = self.past.add(number);
                V::store(past, exp::<V>(V::load(past)));
            }
            for number in rows.clone() {
                let (scores, past) = (self.scores.add(number * KEYS), *self.past.add(number));
                (*sums.running.add(number)).take::<V>(scores, block.end(), past);
            }
            let of = values::Values { segment, kv_head, width, dim };
            let past = self.past.add(rows.start).cast_const();
            let to = (sums.values.add(rows.start * self.sum_stride), self.sum_stride);
            of.weigh::<V>(block, rows.len(), scores, past, self.values, to);
        }
    }
}

/// Parts of a history become one result.
pub(super) struct Merge<'a> {
    pub call: &'a Call<'a>,
    pub plan: &'a Plan,
    pub merge: &'a MergeOf,
    pub stored: *mut f32,
}

impl Body for Merge<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Merge { call, plan, merge, stored } = self;
        let rows = &plan.families.rows[merge.rows.clone()];
        let stride = padded(call.attention.value_dim);
        let floats = stored_floats(call.attention, rows.len());
        // SAFETY: as in `vector`; every part was stored.
        unsafe {
            let at = |part: usize| {
                let values = stored.add(merge.stored + part * floats);
                Sums { values, running: values.add(rows.len() * stride).cast() }
            };
            for part in 1..merge.parts {
                join::<V>(rows.len(), at(0), at(part), stride);
            }
            finish::<V>(call, merge.kv_head, rows, at(0), stride);
        }
    }
}
