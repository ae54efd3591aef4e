//! The executor that runs a model: feeds become one flat batch, the last rows become logits, logits become tokens, and
//! all of it is only dispatched; `collect` is the one place that waits.
//!
//! Graph operations unwind when they fail; each step catches that once, and what it had begun to remember is forgotten.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlx::Array;
use models::{Batch, KvType, Memory, Model, Page, Pass, Slot, State};
use protocol::{Failure, FailureKind, MemoryReport};

use crate::batcher::CHUNK_TOKENS;
use crate::drawing::Ticket;
use crate::executor::{Drawn, Executor, Feed, Hurry, Input, Onward};
use crate::sampling::Edits;

/// Steps between two returns of the allocator's free buffers to the system. Price: a slower step.
const STEPS_PER_CLEARING: u32 = 256;

/// How often somebody looks at the clock in a step that others wait for, at most, and after what time at the earliest.
/// Price: some 50 µs each time.
const GLANCES: usize = 14;
const GLANCE_AFTER: Duration = Duration::from_millis(5);

pub(crate) struct Forward {
    model: Box<dyn Model>,
    memory: Memory,
    /// For pages and states.
    budget: usize,
    /// What each slot drew last: a row of that step's tokens.
    last: HashMap<Slot, (Rc<Array>, usize)>,
    steps: u32,
    start: Instant,
}

/// Feeds whose pass waits between two layers.
pub(crate) struct Rest {
    pass: Pass,
    feeds: Vec<Feed<Slot>>,
}

/// A pass by the clock: when it was looked at last, how many layers are computed until the next time, and what these
/// probably take.
struct Watch {
    seen: Duration,
    layers: usize,
    next: Duration,
}

impl Forward {
    pub fn new(model: Box<dyn Model>, kv_type: KvType) -> Forward {
        let memory = model.memory().with_kv_type(kv_type);
        let (last, start) = (HashMap::new(), Instant::now());
        Forward { model, memory, budget: usize::MAX / 2, last, steps: 0, start }
    }

    /// What pages and states may take.
    pub fn with_budget(self, bytes: usize) -> Forward {
        Forward { budget: bytes, ..self }
    }

    fn step(&mut self, feeds: &[Feed<Slot>]) -> Result<Ticket<Slot>, Failure> {
        let pass = self.begin(feeds);
        self.end(pass, feeds)
    }

    fn begin(&mut self, feeds: &[Feed<Slot>]) -> Pass {
        let lengths: Vec<(Slot, usize)> =
            feeds.iter().map(|feed| (feed.slot, feed.rows())).collect();
        let batch = Batch::new(self.tokens(feeds), &lengths, &self.memory);
        self.model.begin(batch, &mut self.memory)
    }

    /// As `step`, by the clock.
    fn step_by(
        &mut self,
        feeds: &[Feed<Slot>],
        hurry: Hurry,
    ) -> Result<(Ticket<Slot>, Option<Rest>), Failure> {
        let mut pass = self.begin(feeds);
        let mut watch = self.watch();
        while self.advance(&mut pass, &mut watch)? {
            // The head is a good part of a step of few rows, and comes last in any case.
            let layers = self.model.layers();
            let left = 2 * layers - pass.layers();
            let rest = hurry.alone.mul_f64(left as f64 / (2 * layers) as f64);
            if watch.seen + watch.next + rest > hurry.until {
                let [urgent, other] = pass.split(hurry.feeds);
                let (first, last) = feeds.split_at(hurry.feeds);
                let ticket = self.end(urgent, first)?;
                return Ok((ticket, Some(Rest { pass: other, feeds: last.to_vec() })));
            }
        }
        Ok((self.end(pass, feeds)?, None))
    }

