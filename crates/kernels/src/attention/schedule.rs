//! Who works on what: tasks of like size, the heaviest first.

use std::cmp::Reverse;
use std::ops::Range;

use super::{Attention, PART_KEYS, Segment, few, many};

/// Products of two numbers in a task below which threads are not worth it.
const ALONE_PRODUCTS_MAX: usize = 100_000;

/// Tasks wanted for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

pub(super) struct Task {
    pub segment: usize,
    pub kv_head: usize,
    /// Within the segment.
    pub queries: Range<usize>,
    pub keys: Range<usize>,
    /// Whether `keys` begin with the first part of what the queries see.
    pub leads: bool,
    /// Where results go if they are parts of a history: one for each part, but one for all where the task leads.
    pub part: Option<usize>,
}

/// Parts `parts`, joined in their order, make the result of these queries.
pub(super) struct Merge {
    pub segment: usize,
    pub kv_head: usize,
    pub queries: Range<usize>,
    pub parts: Range<usize>,
}

pub(super) struct Plan {
    pub tasks: Vec<Task>,
    pub merges: Vec<Merge>,
    pub part_floats: usize,
    pub alone: bool,
    parts: usize,
}

impl Plan {
    pub fn new(attention: &Attention<'_>, threads: usize) -> Plan {
        let (group, kv_heads) = (attention.group(), attention.kv_heads);
        let rows = attention.segments.iter().map(|segment| segment.length * group).max();
        let part_floats = few::part_floats(attention, rows.unwrap_or(0).min(few::ROWS_MAX));
        let mut plan =
            Plan { tasks: vec![], merges: vec![], part_floats, alone: threads == 1, parts: 0 };
        let wanted = threads * TASKS_PER_THREAD;
        let all = |segment: &Segment<'_>| {
            segment.length * attention.seen_by_any(segment, &(0..segment.length)).len()
        };
        let pairs: usize = attention.segments.iter().map(all).sum();
        let fair = (pairs * kv_heads).div_ceil(wanted).max(1);
        for (index, segment) in attention.segments.iter().enumerate() {
            let rows = segment.length * group;
            let queries = if rows <= few::ROWS_MAX {
                segment.length.max(1)
            } else {
                // Fewer rows to a block where there would be too few blocks for all threads.
                let blocks = wanted.div_ceil(kv_heads * attention.segments.len());
                let length = segment.length.div_ceil(blocks);
                let least = many::ROWS_MAX.div_ceil(4 * group);
                length.max(least).min(many::ROWS_MAX / group).max(1)
            };
            for start in (0..segment.length).step_by(queries) {
                let queries = start..(start + queries).min(segment.length);
                let keys = attention.seen_by_any(segment, &queries);
                for kv_head in 0..kv_heads {
                    plan.add(attention, fair, (index, kv_head), queries.clone(), keys.clone());
                }
            }
        }
        let width = attention.queries.dim + attention.value_dim;
        plan.alone |= pairs * attention.queries.heads * width <= ALONE_PRODUCTS_MAX;
        plan.tasks.sort_unstable_by_key(|task| Reverse(task.queries.len() * task.keys.len()));
        plan
    }

    /// `fair` is a task's share of all pairs of queries and keys.
    fn add(
        &mut self,
        attention: &Attention<'_>,
        fair: usize,
        (segment, kv_head): (usize, usize),
        queries: Range<usize>,
        keys: Range<usize>,
    ) {
        let few = queries.len() * attention.group() <= few::ROWS_MAX;
        let history = &attention.segments[segment];
        let parts = history.parts(&keys);
        let tasks = (queries.len() * keys.len()).div_ceil(fair).clamp(1, parts);
        if tasks == 1 || self.alone || !few {
            self.tasks.push(Task { segment, kv_head, queries, keys, leads: true, part: None });
            return;
        }
        let each = parts.div_ceil(tasks) * PART_KEYS;
        let (first, mut left) = (self.parts, keys);
        while !left.is_empty() {
            let lead = (history.history_start + left.start) % PART_KEYS;
            let keys = left.start..left.end.min(left.start + each - lead);
            left.start = keys.end;
            let (leads, part) = (self.parts == first, Some(self.parts));
            self.parts += if leads { 1 } else { history.parts(&keys) };
            self.tasks.push(Task { segment, kv_head, queries: queries.clone(), keys, leads, part });
        }
        self.merges.push(Merge { segment, kv_head, queries, parts: first..self.parts });
    }

    pub fn partial_floats(&self) -> usize {
        self.parts * self.part_floats
    }
}
