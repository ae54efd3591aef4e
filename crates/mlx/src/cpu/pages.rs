//! Keys and values in pages of host memory, which our kernels write and read where they lie: see `mlx::pages`.
//!
//! Pages are no arrays, so neither MLX nor the tape sees who reads and writes them. Order is kept by *receipts*: whoever
//! writes leaves a small array that the next writer takes, and readers take the receipt of the writer they follow. So
//! everything is written in the order in which it was asked for, whichever program it became part of, and evaluating the
//! last receipt waits for all of it. A page lives until the last kernel that was asked to use it is done.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use half::{bf16, f16};
use kernels::{
    Append, Attention, Cells, CellsMut, Cpu, Floats, FloatsMut, Heads, HeadsMut, Segment, Span,
    Stored, StoredMut,
};
use memmap2::MmapMut;
use smallvec::SmallVec;

use super::values::{Values, View, floats_mut, is_float};
use super::{Input, Kernel, Output, Start, call, kernels_compute, parts};
use crate::{Array, Dtype, EvalError, error, meter};

/// Numbers that share a scale where keys and values are stored in fewer bits.
pub const GROUP: usize = 32;

/// Parts of a page begin at such a multiple: a line of every processor's cache.
const ALIGNMENT: usize = 64;

/// How a number of a page is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// F32, F16 or Bf16.
    Float(Dtype),
    /// 8 bits and an f32 for each [`GROUP`] of them.
    Byte,
    /// 4 bits and an f32 for each [`GROUP`] of them.
    Nibble,
}

/// One layer's part of a page: keys `[heads, tokens, key_dim]`, behind them values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    pub tokens: usize,
    pub number: Number,
}

/// Host memory for one page of some layers. Cloning shares it.
#[derive(Clone)]
pub struct Block(Arc<Memory>);

/// Mapped from the system and so given back to it at once: an allocator would keep what lies between others.
struct Memory {
    start: *mut u8,
    bytes: usize,
    _map: Option<MmapMut>,
}

/// The pages of the sequences of a batch, for one step through all layers.
pub struct Places {
    parts: Vec<Part>,
    blocks: Vec<Block>,
    tokens: usize,
    /// No other places of the process have it.
    number: u64,
}

/// The rows of one sequence, and where its pages stand.
#[derive(Clone, Debug)]
pub struct Part {
    /// Of the first in the batch.
    pub row: usize,
    pub length: usize,
    /// Of the first row in the sequence.
    pub position: usize,
    /// In the list of blocks.
    pub blocks: Range<usize>,
    /// The position that the first block begins with.
    pub start: usize,
}

/// Where a layer lies in every block.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub layout: Layout,
    /// In bytes.
    pub offset: usize,
}

/// What is done to scores.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub scale: f32,
    /// A query sees no key behind its own.
    pub causal: bool,
    /// A query at position `p` sees no key at `p - window` or before.
    pub window: Option<usize>,
    /// Scores become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// For each query head a score that takes part in the softmax but has no value.
    pub sinks: Option<&'a Array>,
}

/// What was written last, by a thread's pages that belong together.
#[derive(Default)]
pub struct Receipts(RefCell<Option<Array>>);

/// Of all blocks of the process, those included that only kernels under way still use.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// The most of them since the start or `reset_peak`.
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

/// That the next `Places` get; 0 is nobody's.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// What all pages of this process take; `memory` adds it to what MLX counts.
pub fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

pub(crate) fn peak_bytes() -> usize {
    PEAK_BYTES.load(Ordering::Relaxed)
}

pub(crate) fn reset_peak() {
    PEAK_BYTES.store(bytes(), Ordering::Relaxed);
}

/// Whether this thread computes where there are pages.
pub fn are_here() -> bool {
    kernels_compute()
}

impl Number {
    /// Bytes of codes and of scales for so many numbers.
    fn bytes(self, count: usize) -> [usize; 2] {
        match self {
            Number::Float(dtype) => [count * dtype.size(), 0],
            Number::Byte => [count, count / GROUP * 4],
            Number::Nibble => [count / 2, count / GROUP * 4],
        }
    }
}

