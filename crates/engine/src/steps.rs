//! The step loop: takes requests on between steps, lets the batcher decide what is in one, has it computed, and tells the
//! readers what came of the step before.
//!
//! A device of its own never waits: while a decoding step is under way the one before it is read; so a sequence may be fed
//! a token that turns out to be its last. That row is wasted, and nobody is told of it. Where the loop and the steps share
//! the processor's cores nothing would be won: each step is read before the next is planned. A sequence whose reply has a
//! form is computed as early as the others; only its draw waits until the token before it is read and tells what may follow.
//! Invariants: every request gets exactly one last event; a slot belongs to one sequence; pages are in the tree as soon as
//! a step that fills them is under way, and leave it if that step fails.

mod accept;
mod beginning;
mod dispatch;
mod drafting;
mod parting;
mod reading;
mod starts;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use protocol::{Engine, MemoryReport, Outbox, Request, RequestId, Work};
use text::Text;

use crate::batcher::{Batcher, Limits, Plan, RUNNING_MAX, WAITING_MAX};
use crate::executor::Executor;
use crate::forms::{Forms, PATIENCE};
use crate::output::REPEATS_MAX;
use crate::pace::{Allowance, Load, Pace};
use crate::persist::{Disk, Shelf};
use crate::prefix::Tree;
use crate::sequence::Sequence;
use crate::speculation::{Drafter, Speculation};
use drafting::Verified;
use parting::Aside;
use starts::Door;

pub(crate) struct Steps<E: Executor> {
    executor: E,
    text: Rc<Text>,
    forms: Forms,
    context_tokens_max: usize,
    batcher: Batcher,
    pace: Pace,
    tree: Tree<E::Page, E::State>,
    sequences: HashMap<RequestId, Sequence<E>>,
    /// Whose forms are still being understood.
    forming: Vec<Request>,
    /// One step; where memory was short, in several parts one after the other.
    under_way: Vec<Part<E::Ticket>>,
    /// What stayed behind of a step that was late, and who was cancelled since.
    aside: Option<Aside<E>>,
    leaving: Vec<RequestId>,
    /// How long after a token the next one is due.
    due: Duration,
    /// What a step takes in which all decode, where machines are slow now and then.
    alone: Duration,
    /// When the last one was read, and whether there was nothing to do since.
    read_at: Duration,
    has_rested: bool,
    shelf: Option<Shelf>,
    speculation: Speculation,
    /// Drafts of the step that is dispatched next, and what making them took.
    verifying: HashMap<RequestId, Verified>,
    drafting: Duration,
    /// Seeds of requests that name none.
    seeds: u64,
    /// Tokens that end a reply.
    ends: Vec<u32>,
    /// A reply that repeats itself more often than this is given up.
    repeats_max: usize,
}

struct Part<Ticket> {
    ticket: Ticket,
    members: Vec<RequestId>,
    /// Of those, who draws, in the order of the feeds.
    drawing: Vec<RequestId>,
    /// Of those, who draws late.
    late: Vec<RequestId>,
    load: Load,
    prompt_rows: usize,
    /// Sequences and rows, if all of them decode.
    decoded: Option<(usize, usize)>,
    verified: HashMap<RequestId, Verified>,
    since: Duration,
    /// What the drafts took of the time before.
    drafting: Duration,
}

/// What the loop is told about its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub context_tokens_max: usize,
    pub running_max: usize,
    pub waiting_max: usize,
    /// Starts the randomness of requests that name no seed.
    pub seed: u64,
}

impl Settings {
    pub fn new(context_tokens_max: usize, seed: u64) -> Settings {
        Settings { context_tokens_max, running_max: RUNNING_MAX, waiting_max: WAITING_MAX, seed }
    }
}

impl<E: Executor> Engine for Steps<E> {
    fn submit(&mut self, request: Request, out: &mut dyn Outbox) {
        self.take(request, PATIENCE, out);
    }

    fn cancel(&mut self, id: RequestId) {
        self.forming.retain(|request| request.id != id);
        if self.aside.as_ref().is_some_and(|aside| aside.has(id)) {
            self.leaving.push(id);
        } else {
            self.retire(id, None);
        }
    }

    fn step(&mut self, out: &mut dyn Outbox) -> Work {
        self.take_up(Duration::ZERO, out);
        let waited = self.go_on(out);
        self.grow(out);
        let plan = self.plan(waited, out);
        let idle = plan.is_empty();
        let is_under_way = !self.under_way.is_empty();
        let one_by_one = self.executor.shares_cores();
        // A prompt's chunk takes long: whoever waits for a token gets it first.
        if !plan.decode.is_empty() {
            self.draft(&plan, out);
        }
        if plan.decode.is_empty() || one_by_one {
            self.read(out);
        }
        let next = self.dispatch(plan, waited, out);
        if self.read(out) {
            self.under_way = self.draw(next, out);
        }
        if one_by_one {
            self.read(out);
        }
        // Whoever ended may have made room for one in line, or has gone there himself.
        let may_start = is_under_way && self.batcher.line().next().is_some();
        let is_waited_for = !self.under_way.is_empty() || self.aside.is_some();
        self.has_rested = idle && !is_waited_for && !may_start;
        let has_pages = self.shelf.as_mut().is_some_and(|shelf| {
            let has_more = shelf.put(!self.has_rested, &self.tree, &mut self.executor);
            has_more || shelf.is_reading()
        });
        if !self.has_rested || has_pages {
            return Work::More;
        }
        // Nothing is to be done but to wait for a form.
        let news = self.take_up(PATIENCE, out);
        if news || !self.forming.is_empty() { Work::More } else { Work::Idle }
    }

