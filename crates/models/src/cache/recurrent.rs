//! What a recurrence remembers: some arrays for each slot, whatever its length.
//!
//! A state cannot be taken back by forgetting its end, so the one before a slot's last pass is kept too: a pass that
//! failed or was not wanted can be undone. Arrays are shared, never written.

use std::collections::HashSet;
use std::rc::Rc;

use mlx::{Array, Dtype};

use crate::batch::Segment;
use crate::cache::Slot;

/// One of the arrays that a state consists of, for one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateShape {
    pub shape: Vec<i32>,
    pub dtype: Dtype,
}

/// The arrays of one sequence in one layer.
pub(super) type Shared = Rc<[Array]>;

pub(super) struct Recurrent {
    shapes: Vec<StateShape>,
    /// By slot; none before the first pass.
    states: Vec<Option<Kept>>,
}

struct Kept {
    length: usize,
    state: Shared,
    /// Before the last pass, of this length; an empty list at the beginning of a sequence.
    before: Option<(usize, Shared)>,
}

impl Kept {
    fn before(&self) -> Option<&Shared> {
        self.before.as_ref().map(|(_, state)| state)
    }
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
                kept.state.to_vec()
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
            _ => (segment.position == 0).then(|| (0, Shared::from([]))),
        };
        let length = segment.position + segment.length;
        *place = Some(Kept { length, state: state.into(), before });
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
    pub fn state(&self, slot: Slot, length: usize) -> Option<Shared> {
        let kept = self.kept(slot)?;
        match &kept.before {
            _ if kept.length == length => Some(Rc::clone(&kept.state)),
            Some((before, state)) if *before == length => Some(Rc::clone(state)),
            _ => None,
        }
    }

    pub fn start(&mut self, slot: Slot, length: usize, state: Shared) {
        *self.place(slot) = Some(Kept { length, state, before: None });
    }

    pub fn arrays(&self, slot: Slot) -> Vec<Array> {
        self.kept(slot).map_or_else(Vec::new, |kept| kept.state.to_vec())
    }

    /// Of all slots. `seen` holds the addresses of states that were counted already.
    pub fn bytes(&self, seen: &mut HashSet<usize>) -> usize {
        let of = |kept| Kept::before(kept).into_iter().chain([&kept.state]);
        let all = self.states.iter().flatten().flat_map(of);
        let new = |state: &&Shared| seen.insert(state.as_ptr() as usize);
        all.filter(new).flat_map(|state| state.iter()).map(Array::nbytes).sum()
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
