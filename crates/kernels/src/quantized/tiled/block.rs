//! The loop: 16 rows of activations by a vector of 16 weight rows, all spans of the tile of weights.
//!
//! Integers leave the processor's tiles through memory (there is no other way) for vectors, where they are scaled. That
//! takes as long as the multiplication, which therefore is some spans ahead: what a tile has just stored is not there yet.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::Tiled;
use super::panels::{PANEL_ROWS, Panel};
use crate::quantized::activations::SPAN;
use crate::quantized::many::{Tile, WIDTH};
use crate::simd::amx::TILE_ROWS;
use crate::simd::amx::bytes::{B_STRIDE, Hardware, Tiles};
use crate::simd::avx512::Avx512;
use crate::simd::{Simd, each};

const LANES: usize = Avx512::LANES;
const _: () = assert!(WIDTH * LANES * 4 == B_STRIDE && PANEL_ROWS == TILE_ROWS);

/// Spans that multiplication is ahead of scaling.
const AHEAD: usize = 3;

/// Blocks of integers kept, a power of two.
const RING: usize = 4;
const _: () = assert!(AHEAD < RING && RING.is_power_of_two());

/// # Safety
/// The processor has the features and tiles that may be used; `args` is as its fields say.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn hardware(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<Hardware>(args) }
}

/// # Safety
/// As `hardware`, but for the tiles.
#[cfg(test)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn emulated(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<crate::simd::amx::bytes::Emulated>(args) }
}

#[inline(always)]
unsafe fn blocks<T: Tiles>(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe {
        let tiles = T::configure(TILE_ROWS, SPAN.min(args.tile.group));
        for first in (0..args.rows).step_by(TILE_ROWS) {
            let panel = args.panels.panel(args.panel + first / TILE_ROWS);
            for vector in 0..WIDTH {
                Block { args, panel, vector }.multiply(&tiles, first);
            }
        }
    }
}

/// Integers of some spans, `[16][16]` each.
#[repr(align(64))]
struct Ring(MaybeUninit<[[i32; TILE_ROWS * LANES]; RING]>);

type Totals = [__m512; TILE_ROWS];

/// A panel of activations against one vector of the tile's weight rows.
#[derive(Clone, Copy)]
struct Block<'a> {
    args: &'a Tiled,
    panel: Panel,
    vector: usize,
}

impl Block<'_> {
    #[inline(always)]
    unsafe fn multiply<T: Tiles>(self, tiles: &T, first: usize) {
        let width = WIDTH * LANES;
        let mut ring = Ring(MaybeUninit::uninit());
        let ring = ring.0.as_mut_ptr().cast::<i32>();
        let dots = |s: usize| ring.wrapping_add(s % RING * TILE_ROWS * LANES);
        // SAFETY: the caller's promise.
        unsafe {
            let sums = self.args.tile.sums.add(first * width + self.vector * LANES);
            let mut totals: Totals = each(|r| Avx512::load(sums.add(r * width)));
            let spans = self.args.tile.columns.div_ceil(SPAN.min(self.args.tile.group));
            for s in 0..AHEAD {
                self.span_dots(tiles, s.min(spans - 1), dots(s), s);
            }
            for s in 0..spans {
                // Past the last, some that nobody reads.
                let next = s + AHEAD;
                self.span_dots(tiles, next.min(spans - 1), dots(next), next);
                self.add(s, dots(s), &mut totals);
            }
            for (r, &total) in totals.iter().enumerate() {
                Avx512::store(sums.add(r * width), total);
            }
        }
    }

    /// The integers of span `s`.
    #[inline(always)]
    unsafe fn span_dots<T: Tiles>(self, tiles: &T, s: usize, dots: *mut i32, set: usize) {
        let span = SPAN.min(self.args.tile.group);
        // SAFETY: the caller's promise.
        unsafe {
            let a = self.panel.codes(0, self.args.tile.first_column + s * span);
            let b = self.args.tile.codes.add(s * span * WIDTH * LANES + self.vector * LANES * 4);
            match set % 4 {
                0 => tiles.multiply::<0>(a, b, dots),
                1 => tiles.multiply::<1>(a, b, dots),
                2 => tiles.multiply::<2>(a, b, dots),
                _ => tiles.multiply::<3>(a, b, dots),
            }
        }
    }

    /// Scales and adds the integers of span `s`, and in a group's first span its biases.
    #[inline(always)]
    unsafe fn add(self, s: usize, dots: *const i32, totals: &mut Totals) {
        let Tile { group, first_column, scales, biases, .. } = self.args.tile;
        let shift = group.trailing_zeros();
        let column = s * SPAN.min(group);
        let weights = ((column >> shift) * WIDTH + self.vector) * LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let scale = Avx512::load(scales.add(weights));
            let x_scales = self.panel.scales.add((first_column + column) / SPAN * PANEL_ROWS);
            for (r, total) in totals.iter_mut().enumerate() {
                let scale = Avx512::mul(scale, Avx512::splat(*x_scales.add(r)));
                let dots = Avx512::load_bytes(dots.add(r * LANES).cast());
                *total = Avx512::fma(Avx512::to_f32(dots), scale, *total);
            }
            if column & (group - 1) == 0 {
                let bias = Avx512::load(biases.add(weights));
                let x_sums = self.panel.sums.add(((first_column + column) >> shift) * PANEL_ROWS);
                for (r, total) in totals.iter_mut().enumerate() {
                    *total = Avx512::fma(bias, Avx512::splat(*x_sums.add(r)), *total);
                }
            }
        }
    }
}
