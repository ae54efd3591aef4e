//! Rows of activations laid out for tiles of pairs: panels of 16 rows, a pair of columns of all of them after the other.
//!
//! Columns are filled up with zeros to whole steps, and rows that a run lacks to a whole panel are zeros.

use half::bf16;

use crate::simd::amx::pairs::{COLUMNS, STEP_BYTES};
use crate::simd::avx512::Avx512;
use crate::simd::{Simd, amx};

/// Rows of activations in a panel.
pub(crate) const PANEL_ROWS: usize = amx::TILE_ROWS;

/// Columns with those that fill the last step.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(COLUMNS)
}

/// Panels one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub base: *mut u8,
    pub columns: usize,
}

// SAFETY: each panel is written by one task, and read when all are written.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    pub fn bytes(columns: usize, panels: usize) -> usize {
        panels * padded(columns) / COLUMNS * STEP_BYTES
    }

    pub fn panel(&self, index: usize) -> *mut u8 {
        self.base.wrapping_add(Panels::bytes(self.columns, index))
    }

    /// Fills a panel from up to 16 rows.
    ///
    /// # Safety
    /// Nobody else uses the panel, and the processor has AVX-512.
    pub unsafe fn fill<'x>(&self, index: usize, rows: impl Iterator<Item = &'x [bf16]>) {
        let mut all: [&[bf16]; PANEL_ROWS] = [&[]; PANEL_ROWS];
        for (to, row) in all.iter_mut().zip(rows) {
            *to = row;
        }
        // SAFETY: the caller's promise.
        unsafe { fill(self.panel(index), &all, self.columns) }
    }
}

/// # Safety
/// As [`Panels::fill`]; rows are empty or as many columns long.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn fill(panel: *mut u8, rows: &[&[bf16]; PANEL_ROWS], columns: usize) {
    for step in 0..padded(columns) / COLUMNS {
        let mut square = [[bf16::ZERO; COLUMNS]; PANEL_ROWS];
        for (to, row) in square.iter_mut().zip(rows) {
            let from = row.get(step * COLUMNS..).unwrap_or_default();
            match from.first_chunk() {
                Some(whole) => *to = *whole,
                None => to[..from.len()].copy_from_slice(from),
            }
        }
        // SAFETY: the panel has as many steps, and a square's rows are vectors.
        unsafe {
            let mut turned = [Avx512::splat_byte(0); PANEL_ROWS];
            for (to, row) in turned.iter_mut().zip(&square) {
                *to = Avx512::load_bytes(row.as_ptr().cast());
            }
            Avx512::transpose(turned.as_mut_ptr());
            for (pair, &rows) in turned.iter().enumerate() {
                Avx512::store_bytes(panel.add(step * STEP_BYTES + pair * PANEL_ROWS * 4), rows);
            }
        }
    }
}
