//! The draws of a step. Those that know all they need are made with the step itself; those whose options or form look at
//! the token before wait until somebody has read that one. The device computes meanwhile.

use std::rc::Rc;

use mlx::{Array, Draws, EvalError};

use crate::executor::{Draw, Drawn, Feed};
use crate::sampler::{self, Readings, Row};
use crate::sampling::Edits;

pub(crate) struct Ticket<Slot> {
    parts: Vec<Part<Slot>>,
    /// How many draws each of the feeds that draw has.
    counts: Vec<usize>,
    late: Option<Late<Slot>>,
}

/// What was drawn together.
struct Part<Slot> {
    readings: Readings,
    /// As the next step takes them.
    tokens: Rc<Array>,
    members: Vec<Member<Slot>>,
}

struct Member<Slot> {
    /// Among all draws of the step.
    place: usize,
    slot: Slot,
    /// Whether it is the slot's last of this step, which the next may begin with.
    is_last: bool,
    /// Alternatives to its log-probability, if that was asked for.
    logprobs: Option<u8>,
}

struct Late<Slot> {
    /// A row for each draw of the step.
    logits: Array,
    draws: Vec<(Member<Slot>, Draw)>,
}

impl<Slot: Copy> Ticket<Slot> {
    /// Of a step in which nobody draws.
    pub fn nothing() -> Ticket<Slot> {
        Ticket { parts: Vec::new(), counts: Vec::new(), late: None }
    }

    /// `logits` has a row for each draw of the feeds.
    pub fn new(logits: Array, feeds: &[Feed<Slot>]) -> Ticket<Slot> {
        let all = feeds.iter().flat_map(|feed| {
            let last = feed.draws.len().saturating_sub(1);
            feed.draws.iter().enumerate().map(move |(row, draw)| (feed.slot, row == last, draw))
        });
        let (mut early, mut late) = (Vec::new(), Vec::new());
        for (place, (slot, is_last, draw)) in all.enumerate() {
            let member = Member { place, slot, is_last, logprobs: draw.logprobs };
            if draw.late { late.push((member, draw.clone())) } else { early.push((member, draw)) }
        }
        let rows: Vec<Row<'_>> =
            early.iter().map(|(member, draw)| row(member, draw, &draw.edits)).collect();
        let drawn = (!rows.is_empty()).then(|| sampler::draw(&logits, &rows));
        let members = early.into_iter().map(|(member, _)| member).collect();
        Ticket {
            parts: drawn.map(|draws| Part::new(draws, &logits, members)).into_iter().collect(),
            counts: feeds.iter().map(|feed| feed.draws.len()).filter(|n| *n > 0).collect(),
            late: (!late.is_empty()).then_some(Late { logits, draws: late }),
        }
    }

    /// Makes the late draws, if there are any, with what is done to the logits of each.
    pub fn draw_late(&mut self, edits: &[Edits]) {
        let Some(Late { logits, draws }) = self.late.take() else { return };
        debug_assert_eq!(draws.len(), edits.len(), "each late draw has its edits");
        let rows: Vec<Row<'_>> = draws
            .iter()
            .zip(edits)
            .map(|((member, draw), edits)| row(member, draw, edits))
            .collect();
        let drawn = sampler::draw(&logits, &rows);
        let members = draws.into_iter().map(|(member, _)| member).collect();
        self.parts.push(Part::new(drawn, &logits, members));
    }

    /// All that is to be computed.
    pub fn arrays(&self) -> Vec<&Array> {
        let drawn = self
            .parts
            .iter()
            .flat_map(|part| std::iter::once(&*part.tokens).chain(part.readings.arrays()));
        self.late.iter().map(|late| &late.logits).chain(drawn).collect()
    }

    /// The token that each slot drew last, as a row of an array.
    pub fn last(&self) -> impl Iterator<Item = (Slot, Rc<Array>, usize)> + '_ {
        self.parts.iter().flat_map(|part| {
            let members = part.members.iter().enumerate().filter(|(_, member)| member.is_last);
            members.map(|(row, member)| (member.slot, Rc::clone(&part.tokens), row))
        })
    }

    /// The slots whose last token is still to be drawn.
    pub fn late_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        let draws = self.late.iter().flat_map(|late| &late.draws);
        draws.filter(|(member, _)| member.is_last).map(|(member, _)| member.slot)
    }

    /// Waits. For each feed that draws, what its rows drew.
    pub fn collect(self) -> Result<Vec<Vec<Drawn>>, EvalError> {
        let mut drawn = Vec::with_capacity(self.counts.iter().sum());
        for part in &self.parts {
            let wanted: Vec<_> = part.members.iter().map(|member| member.logprobs).collect();
            let places = part.members.iter().map(|member| member.place);
            drawn.extend(places.zip(part.readings.read(&wanted)?));
        }
        drawn.sort_by_key(|(place, _)| *place);
        let mut drawn = drawn.into_iter().map(|(_, drawn)| drawn);
        Ok(self.counts.iter().map(|count| drawn.by_ref().take(*count).collect()).collect())
    }
}

impl<Slot> Part<Slot> {
    fn new(draws: Draws, logits: &Array, members: Vec<Member<Slot>>) -> Part<Slot> {
        let readings = Readings::of(&draws, logits.dim(-1) as u32);
        Part { readings, tokens: Rc::new(draws.tokens), members }
    }
}

fn row<'a, Slot>(member: &Member<Slot>, draw: &'a Draw, edits: &'a Edits) -> Row<'a> {
    let Draw { sampling, index, logprobs, .. } = draw;
    Row { row: member.place, sampling, index: *index, edits, logprobs: *logprobs }
}