    fn step_on(
        &mut self,
        rest: Rest,
        until: Duration,
    ) -> Result<Onward<Ticket<Slot>, Rest>, Failure> {
        let Rest { mut pass, feeds } = rest;
        let mut watch = self.watch();
        while self.advance(&mut pass, &mut watch)? {
            if watch.seen + watch.next > until {
                return Ok(Onward::Rest(Rest { pass, feeds }));
            }
        }
        self.end(pass, &feeds).map(Onward::Through)
    }

    fn watch(&self) -> Watch {
        let layers = self.model.layers().div_ceil(GLANCES);
        Watch { seen: self.now(), layers, next: Duration::ZERO }
    }

    /// Computes the next layers, up to where the clock is to be looked at; false if that is the end.
    fn advance(&mut self, pass: &mut Pass, watch: &mut Watch) -> Result<bool, Failure> {
        let (layers, begin) = (self.model.layers(), pass.layers());
        while pass.layers() < layers.min(begin + watch.layers) {
            self.model.advance(pass, &mut self.memory);
        }
        if pass.layers() == layers {
            return Ok(false);
        }
        mlx::eval(&[pass.hidden()]).map_err(failed_eval)?;
        let now = self.now();
        let each = (now - watch.seen).as_secs_f64() / watch.layers as f64;
        let many = (GLANCE_AFTER.as_secs_f64() / each) as usize;
        let next = many.max(layers.div_ceil(GLANCES)).min(layers);
        *watch =
            Watch { seen: now, layers: next, next: Duration::from_secs_f64(each * next as f64) };
        Ok(true)
    }

    /// The rest of a pass, and what is drawn after it.
    fn end(&mut self, mut pass: Pass, feeds: &[Feed<Slot>]) -> Result<Ticket<Slot>, Failure> {
        while pass.layers() < self.model.layers() {
            self.model.advance(&mut pass, &mut self.memory);
        }
        let hidden = self.model.end(pass);
        // What comes out at the end of a chunk in the middle of a prompt nobody wants, only what is remembered of it.
        let silent = feeds.iter().filter(|feed| feed.draws.is_empty());
        let remembered: Vec<Array> =
            silent.flat_map(|feed| self.memory.arrays(feed.slot)).collect();
        if feeds.iter().all(|feed| feed.draws.is_empty()) {
            // Computed now, so that its activations are gone before the next.
            drop(hidden);
            mlx::eval(&remembered.iter().collect::<Vec<_>>()).map_err(failed_eval)?;
            mlx::memory::clear_cache();
            return Ok(Ticket::nothing());
        }
        let ticket = Ticket::new(self.model.logits(&drawing_rows(&hidden, feeds)), feeds);
        let arrays = ticket.arrays().into_iter().chain(&remembered).collect::<Vec<_>>();
        mlx::async_eval(&arrays).map_err(failed_eval)?;
        self.last.extend(ticket.last().map(|(slot, tokens, row)| (slot, (tokens, row))));
        let nothing = Rc::new(Array::from_slice::<u32>(&[], &[0]));
        self.last.extend(ticket.late_slots().map(|slot| (slot, (Rc::clone(&nothing), 0))));
        Ok(ticket)
    }

    /// Slots remember what they did before a step that fails.
    fn or_rewind<T>(
        &mut self,
        feeds: &[Feed<Slot>],
        step: impl FnOnce(&mut Forward) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.steps = (self.steps + 1) % STEPS_PER_CLEARING;
        if self.steps == 0 {
            mlx::memory::clear_cache();
        }
        let lengths: Vec<(Slot, usize)> =
            feeds.iter().map(|feed| (feed.slot, self.memory.length(feed.slot))).collect();
        let step = caught(|| step(self));
        if step.is_err() {
            for (slot, length) in lengths {
                self.memory.rewind(slot, length);
            }
        }
        step
    }

    /// Draws what waits; then the step is like any other.
    fn draw_late(&mut self, ticket: &mut Ticket<Slot>, edits: &[Edits]) -> Result<(), Failure> {
        let late: Vec<Slot> = ticket.late_slots().collect();
        ticket.draw_late(edits);
        mlx::async_eval(&ticket.arrays()).map_err(failed_eval)?;
        for (slot, tokens, row) in ticket.last().filter(|(slot, ..)| late.contains(slot)) {
            // Unless it was closed or rewound in the meantime.
            if let Some(last) = self.last.get_mut(&slot) {
                *last = (tokens, row);
            }
        }
        Ok(())
    }

