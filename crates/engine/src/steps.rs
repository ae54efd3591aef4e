//! The step loop: takes requests on between steps, lets the batcher decide what is in one, has it computed, and tells the
//! readers what came of the step before.
//!
//! While a decoding step is under way the one before it is read; so a sequence may be fed a token that turns out to be its
//! last. That row is wasted, and its slot is rewound before anybody sees it. A sequence whose reply has a form is computed
//! as early as the others; only its draw waits until the token before it is read and tells what may follow.
//! Invariants: every request gets exactly one last event; a slot belongs to one sequence or to the prefix cache.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use protocol::{
    Delta, Engine, Event, Failure, FailureKind, FinishReason, MemoryReport, Outbox, Request,
    RequestId, Work,
};
use text::Text;

use crate::batcher::{Batcher, Plan};
use crate::executor::{Draw, Drawn, Executor, Feed, Input};
use crate::forms::{self, Forms};
use crate::output::{Output, Progress};
use crate::prefix::PrefixCache;
use crate::sampling::{Edits, Sampling};
use crate::sequence::{self, Clock, Sequence};

pub(crate) struct Steps<E: Executor> {
    executor: E,
    text: Rc<Text>,
    forms: Forms,
    context_tokens_max: usize,
    batcher: Batcher,
    prefixes: PrefixCache<E::Slot>,
    sequences: HashMap<RequestId, Sequence<E::Slot>>,
    under_way: Option<UnderWay<E::Ticket>>,
    /// Seeds of requests that name none.
    seeds: u64,
    /// Tokens that end a reply.
    ends: Vec<u32>,
}

struct UnderWay<Ticket> {
    ticket: Ticket,
    /// Who draws, in the order of the feeds.
    drawing: Vec<RequestId>,
    /// Of those, who draws late.
    late: Vec<RequestId>,
}

impl<E: Executor> Engine for Steps<E> {
    fn submit(&mut self, request: Request, out: &mut dyn Outbox) {
        let id = request.id;
        match self.accept(request) {
            Ok(None) => {}
            Ok(Some(answer)) => out.send(id, answer),
            Err(failure) => out.send(id, Event::Failed(failure)),
        }
    }

    fn cancel(&mut self, id: RequestId) {
        self.retire(id);
    }

    fn step(&mut self, out: &mut dyn Outbox) -> Work {
        self.admit();
        let plan = self.batcher.plan(|id| out.ready(id));
        let idle = plan == Plan::Idle;
        // A prompt's chunk takes long: whoever waits for a token gets it first.
        if !matches!(plan, Plan::Decode(_)) {
            self.read(out);
        }
        let next = self.dispatch(plan, out);
        self.read(out);
        self.under_way = next.and_then(|step| self.draw(step, out));
        if idle && self.under_way.is_none() { Work::Idle } else { Work::More }
    }

    fn memory(&self) -> MemoryReport {
        self.executor.memory()
    }
}

impl<E: Executor> Steps<E> {
    pub fn new(executor: E, text: Rc<Text>, context_tokens_max: usize, seed: u64) -> Steps<E> {
        let text_ends = text.ends().to_vec();
        Steps {
            executor,
            forms: Forms::new(&text),
            text,
            context_tokens_max,
            batcher: Batcher::default(),
            prefixes: PrefixCache::new(),
            sequences: HashMap::new(),
            under_way: None,
            seeds: seed,
            ends: text_ends,
        }
    }

    /// No token ends a reply.
    pub fn ignore_ends(&mut self) {
        self.ends.clear();
    }

    #[cfg(test)]
    pub fn sequences_open(&self) -> usize {
        self.sequences.len()
    }

    #[cfg(test)]
    pub fn slots_cached(&self) -> usize {
        self.prefixes.len()
    }

    #[cfg(test)]
    pub fn executor(&self) -> &E {
        &self.executor
    }

    /// Puts a request in line, or answers it at once.
    fn accept(&mut self, request: Request) -> Result<Option<Event>, Failure> {
        let request = forms::without_forbidden_tools(request);
        let prompt = self.text.render(&request.input, &request.think)?;
        if request.render_only {
            return Ok(Some(Event::Rendered { prompt, images: 0 }));
        }
        refuse_what_is_missing(&request)?;
        let tokens = self.text.encode_prompt(&prompt, self.text.prompt_kind(&request.input))?;
        let context = sequence::context_tokens(&request.options, self.context_tokens_max);
        check_length(tokens.len(), context)?;
        let parser = self.text.parser(&request.input, &request.think, &prompt);
        let constraint = self.forms.constraint(&request, &prompt, &parser)?;
        if !self.batcher.join(request.id) {
            return Err(Failure::new(FailureKind::Busy, "too many requests wait for this model")
                .hint("try again later"));
        }
        self.seeds = self.seeds.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let sampling = Sampling::new(&request.options, self.seeds, context);
        let sequence = Sequence {
            prompt_tokens: tokens.len(),
            draws_max: sequence::draws_max(&request.options, tokens.len(), context),
            window: sampling.window(&tokens),
            tokens,
            cached_tokens: 0,
            slot: None,
            draws: 0,
            sampling,
            logprobs: request.logprobs,
            output: Output::new(&self.text, request.options.stop.unwrap_or_default(), parser),
            constraint,
            clock: Clock { admitted: Instant::now(), first_token: None },
        };
        self.sequences.insert(request.id, sequence);
        Ok(None)
    }

