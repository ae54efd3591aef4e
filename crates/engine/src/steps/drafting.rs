//! Drafts in the step loop: who gets one, what of it may be said at all, and what is left of it once the model has spoken.
//!
//! A step with drafts is not planned before the one before it is read, as drafts follow what was drawn. Rows of tokens
//! that were not accepted are forgotten before anybody else sees the slot.

use std::collections::HashMap;

use protocol::{Outbox, RequestId};
use text::constraint::Constraint;

use super::Steps;
use crate::batcher::Plan;
use crate::executor::{Drawn, Executor, Feed, Input};
use crate::sampling::Edits;
use crate::sequence::Sequence;
use crate::speculation::{self, Ask, Draft};

/// What a step verifies for one sequence.
#[derive(Default)]
pub(super) struct Verified {
    pub draft: Draft,
    /// For each row.
    pub edits: Vec<Edits>,
}

impl<E: Executor> Steps<E> {
    /// Finds drafts for those who decode in the next step; reads the step under way where they need that.
    pub(super) fn draft(&mut self, plan: &Plan, out: &mut dyn Outbox) {
        self.verifying.clear();
        if self.has_rested {
            // The step that begins now did not take the time in which nobody asked for anything.
            self.read_at = self.executor.now();
        }
        if !self.speculation.is_on() || !self.executor.can_rewind() {
            return;
        }
        if self.under_way.iter().any(|part| !part.verified.is_empty()) {
            self.read(out);
        }
        // Beside a prompt rows are as dear as those of the prompt.
        let ids = if plan.prompts.is_empty() { &plan.decode[..] } else { &[] };
        if !self.speculation.wants(&asks(&self.sequences, ids)) {
            return;
        }
        self.read(out);
        let start = self.executor.now();
        let asks = asks(&self.sequences, ids);
        let ids: Vec<RequestId> = asks.iter().map(|ask| ask.id).collect();
        let drafts = self.speculation.propose(&asks, || self.executor.now());
        for (id, draft) in ids.into_iter().zip(drafts) {
            let Some(sequence) = self.sequences.get(&id) else { continue };
            let verified = verified(sequence, draft, &self.ends);
            if !verified.draft.tokens.is_empty() {
                self.verifying.insert(id, verified);
            }
        }
        self.drafting = self.executor.now().saturating_sub(start);
    }

    /// One token, or a draft of some: nothing of a prompt.
    pub(super) fn is_decoding(&self, id: RequestId, feed: &Feed<E::Slot>) -> bool {
        let has_begun = || self.sequences.get(&id).is_some_and(|s| s.generated_tokens() > 0);
        feed.input == Input::Previous
            || (self.speculation.is_on() && feed.draws.len() == feed.rows() && has_begun())
    }

    /// Where there is no room for a draft; false if there is none.
    pub(super) fn drop_draft(&mut self, id: RequestId, feed: &mut Feed<E::Slot>) -> bool {
        let has_draft = self.verifying.remove(&id).is_some();
        if let Input::Tokens(tokens) = &mut feed.input
            && has_draft
        {
            tokens.truncate(1);
            feed.draws.truncate(1);
        }
        has_draft
    }

    /// Tells the readers what was drawn for one sequence, as far as it would have been drawn without a draft.
    pub(super) fn tell_all(
        &mut self,
        id: RequestId,
        verified: &Verified,
        drawn: Vec<Drawn>,
        out: &mut dyn Outbox,
    ) {
        let draft = &verified.draft;
        let accepted = speculation::accepted(&draft.tokens, &drawn);
        self.speculation.add_result(id, draft, accepted);
        self.take_back(id, draft.tokens.len() - accepted);
        for drawn in drawn.into_iter().take(accepted + 1) {
            self.tell(id, drawn, out);
        }
    }

    /// The last rows of a sequence were computed for nothing.
    fn take_back(&mut self, id: RequestId, rows: usize) {
        let Some(sequence) = self.sequences.get_mut(&id).filter(|_| rows > 0) else { return };
        sequence.draws = sequence.draws.saturating_sub(rows as u64);
        if let Some(place) = &mut sequence.place {
            let length = self.executor.length(place.slot);
            self.executor.rewind(place.slot, length - rows);
            place.own_pages = self.executor.pages(place.slot).len();
        }
    }
}

fn asks<'a, E: Executor>(
    sequences: &'a HashMap<RequestId, Sequence<E>>,
    ids: &[RequestId],
) -> Vec<Ask<'a>> {
    let ask = |id: &RequestId| {
        let sequence = sequences.get(id)?;
        // One token is drawn in any case; and a draft alone never ends a sequence.
        let room = sequence.draws_for_now().saturating_sub(sequence.draws + 2);
        Some(Ask {
            id: *id,
            tokens: &sequence.tokens,
            sampling: &sequence.sampling,
            index: sequence.draws,
            depth: sequence.draft_tokens_max.min(usize::try_from(room).unwrap_or(usize::MAX)),
        })
    };
    ids.iter().filter_map(ask).collect()
}

/// A draft as far as the reply may go that way: up to an end, and to what its form forbids or ends with.
fn verified<E: Executor>(sequence: &Sequence<E>, mut draft: Draft, ends: &[u32]) -> Verified {
    let says = |token: &u32| !ends.contains(token);
    draft.tokens = draft.tokens.into_iter().take_while(says).collect();
    let mut along = sequence.constraint.as_ref().map(Constraint::fork);
    let mut window = sequence.window.clone();
    let mut edits = Vec::with_capacity(draft.tokens.len() + 1);
    for at in 0..=draft.tokens.len() {
        let Ok(mask) = along.as_mut().map(Constraint::mask).transpose() else { break };
        let token = draft.tokens.get(at).copied();
        let token = token.filter(|token| mask.as_ref().is_none_or(|mask| mask.allows(*token)));
        edits.push(sequence.sampling.edits(window.as_ref(), mask));
        let Some(token) = token else { break };
        window.iter_mut().for_each(|window| window.push(token));
        if let Some(along) = &mut along
            && (along.accept(token).is_err() || along.is_complete())
        {
            break;
        }
    }
    draft.tokens.truncate(edits.len().saturating_sub(1));
    Verified { draft, edits }
}
