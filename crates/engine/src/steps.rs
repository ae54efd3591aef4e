//! The step loop: takes requests on between steps, lets the batcher decide what is in one, has it computed, and tells the
//! readers what came of the step before.
//!
//! While a decoding step is under way the one before it is read; so a sequence may be fed a token that turns out to be its
//! last. That row is wasted, and nobody is told of it. A sequence whose reply has a form is computed as early as the
//! others; only its draw waits until the token before it is read and tells what may follow.
//! Invariants: every request gets exactly one last event; a slot belongs to one sequence; pages are in the tree as soon as
//! a step that fills them is under way, and leave it if that step fails.

mod accept;
mod beginning;
mod drafting;
mod starts;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use protocol::{
    Delta, Engine, Event, Failure, FailureKind, FinishReason, MemoryReport, Outbox, Request,
    RequestId, Work,
};
use text::Text;

use crate::batcher::{Batcher, Chunk, Limits, Plan, RUNNING_MAX, WAITING_MAX};
use crate::executor::{Draw, Drawn, Executor, Feed, Input};
use crate::forms::{Forms, PATIENCE};
use crate::output::{Progress, REPEATS_MAX};
use crate::pace::{Load, Pace};
use crate::persist::{Disk, Shelf};
use crate::prefix::Tree;
use crate::sampling::Edits;
use crate::sequence::Sequence;
use crate::speculation::{Drafter, Speculation};
use drafting::Verified;
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

