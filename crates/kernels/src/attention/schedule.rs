//! Who works on what: rows that read the same keys together, tasks of like size, the heaviest first.
//!
//! A *family* is a number of rows that are worked on together: those of one sequence, or of several that begin alike
//! ([`super::share`]). A *stretch* is a run of keys in one piece of memory with the rows that read it. In a family's
//! list of stretches every row finds its keys in their order, part after part; so a task is a family, a head of keys and
//! some parts.

use std::cmp::Reverse;
use std::ops::Range;

use super::{Attention, KEYS, PART_KEYS, Segment, share, task};

/// Rows of a family of several sequences. With heads of 128, a task's memory is 400 KiB then.
const FAMILY_ROWS_MAX: usize = 192;

/// Rows of a piece of one sequence, unless a single query has more heads to a head of keys.
const ROWS_MAX: usize = 96;

/// Rows up to which a sequence is not cut by queries: there its keys are cut, where that helps.
const WHOLE_ROWS_MAX: usize = 48;

/// Products of two numbers in a task below which threads are not worth it.
const ALONE_PRODUCTS_MAX: usize = 100_000;

/// Tasks wanted for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

/// What it costs to bring a key and its value to where they are multiplied, in rows that are multiplied with them.
const READING_ROWS: usize = 16;

/// Results of parts that a family may store, in floats: 64 MiB. A family that would need more is not cut.
const STORED_FLOATS_MAX: usize = 16 << 20;

/// A query under one head of those that share keys.
#[derive(Clone)]
pub(super) struct Row {
    /// Of the batch.
    pub row: usize,
    /// Among the heads of a group.
    pub head: usize,
    /// The positions that it sees, but for the mask.
    pub seen: Range<usize>,
    /// The position that the mask's first entry is about.
    pub history_start: usize,
}

/// Keys of one part that all of these rows read in the memory of this segment.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Stretch {
    pub segment: usize,
    /// Within the family.
    pub rows: Range<usize>,
    /// Positions.
    pub keys: Range<usize>,
}

pub(super) struct Task {
    pub kv_head: usize,
    /// Of the plan: a family's.
    pub rows: Range<usize>,
    /// Of the plan: those of whole parts.
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

/// Rows of one segment that stay together.
struct Member {
    segment: usize,
    /// Of the plan.
    rows: Range<usize>,
    /// Positions that any of the rows sees.
    keys: Range<usize>,
    /// Blocks that are the same memory as those of the member before.
    shared: Range<usize>,
}

struct Family {
    rows: Range<usize>,
    stretches: Range<usize>,
    cost: usize,
}

/// What one call does. Its lists keep their memory from call to call.
#[derive(Default)]
pub(super) struct Plan {
    pub rows: Vec<Row>,
    pub stretches: Vec<Stretch>,
    pub tasks: Vec<Task>,
    pub merges: Vec<Merge>,
    /// Of all stored results.
    pub stored_floats: usize,
    pub alone: bool,
    order: Vec<usize>,
    members: Vec<Member>,
    families: Vec<Family>,
}

impl Stretch {
    pub fn part(&self) -> usize {
        self.keys.start / PART_KEYS
    }

    fn cost(&self) -> usize {
        self.keys.len() * (self.rows.len() + READING_ROWS)
    }
}

/// Stretches part by part.
pub(super) fn parts(stretches: &[Stretch]) -> impl Iterator<Item = &[Stretch]> {
    stretches.chunk_by(|a, b| a.part() == b.part())
}

impl Plan {
    pub fn make(&mut self, attention: &Attention<'_>, threads: usize) {
        self.clear();
        let wanted = threads * TASKS_PER_THREAD;
        self.add_members(attention, wanted);
        self.add_families();
        let pairs: usize = self.stretches.iter().map(|s| s.rows.len() * s.keys.len()).sum();
        let products = pairs * attention.kv_heads * (attention.queries.dim + attention.value_dim);
        self.alone = threads == 1 || products <= ALONE_PRODUCTS_MAX;
        let cost: usize = self.families.iter().map(|family| family.cost).sum();
        let fair = (cost * attention.kv_heads).div_ceil(wanted).max(1);
        for index in 0..self.families.len() {
            for kv_head in 0..attention.kv_heads {
                self.add_tasks(attention, index, kv_head, fair);
            }
        }
        let weight = |task: &Task| (Reverse(task.cost), task.kv_head, task.stretches.start);
        self.tasks.sort_unstable_by_key(weight);
    }

