//! Between the prefix tree and the disk: what sequences leave in the tree is written behind, and what a prompt begins
//! with and the tree lacks is read in.
//!
//! Both go in portions, so that running replies hardly notice: a step takes some pages in or out, and the rest waits for
//! the next. Pages that were read for a prompt stay until it starts. Nothing here fails a request.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use protocol::RequestId;

use crate::executor::Executor;
use crate::persist::outgoing::Outgoing;
use crate::persist::{Chain, Disk, Match, Record};
use crate::prefix::{NodeId, Tree};

/// While replies run, reading in a prompt's beginning takes no longer than this at a time. Price: so long a pause.
const READING_TIME: Duration = Duration::from_millis(100);

/// Pages that are read and checked by a thread beside this one, which puts them where they belong meanwhile. Price: so many
/// pages of memory.
const AHEAD_PAGES: usize = 2;

/// Fewer tokens of a page than this are computed rather than read.
pub(super) const SHARED_TOKENS_MIN: usize = 8;

pub(crate) struct Shelf {
    disk: Disk,
    page_tokens: usize,
    outgoing: Outgoing,
    reading: Vec<Reading>,
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
    pub fn new(disk: Disk) -> Shelf {
        let page_tokens = disk.page_tokens();
        Shelf { disk, page_tokens, outgoing: Outgoing::default(), reading: Vec::new() }
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
        let prompt = &prompt[..prompt.len().saturating_sub(1)];
        let mut nodes = tree.whole(prompt);
        let wanted = self.wanted(prompt, &nodes, tree, executor.state_bytes() > 0);
        if wanted.is_empty() {
            return Brought::All;
        }
        let start = Instant::now();
        let in_time = || !is_busy || start.elapsed() < READING_TIME;
        let mut pages = Vec::new();
        let mut brought = Brought::All;
        std::thread::scope(|scope| {
            let (sender, records) = sync_channel(AHEAD_PAGES);
            // Memory that was used once need not be got from the system again.
            let (spare, buffers) = channel();
            let disk = &self.disk;
            let reader = scope.spawn(move || read_ahead(disk, &wanted, &sender, &buffers, in_time));
            for record in records {
                let Some((buffer, node)) = self.place(record, &nodes, tree, executor) else {
                    return;
                };
                let _ = spare.send(buffer);
                pages.extend(node);
                nodes.extend(node);
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

    /// The pages on disk that a prompt begins with and the tree lacks, in order; the last may be shared in part.
    fn wanted<P: Copy + Eq, S: Clone>(
        &self,
        prompt: &[u32],
        nodes: &[NodeId],
        tree: &Tree<P, S>,
        with_state: bool,
    ) -> Vec<Chain> {
        let chains = self.disk.chains(prompt);
        let missing = chains[nodes.len()..].iter();
        let mut wanted: Vec<Chain> =
            missing.take_while(|page| self.disk.is_readable(**page)).copied().collect();
        let whole = nodes.len() + wanted.len();
        let rest = &prompt[whole * self.page_tokens..];
        // Behind pages that the tree lacks it has nothing.
        let known = if wanted.is_empty() { tree.shared_behind(nodes, rest) } else { 0 };
        // A state may be worth more tokens than those of its page.
        let least = known + if with_state { 1 } else { SHARED_TOKENS_MIN };
        let is_worth_it = |found: &Match| found.shared_tokens >= least;
        let closest = self.disk.closest(self.disk.name(&chains, whole), rest, with_state);
        wanted.extend(closest.filter(is_worth_it).map(|found| found.page));
        wanted
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

    /// One page into the tree, in use if it is whole; and the record's memory, to be used again. None if there is no room
    /// for it, or it is no page.
    fn place<E: Executor>(
        &self,
        record: Record,
        nodes: &[NodeId],
        tree: &mut Tree<E::Page, E::State>,
        executor: &mut E,
    ) -> Option<(Vec<u8>, Option<NodeId>)> {
        while (executor.pages_in_use() + 1) * executor.page_bytes()
            + (tree.states() + 1) * executor.state_bytes()
            > executor.budget()
        {
            if !tree.evict(executor) {
                return None;
            }
        }
        let Record { tokens, page: bytes, state } = record;
        if tokens.is_empty() || tokens.len() > self.page_tokens {
            return None;
        }
        let page = executor.import(&bytes)?;
        let is_whole = tokens.len() == self.page_tokens;
        let node = match is_whole {
            true => tree.append(nodes, &tokens, page, executor),
            false => tree.add_tail(nodes, &tokens, page, executor),
        };
        executor.release(page);
        if let Some(state) = state.and_then(|bytes| executor.import_state(&bytes)) {
            tree.add_state(node, tokens.len(), state);
        }
        Some((bytes, is_whole.then_some(node)))
    }

    /// What these tokens left in the tree is to be written.
    pub fn keep(&mut self, tokens: &[u32]) {
        self.outgoing.keep(tokens, &self.disk);
    }

    /// Writes some pages of what waits. True: there is more, and nothing else to wait for.
    pub fn put<E: Executor>(
        &mut self,
        is_busy: bool,
        tree: &Tree<E::Page, E::State>,
        executor: &mut E,
    ) -> bool {
        self.outgoing.put(is_busy, &self.disk, tree, executor)
    }

    /// The last chance.
    pub fn end<E: Executor>(&mut self, tree: &Tree<E::Page, E::State>, executor: &mut E) {
        self.outgoing.end(&self.disk, tree, executor);
    }

    #[cfg(test)]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// Reads and checks pages, until one is not there or time is up.
fn read_ahead(
    disk: &Disk,
    wanted: &[Chain],
    sender: &SyncSender<Record>,
    buffers: &Receiver<Vec<u8>>,
    in_time: impl Fn() -> bool,
) -> Brought {
    for page in wanted {
        if !in_time() {
            return Brought::Some;
        }
        let buffer = buffers.try_recv().unwrap_or_default();
        let Some(record) = disk.read(*page, buffer) else { break };
        if sender.send(record).is_err() {
            break;
        }
    }
    Brought::All
}