    /// All feeds' tokens in one array.
    fn tokens(&self, feeds: &[Feed<Slot>]) -> Array {
        if let Some(tokens) = self.same_rows_again(feeds) {
            return tokens;
        }
        let parts: Vec<Array> = feeds
            .iter()
            .map(|feed| match &feed.input {
                Input::Tokens(tokens) => Array::from_slice(tokens, &[tokens.len() as i32]),
                Input::Previous => {
                    let (tokens, row) = &self.last[&feed.slot];
                    tokens.narrow(0, *row as i32, *row as i32 + 1)
                }
            })
            .collect();
        match &parts[..] {
            [one] => one.clone(),
            many => mlx::concatenate(&many.iter().collect::<Vec<_>>(), 0),
        }
    }

    /// The common step: everybody of the last step, in the same order, and nobody else.
    fn same_rows_again(&self, feeds: &[Feed<Slot>]) -> Option<Array> {
        let (first, _) = self.last.get(&feeds.first()?.slot)?;
        let same = feeds.iter().enumerate().all(|(index, feed)| {
            feed.input == Input::Previous
                && self
                    .last
                    .get(&feed.slot)
                    .is_some_and(|(tokens, row)| Rc::ptr_eq(tokens, first) && *row == index)
        });
        (same && first.shape()[0] as usize == feeds.len()).then(|| (**first).clone())
    }
}

impl Executor for Forward {
    type Slot = Slot;
    type Page = Page;
    type State = State;
    type Ticket = Ticket<Slot>;
    type Rest = Rest;

    fn open(&mut self) -> Slot {
        self.memory.open()
    }

    fn close(&mut self, slot: Slot) {
        self.last.remove(&slot);
        self.memory.close(slot);
    }

    fn length(&self, slot: Slot) -> usize {
        self.memory.length(slot)
    }

    fn rewind(&mut self, slot: Slot, length: usize) {
        self.last.remove(&slot);
        self.memory.rewind(slot, length);
    }

    fn page_tokens(&self) -> usize {
        self.memory.page_tokens()
    }

    fn page_bytes(&self) -> usize {
        self.memory.page_bytes()
    }

    fn lane_bytes(&self, tokens: usize) -> usize {
        self.memory.lane_bytes_max(tokens, CHUNK_TOKENS)
    }

    fn state_bytes(&self) -> usize {
        self.memory.state_bytes()
    }

    fn budget(&self) -> usize {
        self.budget
    }

    fn pages_in_use(&self) -> usize {
        self.memory.pages_in_use()
    }

    fn pages(&self, slot: Slot) -> &[Page] {
        self.memory.pages(slot)
    }

    fn hold(&mut self, page: Page) {
        self.memory.hold(page);
    }

    fn release(&mut self, page: Page) {
        self.memory.release(page);
    }

    fn release_window(&mut self, page: Page) {
        self.memory.release_window(page);
    }

    fn open_on(&mut self, pages: &[Page], length: usize, state: Option<&State>) -> Slot {
        self.memory.open_on(pages, length, state)
    }

    fn is_resumable(&self, pages: &[Page], length: usize, state: Option<&State>) -> bool {
        self.memory.is_resumable(pages, length, state)
    }

    fn export(&mut self, page: Page) -> Result<Vec<u8>, Failure> {
        let exported = mlx::catch(|| self.memory.export(page));
        let exported = exported.map_err(|error| Failure::internal(error.to_string()))?;
        exported.map_err(|error| Failure::internal(error.to_string()))
    }