type Member<E> = (RequestId, Feed<<E as Executor>::Slot>);

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
        self.retire(id, None);
    }

    fn step(&mut self, out: &mut dyn Outbox) -> Work {
        self.take_up(Duration::ZERO, out);
        self.grow();
        let plan = self.plan(out);
        let idle = plan.is_empty();
        let is_under_way = !self.under_way.is_empty();
        // A prompt's chunk takes long: whoever waits for a token gets it first.
        if plan.decode.is_empty() {
            self.read(out);
        } else {
            self.draft(&plan, out);
        }
        let next = self.dispatch(plan, out);
        if self.read(out) {
            self.under_way = self.draw(next, out);
        }
        // Whoever ended may have made room for one in line, or has gone there himself.
        let may_start = is_under_way && self.batcher.line().next().is_some();
        self.has_rested = idle && self.under_way.is_empty() && !may_start;
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
        let page_tokens = executor.page_tokens();
        let Settings { context_tokens_max, running_max, waiting_max, seed } = settings;
        Steps {
            executor,
            forms,
            text,
            context_tokens_max,
            batcher: Batcher::new(Limits { running_max, waiting_max, page_tokens }),
            pace: Pace::default(),
            tree: Tree::new(page_tokens),
            sequences: HashMap::new(),
            forming: Vec::new(),
            under_way: Vec::new(),
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
        self.shelf = Some(Shelf::new(disk, self.executor.page_tokens()));
    }

    /// Replies come sooner where this one guesses right.
    pub fn add_drafter(&mut self, drafter: impl Drafter + 'static) {
        self.speculation.add(drafter);
    }

    fn plan(&mut self, out: &dyn Outbox) -> Plan {
        let beside = self.pace.beside(self.running_load());
        let Steps { executor, tree, sequences, batcher, shelf, .. } = self;
        let mut plan = batcher.plan(beside, &mut Door { executor, tree, sequences, shelf, out });
        while plan.is_empty()
            && self.under_way.is_empty()
            && self.shelf.as_ref().is_none_or(|shelf| !shelf.is_reading())
            && self.batcher.line().any(|id| out.ready(id))
        {
            // Somebody whose reader is slow has the room that others wait for.
            let mut latest = self.batcher.latest();
            let Some(slow) = latest.find(|id| !out.ready(*id)) else { break };
            drop(latest);
            self.step_back(slow);
            let Steps { executor, tree, sequences, batcher, shelf, .. } = self;
            plan = batcher.plan(beside, &mut Door { executor, tree, sequences, shelf, out });
        }
        plan
    }

    /// What the next tokens of running replies cost.
    fn running_load(&self) -> Load {
        let mut load = Load::default();
        let running = self.batcher.running().filter_map(|id| self.sequences.get(&id));
        for place in running.filter_map(|sequence| sequence.place.as_ref()) {
            load.add(self.executor.length(place.slot), 1);
        }
        load
    }

    /// Starts the planned step; whoever cannot be computed is told so.
    fn dispatch(&mut self, plan: Plan, out: &mut dyn Outbox) -> Vec<Part<E::Ticket>> {
        let decode = plan.decode.iter().filter_map(|id| self.decode_feed(*id));
        let mut members: Vec<Member<E>> = decode.collect();
        members.extend(plan.prompts.iter().filter_map(|chunk| self.prompt_feed(*chunk)));
        let mut parts = Vec::new();
        if !members.is_empty() {
            self.make_room(members.iter().map(|member| self.new_pages(member)).sum());
            self.attempt(members, true, &mut parts, out);
        }
        parts
    }

    /// Where memory is short the members go one half after the other, at last row by row.
    fn attempt(
        &mut self,
        mut members: Vec<Member<E>>,
        is_first: bool,
        parts: &mut Vec<Part<E::Ticket>>,
        out: &mut dyn Outbox,
    ) {
        let feeds: Vec<Feed<E::Slot>> = members.iter().map(|(_, feed)| feed.clone()).collect();
        let since = self.executor.now();
        let failure = match self.executor.dispatch(&feeds) {
            Ok(ticket) => return parts.push(self.part(ticket, &members, since)),
            Err(failure) => failure,
        };
        let ids: Vec<RequestId> = members.iter().map(|(id, _)| *id).collect();
        if failure.kind != FailureKind::NoRoom {
            return self.fail(&ids, &failure, out);
        }
        tracing::warn!(sequences = ids.len(), "a step had no room");
        self.give_all_back();
        if is_first {
            return self.attempt(members, false, parts, out);
        }
        let half = match &mut members[..] {
            [(id, feed)] => match self.drop_draft(*id, feed) {
                true => Some(Vec::new()),
                false => feed.split().map(|rest| vec![(*id, rest)]),
            },
            many => {
                let half = many.len() / 2;
                Some(members.split_off(half))
            }
        };
        let Some(rest) = half else { return self.fail(&ids, &failure, out) };
        self.attempt(members, false, parts, out);
        let rest: Vec<_> =
            rest.into_iter().filter(|(id, _)| self.sequences.contains_key(id)).collect();
        if !rest.is_empty() {
            self.attempt(rest, false, parts, out);
        }
    }

    /// What is kept for requests that may come goes.
    pub fn give_all_back(&mut self) {
        while self.tree.evict(&mut self.executor) {}
        self.speculation.give_back();
    }

    /// A step that was started.
    fn part(
        &mut self,
        ticket: E::Ticket,
        members: &[Member<E>],
        since: Duration,
    ) -> Part<E::Ticket> {
        let mut prompt_rows = 0;
        let mut load = Load::default();
        let mut verified = HashMap::new();
        for (id, feed) in members {
            verified.extend(self.verifying.remove(id).map(|draft| (*id, draft)));
            let is_decoding = self.is_decoding(*id, feed);
            load.add(self.executor.length(feed.slot) - feed.rows(), feed.rows());
            if let Some(sequence) = self.sequences.get_mut(id)
                && let Some(place) = &mut sequence.place
            {
                place.own_pages = self.executor.pages(place.slot).len();
            }
            if !is_decoding {
                prompt_rows += feed.rows();
                self.note_state(*id);
                self.keep(*id);
            }
            self.count_draws(*id, feed.draws.len() as u64);
        }
        let drawing = members.iter().filter(|(_, feed)| !feed.draws.is_empty());
        let drawing: Vec<RequestId> = drawing.map(|(id, _)| *id).collect();
        if drawing.is_empty() {
            // It is computed already.
            self.pace.took(load, prompt_rows, self.executor.now().saturating_sub(since));
            prompt_rows = 0;
        }
        let all_decode = prompt_rows == 0 && !drawing.is_empty();
        let decoded = all_decode.then_some((members.len(), load.rows));
        let drafting = std::mem::take(&mut self.drafting);
        let late = members.iter().filter(|(_, feed)| feed.draws.iter().any(|draw| draw.late));
        let late = late.map(|(id, _)| *id).collect();
        let ids = members.iter().map(|(id, _)| *id).collect();
        Part {
            ticket,
            members: ids,
            drawing,
            late,
            load,
            prompt_rows,
            decoded,
            verified,
            since,
            drafting,
        }
    }

    fn prompt_feed(&self, chunk: Chunk) -> Option<Member<E>> {
        let sequence = self.sequences.get(&chunk.id)?;
        let slot = sequence.place.as_ref()?.slot;
        let draws = chunk.is_last.then(|| draw(sequence)).into_iter().collect();
        let input = Input::Tokens(sequence.tokens[chunk.from..chunk.to].to_vec());
        Some((chunk.id, Feed { slot, input, draws }))
    }

    fn decode_feed(&self, id: RequestId) -> Option<Member<E>> {
        let sequence = self.sequences.get(&id)?;
        let slot = sequence.place.as_ref()?.slot;
        let draft = self.verifying.get(&id).map_or(&[][..], |verified| &verified.draft.tokens);
        // What was drawn last is known, or still under way.
        let last = sequence.tokens.get(self.executor.length(slot));
        let input = match last.filter(|_| self.speculation.is_on()) {
            Some(last) => Input::Tokens(std::iter::once(last).chain(draft).copied().collect()),
            None => Input::Previous,
        };
        let base = draw(sequence);
        let plain = || vec![base.clone()];
        let draws = self.verifying.get(&id).map_or_else(plain, |verified| {
            let known = |(at, edits): (usize, &Edits)| {
                let (index, edits) = (base.index + at as u64, edits.clone());
                Draw { index, edits, late: false, ..base.clone() }
            };
            verified.edits.iter().enumerate().map(known).collect()
        });
        Some((id, Feed { slot, input, draws }))
    }

    /// Pages that this step adds.
    fn new_pages(&self, (id, feed): &Member<E>) -> usize {
        let place = self.sequences.get(id).and_then(|sequence| sequence.place.as_ref());
        let own = place.map_or(0, |place| place.own_pages);
        let tokens = self.executor.length(feed.slot) + feed.rows();
        tokens.div_ceil(self.executor.page_tokens()).saturating_sub(own)
    }

    fn count_draws(&mut self, id: RequestId, draws: u64) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        sequence.draws += draws;
        if sequence.draws >= sequence.draws_for_now() {
            self.batcher.end(id);
        }
    }

    /// Draws for those that had to wait for the token before. The device computes meanwhile.
    fn draw(
        &mut self,
        mut parts: Vec<Part<E::Ticket>>,
        out: &mut dyn Outbox,
    ) -> Vec<Part<E::Ticket>> {
        for part in parts.iter_mut().filter(|part| !part.late.is_empty()) {
            let edits: Vec<Edits> = part.late.iter().map(|id| self.edits(*id, out)).collect();
            if let Err(failure) = self.executor.draw(&mut part.ticket, &edits) {
                let members = std::mem::take(&mut part.members);
                self.lose(&members, &failure, out);
                return Vec::new();
            }
        }
        parts
    }

    /// Nothing for who has left in the meantime, or has to.
    fn edits(&mut self, id: RequestId, out: &mut dyn Outbox) -> Edits {
        match self.sequences.get_mut(&id).map(Sequence::edits) {
            Some(Ok(edits)) => edits,
            Some(Err(error)) => {
                self.give_up(id, error.into(), out);
                Edits::default()
            }
            None => Edits::default(),
        }
    }

    /// Its reply leads nowhere; what is computed is right all the same.
    fn give_up(&mut self, id: RequestId, failure: Failure, out: &mut dyn Outbox) {
        if self.retire(id, None).is_some() {
            out.send(id, Event::Failed(failure));
        }
    }

    /// Waits for the step under way and tells the readers; false if the device lost it, and with it all that came after.
    fn read(&mut self, out: &mut dyn Outbox) -> bool {
        let parts = std::mem::take(&mut self.under_way);
        let is_whole = parts.len() == 1;
        for part in parts {
            let Part { ticket, members, drawing, load, prompt_rows, since, mut verified, .. } =
                part;
            let drawn = match self.executor.collect(ticket) {
                Ok(drawn) => drawn,
                Err(failure) => {
                    self.lose(&members, &failure, out);
                    return false;
                }
            };
            let now = self.executor.now();
            self.pace.took(load, prompt_rows, now.saturating_sub(since.max(self.read_at)));
            if let Some((sequences, rows)) = part.decoded.filter(|_| is_whole) {
                let began = if self.has_rested { since } else { self.read_at };
                let time = now.saturating_sub(began + part.drafting);
                self.speculation.add_step(sequences, rows, time);
            }
            (self.read_at, self.has_rested) = (now, false);
            for (id, drawn) in drawing.into_iter().zip(drawn) {
                let verified = verified.remove(&id).unwrap_or_default();
                self.tell_all(id, &verified, drawn, out);
            }
        }
        true
    }

    fn tell(&mut self, id: RequestId, drawn: Drawn, out: &mut dyn Outbox) {
        // It may have been cancelled, or have ended with the token before.
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if sequence.clock.first_token.is_none() {
            sequence.clock.first_token = Some(Instant::now());
            let (prompt_tokens, cached_tokens) =
                (sequence.prompt_tokens as u32, sequence.cached_tokens as u32);
            out.send(id, Event::PromptRead { prompt_tokens, cached_tokens });
            self.shelf.iter_mut().for_each(|shelf| shelf.keep(&sequence.tokens));
        }
        if self.ends.contains(&drawn.token) {
            let delta = sequence.output.finish();
            let ending = Ending { reason: FinishReason::Stop, stop: None, end: Some(drawn.token) };
            return self.finish(id, delta, ending, out);
        }
        if let Err(error) = sequence.follow(drawn.token) {
            return self.give_up(id, error.into(), out);
        }
        let complete = sequence.is_complete();
        let full = sequence.generated_tokens() as u64 >= sequence.draws_max;
        let progress = sequence.output.push(drawn);
        if sequence.output.repeats() > self.repeats_max {
            return self.give_up(id, endless_repetition(), out);
        }
        match progress {
            Progress::Stopped { delta, stop } => {
                let ending = Ending { reason: FinishReason::Stop, stop: Some(stop), end: None };
                self.finish(id, delta, ending, out);
            }
            Progress::Text(mut delta) if complete || full => {
                append(&mut delta, sequence.output.finish());
                let reason = if complete { FinishReason::Stop } else { FinishReason::Length };
                self.finish(id, delta, Ending { reason, stop: None, end: None }, out);
            }
            Progress::Text(delta) => {
                self.keep(id);
                send_text(id, delta, out);
                self.shift_if_full(id);
            }
        }
    }

    fn finish(&mut self, id: RequestId, delta: Delta, ending: Ending, out: &mut dyn Outbox) {
        send_text(id, delta, out);
        let Some(sequence) = self.retire(id, ending.end) else { return };
        out.send(id, Event::Finished(sequence.usage(ending.reason, ending.stop)));
    }

    /// Takes a sequence out; what it computed stays for others.
    fn retire(&mut self, id: RequestId, end: Option<u32>) -> Option<Sequence<E>> {
        self.batcher.leave(id);
        self.speculation.forget(id);
        self.shelf.iter_mut().for_each(|shelf| shelf.let_go(id, &mut self.tree));
        let mut sequence = self.sequences.remove(&id)?;
        self.give_up_place(&mut sequence, end);
        Some(sequence)
    }

    /// These sequences are told that they failed.
    fn fail(&mut self, ids: &[RequestId], failure: &Failure, out: &mut dyn Outbox) {
        for id in ids {
            self.batcher.leave(*id);
            self.drop_place(*id);
            self.speculation.forget(*id);
            self.shelf.iter_mut().for_each(|shelf| shelf.let_go(*id, &mut self.tree));
            if self.sequences.remove(id).is_some() {
                out.send(*id, Event::Failed(failure.clone()));
            }
        }
    }

    /// A step of these sequences came to nothing when it was read. Nothing in memory is trusted any more: all begin anew
    /// from what they know, and these for the last time; where memory was not the reason, not even once.
    fn lose(&mut self, ids: &[RequestId], failure: &Failure, out: &mut dyn Outbox) {
        tracing::warn!(%failure, sequences = ids.len(), "a step was lost");
        self.under_way.clear();
        let places: Vec<RequestId> = self.batcher.latest().collect();
        for id in places {
            self.batcher.step_back(id);
            self.drop_place(id);
        }
        self.sequences.values_mut().for_each(Sequence::forget_draws);
        self.tree.clear(&mut self.executor);
        for id in ids {
            let Some(sequence) = self.sequences.get_mut(id) else { continue };
            sequence.failures += 1;
            if sequence.failures > 1 || failure.kind != FailureKind::NoRoom {
                self.fail(&[*id], failure, out);
            }
        }
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

/// How a reply ended.
struct Ending {
    reason: FinishReason,
    stop: Option<String>,
    /// The token that ended it, if one did.
    end: Option<u32>,
}

fn draw<E: Executor>(sequence: &Sequence<E>) -> Draw {
    Draw {
        sampling: sequence.sampling.clone(),
        index: sequence.draws,
        logprobs: sequence.logprobs,
        edits: sequence.sampling.edits(None, None),
        late: sequence.draws_late(),
    }
}

/// Ollama's words.
fn endless_repetition() -> Failure {
    Failure::internal("prediction aborted, token repeat limit reached")
        .hint("set `repeat_penalty` above 1, or limit the reply with `num_predict`")
}

fn send_text(id: RequestId, delta: Delta, out: &mut dyn Outbox) {
    if !delta.is_empty() {
        out.send(id, Event::Delta(delta));
    }
}

fn append(delta: &mut Delta, rest: Delta) {
    delta.thinking.push_str(&rest.thinking);
    delta.content.push_str(&rest.content);
    delta.tool_calls.extend(rest.tool_calls);
    delta.logprobs.extend(rest.logprobs);
}
