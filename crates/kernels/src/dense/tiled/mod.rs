//! Products of bf16 weights and activations with the processor's tiles, for any number of rows.
//!
//! Weights are read as they lie, activations are laid out in panels of 16 rows ([`panels`]), once for a call. All row
//! counts go this way: an output's additions are the instruction's ([`crate::simd::amx::pairs`]), not to be had otherwise.

mod block;
mod panels;
mod run;

#[cfg(test)]
pub(super) use block::{emulated, reference};
pub(super) use run::{entry, multiply};

/// Weight rows that are worked on together.
const WIDTH: usize = 2 * crate::simd::amx::TILE_ROWS;

/// Some weight rows against the rows of activations of some panels.
pub(super) struct Tiled {
    /// First row; `row_bytes` from one to the next.
    pub weights: *const u8,
    pub row_bytes: usize,
    /// At most [`WIDTH`].
    pub weight_rows: usize,
    pub columns: usize,
    /// Room for [`edge_bytes`].
    pub edges: *mut u8,
    /// The first panel.
    pub panels: *const u8,
    /// Of activations, from the panel's first on.
    pub rows: usize,
    /// What this thread reads next, a stream.
    pub ahead: *const u8,
    /// `[rows, rounded up to whole panels][WIDTH]`
    pub out: *mut f32,
}

/// Memory for weight rows that do not fill tiles.
fn edge_bytes(columns: usize) -> usize {
    WIDTH * panels::padded(columns) * 2
}