    /// Gives a slot to whoever is next in line.
    fn admit(&mut self) {
        while let Some(id) = self.batcher.admit() {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let (slot, cached) = self.prefixes.take(&sequence.tokens, &mut self.executor);
            sequence.slot = Some(slot);
            sequence.cached_tokens = cached;
            sequence.clock.admitted = Instant::now();
            self.batcher.start(id, sequence.prompt_tokens - cached);
        }
    }

    /// Starts the planned step; whoever cannot be computed is told so.
    fn dispatch(&mut self, plan: Plan, out: &mut dyn Outbox) -> Option<UnderWay<E::Ticket>> {
        let (members, feeds) = match plan {
            Plan::Idle => return None,
            Plan::Prompt { id, tokens } => (vec![id], vec![self.prompt_feed(id, tokens)?]),
            Plan::Decode(ids) => {
                let feeds = ids.iter().filter_map(|id| self.decode_feed(*id)).collect();
                (ids, feeds)
            }
        };
        let drawing: Vec<RequestId> = members
            .iter()
            .zip(&feeds)
            .filter(|(_, feed)| !feed.draws.is_empty())
            .map(|(id, _)| *id)
            .collect();
        let is_late = |(_, feed): &(&RequestId, &Feed<E::Slot>)| feed.draws.iter().any(|d| d.late);
        let late = members.iter().zip(&feeds).filter(is_late).map(|(id, _)| *id).collect();
        match self.executor.dispatch(&feeds) {
            Ok(ticket) => {
                drawing.iter().for_each(|id| self.count_draw(*id));
                Some(UnderWay { ticket, drawing, late })
            }
            Err(failure) => {
                self.fail(&members, &failure, out);
                None
            }
        }
    }

    /// Draws for those that had to wait for the token before. The device computes meanwhile.
    fn draw(
        &mut self,
        mut step: UnderWay<E::Ticket>,
        out: &mut dyn Outbox,
    ) -> Option<UnderWay<E::Ticket>> {
        if step.late.is_empty() {
            return Some(step);
        }
        let edits: Vec<Edits> = step.late.iter().map(|id| self.edits(*id, out)).collect();
        match self.executor.draw(&mut step.ticket, &edits) {
            Ok(()) => Some(step),
            Err(failure) => {
                self.fail(&step.drawing, &failure, out);
                None
            }
        }
    }

    /// None for who has left in the meantime, or has to.
    fn edits(&mut self, id: RequestId, out: &mut dyn Outbox) -> Edits {
        match self.sequences.get_mut(&id).map(Sequence::edits) {
            Some(Ok(edits)) => edits,
            Some(Err(error)) => {
                self.give_up(id, error, out);
                Edits::default()
            }
            None => Edits::default(),
        }
    }

    /// Its form leads nowhere; what is computed is right all the same.
    fn give_up(&mut self, id: RequestId, error: text::Error, out: &mut dyn Outbox) {
        if self.retire(id).is_some() {
            out.send(id, Event::Failed(error.into()));
        }
    }

    fn prompt_feed(&mut self, id: RequestId, tokens: usize) -> Option<Feed<E::Slot>> {
        let sequence = self.sequences.get(&id)?;
        let slot = sequence.slot?;
        let from = self.executor.length(slot);
        let to = from + tokens;
        let draws = (to == sequence.prompt_tokens).then(|| draw(sequence)).into_iter().collect();
        Some(Feed { slot, input: Input::Tokens(sequence.tokens[from..to].to_vec()), draws })
    }

    fn decode_feed(&self, id: RequestId) -> Option<Feed<E::Slot>> {
        let sequence = self.sequences.get(&id)?;
        Some(Feed { slot: sequence.slot?, input: Input::Previous, draws: vec![draw(sequence)] })
    }

