//! Keys and values where there are no pages: on a GPU each running sequence has its own in one piece, because that is what
//! MLX's fused attention reads fast. Pages are cut out of it when somebody wants to hold one, and are joined again when a
//! sequence begins with them.
//!
//! A block is `[lanes, kv_heads, capacity, head_dim]` and grows in steps. Usually a slot has a block of its own (one
//! lane). Slots that go in step share a block, lane by lane, so that one write and one product serve them all: those that
//! are appended together at one position, and replies that decode together for a while, whose lanes end together and
//! begin with nothing where they are shorter; a mask says where. Whoever leaves the step takes a copy of its lane along,
//! and so does who stays in a block that others left.
//! Where attention has a window, a block that grows leaves behind what no query will see.
//!
//! A block that exactly the appended slots hold is written in place. Behind all that was ever written nobody reads, so
//! there it is safe even while a GPU still works on earlier steps; elsewhere (after a rewind) MLX decides, and copies
//! what somebody may still read. How numbers are stored in it [`stored`](super::stored) knows.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use mlx::{Array, Device, Dtype};

use crate::batch::{Batch, Segment, Shape};
use crate::cache::layer::Kept;
use crate::cache::stored::{Encoding, Stored};
use crate::cache::{REWIND_TOKENS, Slot};

/// Capacity grows in steps of this many positions: fewer would copy more often, more would waste memory; CUDA's fast
/// attention asks for a multiple.
const STEP_POSITIONS: usize = 256;

/// What shorter blocks have beside whole steps on a GPU, so that MLX does not take them for cuDNN's attention: with one row
/// its own kernel costs the host less and is as fast, up to about so many positions.
const ASIDE_POSITIONS: usize = 64;
const LONG_POSITIONS: usize = 4096;

/// Replies share a block when they have decoded together for so many passes: to come together costs each a copy, which
/// those that draft now and then would pay again and again.
const STEADY_PASSES: u32 = 4;

/// Lanes of a block may have at most so many times the positions that are in them, by this over that: shorter ones are
/// filled up. Price: as much memory, and a little time.
const FILLED_MAX: (usize, usize) = (3, 2);

/// One layer's keys and values of all slots.
pub(super) struct Lanes {
    window: Option<usize>,
    /// Of a page: blocks begin where pages do.
    page_tokens: usize,
    encoding: Encoding,
    /// By slot; none before the first append.
    lanes: Vec<Option<Lane>>,
    /// Those that had one row in the last pass, and for how many passes they were the same.
    steady: (Vec<Slot>, u32),
    /// Whether somebody may have left a block since the last pass.
    left: bool,
}

/// Of the last positions of a sequence, or of all; or of several in step.
pub(crate) struct Past {
    /// A block's, which may go on behind `positions`.
    all: Stored,
    positions: i32,
    mask: Option<Array>,
}

pub(crate) struct Part {
    pub rows: Rows,
    pub past: Past,
}

/// The rows of a segment, or of several with one row each, within a batch whose every row is a batch entry, `[rows,
/// heads, 1, head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    start: i32,
    segments: i32,
    length: i32,
}

#[derive(Clone)]
struct Lane {
    block: Rc<RefCell<Block>>,
    index: i32,
    /// The first position that it remembers.
    start: usize,
    /// What lies before, in lanes that are shorter than others of their block.
    filled: usize,
}

struct Block {
    all: Stored,
    /// Behind this place nothing was written since the buffers came to be: nobody reads there.
    written: i32,
}

