//! Attention: softmax(scale × queries · keysᵀ) · values over what each sequence of a batch remembers.
//!
//! A batch is flat: rows of all sequences, cut into segments. Rows that read the same keys are worked on together, so keys
//! and values are read once for all of them: query heads that share a key head, the queries of a prompt, and sequences
//! that begin alike, as far as their pages are the same memory ([`share`], [`families`]). Where there are fewer of those than threads
//! could use, several tasks share a history ([`schedule`]). A running maximum is kept, so scores are never stored as a
//! whole. Arithmetic is f32 throughout; results differ from f64 by about 1e-6 of the largest value, before rounding to
//! the output's type.
//!
//! The bits of a row depend on nothing but its query and what it sees: blocks and parts of a history begin at fixed
//! positions of the sequence, a score is added up along the head, a block's weights lane by lane, values in the order of
//! keys, and parts are joined in theirs.

mod families;
mod history;
mod keys;
mod nibbles;
mod schedule;
mod share;
mod softmax;
mod task;
mod values;

pub(crate) use history::check_group;
pub use history::{Cells, Span, Stored};
pub(crate) use nibbles::{GROUP as NIBBLES, pack as pack_nibbles};

use std::cell::Cell;
use std::ops::Range;

use crate::Cpu;
use crate::element::Floats;
use crate::rope::{Heads, HeadsMut, SharedHeads};
use crate::scratch::{self, Line};
use crate::vector::{Vector, on};

use families::Row;
use history::Soon;
use schedule::Plan;
use softmax::Running;

/// Everything about one call.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// `[rows, heads, dim]`
    pub queries: Heads<'a>,
    /// Divides the number of query heads.
    pub kv_heads: usize,
    /// Width of values and of the output's heads; usually `queries.dim`.
    pub value_dim: usize,
    pub scale: f32,
    /// A query sees no key after its own position.
    pub causal: bool,
    /// A query at position `p` sees no key at `p - window` or before.
    pub window: Option<usize>,
    /// Scores become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// For each query head a score that takes part in the softmax but has no value.
    pub sinks: Option<Floats<'a>>,
    pub mask: Option<Mask<'a>>,
    pub segments: &'a [Segment<'a>],
    /// Calls of the same number, unless that is 0, have histories that are shared alike, as the layers of a step have: who
    /// reads what together is found out once for all of them.
    pub alike: u64,
}

/// Rows of one sequence and what they attend to.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Of the first query in the batch.
    pub row: usize,
    pub length: usize,
    /// Of the first query.
    pub position: usize,
    /// Position of the first remembered key; not 0 where a window has dropped older ones.
    pub history_start: usize,
    /// The history in order, the new tokens included.
    pub spans: &'a [Span<'a>],
    /// Tokens of every span but the last; 0 where they differ.
    pub page: usize,
}

