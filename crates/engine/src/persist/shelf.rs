//! Between the prefix tree and the disk: what sequences leave in the tree is written behind, and what a prompt begins
//! with and the tree lacks is read in.
//!
//! Both go in portions, so that running replies hardly notice: a step takes some pages in or out, and the rest waits for
//! the next. Pages that were read for a prompt stay until it starts. Nothing is written whose turn does not come before
//! the tree gives it up; nothing here fails a request.

use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use protocol::RequestId;

use crate::executor::Executor;
use crate::persist::{Chain, Disk, Record};
use crate::prefix::{NodeId, Tree};

/// Sequences that wait to be written. Price: their tokens.
const WAITING_MAX: usize = 64;

/// While replies run, reading in a prompt's beginning takes no longer than this at a time. Price: so long a pause.
const READING_TIME: Duration = Duration::from_millis(100);

/// Pages that are read and checked by a thread beside this one, which puts them where they belong meanwhile. Price: so many
/// pages of memory.
const AHEAD_PAGES: usize = 2;

/// Pages written at once when nothing else is to be done, and between how many steps one is when something is.
const IDLE_PAGES: usize = 4;
const BUSY_STEPS: u32 = 8;

/// How long an engine that ends goes on writing: less than a process may take whose server is gone.
const END_TIME: Duration = Duration::from_millis(1200);

/// While the disk is behind and nothing else is to be done. Price: so much later a new request is seen.
const DISK_PAUSE: Duration = Duration::from_millis(2);

pub(crate) struct Shelf {
    disk: Disk,
    page_tokens: usize,
    waiting: VecDeque<Waiting>,
    reading: Vec<Reading>,
    steps: u32,
}

/// A sequence of which pages are to be written.
struct Waiting {
    tokens: Vec<u32>,
    /// The names of its whole pages.
    chains: Vec<Chain>,
    /// So many are written, or were there already.
    done: usize,
}

/// A prompt whose beginning is being read in, with the nodes that wait for it.
struct Reading {
    id: RequestId,
    nodes: Vec<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought {
    /// What the disk had is in the tree.
    All,
    /// There is more; ask again.
    Some,
}

impl Shelf {
    pub fn new(disk: Disk, page_tokens: usize) -> Shelf {
        Shelf { disk, page_tokens, waiting: VecDeque::new(), reading: Vec::new(), steps: 0 }
    }

    /// Brings into the tree what the disk has of a prompt's beginning. When it says that this was all, the nodes stay
    /// until [`Shelf::let_go`].
    pub fn bring<E: Executor>(
        &mut self,
        id: RequestId,
        prompt: &[u32],
        is_busy: bool,
        tree: &mut Tree<E::Page, E::State>,
        executor: &mut E,
    ) -> Brought {
        // The last token is always computed.
        let chains = self.chains(&prompt[..prompt.len().saturating_sub(1)]);
        let mut nodes = tree.whole(&prompt[..chains.len() * self.page_tokens]);
        let wanted = chains[nodes.len()..].iter().take_while(|page| self.disk.is_readable(**page));
        let wanted: Vec<Chain> = wanted.copied().collect();
        if wanted.is_empty() {
            return Brought::All;
        }
        let start = Instant::now();
        let in_time = || !is_busy || start.elapsed() < READING_TIME;
        let mut pages = Vec::new();
        let mut brought = Brought::All;
        std::thread::scope(|scope| {
            let (sender, records) = sync_channel(AHEAD_PAGES);
            let reader = scope.spawn(|| {
                let sender = sender;
                for page in &wanted {
                    if !in_time() {
                        return Brought::Some;
                    }
                    let Some(record) = self.disk.read(*page) else { break };
                    if sender.send(record).is_err() {
                        break;
                    }
                }
                Brought::All
            });
            for record in records {
                let end = (nodes.len() + 1) * self.page_tokens;
                let Some(node) = self.place(record, &nodes, &prompt[..end], tree, executor) else {
                    return;
                };
                pages.push(node);
                nodes.push(node);
            }
            brought = reader.join().unwrap_or(Brought::All);
        });
        tracing::debug!(pages = pages.len(), time = ?start.elapsed(), "pages read from disk");
        match self.reading.iter_mut().find(|reading| reading.id == id) {
            Some(reading) => reading.nodes.extend(pages),
            None => self.reading.push(Reading { id, nodes: pages }),
        }
        brought
    }

    pub fn is_reading(&self) -> bool {
        !self.reading.is_empty()
    }

