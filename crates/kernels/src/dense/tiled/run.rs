//! A call: who lays out the activations, and what a task does.

use std::cell::Cell;
use std::ops::Range;

use super::panels::{PANEL_ROWS, Panels};
use super::{Tiled, WIDTH, edge_bytes};
use crate::dense::weights::{Type, Weights};
use crate::element::Floats;
use crate::rows::Rows;
use crate::scratch::{self, Line, lines};
use crate::tasks::{Cut, Run, Tasks, count_panels, find_panel};
use crate::{Cpu, Isa};

thread_local! {
    static PANELS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static TILE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The loop, where the instruction set has tiles and both sides are bf16.
pub(crate) fn entry(isa: Isa, kind: Type, x: &Rows<'_>) -> Option<unsafe fn(&Tiled)> {
    let pairs = kind == Type::Bf16 && matches!(x.data, Floats::Bf16(_)) && x.columns > 0;
    (isa == Isa::Amx && pairs).then_some(super::block::hardware as unsafe fn(&Tiled))
}

pub(crate) fn multiply(
    tiled: unsafe fn(&Tiled),
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    matrices: &[Weights<'_>],
    runs: &mut [Run],
) {
    let count = count_panels(runs, PANEL_ROWS, 1);
    let cut = Cut { threads: cpu.pool.threads(), tile_rows: WIDTH, row_grain: PANEL_ROWS };
    let row_bytes = |matrix: usize| matrices[matrix].row_bytes;
    let tasks = Tasks::new(cut, runs, &row_bytes);
    scratch::with(&PANELS, Panels::bytes(x.columns, count), |base| {
        let panels = Panels { base, columns: x.columns };
        cpu.pool.run(count, &|panel| {
            let (run, index) = find_panel(tasks.runs, panel);
            let first = index * PANEL_ROWS;
            let rows = (first..(first + PANEL_ROWS).min(run.rows)).map(|row| run.first + row);
            let rows = rows.map(|row| match x.row(map.map_or(row, |map| map[row] as usize)) {
                Floats::Bf16(row) => row,
                _ => unreachable!("activations are bf16"),
            });
            // SAFETY: there is memory for all panels, this task alone fills this one, and tiles are for AVX-512.
            unsafe { panels.fill(panel, rows) };
        });
        let call = Call { isa: cpu.isa, tiled, panels, matrices, tasks: &tasks };
        cpu.pool.run(tasks.count, &|task| call.perform(task));
    });
}

struct Call<'a> {
    isa: Isa,
    tiled: unsafe fn(&Tiled),
    panels: Panels,
    matrices: &'a [Weights<'a>],
    tasks: &'a Tasks<'a>,
}

impl Call<'_> {
    fn perform(&self, task: usize) {
        let (run, part) = self.tasks.get(task);
        let (columns, rows) = part.of(run);
        let (matrix, row) = self.tasks.next(task);
        let next = self.weights(matrix, row);
        for start in columns.clone().step_by(WIDTH) {
            let end = (start + WIDTH).min(columns.end);
            let next = if end == columns.end {
                next
            } else {
                self.weights(run.matrix, run.weight_row + end)
            };
            self.tile(run, start..end, rows.clone(), next);
        }
    }

    fn weights(&self, matrix: usize, row: usize) -> *const u8 {
        let w = &self.matrices[matrix];
        w.bytes.as_ptr().wrapping_add(row * w.row_bytes)
    }

    fn tile(&self, run: &Run, columns: Range<usize>, rows: Range<usize>, ahead: *const u8) {
        let w = &self.matrices[run.matrix];
        let edge_bytes = lines(edge_bytes(w.columns));
        let out_bytes = rows.len().next_multiple_of(PANEL_ROWS) * WIDTH * 4;
        scratch::with(&TILE, edge_bytes + out_bytes, |edges| {
            let out = edges.wrapping_add(edge_bytes).cast::<f32>();
            let weights = self.weights(run.matrix, run.weight_row + columns.start);
            // SAFETY: the parts of the scratch are as long as `Tiled` says, matrix and run were checked against each
            // other, and other tasks write other parts of the output.
            unsafe {
                (self.tiled)(&Tiled {
                    weights,
                    row_bytes: w.row_bytes,
                    weight_rows: columns.len(),
                    columns: w.columns,
                    edges,
                    panels: self.panels.panel(run.panel + rows.start / PANEL_ROWS),
                    rows: rows.len(),
                    ahead,
                    out,
                });
                for (i, row) in rows.clone().enumerate() {
                    let values = std::slice::from_raw_parts(out.add(i * WIDTH), columns.len());
                    run.out.write(self.isa, run.first + row, columns.start, values);
                }
            }
        });
    }
}