/// What else decides who sees whom; entry `row * row_stride + head * head_stride + key`, where keys are counted from
/// the segment's first.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    pub cells: MaskCells<'a>,
    pub row_stride: usize,
    /// 0: the same for all heads.
    pub head_stride: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum MaskCells<'a> {
    /// Added to the score.
    Add(Floats<'a>),
    /// Not 0: seen.
    Keep(&'a [u8]),
}

/// Keys in a block: their scores and their bytes stay in the nearest cache. Blocks begin at multiples of it.
const KEYS: usize = 64;

/// Rows that are too few to hide what is read next on its way from memory behind products, or to bring values to f32 for.
const FEW_ROWS_MAX: usize = 8;

/// Keys in a part of a history, of which each has a maximum and sums of its own until they are joined.
const PART_KEYS: usize = 256;

/// Writes `[rows, heads, value_dim]`. Rows that no segment names stay as they are; a query that sees nothing gives 0.
pub fn attend(cpu: &Cpu<'_>, attention: &Attention<'_>, mut out: HeadsMut<'_>) {
    attention.check(&out);
    let out = out.shared();
    let mut plans = PLANS.take();
    let threads = cpu.pool.threads();
    match plans.iter().position(|plan| plan.serves(attention, threads)) {
        Some(place) => plans[..=place].rotate_right(1),
        None => {
            plans.rotate_right(1);
            plans[0].make(attention, threads);
        }
    }
    Call { attention, out, cpu }.perform(&plans[0]);
    PLANS.set(plans);
}

/// Plans that a thread keeps: layers with and without a window take turns in a step. Each costs what its lists hold.
const PLANS_NUM: usize = 2;

thread_local! {
    static PLANS: Cell<[Plan; PLANS_NUM]> = Cell::default();
    static STORED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static WORK: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Results of parts of a history, each written by one task.
#[derive(Clone, Copy)]
struct Results(*mut f32);
// SAFETY: tasks write disjoint stretches.
unsafe impl Send for Results {}
// SAFETY: as above.
unsafe impl Sync for Results {}

impl Results {
    fn at(&self) -> *mut f32 {
        self.0
    }
}

struct Call<'a> {
    attention: &'a Attention<'a>,
    out: SharedHeads,
    cpu: &'a Cpu<'a>,
}

impl Call<'_> {
    /// All tasks, then all merges.
    fn perform(&self, plan: &Plan) {
        let work_floats = task::work_floats(self.attention, plan.families.rows_max());
        scratch::with(&STORED, plan.stored_floats * 4, |memory| {
            let stored = Results(memory.cast());
            self.spread(plan, plan.tasks.len(), &|index| {
                scratch::with(&WORK, work_floats * 4, |memory| {
                    let (task, work) = (&plan.tasks[index], memory.cast());
                    let body = task::Perform { call: self, plan, task, work, stored: stored.at() };
                    // SAFETY: shapes were checked, the memory is long enough, `cpu.isa` was chosen for this processor.
                    unsafe { on(self.cpu.isa, body) }
                });
            });
            self.spread(plan, plan.merges.len(), &|index| {
                let merge = &plan.merges[index];
                let body = task::Merge { call: self, plan, merge, stored: stored.at() };
                // SAFETY: as above, and all parts are stored.
                unsafe { on(self.cpu.isa, body) }
            });
        });
    }

    fn spread(&self, plan: &Plan, count: usize, task: &(dyn Fn(usize) + Sync)) {
        if plan.alone {
            (0..count).for_each(task);
        } else {
            self.cpu.pool.run(count, task);
        }
    }
}

impl<'a> Attention<'a> {
    /// As most models attend: scores are divided by the root of the width, nothing else is done to them, and values are as
    /// wide as keys.
    pub fn causal(
        queries: Heads<'a>,
        kv_heads: usize,
        segments: &'a [Segment<'a>],
    ) -> Attention<'a> {
        Attention {
            queries,
            kv_heads,
            value_dim: queries.dim,
            scale: 1.0 / (queries.dim as f32).sqrt(),
            causal: true,
            window: None,
            softcap: None,
            sinks: None,
            mask: None,
            segments,
            alike: 0,
        }
    }
}

impl Attention<'_> {
    /// Query heads to a key head.
    fn group(&self) -> usize {
        self.queries.heads / self.kv_heads
    }

    fn check(&self, out: &HeadsMut<'_>) {
        let Heads { rows, heads, dim, .. } = self.queries;
        self.queries.check();
        let shape = (rows, heads, self.value_dim);
        assert_eq!((out.rows, out.heads, out.dim), shape, "shape of the output");
        let kv_heads = self.kv_heads;
        assert!(
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "{heads} heads on {kv_heads} of keys"
        );
        assert!(dim > 0 && self.value_dim > 0, "heads of width 0");
        assert!(self.sinks.is_none_or(|sinks| sinks.len() == heads), "a sink for each head");
        let mut next = 0;
        for segment in self.segments {
            let Segment { row, length, .. } = *segment;
            assert!(row >= next && row + length <= rows, "rows {row} + {length} of {rows}");
            next = row + length;
            if let Some((_, pages)) = segment.spans.split_last().filter(|_| segment.page > 0) {
                let page = segment.page;
                assert!(pages.iter().all(|span| span.tokens == page), "pages of {page} tokens");
            }
            for span in segment.spans {
                span.keys.check(kv_heads, span.tokens, dim);
                span.values.check(kv_heads, span.tokens, self.value_dim);
            }
            self.check_mask(segment);
        }
    }

    fn check_mask(&self, segment: &Segment<'_>) {
        let Some(mask) = self.mask else { return };
        let len = match mask.cells {
            MaskCells::Add(floats) => floats.len(),
            MaskCells::Keep(bytes) => bytes.len(),
        };
        let last = (segment.row + segment.length.max(1) - 1) * mask.row_stride;
        let end = last
            + (self.queries.heads - 1) * mask.head_stride
            + (segment.end() - segment.history_start);
        assert!(end <= len || segment.length == 0, "a mask ends at {end} of {len}");
    }

    /// The positions that query `query` of a segment sees, but for the mask.
    fn seen(&self, segment: &Segment<'_>, query: usize) -> Range<usize> {
        let after = segment.position + query + 1;
        let (first, last) = (segment.history_start, segment.end());
        let end = if self.causal { after.clamp(first, last) } else { last };
        let start = self.window.map_or(first, |window| after.saturating_sub(window).max(first));
        start.min(end)..end
    }

    /// Caps and masks the scores of one row against a block, everything but its keys included.
    ///
    /// # Safety
    /// `scores` is good for the block, rounded up to whole vectors.
    #[inline(always)]
    unsafe fn adjust<V: Vector>(&self, row: &Row, head: usize, block: &Block, scores: *mut f32) {
        let (keys, lead, end) = (&block.keys, block.lead(), block.end());
        // SAFETY: the caller's promise; the mask's length was checked.
        unsafe {
            if let Some(cap) = self.softcap {
                softmax::cap::<V>(scores, end, cap);
            }
            if let Some(mask) = self.mask {
                let key = keys.start - row.history_start;
                let at = row.row * mask.row_stride + head * mask.head_stride + key;
                softmax::mask(scores.add(lead), keys.len(), &mask.cells, at);
            }
            let seen = &row.seen;
            let low = seen.start.clamp(keys.start, keys.end) - keys.start + lead;
            let high = seen.end.clamp(keys.start, keys.end) - keys.start + lead;
            for i in (0..low).chain(high..end.next_multiple_of(V::LANES)) {
                *scores.add(i) = f32::NEG_INFINITY;
            }
        }
    }

    /// The end of a row: the sink joins, then everything is divided by the sum.
    fn share(&self, head: usize, running: Running) -> f32 {
        let sink = self.sinks.map(|sinks| sinks.get(head));
        running.share(sink)
    }
}