impl Lanes {
    pub fn new(window: Option<usize>, page_tokens: usize, encoding: Encoding) -> Lanes {
        let (lanes, steady) = (Vec::new(), Default::default());
        Lanes { window, page_tokens, encoding, lanes, steady, left: false }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn append(&mut self, batch: &Batch, keys: &Array, values: &Array) -> Kept {
        let kept = self.append_all(batch, keys, values);
        if std::mem::take(&mut self.left) {
            self.part_from_left_lanes();
        }
        kept
    }

    fn append_all(&mut self, batch: &Batch, keys: &Array, values: &Array) -> Kept {
        self.note(&batch.segments);
        if matches!(batch.shape(), Shape::Uniform { .. }) || self.go_together(&batch.segments) {
            return Kept::Together(self.extend(batch, &batch.segments, keys, values));
        }
        // Runs of segments with one row each, and the others.
        let runs = batch.segments.chunk_by(|a, b| a.length == 1 && b.length == 1);
        let runs: Vec<&[Segment]> = runs.collect();
        let groups = runs.into_iter().flat_map(|run| match self.go_together(run) {
            true => vec![run],
            false => run.chunks(1).collect(),
        });
        let groups: Vec<&[Segment]> = groups.collect();
        let parts = groups.into_iter().map(|group| {
            let rows = Rows::of(group);
            let (keys, values) = (rows.of_heads(keys), rows.of_heads(values));
            Part { rows, past: self.extend(batch, group, &keys, &values) }
        });
        Kept::Apart(parts.collect())
    }

    /// Counts for how long the same slots have decoded together.
    fn note(&mut self, segments: &[Segment]) {
        let single = segments.iter().filter(|s| s.length == 1).map(|s| s.slot);
        if single.clone().eq(self.steady.0.iter().copied()) {
            self.steady.1 = self.steady.1.saturating_add(1);
        } else {
            self.steady = (single.collect(), 1);
        }
    }

    /// Whether these go in step: they do already, or it pays to begin.
    fn go_together(&self, segments: &[Segment]) -> bool {
        if segments.len() < 2 || segments.iter().any(|segment| segment.length > 1) {
            return false;
        }
        if self.shared_by(segments).is_some() {
            return true;
        }
        let lengths = || segments.iter().map(|s| s.position - self.needed(s));
        let (all, longest) = (lengths().sum::<usize>(), lengths().max().unwrap_or(0));
        let fits = longest * segments.len() * FILLED_MAX.1 <= all * FILLED_MAX.0;
        self.steady.1 >= STEADY_PASSES && fits && segments.iter().all(|s| s.position > 0)
    }

    /// Segments of one length, which is 1 where they are at several positions; `keys` and `values` are `[segments,
    /// kv_heads, length, head_dim]`.
    fn extend(
        &mut self,
        batch: &Batch,
        segments: &[Segment],
        keys: &Array,
        values: &Array,
    ) -> Past {
        let new = self.encoding.encode(keys, values);
        let block = match self.shared_by(segments) {
            Some(block) if self.has_room(segments) => block,
            _ => self.gather(segments, &new),
        };
        let Segment { slot, position, length, .. } = segments[0];
        let at = self.lane(slot).map_or(0, |lane| lane.place(position));
        let end = at + length as i32;
        let mut block = block.borrow_mut();
        block.write(at, end, &new);
        let capacity = block.all.positions();
        let mask = self.mask(batch, segments, end, capacity, keys.dtype());
        Past { all: block.all.clone(), positions: end, mask }
    }

    fn has_room(&self, segments: &[Segment]) -> bool {
        let Segment { slot, position, length, .. } = segments[0];
        self.lane(slot).is_some_and(|lane| {
            lane.place(position) + length as i32 <= lane.block.borrow().all.positions()
        })
    }

    /// What of a whole block these slots see, where they do not all see the same: numbers to add to scores.
    fn mask(
        &self,
        batch: &Batch,
        segments: &[Segment],
        end: i32,
        capacity: i32,
        dtype: Dtype,
    ) -> Option<Array> {
        let filled = segments.iter().map(|s| self.lane(s.slot).map_or(0, |l| l.filled as i32));
        let filled: Vec<i32> = filled.collect();
        if filled.iter().all(|filled| *filled == 0) {
            return None;
        }
        let first = self.window.map_or(0, |window| end - window as i32);
        let seen = filled.iter().map(|filled| (*filled).max(first)..end).collect();
        Some(batch.mask(seen, capacity, dtype))
    }

    /// The block that these slots, in this order, hold and nobody else does, and in which they have come equally far.
    fn shared_by(&self, segments: &[Segment]) -> Option<Rc<RefCell<Block>>> {
        let first = self.lane(segments[0].slot)?;
        let at = first.place(segments[0].position);
        let mine = |(index, segment): (usize, &Segment)| {
            let lane = self.lane(segment.slot);
            lane.is_some_and(|lane| {
                lane.index == index as i32
                    && Rc::ptr_eq(&lane.block, &first.block)
                    && lane.place(segment.position) == at
            })
        };
        // Also no lane that somebody left.
        let lanes = first.block.borrow().all.lanes() as usize;
        let whole = [lanes, Rc::strong_count(&first.block)] == [segments.len(); 2];
        (whole && segments.iter().enumerate().all(mine)).then(|| Rc::clone(&first.block))
    }

    /// A new block for these slots with room for their rows, holding what they remember.
    fn gather(&mut self, segments: &[Segment], new: &Stored) -> Rc<RefCell<Block>> {
        let starts = self.starts(segments);
        let lengths = || segments.iter().zip(&starts).map(|(s, start)| s.position - start);
        let longest = lengths().max().unwrap_or(0);
        let room = capacity(longest + segments[0].length) - longest;
        let past = self.past_of(segments, &starts, longest);
        let all = Stored::with_room(past.as_ref(), room as i32, new);
        let block = Block { all, written: longest as i32 };
        let block = Rc::new(RefCell::new(block));
        self.left = true;
        let filled: Vec<usize> = lengths().map(|length| longest - length).collect();
        for (index, segment) in segments.iter().enumerate() {
            *self.place(segment.slot) = Some(Lane {
                block: Rc::clone(&block),
                index: index as i32,
                start: starts[index],
                filled: filled[index],
            });
        }
        block
    }

    /// The first positions that these slots still need, or have: at one position all need the same.
    fn starts(&self, segments: &[Segment]) -> Vec<usize> {
        let starts: Vec<usize> = segments.iter().map(|segment| self.needed(segment)).collect();
        let together = segments.iter().all(|segment| segment.position == segments[0].position);
        let last = starts.iter().copied().max().unwrap_or(0);
        if together { vec![last; starts.len()] } else { starts }
    }

    fn needed(&self, segment: &Segment) -> usize {
        let seen = |window| segment.position.saturating_sub(window - 1 + REWIND_TOKENS);
        let seen = self.window.map_or(0, seen) / self.page_tokens * self.page_tokens;
        self.lane(segment.slot).map_or(0, |lane| lane.start).max(seen)
    }

    /// The keys and values of these slots from `starts` on, `[segments, …]`, shorter ones filled up to the longest.
    fn past_of(&self, segments: &[Segment], starts: &[usize], longest: usize) -> Option<Stored> {
        if longest == 0 {
            return None;
        }
        let lanes = segments.iter().zip(starts).map(|(segment, start)| {
            let Some(lane) = self.lane(segment.slot) else {
                panic!("{:?} remembers tokens that this layer has not seen", segment.slot)
            };
            lane.past(*start, segment.position).filled_up(longest as i32)
        });
        Some(Stored::joined(&lanes.collect::<Vec<_>>(), 0))
    }

    pub fn close(&mut self, slot: Slot) {
        *self.place(slot) = None;
        self.left = true;
    }

    /// Who pauses in a block that others have left would keep their lanes too: it goes on alone.
    fn part_from_left_lanes(&mut self) {
        for index in 0..self.lanes.len() {
            let Some(lane) = self.lanes[index].clone() else { continue };
            let lanes = lane.block.borrow().all.lanes() as usize;
            let shares = |other: &&Lane| Rc::ptr_eq(&other.block, &lane.block);
            if lanes > 1 && self.lanes.iter().flatten().filter(shares).count() < lanes {
                self.lanes[index] = Some(lane.alone());
            }
        }
    }

    pub fn fork(&mut self, slot: Slot, new: Slot) {
        let lane = self.lane(slot).cloned();
        *self.place(new) = lane;
    }

    /// Whether a query at `length` would find all it sees.
    pub fn can_rewind(&self, slot: Slot, length: usize) -> bool {
        let start = self.lane(slot).map_or(0, |lane| lane.start);
        let seen = self.window.map_or(0, |window| length.saturating_sub(window - 1));
        length == 0 || start <= seen
    }

    pub fn rewind(&mut self, slot: Slot, length: usize) {
        if self.lane(slot).is_some_and(|lane| lane.start > length) {
            self.close(slot);
        }
    }

    /// Copies of a slot's keys and values at these positions, `[1, kv_heads, positions, …]`; none where a window has left
    /// them behind.
    pub fn cut(&self, slot: Slot, start: usize, end: usize) -> Option<Stored> {
        let lane = self.lane(slot).filter(|lane| lane.start <= start)?;
        Some(lane.past(start, end).contiguous())
    }

    /// A slot that begins with these pieces, which follow each other from position `start` to `length`.
    pub fn join(&mut self, slot: Slot, start: usize, length: usize, pieces: &[Stored]) {
        let Some(like) = pieces.first() else { return };
        let room = capacity(length - start + 1) - (length - start);
        let past = Stored::joined(pieces, 2).first((length - start) as i32);
        let all = Stored::with_room(Some(&past), room as i32, like);
        let block = Block { all, written: (length - start) as i32 };
        let block = Rc::new(RefCell::new(block));
        *self.place(slot) = Some(Lane { block, index: 0, start, filled: 0 });
    }

    pub fn arrays(&self, slot: Slot) -> Vec<Array> {
        self.lane(slot).map_or_else(Vec::new, |lane| lane.block.borrow().all.arrays().to_vec())
    }

    /// Which block a slot's lane is of.
    #[cfg(test)]
    pub fn block(&self, slot: Slot) -> Option<usize> {
        self.lane(slot).map(|lane| Rc::as_ptr(&lane.block) as usize)
    }

    /// `seen` holds the addresses of blocks that were counted already.
    pub fn bytes(&self, seen: &mut HashSet<usize>) -> usize {
        let new = |lane: &&Lane| seen.insert(Rc::as_ptr(&lane.block) as usize);
        let bytes = |lane: &Lane| lane.block.borrow().all.nbytes();
        self.lanes.iter().flatten().filter(new).map(bytes).sum()
    }

    /// Of the lane of a sequence that may reach so many tokens, at most `rows_max` of them in a pass: as many as a block
    /// has for each of its lanes. Also what these are at full width.
    pub fn bytes_max(&self, tokens: usize, rows_max: usize) -> (usize, usize) {
        let seen = |window| window + REWIND_TOKENS + self.page_tokens + rows_max;
        let kept = self.window.map_or(tokens, |window| tokens.min(seen(window)));
        let positions = kept * FILLED_MAX.0 / FILLED_MAX.1 + STEP_POSITIONS + ASIDE_POSITIONS;
        (self.encoding.bytes(positions), self.encoding.full_bytes(positions))
    }

    fn lane(&self, slot: Slot) -> Option<&Lane> {
        self.lanes.get(slot.index())?.as_ref()
    }

    fn place(&mut self, slot: Slot) -> &mut Option<Lane> {
        if self.lanes.len() <= slot.index() {
            self.lanes.resize(slot.index() + 1, None);
        }
        &mut self.lanes[slot.index()]
    }
}

impl Lane {
    /// The same in a block of its own.
    fn alone(&self) -> Lane {
        let (written, filled) = (self.block.borrow().written, self.filled as i32);
        let past = self.block.borrow().all.lane(self.index, filled..written.max(filled));
        let length = past.positions() as usize;
        let room = capacity(length + 1) - length;
        let all = Stored::with_room(Some(&past), room as i32, &past);
        // Else the block would live until this lane is read; a failure comes with that.
        let _ = mlx::async_eval(&all.arrays().iter().collect::<Vec<_>>());
        let block = Rc::new(RefCell::new(Block { all, written: length as i32 }));
        Lane { block, index: 0, start: self.start, filled: 0 }
    }

