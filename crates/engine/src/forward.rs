//! The executor that runs a model: feeds become one flat batch, the last rows become logits, logits become tokens, and
//! all of it is only dispatched; `collect` is the one place that waits.
//!
//! Graph operations unwind when they fail; each step catches that once, and what it had begun to remember is forgotten.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlx::{Array, Dtype};
use models::{Batch, Memory, Model, Slot};
use protocol::{Failure, FailureKind, MemoryReport, TokenChoice, TokenLogprob};

use text::constraint::Mask;

use crate::executor::{Draw, Drawn, Executor, Feed, Input};
use crate::sampler::{self, Logprobs};

/// Steps between two returns of the allocator's free buffers to the system. Price: a slower step.
const STEPS_PER_CLEARING: u32 = 256;

pub(crate) struct Forward {
    model: Box<dyn Model>,
    memory: Memory,
    pages: Pages,
    /// What each slot drew last: a row of that step's tokens.
    last: HashMap<Slot, (Rc<Array>, usize)>,
    steps: u32,
    start: Instant,
}

pub(crate) struct Ticket {
    /// u32, one for each draw; empty while some of them wait.
    tokens: Rc<Array>,
    logprobs: Vec<Option<Logprobs>>,
    /// How many draws each of the feeds that draw has.
    counts: Vec<usize>,
    waiting: Option<Waiting>,
}

/// A step of which some tokens are still to be drawn.
struct Waiting {
    /// A row for each draw.
    logits: Array,
    draws: Vec<(Slot, Draw)>,
    /// What is drawn already.
    tokens: Vec<Option<Array>>,
}

impl Forward {
    pub fn new(model: Box<dyn Model>) -> Forward {
        let memory = model.memory();
        let (pages, start) = (Pages::default(), Instant::now());
        Forward { model, memory, pages, last: HashMap::new(), steps: 0, start }
    }

    fn step(&mut self, feeds: &[Feed<Slot>]) -> Result<Ticket, Failure> {
        let lengths: Vec<(Slot, usize)> =
            feeds.iter().map(|feed| (feed.slot, feed.rows())).collect();
        let batch = Batch::new(self.tokens(feeds), &lengths, &self.memory);
        let hidden = self.model.forward(&batch, &mut self.memory);
        // What comes out at the end of a chunk in the middle of a prompt nobody wants, only what is remembered of it.
        let silent = feeds.iter().filter(|feed| feed.draws.is_empty());
        let remembered: Vec<Array> =
            silent.flat_map(|feed| self.memory.arrays(feed.slot)).collect();
        let draws: Vec<(Slot, &Draw)> =
            feeds.iter().flat_map(|feed| feed.draws.iter().map(|draw| (feed.slot, draw))).collect();
        if draws.is_empty() {
            // Computed now, so that its activations are gone before the next.
            drop(hidden);
            mlx::eval(&remembered.iter().collect::<Vec<_>>()).map_err(failed_eval)?;
            mlx::memory::clear_cache();
            return Ok(Ticket::nothing());
        }
        let logits = self.model.logits(&drawing_rows(&hidden, feeds));
        let mut ticket = match draws.iter().any(|(_, draw)| draw.masked) {
            true => draw_free(logits, &draws),
            false => draw_all(&logits, &draws),
        };
        ticket.counts = feeds.iter().map(|feed| feed.draws.len()).filter(|n| *n > 0).collect();
        let arrays = ticket.arrays().into_iter().chain(&remembered).collect::<Vec<_>>();
        mlx::async_eval(&arrays).map_err(failed_eval)?;
        for (row, (slot, _)) in draws.iter().enumerate() {
            self.last.insert(*slot, (Rc::clone(&ticket.tokens), row));
        }
        Ok(ticket)
    }