/// Keys of one block by their positions; what the block has before them is not there or not seen.
struct Block {
    keys: Range<usize>,
}

impl Block {
    /// Those of `keys` that are in the block of the first.
    #[inline(always)]
    fn first_of(keys: &Range<usize>) -> Block {
        let next = keys.start / KEYS * KEYS + KEYS;
        Block { keys: keys.start..keys.end.min(next) }
    }

    /// The first key's place in the block.
    #[inline(always)]
    fn lead(&self) -> usize {
        self.keys.start % KEYS
    }

    /// One past the last key's place.
    #[inline(always)]
    fn end(&self) -> usize {
        self.lead() + self.keys.len()
    }
}

impl Segment<'_> {
    /// One past the last remembered position.
    fn end(&self) -> usize {
        let tokens = match self.spans {
            [pages @ .., last] if self.page > 0 => pages.len() * self.page + last.tokens,
            spans => spans.iter().map(|span| span.tokens).sum(),
        };
        self.history_start + tokens
    }

    /// What is to be read of the block that begins with a position, where `of` says it of some tokens of a span.
    #[inline(always)]
    fn soon(&self, position: usize, of: impl FnOnce(&Span<'_>, usize, usize) -> Soon) -> Soon {
        let key = position - self.history_start;
        let (span, token) = match self.page {
            0 => (self.spans.first(), key),
            page => (self.spans.get(key / page), key % page),
        };
        let Some(span) = span else { return Soon::NOTHING };
        of(span, token, span.tokens.saturating_sub(token).min(KEYS))
    }

    /// The keys at these positions, as they lie within one span each.
    #[inline(always)]
    fn pieces(&self, positions: &Range<usize>) -> Pieces<'_> {
        let [start, end] = [positions.start, positions.end].map(|at| at - self.history_start);
        let keys = start..end;
        // Pages are of one size, so most histories need not be searched from their beginning.
        let page = self.page.max(1);
        let skipped = if self.page > 0 { keys.start / page } else { 0 };
        Pieces { spans: &self.spans[skipped..], start: skipped * page, keys }
    }
}

/// An iterator, because a closure would be compiled without the instruction set of its caller.
struct Pieces<'a> {
    spans: &'a [Span<'a>],
    /// Of the first of `spans`.
    start: usize,
    keys: Range<usize>,
}

/// `count` tokens from `token` on in a span.
struct Piece<'a> {
    span: &'a Span<'a>,
    token: usize,
    count: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;
    #[inline(always)]
    fn next(&mut self) -> Option<Piece<'a>> {
        while !self.keys.is_empty() {
            let (span, rest) = self.spans.split_first()?;
            let (start, end) = (self.start, self.start + span.tokens);
            let token = self.keys.start;
            if token < end {
                let count = self.keys.end.min(end) - token;
                self.keys.start += count;
                return Some(Piece { span, token: token - start, count });
            }
            (self.spans, self.start) = (rest, end);
        }
        None
    }
}

#[cfg(test)]
mod tests;