impl Layout {
    /// Whether heads can be stored so: whole groups.
    pub fn fits(&self) -> bool {
        match self.number {
            Number::Float(dtype) => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16),
            Number::Byte | Number::Nibble => {
                self.key_dim.is_multiple_of(GROUP) && self.value_dim.is_multiple_of(GROUP)
            }
        }
    }

    pub fn bytes(&self) -> usize {
        self.parts().1
    }

    /// Where codes and scales of keys, then of values, begin and end; the size of all.
    fn parts(&self) -> ([Range<usize>; 4], usize) {
        let mut end = 0;
        let mut part = |bytes: usize| {
            let start = end;
            end = (start + bytes).next_multiple_of(ALIGNMENT);
            start..start + bytes
        };
        let [keys, key_scales] = self.number.bytes(self.heads * self.tokens * self.key_dim);
        let [values, value_scales] = self.number.bytes(self.heads * self.tokens * self.value_dim);
        let parts = [part(keys), part(key_scales), part(values), part(value_scales)];
        (parts, end)
    }
}

impl Block {
    /// Memory of zeros; what is never touched costs nothing.
    #[track_caller]
    pub fn new(bytes: usize) -> Block {
        let mut map = match bytes {
            0 => None,
            _ => match MmapMut::map_anon(bytes) {
                Ok(map) => Some(map),
                Err(error) => {
                    error::fail("pages", &[], format!("no {bytes} bytes for a page: {error}"))
                }
            },
        };
        let start = map.as_mut().map_or(std::ptr::null_mut(), |map| map.as_mut_ptr());
        let before = BYTES.fetch_add(bytes, Ordering::Relaxed);
        PEAK_BYTES.fetch_max(before + bytes, Ordering::Relaxed);
        Block(Arc::new(Memory { start, bytes, _map: map }))
    }

    pub fn of(content: &[u8]) -> Block {
        let block = Block::new(content.len());
        // SAFETY: new memory of that size, which nobody else knows.
        unsafe { block.0.slice_mut(0..content.len()) }.copy_from_slice(content);
        block
    }

    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    pub fn is(&self, other: &Block) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

// SAFETY: what is written when is kept apart by receipts, which only the thread that has the pages hands out.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// The system's pages begin at lines.
    fn at(&self, offset: usize) -> *mut u8 {
        self.start.wrapping_add(offset)
    }

    /// # Safety
    /// Nobody writes there for `'a`.
    unsafe fn slice<'a, T>(&self, range: Range<usize>) -> &'a [T] {
        assert!(range.end <= self.bytes && range.start <= range.end, "{range:?} of a page");
        if range.is_empty() {
            return &[];
        }
        let count = range.len() / size_of::<T>();
        // SAFETY: within the memory, and lines are aligned for all numbers.
        unsafe { std::slice::from_raw_parts(self.at(range.start).cast(), count) }
    }