    /// The most rows that a task has.
    pub fn rows_max(&self) -> usize {
        self.families.iter().map(|family| family.rows.len()).max().unwrap_or(0)
    }

    fn clear(&mut self) {
        let Plan {
            rows, stretches, tasks, merges, stored_floats, alone, members, families, ..
        } = self;
        (*stored_floats, *alone) = (0, false);
        rows.clear();
        stretches.clear();
        tasks.clear();
        merges.clear();
        members.clear();
        families.clear();
    }

    /// Whole sequences in an order in which those that share stand together, behind them pieces of those that are cut.
    fn add_members(&mut self, attention: &Attention<'_>, wanted: usize) {
        let segments = attention.segments;
        let queries = |segment: &Segment<'_>| {
            let (group, length) = (attention.group(), segment.length);
            if length * group <= WHOLE_ROWS_MAX {
                return length;
            }
            // Fewer rows to a task where there would be too few for all threads.
            let pieces = wanted.div_ceil(attention.kv_heads * segments.len());
            let least = ROWS_MAX.div_ceil(4 * group);
            length.div_ceil(pieces).max(least).min(ROWS_MAX / group).max(1)
        };
        let whole = |segment: &Segment<'_>| queries(segment) >= segment.length;
        let wholes = (0..segments.len()).filter(|&i| segments[i].length > 0 && whole(&segments[i]));
        let mut order = std::mem::take(&mut self.order);
        share::order(segments, wholes, &mut order);
        for place in 0..order.len() {
            let segment = &segments[order[place]];
            let before = place.checked_sub(1).map(|before| &segments[order[before]]);
            let shared = before.map_or(0..0, |before| before.blocks_shared(segment));
            self.add_member(attention, order[place], 0..segment.length, shared);
        }
        self.order = order;
        for (index, segment) in segments.iter().enumerate().filter(|(_, s)| !whole(s)) {
            let step = queries(segment);
            for start in (0..segment.length).step_by(step) {
                let queries = start..(start + step).min(segment.length);
                self.add_member(attention, index, queries, 0..0);
            }
        }
    }

    fn add_member(
        &mut self,
        attention: &Attention<'_>,
        index: usize,
        queries: Range<usize>,
        shared: Range<usize>,
    ) {
        let segment = &attention.segments[index];
        let first = self.rows.len();
        for query in queries {
            let seen = attention.seen(segment, query);
            let (row, history_start) = (segment.row + query, segment.history_start);
            for head in 0..attention.group() {
                self.rows.push(Row { row, head, seen: seen.clone(), history_start });
            }
        }
        let rows = first..self.rows.len();
        let (start, end) = (self.rows[first].seen.start, self.rows[rows.end - 1].seen.end);
        let keys = start..end.max(start);
        self.members.push(Member { segment: index, rows, keys, shared });
    }

    /// Neighbours that share anything become one family, up to the rows that it may have.
    fn add_families(&mut self) {
        let mut first = 0;
        for next in 1..=self.members.len() {
            let rows = |member: &Member| member.rows.end - self.members[first].rows.start;
            let joins = self
                .members
                .get(next)
                .is_some_and(|member| !member.shared.is_empty() && rows(member) <= FAMILY_ROWS_MAX);
            if !joins {
                self.add_family(first..next);
                first = next;
            }
        }
    }

