//! Keys and values where there are no pages: on a GPU each running sequence has its own in one piece, because that is what
//! MLX's fused attention reads fast. Pages are cut out of it when somebody wants to hold one, and are joined again when a
//! sequence begins with them.
//!
//! A block is `[lanes, kv_heads, capacity, head_dim]` and grows in steps. Usually a slot has a block of its own (one
//! lane). Slots that go in step (equal lengths, appended together) share a block, lane by lane, so that one write and
//! one product serve them all; whoever leaves the step takes a copy of its lane along. Where attention has a window, a
//! block that grows leaves behind what no query will see.
//!
//! A block that exactly the appended slots hold is written in place. Behind all that was ever written nobody reads, so
//! there it is safe even while a GPU still works on earlier steps; elsewhere (after a rewind) MLX decides, and copies
//! what somebody may still read. How numbers are stored in it [`stored`](super::stored) knows.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use mlx::Array;

use crate::batch::{Batch, Segment, Shape};
use crate::cache::layer::Kept;
use crate::cache::stored::{Encoding, Stored};
use crate::cache::{REWIND_TOKENS, Slot};

/// Capacity grows in steps of this many positions: fewer would copy more often, more would waste memory; CUDA's fast
/// attention asks for a multiple.
const STEP_POSITIONS: usize = 256;

/// One layer's keys and values of all slots.
pub(super) struct Lanes {
    window: Option<usize>,
    /// Of a page: blocks begin where pages do.
    page_tokens: usize,
    encoding: Encoding,
    /// By slot; none before the first append.
    lanes: Vec<Option<Lane>>,
}

/// Of the last positions of a sequence, or of all; or of several in step.
pub(crate) struct Past {
    /// A block's, which may go on behind `positions`.
    keys: Stored,
    values: Stored,
    positions: i32,
}

pub(crate) struct Part {
    pub rows: Rows,
    pub past: Past,
}

/// The rows of a segment within a batch whose every row is a batch entry, `[rows, heads, 1, head_dim]`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    start: i32,
    length: i32,
}

#[derive(Clone)]
struct Lane {
    block: Rc<RefCell<Block>>,
    index: i32,
}

struct Block {
    keys: Stored,
    values: Stored,
    /// The position that it begins with.
    start: usize,
    /// Behind this position nothing was written since the buffers came to be: nobody reads there.
    written: usize,
}