    /// # Safety
    /// Nobody else reads or writes there for `'a`.
    unsafe fn slice_mut<'a, T>(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.end <= self.bytes && range.start <= range.end, "{range:?} of a page");
        if range.is_empty() {
            return &mut [];
        }
        let count = range.len() / size_of::<T>();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at(range.start).cast(), count) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Places {
    /// `tokens` of each block. Parts stand in the order of their rows and have blocks for all their positions; no two
    /// write to one block.
    pub fn new(parts: Vec<Part>, blocks: Vec<Block>, tokens: usize) -> Places {
        let mut written: SmallVec<[*const Memory; 32]> = SmallVec::new();
        let mut row = 0;
        for part in &parts {
            let Part { length, position, start, .. } = *part;
            let end = start + part.blocks.len() * tokens;
            assert!(part.row >= row && start <= position, "rows or pages out of order: {part:?}");
            assert!(position + length <= end, "pages for {start}..{end}: {part:?}");
            row = part.row + length;
            let blocks = &blocks[part.blocks.clone()];
            let first = (position - start) / tokens;
            let last = (position + length).saturating_sub(start).div_ceil(tokens);
            written.extend(blocks[first.min(last)..last].iter().map(|block| Arc::as_ptr(&block.0)));
        }
        written.sort_unstable();
        assert!(written.windows(2).all(|pair| pair[0] != pair[1]), "two write to one page");
        Places { parts, blocks, tokens, number: NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    /// Some of the parts by themselves, which follow each other.
    pub fn of(&self, parts: Range<usize>) -> Places {
        let Some(first) = self.parts.get(parts.start) else {
            return Places::new(Vec::new(), Vec::new(), self.tokens);
        };
        let (row, block) = (first.row, first.blocks.start);
        let chosen = &self.parts[parts];
        let end = chosen.last().map_or(block, |part| part.blocks.end);
        let part = |part: &Part| Part {
            row: part.row - row,
            blocks: part.blocks.start - block..part.blocks.end - block,
            ..part.clone()
        };
        let blocks = self.blocks[block..end].to_vec();
        Places::new(chosen.iter().map(part).collect(), blocks, self.tokens)
    }

    fn rows(&self) -> usize {
        self.parts.last().map_or(0, |part| part.row + part.length)
    }

    fn block(&self, part: &Part, position: usize) -> &Memory {
        &self.blocks[part.blocks.start + (position - part.start) / self.tokens].0
    }
}

impl Receipts {
    /// To be evaluated, so that everything is written.
    pub fn last(&self) -> Option<Array> {
        self.0.borrow().clone()
    }

    fn take_and_leave(&self, kernel: impl Kernel, inputs: &[&Array]) {
        let before = self.last();
        let inputs: SmallVec<[&Array; 3]> = inputs.iter().copied().chain(&before).collect();
        let receipt = call(kernel, &inputs, &[Start::Fresh { shape: &[1], dtype: Dtype::U8 }]);
        *self.0.borrow_mut() = receipt.into_iter().next();
    }

    /// Copies whole blocks of one size, before anything that is asked for later.
    #[track_caller]
    pub fn copy(&self, pairs: Vec<(Block, Block)>) {
        let alike = |(from, to): &(Block, Block)| from.bytes() == to.bytes() && !from.is(to);
        assert!(pairs.iter().all(alike), "copies of pages onto others");
        if !pairs.is_empty() {
            meter::inside(|| self.take_and_leave(CopyPages { pairs }, &[]));
        }
    }

    /// Writes rows of keys and values, `[rows, heads, 1, dim]`, to their places.
    #[track_caller]
    pub fn append(&self, places: &Arc<Places>, place: Place, keys: &Array, values: &Array) {
        let Layout { heads, key_dim, value_dim, .. } = place.layout;
        let fits = |array: &Array, dim: usize| {
            let shape = [places.rows() as i32, heads as i32, 1, dim as i32];
            array.shape() == shape && is_float(array)
        };
        if !fits(keys, key_dim) || !fits(values, value_dim) || !place.layout.fits() {
            let words = format!("{} rows do not fit {place:?}", places.rows());
            error::fail("append", &[keys, values], words);
        }
        let kernel = AppendPages { places: Arc::clone(places), place };
        meter::inside(|| self.take_and_leave(kernel, &[keys, values]));
    }

    /// softmax(scale × queries · keysᵀ) · values of all rows, each over its own sequence: `[rows, heads, 1, dim]` in the
    /// shape of queries but for the width of values.
    #[track_caller]
    pub fn attend(
        &self,
        places: &Arc<Places>,
        place: Place,
        queries: &Array,
        options: &Options<'_>,
    ) -> Array {
        let (layout, rows) = (place.layout, places.rows() as i32);
        let fits = match *queries.shape() {
            [r, heads, 1, dim] => {
                let grouped = (heads as usize).is_multiple_of(layout.heads);
                r == rows && grouped && dim as usize == layout.key_dim
            }
            _ => false,
        };
        let heads = queries.shape().get(1).copied().unwrap_or(0);
        let sinks = options.sinks.is_none_or(|s| s.shape() == [heads] && is_float(s));
        if !fits || !sinks || !is_float(queries) || !layout.fits() {
            error::fail("attend", &[queries], format!("{rows} rows do not fit {place:?}"));
        }
        let Options { scale, causal, window, softcap, .. } = *options;
        let places = Arc::clone(places);
        let kernel = AttendPages { places, place, scale, causal, window, softcap };
        let receipt = self.last();
        let inputs: SmallVec<[&Array; 3]> =
            std::iter::once(queries).chain(options.sinks).chain(&receipt).collect();
        let shape = [rows, heads, 1, layout.value_dim as i32];
        let start = Start::Fresh { shape: &shape, dtype: queries.dtype() };
        meter::inside(|| call(kernel, &inputs, &[start]).swap_remove(0))
    }

    /// What is in a block when everything asked for so far is written.
    pub fn read(&self, block: &Block) -> Result<Vec<u8>, EvalError> {
        if let Some(last) = self.last() {
            crate::eval(&[&last])?;
        }
        // SAFETY: nothing that was asked to write is under way, and nobody can ask meanwhile.
        Ok(unsafe { block.0.slice::<u8>(0..block.bytes()) }.to_vec())
    }
}

struct CopyPages {
    pairs: Vec<(Block, Block)>,
}

impl Kernel for CopyPages {
    fn name(&self) -> &'static str {
        "copy_pages"
    }

    fn run(&self, _: &[Input<'_>], _: &mut [Output<'_>]) {
        for (from, to) in &self.pairs {
            // SAFETY: two blocks; the receipts keep others that write away.
            unsafe {
                to.0.slice_mut::<u8>(0..to.bytes()).copy_from_slice(from.0.slice(0..from.bytes()));
            }
        }
    }
}

struct AppendPages {
    places: Arc<Places>,
    place: Place,
}

impl Kernel for AppendPages {
    fn name(&self) -> &'static str {
        "append"
    }

    fn run(&self, inputs: &[Input<'_>], _: &mut [Output<'_>]) {
        let (keys, values) = (View::of(&inputs[0]), View::of(&inputs[1]));
        let Places { parts, tokens, .. } = &*self.places;
        let mut appends: Vec<Append<'_>> = Vec::with_capacity(parts.len());
        for part in parts {
            let (mut position, end) = (part.position, part.position + part.length);
            while position < end {
                let token = (position - part.start) % tokens;
                let rows = (tokens - token).min(end - position);
                let row = part.row + position - part.position;
                let block = self.places.block(part, position);
                // SAFETY: no two parts write to one block, a part comes to a block once, and the receipts keep others
                // that write away; what reads meanwhile reads other numbers, or is done.
                let [keys, values] = unsafe { self.place.stored_mut(block) };
                appends.push(Append { row, rows, token, keys, values });
                position += rows;
            }
        }
        kernels::append(&Cpu::current(), &heads(&keys), &heads(&values), &mut appends);
    }
}

