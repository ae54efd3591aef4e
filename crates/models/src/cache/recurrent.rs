//! What a recurrence remembers: some arrays for each slot, whatever its length.
//!
//! A state cannot be taken back by forgetting its end, so the one before a slot's last pass is kept too: a pass that
//! failed or was not wanted can be undone. Arrays are shared, never written.

use mlx::{Array, Dtype};

use crate::batch::Segment;
use crate::cache::Slot;

/// One of the arrays that a state consists of, for one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateShape {
    pub shape: Vec<i32>,
    pub dtype: Dtype,
}

pub(super) struct Recurrent {
    shapes: Vec<StateShape>,
    /// By slot; none before the first pass.
    states: Vec<Option<Kept>>,
}

struct Kept {
    length: usize,
    state: Vec<Array>,
    /// Before the last pass, of this length; an empty list at the beginning of a sequence.
    before: Option<(usize, Vec<Array>)>,
}

impl StateShape {
    pub fn new(shape: &[i32], dtype: Dtype) -> StateShape {
        StateShape { shape: shape.to_vec(), dtype }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().map(|dim| *dim as usize).product::<usize>() * self.dtype.size()
    }
}

impl Recurrent {
    pub fn new(shapes: Vec<StateShape>) -> Recurrent {
        Recurrent { shapes, states: Vec::new() }
    }

    /// Of one sequence.
    pub fn bytes_each(&self) -> usize {
        self.shapes.iter().map(StateShape::bytes).sum()
    }

    /// As of the segment's position; zeros at the beginning.
    pub fn get(&self, segment: &Segment) -> Vec<Array> {
        match self.kept(segment.slot) {
            Some(kept) if kept.length == segment.position && !kept.state.is_empty() => {
                kept.state.clone()
            }
            _ => {
                let Segment { slot, position, .. } = *segment;
                assert_eq!(position, 0, "{slot:?} remembers tokens that this layer has not seen");
                self.shapes.iter().map(|s| mlx::zeros(&s.shape, s.dtype)).collect()
            }
        }
    }

    /// As of the segment's end.
    pub fn set(&mut self, segment: &Segment, state: Vec<Array>) {
        let shapes = state.iter().map(|array| StateShape::new(array.shape(), array.dtype()));
        assert!(shapes.eq(self.shapes.iter().cloned()), "a state of other shapes: {state:?}");
        let place = self.place(segment.slot);
        let before = match place.take() {
            Some(kept) if kept.length == segment.position => Some((kept.length, kept.state)),
            _ => (segment.position == 0).then(|| (0, Vec::new())),
        };
        *place = Some(Kept { length: segment.position + segment.length, state, before });
    }

    pub fn close(&mut self, slot: Slot) {
        *self.place(slot) = None;
    }

    pub fn can_rewind(&self, slot: Slot, length: usize) -> bool {
        length == 0
            || self.kept(slot).is_some_and(|kept| {
                kept.length == length || kept.before.as_ref().is_some_and(|(l, _)| *l == length)
            })
    }

    pub fn rewind(&mut self, slot: Slot, length: usize) {
        let place = self.place(slot);
        *place = match place.take() {
            Some(kept) if kept.length == length => Some(kept),
            Some(Kept { before: Some((before, state)), .. }) if before == length && length > 0 => {
                Some(Kept { length, state, before: None })
            }
            _ => None,
        };
    }

    /// As of `length`, where it is known.
    pub fn state(&self, slot: Slot, length: usize) -> Option<Vec<Array>> {
        let kept = self.kept(slot)?;
        (kept.length == length).then(|| kept.state.clone())
    }

    pub fn start(&mut self, slot: Slot, length: usize, state: Vec<Array>) {
        *self.place(slot) = Some(Kept { length, state, before: None });
    }

    pub fn arrays(&self, slot: Slot) -> Vec<Array> {
        self.kept(slot).map_or_else(Vec::new, |kept| kept.state.clone())
    }

    /// Of all slots; what two of them share counts twice.
    pub fn bytes(&self) -> usize {
        let of = |kept: &Kept| {
            let before = kept.before.iter().flat_map(|(_, state)| state);
            kept.state.iter().chain(before).map(Array::nbytes).sum::<usize>()
        };
        self.states.iter().flatten().map(of).sum()
    }

    fn kept(&self, slot: Slot) -> Option<&Kept> {
        self.states.get(slot.index())?.as_ref()
    }

    fn place(&mut self, slot: Slot) -> &mut Option<Kept> {
        if self.states.len() <= slot.index() {
            self.states.resize_with(slot.index() + 1, || None);
        }
        &mut self.states[slot.index()]
    }
}
