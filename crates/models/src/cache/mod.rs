//! What a model remembers of its sequences: for each sequence a slot, for each layer a cache.
//!
//! A slot is a list of pages and a length. A page holds the keys and values of some consecutive positions of one sequence
//! in all layers that remember any; slots that begin alike share pages, and so do others who hold them. A page that
//! somebody else has too is copied before a slot writes to it, so what is in a page that somebody holds stays as it is.
//! Layers with a sliding window have a part of each page of their own, which is given up earlier. Recurrent layers have a
//! state for each slot instead.
//!
//! Caches write where a batch's segments say. So a rewound slot needs no clean-up: what lies beyond its length is never
//! read. On the CPU keys and values lie in pages, and attention reads them there; elsewhere a running sequence has them in
//! one piece ([`lanes`]), and pages come to be when somebody holds one.

mod lanes;
mod layer;
mod recurrent;
mod stored;
mod table;
mod travel;

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use mlx::pages::{Block, Layout, Number, Part as BatchPart, Place, Places, Receipts};
use mlx::{Array, Dtype};

use crate::batch::{Batch, PagesOf, Segment};

use lanes::Lanes;
pub(crate) use lanes::Past;
pub(crate) use layer::Kept;
pub use layer::{Cache, History, KvShape};
use layer::{KeyValue, Pages, Store};
use recurrent::Shared;
pub use recurrent::StateShape;
use stored::{Encoding, Stored};
use table::{Parts, Table};

/// More sequences at once than any scheduler admits; a slot costs some bytes per layer while it is empty.
pub const SLOTS_MAX: usize = 1 << 16;

/// Tokens of a page: see docs/decisions/0010-pages.md for what was measured.
pub const PAGE_TOKENS: usize = 64;

/// So many tokens a slot can always go back, though its layers have windows. Price: as much memory for each.
pub const REWIND_TOKENS: usize = 64;

/// Names one sequence in a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

/// Names the keys and values of [`Memory::page_tokens`] positions. Lives as long as a slot or a holder has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Page(u32);

/// How keys and values are stored. Heads that are no multiple of 32 are always `Full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// As they are computed.
    #[default]
    Full,
    /// 8 bits, and a scale for each 32 (in lanes a bias too).
    Q8,
    /// 4 bits, likewise.
    Q4,
}

/// What recurrent layers remember of a sequence, as of one length. Shares its arrays with the slot it came from.
#[derive(Clone, Debug)]
pub struct State {
    length: usize,
    layers: Rc<[Shared]>,
}

pub struct Memory {
    layers: Vec<Cache>,
    /// Of keys and values as they are computed.
    dtype: Dtype,
    /// As asked for.
    kv_type: KvType,
    table: Table<Part>,
    /// Where keys and values lie in pages.
    pages: Option<Layouts>,
}

/// The sizes of a page's parts, and what was written last.
struct Layouts {
    whole_bytes: usize,
    window_bytes: usize,
    receipts: Rc<Receipts>,
}

/// Part of a page: for layers with or without a window.
#[derive(Clone)]
enum Part {
    Block(Block),
    /// Keys and values of each layer, of one lane.
    Lanes(Rc<[Stored]>),
}

impl KvType {
    /// By the name it has in `OLLAMA_KV_CACHE_TYPE`; the floating-point types are all `Full`: what a model computes in.
    pub fn from_name(name: &str) -> Option<KvType> {
        match name {
            "" | "f16" | "bf16" | "f32" => Some(KvType::Full),
            "q8_0" => Some(KvType::Q8),
            "q4_0" => Some(KvType::Q4),
            _ => None,
        }
    }
}

impl Memory {
    /// One cache for each layer that has one, in the model's order; keys and values come in `dtype`.
    pub fn new(dtype: Dtype, layers: impl IntoIterator<Item = Cache>) -> Memory {
        let layers: Vec<Cache> = layers.into_iter().collect();
        let windows = layers.iter().filter_map(Cache::as_key_value).filter_map(|kv| kv.window);
        let table = Table::new(PAGE_TOKENS, windows.max());
        let mut memory = Memory { layers, dtype, kv_type: KvType::Full, table, pages: None };
        memory.arrange(mlx::pages::are_here());
        memory
    }

    /// The same, still empty, with keys and values stored so.
    pub fn with_kv_type(mut self, kv_type: KvType) -> Memory {
        self.kv_type = kv_type;
        self.arrange(self.is_paged());
        self
    }