impl Lanes {
    pub fn new(window: Option<usize>, page_tokens: usize, encoding: Encoding) -> Lanes {
        Lanes { window, page_tokens, encoding, lanes: Vec::new() }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn append(&mut self, batch: &Batch, keys: &Array, values: &Array) -> Kept {
        match batch.shape() {
            Shape::Uniform { .. } => Kept::Together(self.extend(&batch.segments, keys, values)),
            Shape::Ragged => {
                let parts = batch.segments.iter().map(|segment| {
                    let rows = Rows { start: segment.start as i32, length: segment.length as i32 };
                    let (keys, values) = (rows.of_heads(keys), rows.of_heads(values));
                    Part { rows, past: self.extend(std::slice::from_ref(segment), &keys, &values) }
                });
                Kept::Apart(parts.collect())
            }
        }
    }

    /// Segments of one length at one position; `keys` and `values` are `[segments, kv_heads, length, head_dim]`.
    fn extend(&mut self, segments: &[Segment], keys: &Array, values: &Array) -> Past {
        let Segment { position, length, .. } = segments[0];
        let end = position + length;
        let new = [keys, values].map(|x| self.encoding.encode(x));
        let block = match self.shared_by(segments) {
            Some(block) if block.borrow().capacity() >= end => block,
            _ => self.gather(segments, position, end, &new),
        };
        let mut block = block.borrow_mut();
        block.write(position, end, &new);
        block.past(end)
    }

    /// The block that these slots, in this order, hold and nobody else does.
    fn shared_by(&self, segments: &[Segment]) -> Option<Rc<RefCell<Block>>> {
        let first = self.lane(segments[0].slot)?;
        let mine = |(index, segment): (usize, &Segment)| {
            let lane = self.lane(segment.slot);
            lane.is_some_and(|l| l.index == index as i32 && Rc::ptr_eq(&l.block, &first.block))
        };
        let whole = Rc::strong_count(&first.block) == segments.len();
        (whole && segments.iter().enumerate().all(mine)).then(|| Rc::clone(&first.block))
    }

    /// A new block for these slots with room for `end` positions, holding what they remember.
    fn gather(
        &mut self,
        segments: &[Segment],
        position: usize,
        end: usize,
        [keys, values]: &[Stored; 2],
    ) -> Rc<RefCell<Block>> {
        let start = self.start_of(segments, position);
        let room = (end - start).next_multiple_of(STEP_POSITIONS) - (position - start);
        let past = self.past_of(segments, start, position);
        let past = past.as_ref().map_or([None; 2], |[keys, values]| [Some(keys), Some(values)]);
        let block = Block {
            keys: Stored::with_room(past[0], room as i32, keys),
            values: Stored::with_room(past[1], room as i32, values),
            start,
            written: position,
        };
        let block = Rc::new(RefCell::new(block));
        for (index, segment) in segments.iter().enumerate() {
            *self.place(segment.slot) =
                Some(Lane { block: Rc::clone(&block), index: index as i32 });
        }
        block
    }

    /// The first position that these slots still need, or have.
    fn start_of(&self, segments: &[Segment], position: usize) -> usize {
        let seen = self.window.map_or(0, |w| position.saturating_sub(w - 1 + REWIND_TOKENS));
        let seen = seen / self.page_tokens * self.page_tokens;
        let start =
            |segment: &Segment| self.lane(segment.slot).map_or(0, |lane| lane.block.borrow().start);
        segments.iter().map(start).fold(seen, usize::max)
    }

    /// The keys and values of these slots from `start` to `position`, `[segments, …]`.
    fn past_of(&self, segments: &[Segment], start: usize, position: usize) -> Option<[Stored; 2]> {
        if position == start {
            return None;
        }
        let lanes = segments.iter().map(|segment| match self.lane(segment.slot) {
            Some(lane) => lane.past(start, position),
            None => panic!("{:?} remembers tokens that this layer has not seen", segment.slot),
        });
        Some(joined(&lanes.collect::<Vec<_>>(), 0))
    }

    pub fn close(&mut self, slot: Slot) {
        *self.place(slot) = None;
    }

    pub fn fork(&mut self, slot: Slot, new: Slot) {
        let lane = self.lane(slot).cloned();
        *self.place(new) = lane;
    }

    /// Whether a query at `length` would find all it sees.
    pub fn can_rewind(&self, slot: Slot, length: usize) -> bool {
        let start = self.lane(slot).map_or(0, |lane| lane.block.borrow().start);
        let seen = self.window.map_or(0, |window| length.saturating_sub(window - 1));
        length == 0 || start <= seen
    }

    pub fn rewind(&mut self, slot: Slot, length: usize) {
        if self.lane(slot).is_some_and(|lane| lane.block.borrow().start > length) {
            self.close(slot);
        }
    }

    /// Copies of a slot's keys and values at these positions, `[1, kv_heads, positions, …]`; none where a window has left
    /// them behind.
    pub fn cut(&self, slot: Slot, start: usize, end: usize) -> Option<[Stored; 2]> {
        let lane = self.lane(slot).filter(|lane| lane.block.borrow().start <= start)?;
        Some(lane.past(start, end).map(|stored| stored.contiguous()))
    }

    /// A slot that begins with these pieces, which follow each other from position `start` to `length`.
    pub fn join(&mut self, slot: Slot, start: usize, length: usize, pieces: &[[Stored; 2]]) {
        let Some(like) = pieces.first() else { return };
        let room = (length - start + 1).next_multiple_of(STEP_POSITIONS) - (length - start);
        let whole = joined(pieces, 2).map(|all| all.first((length - start) as i32));
        let with_room = |of: usize| Stored::with_room(Some(&whole[of]), room as i32, &like[of]);
        let block = Block { keys: with_room(0), values: with_room(1), start, written: length };
        *self.place(slot) = Some(Lane { block: Rc::new(RefCell::new(block)), index: 0 });
    }

    pub fn arrays(&self, slot: Slot) -> Vec<Array> {
        let Some(lane) = self.lane(slot) else { return Vec::new() };
        let block = lane.block.borrow();
        [block.keys.arrays(), block.values.arrays()].concat()
    }

    /// `seen` holds the addresses of blocks that were counted already.
    pub fn bytes(&self, seen: &mut HashSet<usize>) -> usize {
        let new = |lane: &&Lane| seen.insert(Rc::as_ptr(&lane.block) as usize);
        let bytes =
            |lane: &Lane| lane.block.borrow().keys.nbytes() + lane.block.borrow().values.nbytes();
        self.lanes.iter().flatten().filter(new).map(bytes).sum()
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
    fn past(&self, start: usize, end: usize) -> [Stored; 2] {
        let block = self.block.borrow();
        let positions = (start - block.start) as i32..(end - block.start) as i32;
        [&block.keys, &block.values].map(|stored| stored.lane(self.index, positions.clone()))
    }
}

impl Block {
    fn capacity(&self) -> usize {
        self.start + self.keys.positions() as usize
    }

    fn write(&mut self, position: usize, end: usize, [keys, values]: &[Stored; 2]) {
        let unread = position >= self.written;
        self.written = end;
        let position = (position - self.start) as i32;
        self.keys.write(position, keys, unread);
        self.values.write(position, values, unread);
    }

    fn past(&self, end: usize) -> Past {
        let (keys, values) = (self.keys.clone(), self.values.clone());
        Past { keys, values, positions: (end - self.start) as i32 }
    }
}

impl Past {
    pub fn positions(&self) -> i32 {
        self.positions
    }

    /// The last so many keys and values, `[lanes, kv_heads, count, dim]`. Made of the whole block, which MLX's attention
    /// likes: a piece of memory in steps of 256 positions.
    pub fn last(&self, count: i32) -> [Array; 2] {
        [&self.keys, &self.values]
            .map(|stored| stored.decoded().narrow(2, self.positions - count, self.positions))
    }
}

impl Rows {
    /// `[rows, heads, 1, head_dim]` → this segment's `[1, heads, length, head_dim]`.
    pub fn of_heads(self, x: &Array) -> Array {
        let [_, heads, one, width] = dims(x);
        let end = self.start + self.length;
        let rows = x.slice(&[self.start, 0, 0, 0], &[end, heads, one, width], &[1; 4]);
        if self.length == 1 { rows } else { rows.swapaxes(0, 2) }
    }

    /// The way back: `[1, heads, length, head_dim]` → `[length, heads, 1, head_dim]`.
    pub fn to_heads(self, x: &Array) -> Array {
        if self.length == 1 { x.clone() } else { x.swapaxes(0, 2) }
    }
}

/// Keys with keys and values with values, along one axis.
fn joined(pieces: &[[Stored; 2]], axis: i32) -> [Stored; 2] {
    [0, 1]
        .map(|of| Stored::joined(&pieces.iter().map(|piece| &piece[of]).collect::<Vec<_>>(), axis))
}

fn dims(array: &Array) -> [i32; 4] {
    array.shape().try_into().expect("heads have four dimensions")
}