    /// Draws what waits; then the step is like any other.
    fn draw_waiting(&mut self, ticket: &mut Ticket, masks: &[Option<Mask>]) -> Result<(), Failure> {
        let Some(Waiting { logits, draws, tokens }) = ticket.waiting.take() else { return Ok(()) };
        let mut masks = masks.iter();
        let tokens: Vec<Array> = draws
            .iter()
            .zip(tokens)
            .enumerate()
            .map(|(index, ((_, draw), drawn))| {
                drawn.unwrap_or_else(|| {
                    let row = row_of(&logits, index);
                    let mask = masks.next().and_then(Option::as_ref);
                    let row = mask.map(|mask| sampler::masked(&row, mask)).unwrap_or(row);
                    sampler::draw(&draw.sampling, &row, draw.index)
                })
            })
            .collect();
        let draw = |index: usize| &draws[index].1;
        let counts = std::mem::take(&mut ticket.counts);
        *ticket = finished(&logits, joined(&tokens), draws.len(), draw);
        ticket.counts = counts;
        mlx::async_eval(&ticket.arrays()).map_err(failed_eval)?;
        for (row, (slot, _)) in draws.iter().enumerate() {
            // Unless it was closed or rewound in the meantime.
            if let Some(last) = self.last.get_mut(slot) {
                *last = (Rc::clone(&ticket.tokens), row);
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
    type Page = u32;
    type State = NoState;
    type Ticket = Ticket;

    fn open(&mut self) -> Slot {
        let slot = self.memory.open();
        self.pages.give(slot);
        slot
    }

    fn close(&mut self, slot: Slot) {
        self.last.remove(&slot);
        self.pages.of_slots.remove(&slot);
        self.memory.close(slot);
    }

    fn length(&self, slot: Slot) -> usize {
        self.memory.length(slot)
    }

    fn rewind(&mut self, slot: Slot, length: usize) {
        self.last.remove(&slot);
        self.memory.rewind(slot, length);
    }

    fn fork(&mut self, slot: Slot, length: usize) -> Slot {
        let new = self.memory.fork(slot, length);
        self.pages.give(new);
        new
    }

    fn page_tokens(&self) -> usize {
        WHOLE_SEQUENCES
    }

    fn page_bytes(&self) -> usize {
        0
    }

    fn state_bytes(&self) -> usize {
        0
    }

    fn budget(&self) -> usize {
        usize::MAX
    }

    fn pages_in_use(&self) -> usize {
        self.pages.of_slots.len() + self.pages.held.len()
    }

    fn pages(&self, slot: Slot) -> &[u32] {
        self.pages.of_slots.get(&slot).map_or(&[], |page| std::slice::from_ref(page))
    }

    fn hold(&mut self, page: u32) {
        if let Some((_, count)) = self.pages.held.get_mut(&page) {
            *count += 1;
            return;
        }
        let owner = self.pages.of_slots.iter().find(|(_, known)| **known == page);
        let owner = *owner.unwrap_or_else(|| panic!("page {page} lives no more")).0;
        let copy = self.memory.fork(owner, self.memory.length(owner));
        self.pages.held.insert(page, (copy, 1));
    }

    fn release(&mut self, page: u32) {
        let Some((copy, count)) = self.pages.held.get_mut(&page) else {
            panic!("page {page} is not held")
        };
        *count -= 1;
        if *count == 0 {
            self.memory.close(*copy);
            self.pages.held.remove(&page);
        }
    }

    fn release_window(&mut self, _: u32) {}

    fn open_on(&mut self, pages: &[u32], length: usize, _: Option<&NoState>) -> Slot {
        let Some(page) = pages.first() else { return self.open() };
        let slot = self.memory.fork(self.pages.held[page].0, length);
        self.pages.give(slot);
        slot
    }

    fn is_resumable(&self, _: &[u32], _: usize, _: Option<&NoState>) -> bool {
        true
    }

    fn state(&self, _: Slot) -> Option<NoState> {
        None
    }

    fn can_rewind(&self) -> bool {
        true
    }

    fn dispatch(&mut self, feeds: &[Feed<Slot>]) -> Result<Ticket, Failure> {
        self.steps = (self.steps + 1) % STEPS_PER_CLEARING;
        if self.steps == 0 {
            mlx::memory::clear_cache();
        }
        let lengths: Vec<(Slot, usize)> =
            feeds.iter().map(|feed| (feed.slot, self.memory.length(feed.slot))).collect();
        let step = mlx::catch(|| self.step(feeds))
            .unwrap_or_else(|error| Err(Failure::internal(error.to_string())));
        if step.is_err() {
            for (slot, length) in lengths {
                self.memory.rewind(slot, length);
            }
        }
        step
    }

    fn draw(&mut self, ticket: &mut Ticket, masks: &[Option<Mask>]) -> Result<(), Failure> {
        mlx::catch(|| self.draw_waiting(ticket, masks))
            .map_err(|error| Failure::internal(error.to_string()))?
    }

    fn collect(&mut self, ticket: Ticket) -> Result<Vec<Vec<Drawn>>, Failure> {
        if ticket.logprobs.is_empty() {
            return Ok(Vec::new());
        }
        let tokens: Vec<u32> = ticket.tokens.to_vec().map_err(failed_eval)?;
        let mut drawn = tokens.into_iter().zip(&ticket.logprobs).map(|(token, logprobs)| {
            let logprob =
                logprobs.as_ref().map(|logprobs| read_logprobs(token, logprobs)).transpose()?;
            Ok(Drawn { token, logprob })
        });
        ticket.counts.iter().map(|count| drawn.by_ref().take(*count).collect()).collect()
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport {
            active_bytes: mlx::memory::active_bytes() as u64,
            cache_bytes: mlx::memory::cache_bytes() as u64,
            peak_bytes: mlx::memory::peak_bytes() as u64,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Until memory has pages, each slot is one.
const WHOLE_SEQUENCES: usize = 1 << 20;

#[derive(Default)]
struct Pages {
    of_slots: HashMap<Slot, u32>,
    /// What was held, and how often.
    held: HashMap<u32, (Slot, usize)>,
    last: u32,
}

#[derive(Clone)]
pub(crate) enum NoState {}

impl Pages {
    fn give(&mut self, slot: Slot) {
        self.last += 1;
        self.of_slots.insert(slot, self.last);
    }
}

impl Ticket {
    /// Of a step in which nobody draws.
    fn nothing() -> Ticket {
        let tokens = Rc::new(Array::from_slice::<u32>(&[], &[0]));
        Ticket { tokens, logprobs: Vec::new(), counts: Vec::new(), waiting: None }
    }

    fn arrays(&self) -> Vec<&Array> {
        let logprobs = self.logprobs.iter().flatten();
        let parts = logprobs.flat_map(|l| {
            std::iter::once(&l.chosen).chain(l.top.iter().flat_map(|(ids, values)| [ids, values]))
        });
        let waiting = self.waiting.iter().flat_map(|waiting| {
            std::iter::once(&waiting.logits).chain(waiting.tokens.iter().flatten())
        });
        std::iter::once(&*self.tokens).chain(parts).chain(waiting).collect()
    }
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

fn row_of(logits: &Array, index: usize) -> Array {
    match logits.shape()[0] {
        1 => logits.clone(),
        _ => logits.narrow(0, index as i32, index as i32 + 1),
    }
}

fn joined(parts: &[Array]) -> Array {
    match parts {
        [one] => one.clone(),
        many => mlx::concatenate(&many.iter().collect::<Vec<_>>(), 0),
    }
}

/// `logits` has a row for each draw.
fn draw_all(logits: &Array, draws: &[(Slot, &Draw)]) -> Ticket {
    let tokens = if draws.iter().all(|(_, draw)| draw.sampling.is_greedy()) {
        sampler::greedy(logits)
    } else {
        let parts: Vec<Array> = draws
            .iter()
            .enumerate()
            .map(|(row, (_, draw))| sampler::draw(&draw.sampling, &row_of(logits, row), draw.index))
            .collect();
        joined(&parts)
    };
    finished(logits, tokens, draws.len(), |index| draws[index].1)
}

/// Draws for those that wait for nothing; their rate does not depend on the others.
fn draw_free(logits: Array, draws: &[(Slot, &Draw)]) -> Ticket {
    let free = |(row, (_, draw)): (usize, &(Slot, &Draw))| {
        let logits = || row_of(&logits, row);
        (!draw.masked).then(|| sampler::draw(&draw.sampling, &logits(), draw.index))
    };
    let tokens = draws.iter().enumerate().map(free).collect();
    let draws = draws.iter().map(|(slot, draw)| (*slot, (*draw).clone())).collect();
    let placeholder = Rc::new(logits.clone());
    Ticket {
        tokens: placeholder,
        logprobs: Vec::new(),
        counts: Vec::new(),
        waiting: Some(Waiting { logits, draws, tokens }),
    }
}

/// A step whose tokens are all drawn, from the raw `logits` or from masked ones.
fn finished<'a>(
    logits: &Array,
    tokens: Array,
    count: usize,
    draw: impl Fn(usize) -> &'a Draw,
) -> Ticket {
    let logprobs = (0..count)
        .map(|index| {
            let token = tokens.narrow(0, index as i32, index as i32 + 1);
            let alternatives = draw(index).logprobs?;
            Some(Logprobs::new(&row_of(logits, index), &token, alternatives))
        })
        .collect();
    let tokens = Rc::new(tokens.cast(Dtype::U32));
    Ticket { tokens, logprobs, counts: Vec::new(), waiting: None }
}

fn read_logprobs(token: u32, logprobs: &Logprobs) -> Result<TokenLogprob, Failure> {
    let choice = |id, logprob| TokenChoice { id, logprob, bytes: Vec::new() };
    let chosen: Vec<f32> = logprobs.chosen.to_vec().map_err(failed_eval)?;
    let top = match &logprobs.top {
        None => Vec::new(),
        Some((ids, values)) => {
            let ids: Vec<u32> = ids.to_vec().map_err(failed_eval)?;
            let values: Vec<f32> = values.to_vec().map_err(failed_eval)?;
            ids.into_iter().zip(values).map(|(id, value)| choice(id, value)).collect()
        }
    };
    Ok(TokenLogprob { chosen: choice(token, chosen.first().copied().unwrap_or(f32::NAN)), top })
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