    /// The same, still empty, with pages of so many tokens.
    pub fn with_page_tokens(mut self, tokens: usize) -> Memory {
        assert!(self.table.is_empty(), "pages are in use");
        self.table = Table::new(tokens, self.table.window);
        self.arrange(self.is_paged());
        self
    }

    /// The same, still empty, as it is on a GPU.
    pub fn in_lanes(mut self) -> Memory {
        self.arrange(false);
        self
    }

    /// Gives every layer its place.
    fn arrange(&mut self, paged: bool) {
        assert!(self.table.is_empty(), "pages are in use");
        let (dtype, kv_type, tokens) = (self.dtype, self.kv_type, self.table.tokens);
        let receipts = Rc::new(Receipts::default());
        let (mut whole_bytes, mut window_bytes) = (0, 0);
        for key_value in self.layers.iter_mut().filter_map(Cache::key_value_mut) {
            let KeyValue { shape, window, store } = key_value;
            *store = match paged {
                false => {
                    let encoding = Encoding::new(*shape, dtype, kv_type);
                    Store::Lanes(Lanes::new(*window, tokens, encoding))
                }
                true => {
                    let end = if window.is_some() { &mut window_bytes } else { &mut whole_bytes };
                    let place =
                        Place { layout: layout(shape, tokens, dtype, kv_type), offset: *end };
                    *end += place.layout.bytes();
                    Store::Pages(Pages { place, receipts: Rc::clone(&receipts) })
                }
            };
        }
        self.pages = paged.then_some(Layouts { whole_bytes, window_bytes, receipts });
    }

    /// Whether keys and values lie in pages, which attention reads row by row of a batch.
    pub fn is_paged(&self) -> bool {
        self.pages.is_some()
    }

    /// What keys and values are stored as: `Full` if all layers have heads that cannot be stored otherwise.
    pub fn kv_type(&self) -> KvType {
        let is_full = |key_value: &KeyValue| match &key_value.store {
            Store::Lanes(lanes) => lanes.encoding().is_full(),
            Store::Pages(Pages { place, .. }) => matches!(place.layout.number, Number::Float(_)),
        };
        let full = self.layers.iter().filter_map(Cache::as_key_value).all(is_full);
        if full { KvType::Full } else { self.kv_type }
    }

    pub fn page_tokens(&self) -> usize {
        self.table.tokens
    }

    /// Of one page in all layers.
    pub fn page_bytes(&self) -> usize {
        match &self.pages {
            Some(pages) => pages.whole_bytes + pages.window_bytes,
            None => {
                self.layers.iter().filter_map(|layer| layer.lane_bytes(self.table.tokens)).sum()
            }
        }
    }

    /// What a running sequence that may reach so many tokens, at most `rows_max` of them in a pass, has beside its pages:
    /// a lane, where keys and values are not read from pages. While lanes grow, and where they have fewer bits while they
    /// are attended to, one layer's are there twice.
    pub fn lane_bytes_max(&self, tokens: usize, rows_max: usize) -> usize {
        let lanes = self.layers.iter().filter_map(|layer| layer.lane_bytes_max(tokens, rows_max));
        let (lanes, twice): (Vec<usize>, Vec<usize>) = lanes.unzip();
        lanes.iter().sum::<usize>() + twice.into_iter().max().unwrap_or(0)
    }

    /// Of the recurrent state of one sequence.
    pub fn state_bytes(&self) -> usize {
        self.layers.iter().filter_map(Cache::recurrence).map(|layer| layer.bytes_each()).sum()
    }

    pub fn pages_in_use(&self) -> usize {
        self.table.in_use()
    }

    /// An empty sequence.
    pub fn open(&mut self) -> Slot {
        self.table.open()
    }

    /// A new sequence that begins with the first `length` tokens of `pages`, all of which it shares: nothing is copied
    /// before it grows. [`Memory::is_resumable`] must hold.
    pub fn open_on(&mut self, pages: &[Page], length: usize, state: Option<&State>) -> Slot {
        assert!(self.is_resumable(pages, length, state), "{length} tokens without their state");
        if !self.is_paged() {
            pages.iter().for_each(|page| self.cut_out(*page));
        }
        let slot = self.table.open_on(pages, length);
        if !self.is_paged() {
            self.join(slot);
        }
        if let Some(State { layers, .. }) = state.filter(|_| length > 0) {
            let recurrent = self.layers.iter_mut().filter_map(Cache::recurrent_mut);
            for (layer, state) in recurrent.zip(layers.iter()) {
                layer.start(slot, length, state.clone());
            }
        }
        slot
    }

