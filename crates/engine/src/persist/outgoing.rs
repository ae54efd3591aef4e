//! What of the prefix tree is still to be written to disk: whole pages when nothing else is to be done, and one in some
//! steps when something always is; of the part pages that sequences end with one in some seconds, as each costs as much as a
//! whole one, and the rest when the engine ends.
//!
//! Nothing is written whose turn does not come before the tree gives it up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::executor::Executor;
use crate::persist::shelf::SHARED_TOKENS_MIN;
use crate::persist::{Chain, Disk, Record};
use crate::prefix::Tree;

/// Sequences that wait to be written. Price: their tokens.
const WAITING_MAX: usize = 64;

/// Pages written at once when nothing else is to be done, and between how many steps one is when something is.
const IDLE_PAGES: usize = 4;
const BUSY_STEPS: u32 = 8;

/// At least this long between two part pages while the engine lives. Price: what a killed process has not written.
const PARTS_PAUSE: Duration = Duration::from_secs(10);

/// States of one part page that are kept: at the end of a prompt and of its reply.
const PART_STATES_MAX: usize = 2;

/// How long an engine that ends goes on writing: less than a process may take whose server is gone.
const END_TIME: Duration = Duration::from_millis(1200);

/// While the disk is behind and nothing else is to be done. Price: so much later a new request is seen.
const DISK_PAUSE: Duration = Duration::from_millis(2);

#[derive(Default)]
pub(super) struct Outgoing {
    waiting: VecDeque<Waiting>,
    /// Of which only a part page is left to be written.
    parts: VecDeque<Waiting>,
    part_at: Option<Instant>,
    steps: u32,
}

/// A sequence of which pages are to be written.
struct Waiting {
    tokens: Vec<u32>,
    /// The names of its whole pages.
    chains: Vec<Chain>,
    /// So many pieces are written, or were there already: whole pages, then one for each state of the part page.
    done: usize,
}

/// What is written at once.
struct Piece<P, S> {
    parent: Chain,
    tokens: Vec<u32>,
    page: P,
    state: Option<S>,
}

impl Waiting {
    fn has_whole_pages_left(&self) -> bool {
        self.done < self.chains.len()
    }

    /// What goes on in `tokens`, or ends where they do.
    fn is_beginning_of(&self, tokens: &[u32]) -> bool {
        tokens.starts_with(&self.tokens)
    }
}

impl Outgoing {
    /// What these tokens left in the tree is to be written.
    pub fn keep(&mut self, tokens: &[u32], disk: &Disk) {
        if tokens.len() < disk.page_tokens().min(SHARED_TOKENS_MIN) {
            return;
        }
        let chains = disk.chains(tokens);
        // What goes on takes the place of what it began with.
        self.waiting.retain(|waiting| !waiting.is_beginning_of(tokens));
        self.parts.retain(|waiting| !waiting.is_beginning_of(tokens));
        let waiting = Waiting { tokens: tokens.to_vec(), chains, done: 0 };
        push_bounded(&mut self.waiting, waiting);
    }

    /// Writes some pages of what waits. True: there is more, and nothing else to wait for.
    pub fn put<E: Executor>(
        &mut self,
        is_busy: bool,
        disk: &Disk,
        tree: &Tree<E::Page, E::State>,
        executor: &mut E,
    ) -> bool {
        self.steps = self.steps.wrapping_add(1);
        if is_busy && !self.steps.is_multiple_of(BUSY_STEPS) {
            return false;
        }
        for _ in 0..if is_busy { 1 } else { IDLE_PAGES } {
            if !disk.has_room(executor.page_bytes() + executor.state_bytes()) {
                if !is_busy {
                    std::thread::sleep(DISK_PAUSE);
                }
                break;
            }
            self.put_one(disk, tree, executor);
        }
        if !is_busy && self.waiting.is_empty() {
            self.put_part(disk, tree, executor);
        }
        !is_busy && !self.waiting.is_empty()
    }

