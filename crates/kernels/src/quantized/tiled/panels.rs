//! Rows of activations laid out for tiles: panels of 16 rows, columns in the order in which a tile of weights has them.
//!
//! A panel is made once for all weights that its rows meet. Rows that a run lacks to a whole panel are zeros.

use crate::quantized::activations::{Row, SPAN};
use crate::scratch::lines;

/// Rows of activations in a panel.
pub(crate) const PANEL_ROWS: usize = 16;

/// Columns whose codes lie together, as many bytes as a tile's row has.
const COLUMNS: usize = 64;

/// Where a panel's parts lie, and where the panels.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    base: *mut u8,
    columns: usize,
    planes: usize,
    group: usize,
    code_bytes: usize,
    scale_bytes: usize,
    panel_bytes: usize,
}

// SAFETY: each panel is written by one task, and read when all are written.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    pub fn new(columns: usize, planes: usize, group: usize) -> Panels {
        let code_bytes = columns.next_multiple_of(COLUMNS * planes) * PANEL_ROWS;
        let scale_bytes = lines(columns.div_ceil(SPAN) * PANEL_ROWS * 4);
        let panel_bytes = code_bytes + scale_bytes + lines(columns / group * PANEL_ROWS * 4);
        let base = std::ptr::null_mut();
        Panels { base, columns, planes, group, code_bytes, scale_bytes, panel_bytes }
    }

    /// In memory of as many [`Self::bytes`] as there are panels.
    pub fn at(self, base: *mut u8) -> Panels {
        Panels { base, ..self }
    }

    /// Of so many panels.
    pub fn bytes(&self, panels: usize) -> usize {
        panels * self.panel_bytes
    }

    pub fn panel(&self, index: usize) -> Panel {
        let codes = self.base.wrapping_add(index * self.panel_bytes);
        let scales = codes.wrapping_add(self.code_bytes);
        let sums = scales.wrapping_add(self.scale_bytes);
        Panel { codes, scales: scales.cast(), sums: sums.cast() }
    }

    /// Fills a panel from up to 16 rows.
    ///
    /// # Safety
    /// Nobody else uses the panel; rows are as [`crate::quantized::activations`] has them for 16 lanes.
    pub unsafe fn fill(&self, index: usize, rows: impl Iterator<Item = Row>) {
        let panel = self.panel(index);
        // SAFETY: the parts are as long as `new` made them.
        unsafe {
            panel.codes.write_bytes(0, self.panel_bytes);
            for (i, row) in rows.enumerate() {
                match self.planes {
                    1 => self.fill_codes::<1>(panel, i, row),
                    2 => self.fill_codes::<2>(panel, i, row),
                    _ => self.fill_codes::<4>(panel, i, row),
                }
                for span in 0..self.columns.div_ceil(SPAN) {
                    let scale = *row.scales.add(span * SPAN / 4 / self.planes);
                    *panel.scales.add(span * PANEL_ROWS + i) = scale;
                }
                for group in 0..self.columns / self.group {
                    *panel.sums.add(group * PANEL_ROWS + i) = *row.sums.add(group);
                }
            }
        }
    }

    /// From lanes of one plane after the other to all planes of one lane after the other.
    ///
    /// # Safety
    /// As [`Self::fill`].
    #[inline(always)]
    unsafe fn fill_codes<const P: usize>(&self, panel: Panel, i: usize, row: Row) {
        const LANES: usize = COLUMNS / 4;
        let (from, to) = (row.codes.cast::<u32>(), panel.codes.cast::<u32>());
        // SAFETY: the caller's promise; both sides are padded to whole blocks.
        unsafe {
            for block in 0..self.columns.div_ceil(COLUMNS * P) {
                for unit in 0..LANES * P {
                    let (lane, plane) = (unit / P, unit % P);
                    let four = *from.add((block * P + plane) * LANES + lane);
                    let line = (block * P + unit / LANES) * PANEL_ROWS + i;
                    *to.add(line * LANES + unit % LANES) = four;
                }
            }
        }
    }
}

/// One panel's parts.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    /// `[columns / 64][16][64]`
    codes: *mut u8,
    /// `[columns / 32][16]`
    pub scales: *mut f32,
    /// `[columns / group][16]`
    pub sums: *mut f32,
}

impl Panel {
    /// The codes of row `row` from column `column` on; the next row's are 64 bytes further.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only tiles read them"))]
    pub fn codes(&self, row: usize, column: usize) -> *const u8 {
        let line = column / COLUMNS * PANEL_ROWS + row;
        self.codes.wrapping_add(line * COLUMNS + column % COLUMNS)
    }
}