    /// Whether a sequence can begin with the first `length` tokens of `pages`: what windows see of them must still be
    /// there, and where layers are recurrent, their state as of that length.
    pub fn is_resumable(&self, pages: &[Page], length: usize, state: Option<&State>) -> bool {
        let stated = length == 0
            || self.layers.iter().all(|layer| layer.recurrence().is_none())
            || state.is_some_and(|state| state.length == length);
        stated && self.table.is_resumable(pages, length)
    }

    /// Forgets a sequence.
    pub fn close(&mut self, slot: Slot) {
        self.table.close(slot);
        for cache in &mut self.layers {
            if let Some(lanes) = cache.lanes_mut() {
                lanes.close(slot);
            } else if let Some(recurrent) = cache.recurrent_mut() {
                recurrent.close(slot);
            }
        }
    }

    /// The tokens that `slot` remembers.
    pub fn length(&self, slot: Slot) -> usize {
        self.table.length(slot)
    }

    /// The pages of a sequence; the last may be filled in part.
    pub fn pages(&self, slot: Slot) -> &[Page] {
        self.table.pages(slot)
    }

    /// Whether any slot can go back to any length: not with windows or recurrences. Then see
    /// [`Memory::can_rewind_to`].
    pub fn can_rewind(&self) -> bool {
        self.table.window.is_none() && self.layers.iter().all(|layer| layer.recurrence().is_none())
    }

    /// Whether `slot` can go back to `length`: always to its beginning and to before its last pass, by
    /// [`REWIND_TOKENS`] if no layer is recurrent, and anywhere if none has a window either.
    pub fn can_rewind_to(&self, slot: Slot, length: usize) -> bool {
        let can = |layer: &Cache| {
            let lanes = layer.lanes().is_none_or(|lanes| lanes.can_rewind(slot, length));
            lanes && layer.recurrence().is_none_or(|layer| layer.can_rewind(slot, length))
        };
        self.table.can_rewind(slot, length) && self.layers.iter().all(can)
    }

    /// Forgets the tokens from `length` on.
    pub fn rewind(&mut self, slot: Slot, length: usize) {
        let whole = self.length(slot);
        assert!(length <= whole, "{slot:?} remembers {whole} tokens and cannot go to {length}");
        assert!(
            length == whole || self.can_rewind_to(slot, length),
            "{slot:?} remembers {whole} tokens and no longer what it needs to go to {length}"
        );
        self.table.rewind(slot, length);
        for cache in &mut self.layers {
            if let Some(lanes) = cache.lanes_mut() {
                lanes.rewind(slot, length);
            } else if let Some(recurrent) = cache.recurrent_mut() {
                recurrent.rewind(slot, length);
            }
        }
    }

    /// A new sequence that begins with the first `length` tokens of `slot`. Nothing is copied before one of the two
    /// grows. With recurrent layers `length` must be where their states are known.
    pub fn fork(&mut self, slot: Slot, length: usize) -> Slot {
        let state = self.state_at(slot, length);
        let new = self.table.fork(slot, length);
        for lanes in self.layers.iter_mut().filter_map(Cache::lanes_mut) {
            lanes.fork(slot, new);
        }
        if let Some(State { layers, .. }) = state.filter(|_| length > 0) {
            let recurrent = self.layers.iter_mut().filter_map(Cache::recurrent_mut);
            for (layer, state) in recurrent.zip(layers.iter()) {
                layer.start(new, length, state.clone());
            }
        }
        new
    }

    /// What recurrent layers remember as of the slot's length; none where the model has no such layers.
    pub fn state(&self, slot: Slot) -> Option<State> {
        self.state_at(slot, self.length(slot))
    }

    fn state_at(&self, slot: Slot, length: usize) -> Option<State> {
        let recurrent: Vec<_> = self.layers.iter().filter_map(Cache::recurrence).collect();
        if recurrent.is_empty() || length == 0 {
            return None;
        }
        let state = |layer: &&recurrent::Recurrent| {
            let state = layer.state(slot, length);
            state.unwrap_or_else(|| panic!("{slot:?} does not know its state at {length}"))
        };
        Some(State { length, layers: recurrent.iter().map(state).collect() })
    }

    /// Somebody else has this page too, until `release`.
    pub fn hold(&mut self, page: Page) {
        if !self.is_paged() {
            self.cut_out(page);
        }
        self.table.hold(page);
    }

    pub fn release(&mut self, page: Page) {
        self.table.release(page);
    }

