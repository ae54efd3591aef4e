//! Who works on what: tasks of like size, the heaviest first. A task is a family, a head of keys and some parts.

use std::cmp::Reverse;
use std::ops::Range;

use super::families::{Families, Family, Stretch, parts};
use super::{Attention, Segment, task};

/// Products of two numbers in a task below which threads are not worth it.
const ALONE_PRODUCTS_MAX: usize = 100_000;

/// Tasks wanted for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

/// Results of parts that a family may store, in floats: 64 MiB. A family that would need more is not cut.
const STORED_FLOATS_MAX: usize = 16 << 20;

pub(super) struct Task {
    pub kv_head: usize,
    /// A family's.
    pub rows: Range<usize>,
    /// Those of whole parts.
    pub stretches: Range<usize>,
    /// Whether they begin with the family's first.
    pub leads: bool,
    /// Where results go if they are parts of a history: one for each part, but one for all where the task leads.
    pub stored: Option<usize>,
    cost: usize,
}

/// So many stored parts, joined in their order, make the result of these rows.
pub(super) struct Merge {
    pub kv_head: usize,
    pub rows: Range<usize>,
    pub stored: usize,
    pub parts: usize,
}

/// What one call does. Its lists keep their memory from call to call.
#[derive(Default)]
pub(super) struct Plan {
    pub families: Families,
    pub tasks: Vec<Task>,
    pub merges: Vec<Merge>,
    /// Of all stored results.
    pub stored_floats: usize,
    pub alone: bool,
    basis: Basis,
}

/// What a plan was made for. Who shares what is not in it: of that the caller's number tells.
#[derive(Default)]
struct Basis {
    alike: u64,
    shape: [usize; 7],
    segments: Vec<[usize; 6]>,
}

impl Basis {
    fn shape(attention: &Attention<'_>, threads: usize) -> [usize; 7] {
        let &Attention { queries, kv_heads, value_dim, causal, window, .. } = attention;
        let window = window.map_or(0, |window| window.saturating_add(1));
        [queries.heads, kv_heads, queries.dim, value_dim, usize::from(causal), window, threads]
    }

    fn segment(segment: &Segment<'_>) -> [usize; 6] {
        let &Segment { row, length, position, history_start, page, .. } = segment;
        [row, length, position, history_start, page, segment.end()]
    }
}

impl Plan {
    /// Whether it is the plan that `make` would make.
    pub fn serves(&self, attention: &Attention<'_>, threads: usize) -> bool {
        let Basis { alike, shape, segments } = &self.basis;
        *alike != 0
            && *alike == attention.alike
            && *shape == Basis::shape(attention, threads)
            && segments.len() == attention.segments.len()
            && segments.iter().zip(attention.segments).all(|(a, b)| *a == Basis::segment(b))
    }

    pub fn make(&mut self, attention: &Attention<'_>, threads: usize) {
        self.basis.alike = attention.alike;
        self.basis.shape = Basis::shape(attention, threads);
        self.basis.segments.clear();
        self.basis.segments.extend(attention.segments.iter().map(Basis::segment));
        let (wanted, kv_heads) = (threads * TASKS_PER_THREAD, attention.kv_heads);
        self.tasks.clear();
        self.merges.clear();
        self.stored_floats = 0;
        self.families.make(attention, wanted);
        let stretches = self.families.stretches.iter();
        let pairs: usize = stretches.map(|s| s.rows.len() * s.keys.len()).sum();
        let products = pairs * kv_heads * (attention.queries.dim + attention.value_dim);
        self.alone = threads == 1 || products <= ALONE_PRODUCTS_MAX;
        let cost: usize = self.families.all.iter().map(|family| family.cost).sum();
        let fair = (cost * kv_heads).div_ceil(wanted).max(1);
        let families = std::mem::take(&mut self.families);
        for family in &families.all {
            let floats = task::stored_floats(attention, family.rows.len());
            let own = &families.stretches[family.stretches.clone()];
            let parts = parts(own).count();
            let few = parts * floats <= STORED_FLOATS_MAX / kv_heads;
            let count = if few && !self.alone { family.cost.div_ceil(fair) } else { 1 };
            let (count, start) = (count.clamp(1, parts), family.stretches.start);
            let cuts = Cuts { left: own, start, done: 0, cost: family.cost, count };
            (0..kv_heads).for_each(|kv_head| self.add(family, kv_head, cuts.clone(), floats));
        }
        self.families = families;
        let weight = |task: &Task| (Reverse(task.cost), task.kv_head, task.stretches.start);
        self.tasks.sort_unstable_by_key(weight);
    }

    /// A task for each cut; `floats` are what a part stores.
    fn add(&mut self, family: &Family, kv_head: usize, cuts: Cuts<'_>, floats: usize) {
        let (first, alone) = (self.stored_floats, cuts.count == 1);
        for Cut { stretches, parts, cost } in cuts {
            let leads = stretches.start == family.stretches.start;
            let stored = (!alone).then_some(self.stored_floats);
            self.stored_floats += if alone {
                0
            } else if leads {
                floats
            } else {
                parts * floats
            };
            let rows = family.rows.clone();
            self.tasks.push(Task { kv_head, rows, stretches, leads, stored, cost });
        }
        if !alone {
            let parts = (self.stored_floats - first) / floats;
            self.merges.push(Merge { kv_head, rows: family.rows.clone(), stored: first, parts });
        }
    }
}

/// Whole parts of a family.
struct Cut {
    stretches: Range<usize>,
    parts: usize,
    cost: usize,
}

/// A family in shares of like cost.
#[derive(Clone)]
struct Cuts<'a> {
    left: &'a [Stretch],
    /// Of what is left.
    start: usize,
    done: usize,
    /// The family's.
    cost: usize,
    /// Of shares.
    count: usize,
}

impl Iterator for Cuts<'_> {
    type Item = Cut;
    fn next(&mut self) -> Option<Cut> {
        if self.left.is_empty() {
            return None;
        }
        let mut cut = Cut { stretches: self.start..self.start, parts: 0, cost: 0 };
        for part in parts(self.left) {
            let shares = |cost: usize| cost * self.count / self.cost.max(1);
            let before = shares(self.done + cut.cost);
            cut.cost += part.iter().map(Stretch::cost).sum::<usize>();
            (cut.parts, cut.stretches.end) = (cut.parts + 1, cut.stretches.end + part.len());
            if shares(self.done + cut.cost) > before {
                break;
            }
        }
        self.left = &self.left[cut.stretches.len()..];
        (self.start, self.done) = (cut.stretches.end, self.done + cut.cost);
        Some(cut)
    }
}
