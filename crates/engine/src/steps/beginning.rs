//! Where a prompt begins: what of it the tree has, or whoever is running, to the very token; and whom it waits for, because
//! he is about to compute more of it.
//!
//! The last page of a sequence that runs is not in the tree, as it is still written to. Another sequence may begin on it all
//! the same: whoever writes first to a page that both have takes a copy of it. The page that the one who begins was promised
//! is the one that is taken then, so it must be in the step that is planned next.

use protocol::RequestId;

use super::starts::Door;
use crate::executor::Executor;
use crate::prefix::{self, Found};
use crate::sequence::Sequence;

/// Fewer tokens than this are computed anew rather than waited for: a step more costs as much.
const WAIT_TOKENS_MIN: usize = 8;

impl<E: Executor> Door<'_, E> {
    /// The longest beginning of its tokens that is computed; the last token never is.
    pub fn beginning(&mut self, id: RequestId) -> Found<E::Page, E::State> {
        let tokens = self.sequences.get(&id).map_or(&[][..], |sequence| &sequence.tokens);
        let mut found = self.tree.find(tokens, self.executor);
        let whole = found.length / self.executor.page_tokens();
        if let Some((length, page)) = self.unfinished(tokens, found.length) {
            let pages = [&found.pages[..whole], &[page]].concat();
            if self.executor.is_resumable(&pages, length, None) {
                (found.length, found.pages) = (length, pages);
                found.nodes.truncate(whole);
            }
        }
        found
    }

    /// The page behind `known` tokens of a sequence that shares more of them, and up to where it does.
    fn unfinished(&self, tokens: &[u32], known: usize) -> Option<(usize, E::Page)> {
        // What a recurrence remembers is known at the ends of its steps only.
        if self.executor.state_bytes() > 0 {
            return None;
        }
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let page_tokens = self.executor.page_tokens();
        let index = known / page_tokens;
        let shares = |other: &Sequence<E>| {
            let slot = other.place.as_ref()?.slot;
            let page = *self.executor.pages(slot).get(index)?;
            let computed = self.executor.length(slot).min(other.tokens.len());
            let here = &other.tokens[..computed.min((index + 1) * page_tokens)];
            let share = prefix::shared(here, wanted);
            (share > known).then_some((share, page))
        };
        self.sequences.values().filter_map(shares).max()
    }

    /// Whether somebody is about to compute what this one begins with too.
    pub fn is_computed_elsewhere(&self, sequence: &Sequence<E>) -> bool {
        let wanted = &sequence.tokens[..sequence.tokens.len() - 1];
        let has_states = self.executor.state_bytes() > 0;
        let page_tokens = self.executor.page_tokens();
        self.sequences.values().any(|other| {
            let Some(place) = &other.place else { return false };
            let computed = self.executor.length(place.slot);
            // Who decodes has one token to go at most.
            if computed + 1 >= other.tokens.len() {
                return false;
            }
            let share = prefix::shared(&other.tokens, wanted);
            match has_states {
                true => share / page_tokens > place.nodes.len(),
                false => share >= computed + WAIT_TOKENS_MIN,
            }
        })
    }
}
