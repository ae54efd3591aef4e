//! Who works on what: tasks of like size, the heaviest first.

use std::cmp::Reverse;
use std::ops::Range;

use super::{Attention, Segment, few, many};

/// Products of two numbers in a task below which threads are not worth it.
const ALONE_PRODUCTS_MAX: usize = 100_000;

/// Keys below which a history is not cut.
const PART_KEYS_MIN: usize = 128;

/// Tasks wanted for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

pub(super) struct Task {
    pub segment: usize,
    pub kv_head: usize,
    /// Within the segment.
    pub queries: Range<usize>,
    pub keys: Range<usize>,
    /// Where the result goes if it is a part of a history.
    pub part: Option<usize>,
}

/// Parts `parts` make the result of these queries.
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
        let part_floats = few::part_floats(attention);
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
        let most = if self.alone { 1 } else { keys.len() / PART_KEYS_MIN };
        let parts =
            if few { (queries.len() * keys.len()).div_ceil(fair).min(most).max(1) } else { 1 };
        if parts == 1 {
            self.tasks.push(Task { segment, kv_head, queries, keys, part: None });
            return;
        }
        let step = keys.len().div_ceil(parts);
        let first = self.parts;
        for part in 0..parts {
            let at = |part: usize| (keys.start + part * step).min(keys.end);
            let (keys, queries) = (at(part)..at(part + 1), queries.clone());
            self.tasks.push(Task { segment, kv_head, queries, keys, part: Some(first + part) });
        }
        self.parts += parts;
        self.merges.push(Merge { segment, kv_head, queries, parts: first..self.parts });
    }

    pub fn partial_floats(&self) -> usize {
        self.parts * self.part_floats
    }
}
