//! One layer's memory as an architecture sees it: keys and values to attend to, or the state of a recurrence.

use std::rc::Rc;
use std::sync::Arc;

use mlx::pages::{Place, Places, Receipts};
use mlx::{Array, Dtype};

use super::lanes::{Lanes, Past};
use super::recurrent::{Recurrent, StateShape};
use super::stored::Encoding;
use super::{KvType, PAGE_TOKENS};
use crate::batch::{Batch, Segment};

/// Keys and values of one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
}

pub struct Cache {
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    KeyValue(KeyValue),
    Recurrent(Recurrent),
}

pub(super) struct KeyValue {
    pub shape: KvShape,
    pub window: Option<usize>,
    pub store: Store,
}

pub(super) enum Store {
    Lanes(Lanes),
    Pages(Pages),
}

/// Where this layer lies in pages.
pub(super) struct Pages {
    pub place: Place,
    pub receipts: Rc<Receipts>,
}

/// What the queries of a batch attend to.
pub struct History {
    pub(crate) window: Option<usize>,
    pub(crate) kind: Kept,
}

pub(crate) enum Kept {
    /// Where our kernels read it as it lies, for all rows of the batch.
    Pages { places: Arc<Places>, place: Place, receipts: Rc<Receipts> },
    /// For all segments at once: `[batch, kv_heads, positions, head_dim]`.
    Together(Past),
    /// For each segment by itself.
    Apart(Vec<super::lanes::Part>),
}

impl KvShape {
    /// Keys and values of one width.
    pub fn new(heads: i32, head_dim: i32) -> KvShape {
        KvShape { heads, key_dim: head_dim, value_dim: head_dim }
    }
}

impl Cache {
    /// For full attention.
    pub fn key_value(shape: KvShape) -> Cache {
        Cache::attention(shape, None)
    }

    /// For attention in which a query sees its own key and the `window - 1` before it: older ones are forgotten.
    pub fn window(shape: KvShape, window: usize) -> Cache {
        assert!(window > 0, "a window without keys");
        Cache::attention(shape, Some(window))
    }

    /// For a recurrence whose state is these arrays for each sequence.
    pub fn recurrent(state: impl IntoIterator<Item = StateShape>) -> Cache {
        Cache { kind: Kind::Recurrent(Recurrent::new(state.into_iter().collect())) }
    }

    fn attention(shape: KvShape, window: Option<usize>) -> Cache {
        // The memory that takes it decides where it is stored, and how.
        let encoding = Encoding::new(shape, Dtype::F32, KvType::Full);
        let store = Store::Lanes(Lanes::new(window, PAGE_TOKENS, encoding));
        Cache { kind: Kind::KeyValue(KeyValue { shape, window, store }) }
    }

    /// Writes the batch's keys and values (heads as `Batch::split_heads` makes them) behind those of their slots.
    pub fn append(&mut self, batch: &Batch, keys: &Array, values: &Array) -> History {
        let Kind::KeyValue(KeyValue { window, store, .. }) = &mut self.kind else {
            panic!("keys and values for the cache of a recurrence");
        };
        let kind = match store {
            Store::Lanes(lanes) => lanes.append(batch, keys, values),
            Store::Pages(pages) => {
                let Pages { place, receipts } = pages;
                let places = Arc::clone(batch.places(window.is_some()));
                receipts.append(&places, *place, keys, values);
                Kept::Pages { places, place: *place, receipts: Rc::clone(receipts) }
            }
        };
        History { window: *window, kind }
    }

    /// The state that a sequence's rows begin with; zeros at its beginning.
    pub fn state(&self, segment: &Segment) -> Vec<Array> {
        self.as_recurrent().get(segment)
    }

    /// The state after them; its shapes are those that the cache was made for.
    pub fn set_state(&mut self, segment: &Segment, state: Vec<Array>) {
        match &mut self.kind {
            Kind::Recurrent(recurrent) => recurrent.set(segment, state),
            Kind::KeyValue(_) => panic!("a state for a cache of keys and values"),
        }
    }

    fn as_recurrent(&self) -> &Recurrent {
        match &self.kind {
            Kind::Recurrent(recurrent) => recurrent,
            Kind::KeyValue(_) => panic!("a cache of keys and values has no state"),
        }
    }

    pub(super) fn recurrent_mut(&mut self) -> Option<&mut Recurrent> {
        match &mut self.kind {
            Kind::Recurrent(recurrent) => Some(recurrent),
            Kind::KeyValue(_) => None,
        }
    }

    pub(super) fn recurrence(&self) -> Option<&Recurrent> {
        match &self.kind {
            Kind::Recurrent(recurrent) => Some(recurrent),
            Kind::KeyValue(_) => None,
        }
    }

    pub(super) fn lanes(&self) -> Option<&Lanes> {
        match &self.kind {
            Kind::KeyValue(KeyValue { store: Store::Lanes(lanes), .. }) => Some(lanes),
            _ => None,
        }
    }

    pub(super) fn lanes_mut(&mut self) -> Option<&mut Lanes> {
        match &mut self.kind {
            Kind::KeyValue(KeyValue { store: Store::Lanes(lanes), .. }) => Some(lanes),
            _ => None,
        }
    }

    /// Of so many positions, where they lie in lanes.
    pub(super) fn lane_bytes(&self, positions: usize) -> Option<usize> {
        Some(self.lanes()?.encoding().bytes(positions))
    }

    /// What the lane of one sequence may take, and its numbers of full width when it grows or is attended to.
    pub(super) fn lane_bytes_max(&self, tokens: usize, rows_max: usize) -> Option<(usize, usize)> {
        Some(self.lanes()?.bytes_max(tokens, rows_max))
    }

    pub(super) fn key_value_mut(&mut self) -> Option<&mut KeyValue> {
        match &mut self.kind {
            Kind::KeyValue(key_value) => Some(key_value),
            Kind::Recurrent(_) => None,
        }
    }

    pub(super) fn as_key_value(&self) -> Option<&KeyValue> {
        match &self.kind {
            Kind::KeyValue(key_value) => Some(key_value),
            Kind::Recurrent(_) => None,
        }
    }
}