    fn memory(&self) -> MemoryReport {
        self.executor.memory()
    }
}

impl<E: Executor> Steps<E> {
    pub fn new(executor: E, text: Rc<Text>, settings: Settings) -> Steps<E> {
        let forms = Forms::new(&text);
        Steps::with_forms(executor, text, forms, settings)
    }

    pub fn with_forms(executor: E, text: Rc<Text>, forms: Forms, settings: Settings) -> Steps<E> {
        let ends = text.ends().to_vec();
        let (page_tokens, can_part) = (executor.page_tokens(), executor.can_part());
        let Settings { context_tokens_max, running_max, waiting_max, seed } = settings;
        Steps {
            executor,
            forms,
            text,
            context_tokens_max,
            batcher: Batcher::new(Limits { running_max, waiting_max, page_tokens }),
            pace: Pace::new(can_part),
            tree: Tree::new(page_tokens),
            sequences: HashMap::new(),
            forming: Vec::new(),
            under_way: Vec::new(),
            aside: None,
            leaving: Vec::new(),
            due: parting::DUE,
            alone: Duration::ZERO,
            read_at: Duration::ZERO,
            has_rested: true,
            shelf: None,
            speculation: Speculation::default(),
            verifying: HashMap::new(),
            drafting: Duration::ZERO,
            seeds: seed,
            ends,
            repeats_max: REPEATS_MAX,
        }
    }

    /// No token ends a reply, and no repetition.
    pub fn ignore_ends(&mut self) {
        self.ends.clear();
        self.repeats_max = usize::MAX;
    }

    /// What is computed outlives the process there.
    pub fn keep_on(&mut self, disk: Disk) {
        self.shelf = Some(Shelf::new(disk));
    }

    /// Replies come sooner where this one guesses right.
    pub fn add_drafter(&mut self, drafter: impl Drafter + 'static) {
        self.speculation.add(drafter);
    }

    fn plan(&mut self, waited: Duration, out: &dyn Outbox) -> Plan {
        let beside = self.allowance(waited);
        let mut plan = self.plan_beside(beside, out);
        while plan.is_empty()
            && self.under_way.is_empty()
            && self.aside.is_none()
            && self.shelf.as_ref().is_none_or(|shelf| !shelf.is_reading())
            && self.batcher.line().any(|id| out.ready(id))
        {
            // Somebody whose reader is slow has the room that others wait for.
            let mut latest = self.batcher.latest();
            let Some(slow) = latest.find(|id| !out.ready(*id)) else { break };
            drop(latest);
            self.step_back(slow);
            plan = self.plan_beside(beside, out);
        }
        plan
    }

    fn plan_beside(&mut self, beside: Allowance, out: &dyn Outbox) -> Plan {
        let Steps { executor, tree, sequences, batcher, shelf, aside, .. } = self;
        let aside = aside.as_ref();
        batcher.plan(beside, &mut Door { executor, tree, sequences, shelf, aside, out })
    }

    /// Each step with prompts beside replies is late, and so is what stays behind.
    #[cfg(test)]
    pub fn be_late(&mut self) {
        self.due = Duration::ZERO;
    }

    #[cfg(test)]
    pub fn is_parted(&self) -> bool {
        self.aside.is_some()
    }

    #[cfg(test)]
    pub fn flush_pages(&self) {
        self.shelf.iter().for_each(|shelf| shelf.disk().flush());
    }

    #[cfg(test)]
    pub fn sequences_open(&self) -> usize {
        self.sequences.len()
    }

    #[cfg(test)]
    pub fn tree(&self) -> &Tree<E::Page, E::State> {
        &self.tree
    }

    #[cfg(test)]
    pub fn executor(&self) -> &E {
        &self.executor
    }

    #[cfg(test)]
    pub fn executor_mut(&mut self) -> &mut E {
        &mut self.executor
    }

    #[cfg(test)]
    pub fn into_forms(mut self) -> Forms {
        std::mem::replace(&mut self.forms, Forms::none())
    }
}

impl<E: Executor> Drop for Steps<E> {
    fn drop(&mut self) {
        if let Some(shelf) = &mut self.shelf {
            shelf.end(&self.tree, &mut self.executor);
        }
    }
}
