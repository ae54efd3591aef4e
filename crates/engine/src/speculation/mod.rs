//! Several tokens of a sequence in one step: somebody cheap drafts what may come, the model computes all of it at once,
//! and what it would have said anyway is kept.
//!
//! Nothing changes but the time. Each verified row draws with the sequence's own randomness (seed, index of the draw), so
//! the model's token after the tokens before it is what it would be without a draft; drafted tokens are kept while they
//! equal it (decision 0012). Drafters only guess: whatever they propose, replies stay the same. Knows no memory and no
//! step loop; deciding how much to draft is `depth`'s.

mod depth;
mod lookup;
mod model;
#[cfg(test)]
mod simulation;
mod times;

use std::collections::HashMap;
use std::time::Duration;

use protocol::RequestId;

use crate::executor::Drawn;
use crate::sampling::Sampling;
use depth::{History, Member, Pace};
pub(crate) use lookup::Lookup;
pub(crate) use model::ModelDrafter;

/// Somebody who guesses what comes next.
pub(crate) trait Drafter {
    /// For each sequence, in order, up to `depth` tokens that may follow.
    fn propose(&mut self, asks: &[Ask<'_>]) -> Vec<Vec<u32>>;

    /// Whether it is worth asking for this sequence, of which perhaps all but the last token is known yet.
    fn may_propose(&mut self, _: RequestId, _: &[u32]) -> bool {
        true
    }

    /// How many tokens of a sequence it has to read before it can draft.
    fn unread(&self, _: &Ask<'_>) -> usize {
        0
    }

    /// Reads them: once for each sequence, so that drafts cost what they cost.
    fn read(&mut self, _: &[Ask<'_>]) {}

    /// The sequence has ended.
    fn forget(&mut self, id: RequestId);

    /// Memory is short: what is kept of ended sequences goes.
    fn give_back(&mut self) {}
}

/// What a drafter is told of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub id: RequestId,
    /// All tokens so far.
    pub tokens: &'a [u32],
    pub sampling: &'a Sampling,
    /// Of the draw that the first drafted token stands for: who draws with the same randomness agrees more often.
    pub index: u64,
    /// How many tokens are of use.
    pub depth: usize,
}

/// Tokens that may follow, and who said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    pub tokens: Vec<u32>,
    source: usize,
}

/// All drafters of a model; the first that has something to say for a sequence is believed.
#[derive(Default)]
pub(crate) struct Speculation {
    sources: Vec<Source>,
    /// The next plain step to be read was not asked for while another was under way, or is read before another is.
    is_apart: bool,
}

struct Source {
    drafter: Box<dyn Drafter>,
    pace: Pace,
    histories: HashMap<RequestId, History>,
}

impl Speculation {
    pub fn add(&mut self, drafter: impl Drafter + 'static) {
        let drafter = Box::new(drafter);
        self.sources.push(Source { drafter, pace: Pace::new(), histories: HashMap::new() });
    }

    pub fn is_on(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Whether the next step may have drafts. Then what is under way has to be read first; what is asked may lack the last
    /// token.
    pub fn wants(&mut self, asks: &[Ask<'_>]) -> bool {
        let mut sources = self.sources.iter_mut();
        let wants = sources.any(|source| source.depths(asks).iter().any(|depth| *depth > 0));
        self.is_apart |= wants;
        wants
    }

    /// Drafts for the next step, as long as they pay.
    pub fn propose(&mut self, asks: &[Ask<'_>], now: impl Fn() -> Duration) -> Vec<Draft> {
        self.is_apart = true;
        let mut drafts = vec![Draft::default(); asks.len()];
        let mut open = asks.to_vec();
        for (number, source) in self.sources.iter_mut().enumerate() {
            let depths = source.depths(&open);
            let asked: Vec<usize> = (0..asks.len()).filter(|at| depths[*at] > 0).collect();
            let Some(longest) = depths.iter().max().filter(|longest| **longest > 0) else {
                continue;
            };
            let ask = |at: &usize| Ask { depth: depths[*at], ..open[*at].clone() };
            let to_draft: Vec<Ask<'_>> = asked.iter().map(ask).collect();
            source.read(&to_draft, &now);
            let start = now();
            let tokens = source.drafter.propose(&to_draft);
            source.pace.add_drafting(*longest, now().saturating_sub(start));
            for (at, tokens) in asked.into_iter().zip(tokens).filter(|(_, draft)| !draft.is_empty())
            {
                drafts[at] = Draft { tokens, source: number };
                open[at].depth = 0;
            }
        }
        drafts
    }

    /// A step took so long in which all sequences decoded, `rows` tokens of `sequences`.
    pub fn add_step(&mut self, sequences: usize, rows: usize, time: Duration) {
        let is_plain = rows == sequences;
        // A plain step takes what it takes between two others.
        let usual = Some(time).filter(|_| !self.is_apart);
        self.is_apart = !is_plain;
        for source in &mut self.sources {
            match is_plain {
                true => source.pace.add_plain(rows, usual),
                false => source.pace.add_verifying(rows, time),
            }
        }
    }

    /// What came of a draft.
    pub fn add_result(&mut self, id: RequestId, draft: &Draft, accepted: usize) {
        for (number, source) in self.sources.iter_mut().enumerate() {
            let Some(history) = source.histories.get_mut(&id) else { continue };
            match draft.tokens.is_empty() || number != draft.source {
                true => history.add_plain(),
                false => {
                    let drafted = draft.tokens.len();
                    tracing::trace!(id = id.0, drafted, accepted, "a draft");
                    source.pace.add_result(history, drafted, accepted);
                }
            }
        }
    }

    pub fn give_back(&mut self) {
        self.sources.iter_mut().for_each(|source| source.drafter.give_back());
    }

    pub fn forget(&mut self, id: RequestId) {
        for source in &mut self.sources {
            source.drafter.forget(id);
            let history = source.histories.remove(&id);
            if let Some(History { drafted, accepted, .. }) = history
                && drafted > 0
            {
                tracing::debug!(id = id.0, drafted, accepted, "drafts");
            }
        }
    }
}

impl Source {
    /// What the drafter lacks of these sequences is read and timed by itself.
    fn read(&mut self, asks: &[Ask<'_>], now: impl Fn() -> Duration) {
        let unread = |drafter: &dyn Drafter| asks.iter().map(|ask| drafter.unread(ask)).sum();
        let before: usize = unread(&*self.drafter);
        if before == 0 {
            return;
        }
        let start = now();
        self.drafter.read(asks);
        let read = before.saturating_sub(unread(&*self.drafter));
        // Where there is no room for a sequence, nothing of it was read.
        if read > 0 {
            self.pace.add_reading(read, now().saturating_sub(start));
        }
    }

    /// How many tokens to ask the drafter for, for each.
    fn depths(&mut self, asks: &[Ask<'_>]) -> Vec<usize> {
        for ask in asks {
            self.histories.entry(ask.id).or_insert_with(|| self.pace.start());
        }
        let members: Vec<Member<'_>> = asks
            .iter()
            .map(|ask| {
                let may = ask.depth > 0 && self.drafter.may_propose(ask.id, ask.tokens);
                let history = &self.histories[&ask.id];
                let unread_tokens = self.drafter.unread(ask);
                Member { history, depth_max: if may { ask.depth } else { 0 }, unread_tokens }
            })
            .collect();
        self.pace.depths(&members)
    }
}

/// How many of the drafted tokens are what the model drew.
pub(crate) fn accepted(draft: &[u32], drawn: &[Drawn]) -> usize {
    draft.iter().zip(drawn).take_while(|(draft, drawn)| **draft == drawn.token).count()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::LazyLock;

    use super::*;

    pub fn ask(id: u64, tokens: &[u32], depth: usize) -> Ask<'_> {
        static SAMPLING: LazyLock<Sampling> =
            LazyLock::new(|| Sampling::new(&protocol::Options::default(), 1, 4096));
        Ask { id: RequestId(id), tokens, sampling: &SAMPLING, index: 0, depth }
    }

    #[test]
    fn a_draft_is_accepted_as_far_as_it_is_right() {
        let drawn: Vec<Drawn> =
            [4, 5, 6].into_iter().map(|token| Drawn { token, logprob: None }).collect();
        for (draft, expected) in
            [(&[][..], 0), (&[4, 5][..], 2), (&[4, 6][..], 1), (&[5, 5][..], 0), (&[9, 5][..], 0)]
        {
            assert_eq!(accepted(draft, &drawn), expected, "{draft:?}");
        }
    }

    /// Says what it is told to say.
    struct Parrot(Vec<u32>);

    impl Drafter for Parrot {
        fn propose(&mut self, asks: &[Ask<'_>]) -> Vec<Vec<u32>> {
            asks.iter().map(|ask| self.0.iter().copied().take(ask.depth).collect()).collect()
        }

        fn forget(&mut self, _: RequestId) {}
    }

    /// Reads for a second, drafts in no time, and is right.
    struct Reader {
        clock: Rc<Cell<Duration>>,
        has_read: bool,
    }

    impl Drafter for Reader {
        fn propose(&mut self, asks: &[Ask<'_>]) -> Vec<Vec<u32>> {
            assert!(self.has_read);
            self.clock.set(self.clock.get() + Duration::from_millis(1));
            asks.iter().map(|ask| vec![7; ask.depth]).collect()
        }

        fn unread(&self, _: &Ask<'_>) -> usize {
            if self.has_read { 0 } else { 2000 }
        }

        fn read(&mut self, _: &[Ask<'_>]) {
            self.clock.set(self.clock.get() + Duration::from_secs(1));
            self.has_read = true;
        }

        fn forget(&mut self, _: RequestId) {}
    }

    #[test]
    fn what_a_drafter_reads_first_does_not_make_its_drafts_dear() {
        let clock = Rc::new(Cell::new(Duration::ZERO));
        let mut speculation = Speculation::default();
        speculation.add(Reader { clock: Rc::clone(&clock), has_read: false });
        (0..8).for_each(|_| speculation.add_step(1, 1, Duration::from_millis(20)));
        let asks = [ask(1, &[1, 2, 3], 4)];
        for _ in 0..5 {
            let drafts = speculation.propose(&asks, || clock.get());
            assert!(drafts[0].tokens.len() >= 2, "{drafts:?}");
            speculation.add_step(1, 1 + drafts[0].tokens.len(), Duration::from_millis(21));
            speculation.add_result(RequestId(1), &drafts[0], drafts[0].tokens.len());
        }
        assert!(clock.get() < Duration::from_secs(2));
    }

    #[test]
    fn the_first_who_knows_is_believed() {
        let mut speculation = Speculation::default();
        speculation.add(Lookup::default());
        speculation.add(Parrot(vec![8, 9]));
        let time = Duration::from_millis(10);
        (0..8).for_each(|_| speculation.add_step(2, 2, time));
        speculation.add_step(2, 4, time);
        let (repeating, other) = ([1, 2, 3, 4, 1, 2, 3], [5, 6, 7]);
        let asks = [ask(1, &repeating, 2), ask(2, &other, 8)];
        assert!(speculation.wants(&asks));
        let drafts = speculation.propose(&asks, Duration::default);
        assert_eq!(drafts[0], Draft { tokens: vec![4, 1], source: 0 });
        assert_eq!(drafts[1], Draft { tokens: vec![8, 9], source: 1 });
        // Nobody asks for any.
        let asks = [ask(1, &repeating, 0), ask(2, &other, 0)];
        assert!(!speculation.wants(&asks));
        assert_eq!(speculation.propose(&asks, Duration::default), vec![Draft::default(); 2]);
    }
}
