//! Rows that are worked on together, and what they read.
//!
//! A *family* is a number of such rows: those of one sequence, or of several that begin alike ([`super::share`]). A
//! *stretch* is a run of keys in one piece of memory with the rows that read it. In a family's list of stretches every row
//! finds its keys in their order, part after part.

use std::ops::Range;

use super::{Attention, KEYS, PART_KEYS, Segment, share};

/// Rows of a family of several sequences. With heads of 128, a task's memory is 400 KiB then.
const FAMILY_ROWS_MAX: usize = 192;

/// Rows of a piece of one sequence, unless a single query has more heads to a head of keys.
const ROWS_MAX: usize = 96;

/// Rows up to which a sequence is not cut by queries: there its keys are cut, where that helps.
const WHOLE_ROWS_MAX: usize = 48;

/// What it costs to bring a key and its value to where they are multiplied, in rows that are multiplied with them.
const READING_ROWS: usize = 16;

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

/// Rows and stretches by their places in the lists of all.
pub(super) struct Family {
    pub rows: Range<usize>,
    pub stretches: Range<usize>,
    pub cost: usize,
}

/// Those of one call. Its lists keep their memory from call to call.
#[derive(Default)]
pub(super) struct Families {
    pub rows: Vec<Row>,
    pub stretches: Vec<Stretch>,
    pub all: Vec<Family>,
    order: Vec<usize>,
    members: Vec<Member>,
}

impl Stretch {
    pub fn part(&self) -> usize {
        self.keys.start / PART_KEYS
    }

    pub fn cost(&self) -> usize {
        self.keys.len() * (self.rows.len() + READING_ROWS)
    }
}

/// Stretches part by part.
pub(super) fn parts(stretches: &[Stretch]) -> impl Iterator<Item = &[Stretch]> {
    stretches.chunk_by(|a, b| a.part() == b.part())
}

impl Families {
    /// Sequences are cut by their queries where there would be too few tasks, of which so many are `wanted`.
    pub fn make(&mut self, attention: &Attention<'_>, wanted: usize) {
        let Families { rows, stretches, all, order, members } = self;
        rows.clear();
        stretches.clear();
        all.clear();
        order.clear();
        members.clear();
        self.add_members(attention, wanted);
        self.add_families();
    }

    /// The most rows of a family.
    pub fn rows_max(&self) -> usize {
        self.all.iter().map(|family| family.rows.len()).max().unwrap_or(0)
    }

    /// Whole sequences in an order in which those that share stand together, behind them pieces of those that are cut.
    fn add_members(&mut self, attention: &Attention<'_>, wanted: usize) {
        let segments = attention.segments;
        let step = |segment: &Segment<'_>| queries(attention, segment, wanted);
        let whole = |segment: &Segment<'_>| step(segment) >= segment.length;
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
            let step = step(segment);
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
            let mut left = own;
            while !left.is_empty() {
                let together = readers(left, block);
                let (these, rest) = left.split_at(together.max(1));
                left = rest;
                if together > 0 {
                    let stretch = read(these, block, rows.start);
                    extend(&mut self.stretches, before, stretch);
                }
            }
        }
        // What sees nothing has a result too.
        if self.stretches.len() == before {
            let rows = 0..rows.len();
            self.stretches.push(Stretch { segment: head.segment, rows, keys: start..start });
        }
        let stretches = before..self.stretches.len();
        let cost = self.stretches[stretches.clone()].iter().map(Stretch::cost).sum();
        self.all.push(Family { rows, stretches, cost });
    }
}

/// How many queries of a sequence stay together.
fn queries(attention: &Attention<'_>, segment: &Segment<'_>, wanted: usize) -> usize {
    let (group, length) = (attention.group(), segment.length);
    if length * group <= WHOLE_ROWS_MAX {
        return length;
    }
    // Fewer where there would be too few tasks for all threads.
    let pieces = wanted.div_ceil(attention.kv_heads * attention.segments.len());
    let least = ROWS_MAX.div_ceil(4 * group);
    length.div_ceil(pieces).max(least).min(ROWS_MAX / group).max(1)
}

/// How many of these members read a block together, the first of them included; 0 where that one sees nothing of it.
fn readers(members: &[Member], block: usize) -> usize {
    let sees = |member: &&Member| !within(&member.keys, block).is_empty();
    let with_first =
        |(place, member): &(usize, &Member)| *place == 0 || member.shared.contains(&block);
    let together = members.iter().enumerate().take_while(with_first);
    together.map(|(_, member)| member).take_while(sees).count()
}

/// What these members, at least one, read of a block; their family's rows begin with `first`.
fn read(members: &[Member], block: usize, first: usize) -> Stretch {
    let keys = members.iter().map(|member| within(&member.keys, block));
    let keys = keys.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or_default();
    let rows = members[0].rows.start - first..members[members.len() - 1].rows.end - first;
    Stretch { segment: members[0].segment, rows, keys }
}

/// Those of `keys` that are in a block.
fn within(keys: &Range<usize>, block: usize) -> Range<usize> {
    let (first, end) = (block * KEYS, (block + 1) * KEYS);
    keys.start.clamp(first, end)..keys.end.clamp(first, end)
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