    fn import(&mut self, bytes: &[u8]) -> Option<Page> {
        let imported = mlx::catch(|| self.memory.import(bytes));
        let imported = imported.map_err(|error| error.to_string());
        let imported = imported.and_then(|page| page.map_err(|error| error.to_string()));
        imported.inspect_err(|error| tracing::warn!("a page cannot be used: {error}")).ok()
    }

    fn export_state(&mut self, state: &State) -> Result<Vec<u8>, Failure> {
        let exported = mlx::catch(|| state.to_bytes());
        let exported = exported.map_err(|error| Failure::internal(error.to_string()))?;
        exported.map_err(|error| Failure::internal(error.to_string()))
    }

    fn import_state(&mut self, bytes: &[u8]) -> Option<State> {
        let imported = mlx::catch(|| State::from_bytes(bytes));
        imported.ok().flatten()
    }

    fn state(&self, slot: Slot) -> Option<State> {
        self.memory.state(slot)
    }

    fn can_rewind(&self) -> bool {
        self.memory.can_rewind()
    }

    fn dispatch(&mut self, feeds: &[Feed<Slot>]) -> Result<Ticket<Slot>, Failure> {
        self.or_rewind(feeds, |forward| forward.step(feeds))
    }

    fn shares_cores(&self) -> bool {
        mlx::device() == mlx::Device::Cpu
    }

    fn can_part(&self) -> bool {
        self.memory.is_paged()
    }

    fn dispatch_by(
        &mut self,
        feeds: &[Feed<Slot>],
        hurry: Hurry,
    ) -> Result<(Ticket<Slot>, Option<Rest>), Failure> {
        self.or_rewind(feeds, |forward| forward.step_by(feeds, hurry))
    }

    fn go_on(
        &mut self,
        rest: Rest,
        until: Duration,
    ) -> Result<Onward<Ticket<Slot>, Rest>, Failure> {
        caught(|| self.step_on(rest, until))
    }

    fn draw(&mut self, ticket: &mut Ticket<Slot>, edits: &[Edits]) -> Result<(), Failure> {
        caught(|| self.draw_late(ticket, edits))
    }

    fn collect(&mut self, ticket: Ticket<Slot>) -> Result<Vec<Vec<Drawn>>, Failure> {
        ticket.collect().map_err(failed_eval)
    }

    fn memory(&self) -> MemoryReport {
        let mapped = mlx::memory::mapped_bytes();
        MemoryReport {
            active_bytes: (mlx::memory::active_bytes() + mapped) as u64,
            cache_bytes: mlx::memory::cache_bytes() as u64,
            peak_bytes: (mlx::memory::peak_bytes() + mapped) as u64,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Operations that unwind fail like all others.
fn caught<T>(compute: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    mlx::catch(compute).unwrap_or_else(|error| Err(Failure::internal(error.to_string())))
}

/// The hidden states from which tokens are drawn, `[draws, hidden]`.
fn drawing_rows(hidden: &Array, feeds: &[Feed<Slot>]) -> Array {
    let mut end = 0;
    let mut wanted = Vec::with_capacity(feeds.len());
    for feed in feeds {
        end += feed.rows() as i32;
        wanted.extend(end - feed.draws.len() as i32..end);
    }
    match wanted[..] {
        _ if wanted.len() == hidden.shape()[0] as usize => hidden.clone(),
        [row] => hidden.narrow(0, row, row + 1),
        _ => hidden.take(&Array::from_slice(&wanted, &[wanted.len() as i32]), 0),
    }
}

/// Lack of memory is no bug; anything else that fails while computing is.
fn failed_eval(error: mlx::EvalError) -> Failure {
    tracing::error!(%error, "a step failed");
    if let mlx::EvalError::OutOfMemory(_) = error {
        return Failure::new(FailureKind::NoRoom, "the device ran out of memory during a step")
            .hint(
                "use a shorter context (`num_ctx`), a smaller quantisation, or stop another model",
            );
    }
    Failure::internal("the device reported an error during a step")
        .hint("see the server's log for its words")
}