    fn add_family(&mut self, members: Range<usize>) {
        let own = &self.members[members];
        let (Some(head), Some(tail)) = (own.first(), own.last()) else { return };
        let (rows, before) = (head.rows.start..tail.rows.end, self.stretches.len());
        let start = own.iter().map(|member| member.keys.start).min().unwrap_or(0);
        let end = own.iter().map(|member| member.keys.end).max().unwrap_or(0);
        for block in start / KEYS..end.div_ceil(KEYS) {
            let whole = block * KEYS..(block + 1) * KEYS;
            let mut left = own;
            while let Some(leader) = left.first() {
                let together = readers(left, &whole, block);
                let (these, rest) = left.split_at(together.max(1));
                left = rest;
                if together == 0 {
                    continue;
                }
                let keys = these.iter().map(|member| within(&member.keys, &whole));
                let keys = keys.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
                let last = these[these.len() - 1].rows.end;
                let of_family = leader.rows.start - rows.start..last - rows.start;
                let keys = keys.unwrap_or_default();
                let stretch = Stretch { segment: leader.segment, rows: of_family, keys };
                extend(&mut self.stretches, before, stretch);
            }
        }
        // What sees nothing has a result too.
        if self.stretches.len() == before {
            let rows = 0..rows.len();
            self.stretches.push(Stretch { segment: head.segment, rows, keys: start..start });
        }
        let stretches = before..self.stretches.len();
        let cost = self.stretches[stretches.clone()].iter().map(Stretch::cost).sum();
        self.families.push(Family { rows, stretches, cost });
    }

    /// One task, or several with some parts each where that makes them more alike.
    fn add_tasks(&mut self, attention: &Attention<'_>, family: usize, kv_head: usize, fair: usize) {
        let Family { rows, stretches, cost } = &self.families[family];
        let (rows, stretches, all) = (rows.clone(), stretches.clone(), *cost);
        let parts_all = parts(&self.stretches[stretches.clone()]).count();
        let floats = task::stored_floats(attention, rows.len());
        let count = all.div_ceil(fair).clamp(1, parts_all);
        let too_much = parts_all * floats > STORED_FLOATS_MAX / attention.kv_heads;
        if count == 1 || self.alone || too_much {
            self.tasks.push(Task {
                kv_head,
                rows,
                stretches,
                leads: true,
                stored: None,
                cost: all,
            });
            return;
        }
        let first = self.stored_floats;
        let (mut start, mut end) = (stretches.start, stretches.start);
        let (mut before, mut done, mut parts_own) = (0, 0, 0);
        for part in parts(&self.stretches[stretches.clone()]) {
            (end, parts_own) = (end + part.len(), parts_own + 1);
            let cost = done + part.iter().map(Stretch::cost).sum::<usize>();
            // A task ends where the sum passes the next of as many equal shares.
            let ends = cost * count / all > done * count / all;
            done = cost;
            if !ends {
                continue;
            }
            let (leads, stored) = (start == stretches.start, Some(self.stored_floats));
            self.stored_floats += floats * if leads { 1 } else { parts_own };
            let cost = done - before;
            let own = start..end;
            self.tasks.push(Task {
                kv_head,
                rows: rows.clone(),
                stretches: own,
                leads,
                stored,
                cost,
            });
            (start, before, parts_own) = (end, done, 0);
        }
        let parts = (self.stored_floats - first) / floats;
        self.merges.push(Merge { kv_head, rows, stored: first, parts });
    }
}

/// How many of these members read a block together, the first of them included; 0 where that one sees nothing of it.
fn readers(members: &[Member], keys: &Range<usize>, block: usize) -> usize {
    let sees = |member: &&Member| !within(&member.keys, keys).is_empty();
    let with_first =
        |(place, member): &(usize, &Member)| *place == 0 || member.shared.contains(&block);
    let together = members.iter().enumerate().take_while(with_first);
    together.map(|(_, member)| member).take_while(sees).count()
}

fn within(keys: &Range<usize>, block: &Range<usize>) -> Range<usize> {
    keys.start.clamp(block.start, block.end)..keys.end.clamp(block.start, block.end)
}

/// Adds a stretch behind the last of the same rows that it goes on, if there is one in the same part.
fn extend(stretches: &mut Vec<Stretch>, first: usize, new: Stretch) {
    let part = new.part();
    let of_part = stretches[first..].iter_mut().rev().take_while(|stretch| stretch.part() == part);
    for before in of_part {
        if before.rows == new.rows && before.keys.end == new.keys.start {
            before.keys.end = new.keys.end;
            return;
        }
    }
    stretches.push(new);
}