/// `[rows, heads, 1, dim]`.
fn heads<'a>(x: &'a View<'_>) -> Heads<'a> {
    Heads {
        data: x.floats_from(x.first),
        rows: x.shape[0],
        heads: x.shape[1],
        dim: x.shape[3],
        row_stride: x.strides[0],
        head_stride: x.strides[1],
    }
}

struct AttendPages {
    places: Arc<Places>,
    place: Place,
    scale: f32,
    causal: bool,
    window: Option<usize>,
    softcap: Option<f32>,
}

impl Kernel for AttendPages {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn part(&self) -> parts::Part {
        parts::Part::Attention
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let queries = View::of(&inputs[0]);
        // The receipt is the only other input that is no float.
        let sinks = inputs.get(1).filter(|input| input.dtype != Dtype::U8).map(Values::of);
        let layout = self.place.layout;
        let Places { parts, blocks, tokens, number } = &*self.places;
        let mut spans: Vec<Span<'_>> = Vec::with_capacity(blocks.len());
        let ranges = self.place.ranges();
        for part in parts {
            let end = part.position + part.length;
            for (index, block) in blocks[part.blocks.clone()].iter().enumerate() {
                let first = part.start + index * tokens;
                // SAFETY: what is written meanwhile lies behind the tokens of this part, or waits for this to be done.
                let [keys, values] = unsafe { self.place.stored(&ranges, &block.0) };
                let tokens = end.saturating_sub(first).min(*tokens);
                spans.push(Span { keys, values, tokens });
            }
        }
        let mut rest = &spans[..];
        let segments: Vec<Segment<'_>> = parts
            .iter()
            .map(|part| {
                let (own, after) = rest.split_at(part.blocks.len());
                rest = after;
                Segment {
                    row: part.row,
                    length: part.length,
                    position: part.position,
                    history_start: part.start,
                    spans: own,
                    page: *tokens,
                }
            })
            .collect();
        let heads_num = queries.shape[1];
        let attention = Attention {
            value_dim: layout.value_dim,
            scale: self.scale,
            causal: self.causal,
            window: self.window,
            softcap: self.softcap,
            sinks: sinks.as_ref().map(Values::floats),
            alike: *number,
            ..Attention::causal(heads(&queries), layout.heads, &segments)
        };
        let out = HeadsMut {
            data: floats_mut(&mut outputs[0]),
            rows: queries.shape[0],
            heads: heads_num,
            dim: layout.value_dim,
            row_stride: heads_num * layout.value_dim,
            head_stride: layout.value_dim,
        };
        kernels::attend(&Cpu::current(), &attention, out);
    }
}

