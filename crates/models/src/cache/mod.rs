//! What a model remembers of its sequences: for each sequence a slot, for each layer a cache.
//!
//! A slot's length is the number of tokens that went through the model; it is kept here, once, and caches write where a
//! batch's segments say. So a rewound slot needs no clean-up: what lies beyond its length is never read.
//! Architectures see [`Cache::append`] and [`History`]; how keys and values are stored is this room's own business.

mod key_value;

use std::collections::HashSet;

use mlx::Array;

use crate::batch::{Batch, Segment};

pub use key_value::{Cache, History, Part, Past, Rows};

/// More sequences at once than any scheduler admits; a slot costs some bytes per layer while it is empty.
pub const SLOTS_MAX: usize = 1 << 16;

/// Names one sequence in a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

pub struct Memory {
    layers: Vec<Cache>,
    /// By slot: its length, while it is open.
    lengths: Vec<Option<usize>>,
}

impl Memory {
    /// One cache for each layer that has one, in the model's order.
    pub fn new(layers: impl IntoIterator<Item = Cache>) -> Memory {
        Memory { layers: layers.into_iter().collect(), lengths: Vec::new() }
    }

    /// An empty sequence.
    pub fn open(&mut self) -> Slot {
        let free = self.lengths.iter().position(Option::is_none);
        let index = free.unwrap_or(self.lengths.len());
        assert!(index < SLOTS_MAX, "more than {SLOTS_MAX} slots are open");
        if index == self.lengths.len() {
            self.lengths.push(None);
        }
        self.lengths[index] = Some(0);
        Slot(index as u32)
    }

    /// Forgets a sequence.
    pub fn close(&mut self, slot: Slot) {
        self.length(slot);
        self.lengths[slot.index()] = None;
        for cache in &mut self.layers {
            cache.close(slot);
        }
    }

    /// The tokens that `slot` remembers.
    pub fn length(&self, slot: Slot) -> usize {
        let length = self.lengths.get(slot.index()).copied().flatten();
        length.unwrap_or_else(|| panic!("{slot:?} is not open"))
    }

    /// Forgets the tokens from `length` on.
    pub fn rewind(&mut self, slot: Slot, length: usize) {
        let whole = self.length(slot);
        assert!(length <= whole, "{slot:?} remembers {whole} tokens and cannot go to {length}");
        self.lengths[slot.index()] = Some(length);
    }

    /// A new sequence that begins with the first `length` tokens of `slot`. Nothing is copied before one of the two
    /// grows.
    pub fn fork(&mut self, slot: Slot, length: usize) -> Slot {
        let whole = self.length(slot);
        assert!(length <= whole, "{slot:?} remembers {whole} tokens, not {length}");
        let new = self.open();
        self.lengths[new.index()] = Some(length);
        for cache in &mut self.layers {
            cache.fork(slot, new);
        }
        new
    }

    /// All that `slot` holds, to be evaluated.
    pub fn arrays(&self, slot: Slot) -> Vec<Array> {
        self.length(slot);
        self.layers.iter().flat_map(|cache| cache.arrays(slot)).collect()
    }

    /// What all slots hold together; what forks share counts once.
    pub fn bytes(&self) -> usize {
        let mut seen = HashSet::new();
        self.layers.iter().map(|cache| cache.bytes(&mut seen)).sum()
    }

    /// Begins a forward pass: the batch's slots grow by its rows, and each layer takes its cache, in order. If the pass
    /// then unwinds, the slots must be rewound before they are used again.
    pub fn step(&mut self, batch: &Batch) -> std::slice::IterMut<'_, Cache> {
        for &Segment { slot, position, length, .. } in &batch.segments {
            assert_eq!(self.length(slot), position, "{slot:?} twice in a batch, or an old batch");
            self.lengths[slot.index()] = Some(position + length);
        }
        self.layers.iter_mut()
    }
}

impl Slot {
    fn index(self) -> usize {
        self.0 as usize
    }
}
