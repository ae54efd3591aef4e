//! Products of many rows with the processor's tiles: what [`super::many`] computes, bit for bit, on its tile of weights.
//!
//! A product of tiles gives the integers of a span, exactly, and they are scaled and added in the order of `many`. The
//! activations are laid out anew ([`panels`]), once for a call.

#[cfg(target_arch = "x86_64")]
mod block;
mod panels;

pub(super) use panels::{PANEL_ROWS, Panels};

use super::many::Tile;
use crate::Isa;

/// One tile of weights against rows of activations in panels.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Tiled {
    pub tile: Tile,
    pub panels: Panels,
    /// The first panel.
    pub panel: usize,
    /// Rows of activations, from the panel's first on.
    pub rows: usize,
}

/// The loop, where the instruction set has tiles.
pub(super) fn entry(isa: Isa) -> Option<unsafe fn(&Tiled)> {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx {
        return Some(block::hardware);
    }
    let _ = isa;
    None
}

/// The loop on emulated tiles, where the loops without take codes as they are.
#[cfg(test)]
pub(super) fn emulated(isa: Isa) -> Option<unsafe fn(&Tiled)> {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() && isa != Isa::Avx512 {
        return Some(block::emulated);
    }
    let _ = isa;
    None
}
