//! A task of a product: which loop it runs, and the memory it runs in.

use std::cell::Cell;
use std::ops::Range;

use super::activations::{Activations, Row};
use super::codec::{Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Codec, Float4};
use super::few::{self, Few};
use super::many::{self, Coming, Many, Pack, TILE_COLUMNS, Tile, Units, WIDTH};
use super::matrix::{Kind, QuantizedMatrix};
use super::scales::{PADDING, Prepare, prepare};
use super::tiled::{self, PANEL_ROWS, Panels, Tiled};
use crate::Isa;
use crate::ahead::Ahead;
use crate::scratch::{self, Line, lines};
use crate::simd::pair_steps;
use crate::tasks::{FEW_MAX, Part, Run, Tasks};

thread_local! {
    static TILE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The loops for one kind of weight on one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Loops {
    few: unsafe fn(&Few<'_>),
    pack: unsafe fn(&Pack),
    many: unsafe fn(&Many<'_>),
    /// Instead of `many`, on activations in panels.
    pub tiled: Option<unsafe fn(&Tiled)>,
    pub planes: usize,
    pub lanes: usize,
    /// What the codes seen by the loops lack, in units of the scale.
    shift: f32,
    factor: f32,
    /// Bits of codes that the loops see turned.
    flip: u8,
    /// How many products of bytes may be added before they are widened.
    steps: usize,
}

impl Loops {
    pub fn new(isa: Isa, kind: Kind) -> Option<Loops> {
        match kind {
            Kind::Affine { bits: 2, .. } => Loops::of::<Bits2>(isa),
            Kind::Affine { bits: 3, .. } => Loops::of::<Bits3>(isa),
            Kind::Affine { bits: 4, .. } => Loops::of::<Bits4>(isa),
            Kind::Affine { bits: 5, .. } => Loops::of::<Bits5>(isa),
            Kind::Affine { bits: 6, .. } => Loops::of::<Bits6>(isa),
            Kind::Affine { .. } => Loops::of::<Bits8>(isa),
            Kind::Mxfp4 | Kind::Nvfp4 => Loops::of::<Float4>(isa),
            Kind::Mxfp8 => None,
        }
    }

    fn of<C: Codec>(isa: Isa) -> Option<Loops> {
        // Only VNNI takes codes of 8 bits as they are, and only AVX without it adds in 16 bits.
        let pairs = matches!(isa, Isa::Avx2 | Isa::Avx512);
        let signed = C::MAX == 255 && (pairs || isa.has_neon());
        Some(Loops {
            few: few::entry::<C>(isa)?,
            pack: many::pack_entry::<C>(isa)?,
            many: many::entry::<C>(isa)?,
            tiled: tiled::entry(isa),
            planes: C::PLANES,
            lanes: isa.lanes(),
            shift: if signed { 128.0 } else { -C::OFFSET },
            flip: if signed { 128 } else { 0 },
            factor: if C::OFFSET == 0.0 { 1.0 } else { 0.5 },
            steps: if pairs && !signed { pair_steps(C::MAX) } else { 8 },
        })
    }
}

impl Loops {
    fn units(&self, group: usize) -> Units {
        Units::new(group, self.planes, self.lanes, self.steps)
    }
}

/// Everything a task needs to know.
pub(super) struct Call<'a> {
    pub isa: Isa,
    pub loops: Loops,
    pub tasks: &'a Tasks<'a>,
    pub x: Activations,
    /// The activations once more, where the loops want them so.
    pub panels: Option<Panels>,
    /// The row of activations for each output row.
    pub map: Option<&'a [u32]>,
    pub matrices: &'a [QuantizedMatrix<'a>],
}

impl Call<'_> {
    pub fn perform(&self, task: usize) {
        match self.tasks.get(task) {
            (run, Part::Few { columns }) => self.few(run, columns, self.tasks.next(task)),
            (run, Part::Many { columns, rows }) => {
                self.many(run, columns, rows, self.tasks.next(task));
            }
        }
    }

    /// Lays out panel `index` of a run.
    pub fn fill_panel(&self, panels: &Panels, run: &Run, index: usize) {
        let first = index * PANEL_ROWS;
        let rows = first..(first + PANEL_ROWS).min(run.rows);
        // SAFETY: there is memory for all panels, and this task alone fills this one.
        unsafe { panels.fill(run.panel + index, rows.map(|row| self.x_row(run, row))) };
    }

    /// Row `row` of a run's activations.
    fn x_row(&self, run: &Run, row: usize) -> Row {
        let row = run.first + row;
        self.x.row(self.map.map_or(row, |map| map[row] as usize))
    }

    /// Of some weight rows, which are of one part of the matrix.
    fn prepare<'a>(&self, w: &QuantizedMatrix<'a>, row: usize, rows: usize) -> Prepare<'a> {
        let (scales, biases) = (w.scales, w.biases);
        let (factor, shift) = (w.factor(row) * self.loops.factor, self.loops.shift);
        let (first, count) = (row * w.groups(), rows * w.groups());
        Prepare { scales, biases, factor, shift, first, count, ahead: count as isize }
    }

    /// Some columns of the output; `next` are matrix and weight row that this thread will probably read after them.
    fn few(&self, run: &Run, columns: Range<usize>, next: (usize, usize)) {
        let w = &self.matrices[run.matrix];
        let end = w.codes.as_ptr().wrapping_add((run.weight_row + columns.end) * w.row_bytes());
        let then = &self.matrices[next.0];
        let then = then.codes.as_ptr().wrapping_add(next.1 * then.row_bytes());
        let ahead = Ahead::new(end, then);
        let groups = w.groups();
        let mut x = [self.x.row(0); FEW_MAX];
        for (i, x) in x.iter_mut().enumerate().take(run.rows) {
            *x = self.x_row(run, i);
        }
        let floats = lines((few::ROWS * groups + PADDING) * 4) / 4;
        scratch::with(&TILE, (4 * floats + FEW_MAX * few::ROWS) * 4, |memory| {
            let scales = memory.cast::<f32>();
            let (biases, turned) = (scales.wrapping_add(floats), scales.wrapping_add(2 * floats));
            let out = turned.wrapping_add(2 * floats);
            for start in columns.clone().step_by(few::ROWS) {
                let rows = few::ROWS.min(columns.end - start);
                let row = run.weight_row + start;
                let codes = w.codes[row * w.row_bytes()..].as_ptr();
                // SAFETY: the parts of the scratch are as long as `Few` and `prepare` say, matrix and run were
                // checked against each other, and other tasks write other columns.
                unsafe {
                    let mut what = self.prepare(w, row, rows);
                    if start + rows == columns.end && next.0 == run.matrix {
                        what.ahead = (next.1 as isize - row as isize) * groups as isize;
                    }
                    prepare(self.isa, &what, scales, biases);
                    (self.loops.few)(&Few {
                        ahead,
                        codes,
                        codes_end: w.codes.as_ptr_range().end,
                        rows,
                        columns: w.columns,
                        group: w.kind.group(),
                        scales,
                        biases,
                        turned,
                        x: &x[..run.rows],
                        out,
                    });
                    for i in 0..run.rows {
                        let values = std::slice::from_raw_parts(out.add(i * few::ROWS), rows);
                        run.out.write(self.isa, run.first + i, start, values);
                    }
                }
            }
        });
    }

    /// Weights from a row and a column on, as many as a tile has.
    fn coming(&self, (matrix, row): (usize, usize), column: usize) -> Coming {
        let w = &self.matrices[matrix];
        let span = TILE_COLUMNS.min(w.columns - column);
        Coming {
            codes: w.codes.as_ptr().wrapping_add(row * w.row_bytes() + column * w.kind.bits() / 8),
            row_bytes: w.row_bytes(),
            rows: WIDTH * self.loops.lanes,
            bytes: span * w.kind.bits() / 8,
        }
    }

    /// One tile of weight rows (columns of the output) against some rows of the run's activations; `next` as for few.
    fn many(&self, run: &Run, columns: Range<usize>, rows: Range<usize>, next: (usize, usize)) {
        let w = &self.matrices[run.matrix];
        let width = WIDTH * self.loops.lanes;
        let (column, columns) = (columns.start, columns.len());
        let (first, count) = (rows.start, rows.len());
        let group = w.kind.group();
        let span = TILE_COLUMNS.min(w.columns);
        let block = 4 * self.loops.lanes * self.loops.planes;
        let tile_bytes = lines(span.next_multiple_of(block) * width);
        let scale_bytes = lines(span.div_ceil(group) * width * 4);
        let row_floats = lines((columns * w.groups() + PADDING) * 4) / 4;
        let sum_bytes = count.next_multiple_of(PANEL_ROWS) * width * 4;
        let x_bytes = lines(count * size_of::<Row>());
        let bytes = tile_bytes + 2 * scale_bytes + 2 * row_floats * 4 + sum_bytes + x_bytes;
        scratch::with(&TILE, bytes, |tile| {
            let scales = tile.wrapping_add(tile_bytes).cast::<f32>();
            let biases = scales.wrapping_byte_add(scale_bytes);
            let row_scales = biases.wrapping_byte_add(scale_bytes);
            let row_biases = row_scales.wrapping_add(row_floats);
            let sums = row_biases.wrapping_add(row_floats);
            let x = sums.wrapping_byte_add(sum_bytes).cast::<Row>();
            // SAFETY: the parts of the scratch are as long as `Pack`, `Many` and `prepare` say, matrix and run were
            // checked against each other, and other tasks write other parts of the output.
            unsafe {
                sums.write_bytes(0, count.next_multiple_of(PANEL_ROWS) * width);
                for i in 0..count {
                    x.add(i).write(self.x_row(run, first + i));
                }
                let x = std::slice::from_raw_parts(x, count);
                let row = run.weight_row + column;
                let what = self.prepare(w, row, columns);
                prepare(self.isa, &what, row_scales, row_biases);
                for start in (0..w.columns).step_by(TILE_COLUMNS) {
                    let span = TILE_COLUMNS.min(w.columns - start);
                    let from = row * w.row_bytes() + start * w.kind.bits() / 8;
                    (self.loops.pack)(&Pack {
                        codes: w.codes[from..].as_ptr(),
                        codes_end: w.codes.as_ptr_range().end,
                        flip: self.loops.flip,
                        row_bytes: w.row_bytes(),
                        rows: columns,
                        columns: span,
                        tile,
                        row_scales: row_scales.add(start / group),
                        row_biases: row_biases.add(start / group),
                        row_groups: w.groups(),
                        groups: span / group,
                        scales,
                        biases,
                    });
                    let tile = Tile {
                        codes: tile,
                        first_column: start,
                        columns: span,
                        group,
                        scales,
                        biases,
                        sums,
                    };
                    if let (Some(panels), Some(tiled)) = (self.panels, self.loops.tiled) {
                        let panel = run.panel + first / PANEL_ROWS;
                        tiled(&Tiled { tile, panels, panel, rows: count });
                    } else {
                        let coming = match start + span < w.columns {
                            true => self.coming((run.matrix, row), start + span),
                            false => self.coming(next, 0),
                        };
                        let units = self.loops.units(group);
                        (self.loops.many)(&Many { tile, x, units, coming });
                    }
                }
                for i in 0..count {
                    let values = std::slice::from_raw_parts(sums.add(i * width), columns);
                    run.out.write(self.isa, run.first + first + i, column, values);
                }
            }
        });
    }
}