    /// Where a position lies.
    fn place(&self, position: usize) -> i32 {
        (position + self.filled) as i32 - self.start as i32
    }

    fn past(&self, start: usize, end: usize) -> Stored {
        self.block.borrow().all.lane(self.index, self.place(start)..self.place(end))
    }
}

impl Block {
    fn write(&mut self, at: i32, end: i32, new: &Stored) {
        self.all.write(at, new, at >= self.written);
        self.written = end;
    }
}

impl Past {
    pub fn positions(&self) -> i32 {
        self.positions
    }

    /// The last so many keys and values, `[lanes, kv_heads, count, dim]`. Made of the whole block, which MLX's attention
    /// likes: a piece of memory in steps of 256 positions.
    pub fn last(&self, count: i32) -> [Array; 2] {
        self.whole().map(|all| all.narrow(2, self.positions - count, self.positions))
    }

    /// All that the block has room for. What of it is seen only the mask tells.
    pub fn whole(&self) -> [Array; 2] {
        self.all.decoded()
    }

    /// Where lanes begin apart: what to add to the scores of each, `[lanes, 1, 1, positions]` of the whole block.
    pub fn mask(&self) -> Option<&Array> {
        self.mask.as_ref()
    }
}

impl Rows {
    fn of(segments: &[Segment]) -> Rows {
        let Segment { start, length, .. } = segments[0];
        Rows { start: start as i32, segments: segments.len() as i32, length: length as i32 }
    }

    /// `[rows, heads, 1, head_dim]` → this segment's `[1, heads, length, head_dim]`, or `[segments, heads, 1, head_dim]`.
    pub fn of_heads(self, x: &Array) -> Array {
        let [_, heads, one, width] = dims(x);
        let end = self.start + self.segments * self.length;
        let rows = x.slice(&[self.start, 0, 0, 0], &[end, heads, one, width], &[1; 4]);
        if self.length == 1 { rows } else { rows.swapaxes(0, 2) }
    }

    /// The way back.
    pub fn to_heads(self, x: &Array) -> Array {
        if self.length == 1 { x.clone() } else { x.swapaxes(0, 2) }
    }
}

/// Of a block for so many positions.
fn capacity(positions: usize) -> usize {
    let steps = positions.next_multiple_of(STEP_POSITIONS);
    let aside = mlx::device() == Device::Gpu && steps < LONG_POSITIONS;
    if aside { steps + ASIDE_POSITIONS } else { steps }
}

fn dims(array: &Array) -> [i32; 4] {
    array.shape().try_into().expect("heads have four dimensions")
}
