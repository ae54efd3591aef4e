//! What came of a step: its tokens are told to their readers, who ends leaves, and what a lost step takes with it.

use std::time::Instant;

use protocol::{Delta, Event, Failure, FailureKind, FinishReason, Outbox, RequestId};

use super::{Part, Steps};
use crate::executor::{Drawn, Executor};
use crate::output::Progress;
use crate::sequence::Sequence;

/// What of the time of a slow step is still believed after a quick one.
const ALONE_KEPT: f64 = 0.95;

impl<E: Executor> Steps<E> {
    /// Its reply leads nowhere; what is computed is right all the same.
    pub(super) fn give_up(&mut self, id: RequestId, failure: Failure, out: &mut dyn Outbox) {
        if self.retire(id, None).is_some() {
            out.send(id, Event::Failed(failure));
        }
    }

    /// Waits for the step under way and tells the readers; false if the device lost it, and with it all that came after.
    pub(super) fn read(&mut self, out: &mut dyn Outbox) -> bool {
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
                self.alone = time.max(self.alone.mul_f64(ALONE_KEPT));
            }
            (self.read_at, self.has_rested) = (now, false);
            for (id, drawn) in drawing.into_iter().zip(drawn) {
                let verified = verified.remove(&id).unwrap_or_default();
                self.tell_all(id, &verified, drawn, out);
            }
        }
        true
    }

    pub(super) fn tell(&mut self, id: RequestId, drawn: Drawn, out: &mut dyn Outbox) {
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
    pub(super) fn retire(&mut self, id: RequestId, end: Option<u32>) -> Option<Sequence<E>> {
        self.batcher.leave(id);
        self.speculation.forget(id);
        self.shelf.iter_mut().for_each(|shelf| shelf.let_go(id, &mut self.tree));
        let mut sequence = self.sequences.remove(&id)?;
        self.give_up_place(&mut sequence, end);
        Some(sequence)
    }

    /// These sequences are told that they failed.
    pub(super) fn fail(&mut self, ids: &[RequestId], failure: &Failure, out: &mut dyn Outbox) {
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
    pub(super) fn lose(&mut self, ids: &[RequestId], failure: &Failure, out: &mut dyn Outbox) {
        tracing::warn!(%failure, sequences = ids.len(), "a step was lost");
        self.under_way.clear();
        self.aside = None;
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
}

/// How a reply ended.
struct Ending {
    reason: FinishReason,
    stop: Option<String>,
    /// The token that ended it, if one did.
    end: Option<u32>,
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