    /// A holder gives up what layers with windows need of this page; the rest stays.
    pub fn release_window(&mut self, page: Page) {
        self.table.release_window(page);
    }

    /// All that is to be evaluated so that `slot` remembers what it was fed.
    pub fn arrays(&self, slot: Slot) -> Vec<Array> {
        self.length(slot);
        let written = self.pages.iter().filter_map(|pages| pages.receipts.last());
        let of = |cache: &Cache| match (cache.lanes(), cache.recurrence()) {
            (Some(lanes), _) => lanes.arrays(slot),
            (_, Some(recurrent)) => recurrent.arrays(slot),
            _ => Vec::new(),
        };
        written.chain(self.layers.iter().flat_map(of)).collect()
    }

    /// What all slots and holders have together; what they share counts once.
    pub fn bytes(&self) -> usize {
        let mut seen = HashSet::new();
        let lanes = self.layers.iter().filter_map(Cache::lanes).map(|lanes| lanes.bytes(&mut seen));
        let lanes: usize = lanes.sum();
        let recurrent = self.layers.iter().filter_map(Cache::recurrence);
        let states: usize = recurrent.map(|layer| layer.bytes(&mut seen)).sum();
        let parts = self.table.entries().flat_map(|entry| [&entry.whole, &entry.window]);
        lanes + states + parts.flatten().map(Part::bytes).sum::<usize>()
    }

    /// The cache of a layer.
    pub fn layer(&mut self, index: usize) -> &mut Cache {
        &mut self.layers[index]
    }

    /// Begins a forward pass: the batch's slots grow by its rows, and each layer takes its cache, in order. If the pass
    /// then unwinds, the slots must be rewound before they are used again.
    pub fn step(&mut self, batch: &mut Batch) -> std::slice::IterMut<'_, Cache> {
        let mut copies = Vec::new();
        for &Segment { slot, position, length, .. } in &batch.segments {
            assert_eq!(self.length(slot), position, "{slot:?} twice in a batch, or an old batch");
            copies.extend(self.grow(slot, length));
        }
        if let Some(pages) = &self.pages {
            let blocks = copies.iter().flat_map(|((whole, window), to)| {
                let to = self.table.entry(*to);
                [(whole, &to.whole), (window, &to.window)]
            });
            let block = |part: &Option<Part>| part.as_ref().and_then(Part::block).cloned();
            let pairs = blocks.filter_map(|(from, to)| Some((block(from)?, block(to)?)));
            pages.receipts.copy(pairs.collect());
            batch.pages = Some(self.pages_of(batch));
        }
        for segment in &batch.segments {
            self.table.forget(segment.slot);
        }
        self.layers.iter_mut()
    }

    fn grow(&mut self, slot: Slot, count: usize) -> Option<(Parts<Part>, Page)> {
        let sizes = self.pages.as_ref().map(|pages| [pages.whole_bytes, pages.window_bytes]);
        let block = |bytes: usize| (bytes > 0).then(|| Part::Block(Block::new(bytes)));
        let make = || match sizes {
            Some([whole, window]) => (block(whole), block(window)),
            None => (None, None),
        };
        if sizes.is_none() {
            // What was cut out of it ends too early.
            if let Some(last) = self.table.pages(slot).last().copied() {
                let within = !self.length(slot).is_multiple_of(self.table.tokens);
                if within && !self.table.entry(last).is_shared() {
                    let entry = self.table.entry_mut(last);
                    (entry.whole, entry.window) = (None, None);
                }
            }
        }
        self.table.grow(slot, count, make)
    }

    fn pages_of(&self, batch: &Batch) -> PagesOf {
        PagesOf {
            whole: self.places(batch, |entry| &entry.whole, |_| 0),
            window: self.places(batch, |entry| &entry.window, |slot| self.table.gone(slot)),
        }
    }

    fn places(
        &self,
        batch: &Batch,
        of: impl Fn(&table::Entry<Part>) -> &Option<Part>,
        first: impl Fn(Slot) -> usize,
    ) -> Arc<Places> {
        let (mut parts, mut blocks) = (Vec::with_capacity(batch.segments.len()), Vec::new());
        for &Segment { slot, start, length, position } in &batch.segments {
            let (begin, first) = (blocks.len(), first(slot));
            let pages = &self.table.pages(slot)[first..];
            let parts_of = pages.iter().filter_map(|page| of(self.table.entry(*page)).as_ref());
            blocks.extend(parts_of.filter_map(Part::block).cloned());
            parts.push(BatchPart {
                row: start,
                length,
                position,
                blocks: begin..blocks.len(),
                start: first * self.table.tokens,
            });
        }
        let parts = if blocks.is_empty() { Vec::new() } else { parts };
        Arc::new(Places::new(parts, blocks, self.table.tokens))
    }

    /// Gives a page its keys and values, if only lanes have them so far.
    fn cut_out(&mut self, page: Page) {
        let entry = self.table.entry(page);
        if entry.whole.is_none() && entry.window.is_none() {
            let (whole, window) = self.cut(page);
            // Else the lanes that it is cut from would live as long as the page; a failure comes with the next reading.
            let parts = [&whole, &window].into_iter().flatten().filter_map(Part::lanes);
            let stored = parts.flat_map(|layers| layers.iter());
            let _ = mlx::async_eval(&stored.flat_map(Stored::arrays).collect::<Vec<_>>());
            let entry = self.table.entry_mut(page);
            (entry.whole, entry.window) = (whole, window);
        }
    }

    /// What lanes have of a page.
    fn cut(&self, page: Page) -> Parts<Part> {
        let longest = self.table.owners(page).max_by_key(|(slot, _)| self.table.length(*slot));
        let Some((slot, place)) = longest else { return (None, None) };
        let tokens = self.table.tokens;
        let (start, end) = (place * tokens, self.length(slot).min((place + 1) * tokens));
        let of = |windowed: bool| {
            let layers = self.layers.iter().filter_map(Cache::as_key_value);
            let layers = layers.filter(|kv| kv.window.is_some() == windowed);
            let pieces: Option<Rc<[_]>> = layers
                .map(|kv| match &kv.store {
                    Store::Lanes(lanes) => lanes.cut(slot, start, end),
                    Store::Pages(_) => None,
                })
                .collect();
            pieces.filter(|pieces| !pieces.is_empty()).map(Part::Lanes)
        };
        let has_window = self.table.entry(page).has_window();
        (of(false), if has_window { of(true) } else { None })
    }

    /// Gives a slot lanes with what its pages hold.
    fn join(&mut self, slot: Slot) {
        let (length, tokens) = (self.length(slot), self.table.tokens);
        let gone = self.table.gone(slot);
        let entries: Vec<_> =
            self.table.pages(slot).iter().map(|page| self.table.entry(*page)).collect();
        let (mut next_whole, mut next_window) = (0, 0);
        for key_value in self.layers.iter_mut().filter_map(Cache::key_value_mut) {
            let Store::Lanes(lanes) = &mut key_value.store else { continue };
            let (next, first) = match key_value.window {
                Some(_) => (&mut next_window, gone),
                None => (&mut next_whole, 0),
            };
            let pieces = entries[first..].iter().filter_map(|entry| {
                let part = if key_value.window.is_some() { &entry.window } else { &entry.whole };
                Some(part.as_ref()?.lanes()?[*next].clone())
            });
            lanes.join(slot, first * tokens, length, &pieces.collect::<Vec<_>>());
            *next += 1;
        }
    }
}

