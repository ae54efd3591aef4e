//! The loop: 32 weight rows by one or two panels, all columns at once.

use super::panels::{PANEL_ROWS, Panels, padded};
use super::{Tiled, WIDTH};
use crate::simd::amx::TILE_ROWS;
use crate::simd::amx::pairs::{AHEAD_BYTES, COLUMNS, Hardware, RESULTS, Steps, Tiles};
use crate::simd::avx512::Avx512;
use crate::simd::{Simd, each};

/// # Safety
/// The processor has the features and tiles that may be used; `args` is as its fields say.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn hardware(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<Hardware>(args) }
}

/// # Safety
/// As `hardware`, but for the tiles.
#[cfg(test)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn emulated(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<crate::simd::amx::pairs::Emulated>(args) }
}

#[inline(always)]
unsafe fn blocks<T: Tiles>(args: &Tiled) {
    // SAFETY: the caller's promise.
    unsafe {
        let first = side(args, 0);
        // Where there is no second half, the first goes again: nobody reads the results.
        let second = if args.weight_rows > TILE_ROWS { side(args, 1) } else { first };
        let block = Block { args, weights: [first, second] };
        let tiles = T::configure();
        let panels = args.rows.div_ceil(PANEL_ROWS);
        for panel in (0..panels - panels % 2).step_by(2) {
            block.multiply::<T, 2>(&tiles, panel);
        }
        if panels % 2 == 1 {
            block.multiply::<T, 1>(&tiles, panels - 1);
        }
    }
}

/// Half of the weight rows, and how far a row is from the next: where they lie if they fill tiles, else copied to be filled
/// up with zeros.
#[inline(always)]
unsafe fn side(args: &Tiled, half: usize) -> (*const u8, usize) {
    let first = half * TILE_ROWS;
    let rows = args.weight_rows.saturating_sub(first).min(TILE_ROWS);
    let from = args.weights.wrapping_add(first * args.row_bytes);
    if rows == TILE_ROWS && args.columns.is_multiple_of(COLUMNS) {
        return (from, args.row_bytes);
    }
    let row_bytes = padded(args.columns) * 2;
    let edge = args.edges.wrapping_add(first * row_bytes);
    // SAFETY: the caller's promise: half of the edges' memory, and rows as long as their columns.
    unsafe {
        edge.write_bytes(0, TILE_ROWS * row_bytes);
        for row in 0..rows {
            let from = from.add(row * args.row_bytes);
            from.copy_to_nonoverlapping(edge.add(row * row_bytes), args.columns * 2);
        }
    }
    (edge, row_bytes)
}

struct Block<'a> {
    args: &'a Tiled,
    weights: [(*const u8, usize); 2],
}

/// `[2][panels][16 weight rows][16 rows]`
#[repr(align(64))]
struct Results([f32; 4 * RESULTS]);

impl Block<'_> {
    /// `P` panels, 1 or 2, from `panel` on.
    #[inline(always)]
    unsafe fn multiply<T: Tiles, const P: usize>(&self, tiles: &T, panel: usize) {
        let Tiled { columns, panels, rows, ahead, out, .. } = *self.args;
        let mut results = Results([0.0; 4 * RESULTS]);
        let at = |panel: usize| panels.wrapping_add(Panels::bytes(columns, panel));
        let steps = Steps {
            weights: self.weights,
            panels: [at(panel), at(panel + P - 1)],
            count: padded(columns) / COLUMNS,
            ahead,
            results: results.0.as_mut_ptr(),
        };
        const { assert!(AHEAD_BYTES == WIDTH * COLUMNS * 2) };
        // SAFETY: the caller's promise; `results` has a square for each half and panel, and `out` whole panels.
        unsafe {
            if P == 1 {
                tiles.multiply_one(&steps)
            } else {
                tiles.multiply_two(&steps)
            }
            for half in 0..2 {
                for p in 0..P {
                    let square = results.0.as_ptr().add((half * P + p) * RESULTS);
                    let mut turned: [_; TILE_ROWS] =
                        each(|m| Avx512::load(square.add(m * TILE_ROWS)));
                    Avx512::transpose_floats(turned.as_mut_ptr());
                    let first = (panel + p) * PANEL_ROWS;
                    let count = PANEL_ROWS.min(rows - first);
                    for (row, &values) in turned.iter().enumerate().take(count) {
                        Avx512::store(out.add((first + row) * WIDTH + half * TILE_ROWS), values);
                    }
                }
            }
        }
    }
}

/// One output, added as the instruction does it.
#[cfg(test)]
pub(crate) fn reference(weights: &[half::bf16], x: &[half::bf16]) -> f32 {
    let at = |row: &[half::bf16], i: usize| row.get(i).map_or(0, |value| value.to_bits());
    (0..padded(x.len())).step_by(COLUMNS).fold(0.0, |total, start| {
        let pair = |k| [0, 1].map(|i| start + 2 * k + i).map(|i| (at(weights, i), at(x, i)));
        crate::simd::amx::pairs::add_pairs(total, (0..COLUMNS / 2).map(pair))
    })
}