    /// The prompt has started, or left.
    pub fn let_go<P: Copy + Eq, S: Clone>(&mut self, id: RequestId, tree: &mut Tree<P, S>) {
        if let Some(at) = self.reading.iter().position(|reading| reading.id == id) {
            tree.leave(&self.reading.remove(at).nodes);
        }
    }

    /// One page into the tree, in use.
    fn place<E: Executor>(
        &self,
        record: Record,
        nodes: &[NodeId],
        tokens: &[u32],
        tree: &mut Tree<E::Page, E::State>,
        executor: &mut E,
    ) -> Option<NodeId> {
        while (executor.pages_in_use() + 1) * executor.page_bytes()
            + (tree.states() + 1) * executor.state_bytes()
            > executor.budget()
        {
            if !tree.evict(executor) {
                return None;
            }
        }
        let page = executor.import(&record.page)?;
        let node = tree.append(nodes, &tokens[nodes.len() * self.page_tokens..], page, executor);
        executor.release(page);
        if let Some(state) = record.state.and_then(|bytes| executor.import_state(&bytes)) {
            tree.add_state(node, self.page_tokens, state);
        }
        Some(node)
    }

    /// What these tokens left in the tree is to be written.
    pub fn keep(&mut self, tokens: &[u32]) {
        let chains = self.chains(tokens);
        if chains.is_empty() {
            return;
        }
        let tokens = tokens[..chains.len() * self.page_tokens].to_vec();
        // What goes on takes the place of what it began with.
        self.waiting.retain(|waiting| !tokens.starts_with(&waiting.tokens));
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { tokens, chains, done: 0 });
    }

    /// Writes some pages of what waits. True: there is more, and nothing else to wait for.
    pub fn put<E: Executor>(
        &mut self,
        is_busy: bool,
        tree: &Tree<E::Page, E::State>,
        executor: &mut E,
    ) -> bool {
        self.steps = self.steps.wrapping_add(1);
        if is_busy && !self.steps.is_multiple_of(BUSY_STEPS) {
            return false;
        }
        for _ in 0..if is_busy { 1 } else { IDLE_PAGES } {
            if self.waiting.is_empty() {
                return false;
            }
            if !self.disk.has_room(executor.page_bytes() + executor.state_bytes()) {
                if !is_busy {
                    std::thread::sleep(DISK_PAUSE);
                }
                break;
            }
            self.put_one(tree, executor);
        }
        !is_busy && !self.waiting.is_empty()
    }

    /// The last chance.
    pub fn end<E: Executor>(&mut self, tree: &Tree<E::Page, E::State>, executor: &mut E) {
        let start = Instant::now();
        while !self.waiting.is_empty() && start.elapsed() < END_TIME {
            self.put(false, tree, executor);
        }
        if !self.waiting.is_empty() {
            tracing::warn!(sequences = self.waiting.len(), "no time to write all pages to disk");
        }
    }

    /// The first page of the first sequence that is not on disk and still in the tree.
    fn put_one<E: Executor>(&mut self, tree: &Tree<E::Page, E::State>, executor: &mut E) {
        let Some(waiting) = self.waiting.front_mut() else { return };
        let nodes = tree.whole(&waiting.tokens);
        while waiting.done < nodes.len() {
            let (node, page) = (nodes[waiting.done], waiting.chains[waiting.done]);
            let parent = waiting.done.checked_sub(1).map(|before| waiting.chains[before]);
            waiting.done += 1;
            let state = tree.state_behind(node);
            if self.disk.has(page, state.is_some()) {
                continue;
            }
            let exported = tree.page(node).map(|page| executor.export(page));
            let state = state.map(|state| executor.export_state(state)).transpose();
            match (exported, state) {
                (Some(Ok(bytes)), Ok(state)) => {
                    let record = Record { page: bytes, state };
                    self.disk.write(parent.unwrap_or(self.disk.root()), page, record);
                }
                (None, _) => {}
                (Some(Err(failure)), _) | (_, Err(failure)) => {
                    tracing::warn!("a page is not written to disk: {}", failure.message);
                }
            }
            return;
        }
        self.waiting.pop_front();
    }

    fn chains(&self, tokens: &[u32]) -> Vec<Chain> {
        let mut at = self.disk.root();
        let pages = tokens.chunks_exact(self.page_tokens).map(|page| {
            at = at.then(page);
            at
        });
        pages.collect()
    }

    #[cfg(test)]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}