fn layout(shape: &KvShape, tokens: usize, dtype: Dtype, kv_type: KvType) -> Layout {
    let number = match kv_type {
        KvType::Full => Number::Float(dtype),
        KvType::Q8 => Number::Byte,
        KvType::Q4 => Number::Nibble,
    };
    let &KvShape { heads, key_dim, value_dim } = shape;
    let (heads, key_dim, value_dim) = (heads as usize, key_dim as usize, value_dim as usize);
    let layout = Layout { heads, key_dim, value_dim, tokens, number };
    if layout.fits() { layout } else { Layout { number: Number::Float(dtype), ..layout } }
}

impl Part {
    fn block(&self) -> Option<&Block> {
        match self {
            Part::Block(block) => Some(block),
            Part::Lanes(_) => None,
        }
    }

    fn lanes(&self) -> Option<&Rc<[Stored]>> {
        match self {
            Part::Lanes(layers) => Some(layers),
            Part::Block(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Part::Block(block) => block.bytes(),
            Part::Lanes(layers) => layers.iter().map(Stored::nbytes).sum(),
        }
    }
}

impl State {
    pub fn bytes(&self) -> usize {
        self.layers.iter().flat_map(|state| state.iter()).map(Array::nbytes).sum()
    }

    /// All of it, to be evaluated.
    pub fn arrays(&self) -> Vec<Array> {
        self.layers.iter().flat_map(|state| state.iter()).cloned().collect()
    }
}

impl Slot {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl Page {
    fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests;