    /// The last chance.
    pub fn end<E: Executor>(
        &mut self,
        disk: &Disk,
        tree: &Tree<E::Page, E::State>,
        executor: &mut E,
    ) {
        let start = Instant::now();
        while !(self.waiting.is_empty() && self.parts.is_empty()) && start.elapsed() < END_TIME {
            self.part_at = None;
            self.put(false, disk, tree, executor);
        }
        if !(self.waiting.is_empty() && self.parts.is_empty()) {
            let sequences = self.waiting.len() + self.parts.len();
            tracing::warn!(sequences, "no time to write all pages to disk");
        }
    }

    /// The first whole page of the first sequence that is not on disk and still in the tree.
    fn put_one<E: Executor>(
        &mut self,
        disk: &Disk,
        tree: &Tree<E::Page, E::State>,
        executor: &mut E,
    ) {
        let Some(mut waiting) = self.waiting.pop_front() else { return };
        while waiting.has_whole_pages_left() {
            let piece = piece(&waiting, disk, tree);
            waiting.done += 1;
            let Some(piece) = piece else { return };
            if !disk.has(piece.parent.then(&piece.tokens), piece.state.is_some()) {
                write(piece, disk, executor);
                break;
            }
        }
        match waiting.has_whole_pages_left() {
            true => self.waiting.push_front(waiting),
            false => push_bounded(&mut self.parts, waiting),
        }
    }

    /// The part page of the sequence that ended last, unless one was written a moment ago.
    fn put_part<E: Executor>(
        &mut self,
        disk: &Disk,
        tree: &Tree<E::Page, E::State>,
        executor: &mut E,
    ) {
        let has_room = disk.has_room(executor.page_bytes() + executor.state_bytes());
        if !has_room || self.part_at.is_some_and(|at| at.elapsed() < PARTS_PAUSE) {
            return;
        }
        let Some(mut waiting) = self.parts.pop_back() else { return };
        while let Some(piece) = piece(&waiting, disk, tree) {
            waiting.done += 1;
            let name = piece.parent.then(&piece.tokens);
            let is_of_use = match executor.state_bytes() {
                0 => !disk.covers(piece.parent, &piece.tokens),
                _ => piece.state.is_some() && !disk.has(name, true),
            };
            if is_of_use {
                write(piece, disk, executor);
                self.part_at = Some(Instant::now());
            }
        }
    }
}

/// What comes next of a sequence; none if the tree has no more of it.
fn piece<P: Copy + Eq, S: Clone>(
    waiting: &Waiting,
    disk: &Disk,
    tree: &Tree<P, S>,
) -> Option<Piece<P, S>> {
    let Waiting { tokens, chains, done } = waiting;
    let nodes = tree.whole(tokens);
    let count = (*done).min(chains.len());
    let (parent, rest) = (disk.name(chains, count), &tokens[count * disk.page_tokens()..]);
    if waiting.has_whole_pages_left() {
        let node = *nodes.get(*done)?;
        let state = tree.state_behind(node).cloned();
        let tokens = rest[..disk.page_tokens()].to_vec();
        return Some(Piece { parent, tokens, page: tree.page(node)?, state });
    }
    let node = (nodes.len() == chains.len()).then(|| tree.tail(&nodes, rest)).flatten()?;
    let (page, number) = (tree.page(node)?, done - chains.len());
    let mut states = tree.last_states(node, PART_STATES_MAX);
    if states.is_empty() {
        return (number == 0).then(|| Piece { parent, tokens: rest.to_vec(), page, state: None });
    }
    let (length, state) = (number < states.len()).then(|| states.swap_remove(number))?;
    Some(Piece { parent, tokens: rest[..length].to_vec(), page, state: Some(state) })
}

fn write<E: Executor>(piece: Piece<E::Page, E::State>, disk: &Disk, executor: &mut E) {
    let Piece { parent, tokens, page, state } = piece;
    let exported = executor.export(page);
    let state = state.map(|state| executor.export_state(&state)).transpose();
    match (exported, state) {
        (Ok(page), Ok(state)) => drop(disk.write(parent, Record { tokens, page, state })),
        (Err(failure), _) | (_, Err(failure)) => {
            tracing::warn!("a page is not written to disk: {}", failure.message);
        }
    }
}

/// The oldest goes.
fn push_bounded(line: &mut VecDeque<Waiting>, waiting: Waiting) {
    if line.len() == WAITING_MAX {
        line.pop_front();
    }
    line.push_back(waiting);
}
