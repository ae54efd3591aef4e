//! The loop: 8 rows of activations by 32 weight rows, all spans of the tile.
//!
//! Integers leave the processor's tiles through memory (there is no other way) for vectors, where they are scaled. That
//! takes longer than the multiplication, which therefore is one span ahead.

use std::arch::x86_64::*;

use super::Tiled;
use super::panels::{PANEL_ROWS, Panel};
use crate::quantized::activations::SPAN;
use crate::quantized::many::WIDTH;
use crate::simd::amx::{Hardware, SIDE, TILE_ROWS, Tiles};
use crate::simd::avx512::Avx512;
use crate::simd::{Simd, each};

const _: () = assert!(WIDTH == SIDE && PANEL_ROWS == TILE_ROWS);

/// Rows of activations in a block, by vectors of weight rows: 16 registers of sums.
const ROWS: usize = 8;
const VECTORS: usize = 16 / ROWS;

/// # Safety
/// The processor has the features and tiles that may be used; `args` is as its fields say.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn hardware(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<Hardware, ROWS, VECTORS>(args) }
}

/// # Safety
/// As `hardware`, but for the tiles.
#[cfg(test)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn emulated(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<crate::simd::amx::Emulated, ROWS, VECTORS>(args) }
}

#[inline(always)]
unsafe fn blocks<T: Tiles, const R: usize, const W: usize>(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe {
        let tiles = T::configure(R, SPAN.min(args.group));
        for first in (0..args.rows).step_by(R) {
            let panel = args.panels.panel(args.panel + first / TILE_ROWS);
            for vector in (0..WIDTH).step_by(W) {
                block::<T, R, W>(args, &tiles, panel, (first, vector));
            }
        }
    }
}

/// Integers of a span, `[W][R][16]`.
#[repr(align(64))]
struct Dots([i32; 16 * TILE_ROWS]);

/// `R` rows of activations from `first` on against `W` vectors of weight rows.
#[inline(always)]
unsafe fn block<T: Tiles, const R: usize, const W: usize>(
    args: &Tiled,
    tiles: &T,
    panel: Panel,
    (first, vector): (usize, usize),
) {
    const LANES: usize = Avx512::LANES;
    let width = WIDTH * LANES;
    let span = SPAN.min(args.group);
    let last = args.columns.div_ceil(span) - 1;
    let row = first % TILE_ROWS;
    let mut dots = [const { Dots([0; 16 * TILE_ROWS]) }; 2];
    // SAFETY: the caller's promise.
    unsafe {
        let [even, odd] = &mut dots;
        let (even, odd) = (even.0.as_mut_ptr(), odd.0.as_mut_ptr());
        let sums = args.sums.add(first * width + vector * LANES);
        let a = |s: usize| panel.codes(row, args.first_column + s * span);
        let b = |s: usize| args.tile.add(s * span * width + vector * LANES * 4);
        let mut totals = [[Avx512::zero(); W]; R];
        for (r, total) in totals.iter_mut().enumerate() {
            *total = each(|v| Avx512::load(sums.add(r * width + v * LANES)));
        }
        tiles.multiply::<0, W>(a(0), b(0), even);
        let mut s = 0;
        while s < last {
            tiles.multiply::<1, W>(a(s + 1), b(s + 1), odd);
            add::<R, W>(args, panel, (row, vector), s, even, &mut totals);
            // Past the last, one that nobody reads.
            let next = (s + 2).min(last);
            tiles.multiply::<0, W>(a(next), b(next), even);
            add::<R, W>(args, panel, (row, vector), s + 1, odd, &mut totals);
            s += 2;
        }
        if s == last {
            add::<R, W>(args, panel, (row, vector), s, even, &mut totals);
        }
        for (r, total) in totals.iter().enumerate() {
            for (v, &total) in total.iter().enumerate() {
                Avx512::store(sums.add(r * width + v * LANES), total);
            }
        }
    }
}

/// Scales and adds the integers of span `s`, and in a group's first span its biases.
#[inline(always)]
unsafe fn add<const R: usize, const W: usize>(
    args: &Tiled,
    panel: Panel,
    (row, vector): (usize, usize),
    s: usize,
    dots: *const i32,
    totals: &mut [[__m512; W]; R],
) {
    const LANES: usize = Avx512::LANES;
    let column = args.first_column + s * SPAN.min(args.group);
    let shift = args.group.trailing_zeros();
    let group = (column - args.first_column) >> shift;
    let weights = (group * WIDTH + vector) * LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let scale: [__m512; W] = each(|v| Avx512::load(args.scales.add(weights + v * LANES)));
        let x_scales = panel.scales.add(column / SPAN * TILE_ROWS + row);
        for r in 0..R {
            let x_scale = Avx512::splat(*x_scales.add(r));
            for v in 0..W {
                let dots = Avx512::load_ints(dots.add((v * R + r) * LANES));
                let scale = Avx512::mul(scale[v], x_scale);
                totals[r][v] = Avx512::fma(Avx512::to_f32(dots), scale, totals[r][v]);
            }
        }
        if column & (args.group - 1) == 0 {
            let bias: [__m512; W] = each(|v| Avx512::load(args.biases.add(weights + v * LANES)));
            let x_sums = panel.sums.add((column >> shift) * TILE_ROWS + row);
            for r in 0..R {
                let sum = Avx512::splat(*x_sums.add(r));
                for v in 0..W {
                    totals[r][v] = Avx512::fma(bias[v], sum, totals[r][v]);
                }
            }
        }
    }
}