impl Place {
    fn ranges(&self) -> [Range<usize>; 4] {
        let (parts, _) = self.layout.parts();
        parts.map(|part| part.start + self.offset..part.end + self.offset)
    }

    /// # Safety
    /// Nobody writes what is read of it for `'a`.
    unsafe fn stored<'a>(&self, ranges: &[Range<usize>; 4], block: &Memory) -> [Stored<'a>; 2] {
        let [keys, key_scales, values, value_scales] = ranges.clone();
        let Layout { tokens, key_dim, value_dim, number, .. } = self.layout;
        let one = |codes: Range<usize>, scales: Range<usize>, dim: usize| {
            // SAFETY: the caller's promise.
            let cells = unsafe {
                match number {
                    Number::Float(Dtype::F32) => Cells::Floats(Floats::F32(block.slice(codes))),
                    Number::Float(Dtype::F16) => {
                        Cells::Floats(Floats::F16(block.slice::<f16>(codes)))
                    }
                    Number::Float(_) => Cells::Floats(Floats::Bf16(block.slice::<bf16>(codes))),
                    Number::Byte => {
                        let (codes, scales) = (block.slice(codes), block.slice(scales));
                        Cells::Bytes { codes, scales, group: GROUP }
                    }
                    Number::Nibble => {
                        let (codes, scales) = (block.slice(codes), block.slice(scales));
                        Cells::Nibbles { codes, scales }
                    }
                }
            };
            Stored::new(cells, tokens, dim)
        };
        [one(keys, key_scales, key_dim), one(values, value_scales, value_dim)]
    }

    /// # Safety
    /// Nobody else reads or writes what is written of it for `'a`.
    unsafe fn stored_mut<'a>(&self, block: &Memory) -> [StoredMut<'a>; 2] {
        let [keys, key_scales, values, value_scales] = self.ranges();
        let Layout { tokens, key_dim, value_dim, number, .. } = self.layout;
        let one = |codes: Range<usize>, scales: Range<usize>, dim: usize| {
            // SAFETY: the caller's promise.
            let cells = unsafe {
                match number {
                    Number::Float(Dtype::F32) => {
                        CellsMut::Floats(FloatsMut::F32(block.slice_mut(codes)))
                    }
                    Number::Float(Dtype::F16) => {
                        CellsMut::Floats(FloatsMut::F16(block.slice_mut::<f16>(codes)))
                    }
                    Number::Float(_) => {
                        CellsMut::Floats(FloatsMut::Bf16(block.slice_mut::<bf16>(codes)))
                    }
                    Number::Byte => {
                        let (codes, scales) = (block.slice_mut(codes), block.slice_mut(scales));
                        CellsMut::Bytes { codes, scales, group: GROUP }
                    }
                    Number::Nibble => {
                        let (codes, scales) = (block.slice_mut(codes), block.slice_mut(scales));
                        CellsMut::Nibbles { codes, scales }
                    }
                }
            };
            StoredMut::new(cells, tokens, dim)
        };
        [one(keys, key_scales, key_dim), one(values, value_scales, value_dim)]
    }
}