    fn count_draw(&mut self, id: RequestId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.draws += 1;
            if sequence.draws >= sequence.draws_max {
                self.batcher.end(id);
            }
        }
    }

    /// Waits for the step under way and tells the readers.
    fn read(&mut self, out: &mut dyn Outbox) {
        let Some(UnderWay { ticket, drawing, .. }) = self.under_way.take() else { return };
        match self.executor.collect(ticket) {
            Ok(drawn) => {
                for (id, drawn) in drawing.into_iter().zip(drawn) {
                    drawn.into_iter().for_each(|drawn| self.tell(id, drawn, out));
                }
            }
            Err(failure) => self.fail(&drawing, &failure, out),
        }
    }

    fn tell(&mut self, id: RequestId, drawn: Drawn, out: &mut dyn Outbox) {
        // It may have been cancelled, or have ended with the token before.
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if sequence.clock.first_token.is_none() {
            sequence.clock.first_token = Some(Instant::now());
            let (prompt_tokens, cached_tokens) =
                (sequence.prompt_tokens as u32, sequence.cached_tokens as u32);
            out.send(id, Event::PromptRead { prompt_tokens, cached_tokens });
        }
        if self.ends.contains(&drawn.token) {
            let delta = sequence.output.finish();
            return self.finish(id, delta, FinishReason::Stop, None, out);
        }
        if let Err(error) = sequence.follow(drawn.token) {
            return self.give_up(id, error, out);
        }
        let complete = sequence.is_complete();
        let full = sequence.generated_tokens() as u64 >= sequence.draws_max;
        match sequence.output.push(drawn) {
            Progress::Stopped { delta, stop } => {
                self.finish(id, delta, FinishReason::Stop, Some(stop), out)
            }
            Progress::Text(mut delta) if complete || full => {
                append(&mut delta, sequence.output.finish());
                let reason = if complete { FinishReason::Stop } else { FinishReason::Length };
                self.finish(id, delta, reason, None, out);
            }
            Progress::Text(delta) => send_text(id, delta, out),
        }
    }

    fn finish(
        &mut self,
        id: RequestId,
        delta: Delta,
        reason: FinishReason,
        stop: Option<String>,
        out: &mut dyn Outbox,
    ) {
        send_text(id, delta, out);
        let Some(sequence) = self.retire(id) else { return };
        out.send(id, Event::Finished(sequence.usage(reason, stop)));
    }

    /// Takes a sequence out; what it computed stays for others.
    fn retire(&mut self, id: RequestId) -> Option<Sequence<E::Slot>> {
        self.batcher.leave(id);
        let sequence = self.sequences.remove(&id)?;
        if let Some(slot) = sequence.slot {
            let known = self.executor.length(slot).min(sequence.tokens.len());
            self.executor.rewind(slot, known);
            self.prefixes.give(sequence.tokens[..known].to_vec(), slot, &mut self.executor);
        }
        Some(sequence)
    }

    /// What these sequences hold cannot be trusted: it goes, and so does what nobody uses.
    fn fail(&mut self, ids: &[RequestId], failure: &Failure, out: &mut dyn Outbox) {
        for id in ids {
            self.batcher.leave(*id);
            let Some(sequence) = self.sequences.remove(id) else { continue };
            if let Some(slot) = sequence.slot {
                self.executor.close(slot);
            }
            out.send(*id, Event::Failed(failure.clone()));
        }
        if failure.kind == FailureKind::NoRoom {
            while self.prefixes.evict(&mut self.executor) {}
        }
    }
}

fn draw<Slot: Copy>(sequence: &Sequence<Slot>) -> Draw {
    Draw {
        sampling: sequence.sampling.clone(),
        index: sequence.draws,
        logprobs: sequence.logprobs,
        edits: sequence.sampling.edits(None, None),
        late: sequence.draws_late(),
    }
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

fn check_length(prompt_tokens: usize, context_tokens: usize) -> Result<(), Failure> {
    if prompt_tokens == 0 {
        return Err(Failure::invalid("empty prompt"));
    }
    if prompt_tokens >= context_tokens {
        return Err(Failure::invalid(format!(
            "input length ({prompt_tokens} tokens) exceeds the model's maximum context length ({context_tokens} tokens)"
        ))
        .hint("shorten the prompt, or raise `num_ctx` if the model allows it"));
    }
    Ok(())
}

/// A wish that would be ignored is refused instead.
fn refuse_what_is_missing(request: &Request) -> Result<(), Failure> {
    let unsupported =
        |what: &str, hint: &str| Err(Failure::new(FailureKind::Unsupported, what).hint(hint));
    if let protocol::Input::Chat { messages, .. } = &request.input
        && messages.iter().any(|message| !message.images.is_empty())
    {
        return unsupported(
            "this model does not support image input",
            "send text only, or use a vision model",
        );
    }
    Ok(())
}
