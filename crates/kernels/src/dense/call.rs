//! A task of a product: which loop it runs, and the memory it runs in.

use std::cell::Cell;
use std::ops::Range;

use super::few::{self, Few};
use super::many::{self, Many, Pack, TILE_COLUMNS, WIDTH};
use super::weights::{AsBf16, AsF16, AsF32, AsFloat8, Float, GROUP, Type, Weights};
use crate::Isa;
use crate::ahead::Ahead;
use crate::element::Floats;
use crate::quantized::scales::{PADDING, Prepare, prepare};
use crate::rows::Rows;
use crate::scratch::{self, Line, lines};
use crate::tasks::{FEW_MAX, Part, Run, Tasks};

thread_local! {
    static TILE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// The loops for one type of weight on one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Loops {
    few: unsafe fn(&Few<'_>),
    pack: unsafe fn(&Pack),
    many: unsafe fn(&Many<'_>),
    pub lanes: usize,
    /// The loops take activations as they are, two columns at a time.
    pub pairs: bool,
}

impl Loops {
    pub fn new(isa: Isa, kind: Type, x: &Rows<'_>) -> Option<Loops> {
        let mut loops = match kind {
            Type::F32 => Loops::of::<AsF32>(isa),
            Type::Bf16 => Loops::of::<AsBf16>(isa),
            Type::F16 => Loops::of::<AsF16>(isa),
            Type::Float8 => Loops::of::<AsFloat8>(isa),
        }?;
        #[cfg(target_arch = "x86_64")]
        if isa.has_avx512_bf16()
            && kind == Type::Bf16
            && matches!(x.data, Floats::Bf16(_))
            && x.columns.is_multiple_of(2)
            && (cfg!(test) || many::pairs::pay())
        {
            loops.few = few::pairs::few;
            loops.pack = many::pairs::pack;
            loops.many = many::pairs::many;
            loops.pairs = true;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (&mut loops, x);
        Some(loops)
    }

    fn of<C: Float>(isa: Isa) -> Option<Loops> {
        Some(Loops {
            few: few::entry::<C>(isa)?,
            pack: many::pack_entry::<C>(isa)?,
            many: many::entry::<AsF32>(isa)?,
            lanes: isa.lanes(),
            pairs: false,
        })
    }
}

/// Activations in f32, rows padded to whole vectors with zeros.
#[derive(Clone, Copy)]
pub(super) struct Widened {
    pub base: *mut f32,
    pub stride: usize,
}

// SAFETY: written by one task to a row, then only read.
unsafe impl Send for Widened {}
// SAFETY: as above.
unsafe impl Sync for Widened {}

impl Widened {
    pub fn row(&self, row: usize) -> *mut f32 {
        self.base.wrapping_add(row * self.stride)
    }
}

/// Everything a task needs to know.
pub(super) struct Call<'a> {
    pub isa: Isa,
    pub loops: Loops,
    pub tasks: &'a Tasks<'a>,
    pub x: &'a Rows<'a>,
    pub widened: Widened,
    /// The row of activations for each output row.
    pub map: Option<&'a [u32]>,
    pub matrices: &'a [Weights<'a>],
}

impl Call<'_> {
    pub fn perform(&self, task: usize) {
        match self.tasks.get(task) {
            (run, Part::Few { columns }) => self.few(run, columns, self.tasks.next(task)),
            (run, Part::Many { columns, rows }) => self.many(run, columns, rows),
        }
    }

    fn x_row(&self, run: &Run, row: usize) -> usize {
        let row = run.first + row;
        self.map.map_or(row, |map| map[row] as usize)
    }

    /// The scales of some weight rows to `scales`, where there are any; `unused` takes what else is prepared.
    ///
    /// # Safety
    /// Both are good for `rows * columns / GROUP + PADDING` floats.
    unsafe fn scales(
        &self,
        w: &Weights<'_>,
        rows: (usize, usize),
        scales: *mut f32,
        unused: *mut f32,
    ) {
        let Some((from, factor)) = w.scales else { return };
        let groups = w.columns / GROUP;
        let (first, count) = (rows.0 * groups, rows.1 * groups);
        let what = Prepare {
            scales: from,
            biases: None,
            factor,
            shift: 0.0,
            first,
            count,
            ahead: count as isize,
        };
        // SAFETY: the caller's promise.
        unsafe { prepare(self.isa, &what, scales, unused) }
    }

    /// Some columns of the output; `next` are matrix and weight row that this thread will probably read after them.
    fn few(&self, run: &Run, columns: Range<usize>, next: (usize, usize)) {
        let w = &self.matrices[run.matrix];
        let then = &self.matrices[next.0];
        let ahead = Ahead::new(
            w.bytes.as_ptr().wrapping_add((run.weight_row + columns.end) * w.row_bytes),
            then.bytes.as_ptr().wrapping_add(next.1 * then.row_bytes),
        );
        let mut x = [std::ptr::null(); FEW_MAX];
        for (i, x) in x.iter_mut().enumerate().take(run.rows) {
            *x = self.x_at(run, i, 0);
        }
        let width = WIDTH * self.loops.lanes;
        let floats = lines((width * w.columns.div_ceil(GROUP) + PADDING) * 4) / 4;
        scratch::with(&TILE, (2 * floats + FEW_MAX * width) * 4, |memory| {
            let scales = memory.cast::<f32>();
            let (unused, out) = (scales.wrapping_add(floats), scales.wrapping_add(2 * floats));
            for start in columns.clone().step_by(width) {
                let rows = width.min(columns.end - start);
                let row = run.weight_row + start;
                // SAFETY: the parts of the scratch are as long as `Few` and `scales` say, matrix and run were
                // checked against each other, and other tasks write other columns.
                unsafe {
                    self.scales(w, (row, rows), scales, unused);
                    (self.loops.few)(&Few {
                        weights: w.bytes[row * w.row_bytes..].as_ptr(),
                        row_bytes: w.row_bytes,
                        ahead,
                        rows,
                        columns: w.columns,
                        scales,
                        x: &x[..run.rows],
                        out,
                    });
                    for i in 0..run.rows {
                        let values = std::slice::from_raw_parts(out.add(i * width), rows);
                        run.out.write(self.isa, run.first + i, start, values);
                    }
                }
            }
        });
    }

    /// One tile of weight rows (columns of the output) against some rows of the run's activations.
    fn many(&self, run: &Run, columns: Range<usize>, rows: Range<usize>) {
        let w = &self.matrices[run.matrix];
        let width = WIDTH * self.loops.lanes;
        let (column, columns) = (columns.start, columns.len());
        let (first, count) = (rows.start, rows.len());
        let row_groups = w.columns.div_ceil(GROUP);
        let tile_bytes = lines(TILE_COLUMNS * width * 4);
        let scale_bytes = lines((columns * row_groups + PADDING) * 4);
        let sum_bytes = lines(count * width * 4);
        let bytes = tile_bytes + 2 * scale_bytes + sum_bytes + count * size_of::<*const u8>();
        scratch::with(&TILE, bytes, |tile| {
            let scales = tile.wrapping_add(tile_bytes).cast::<f32>();
            let unused = scales.wrapping_byte_add(scale_bytes);
            let sums = unused.wrapping_byte_add(scale_bytes);
            let x = sums.wrapping_byte_add(sum_bytes).cast::<*const u8>();
            let row = run.weight_row + column;
            // SAFETY: the parts of the scratch are as long as `Pack`, `Many` and `scales` say, matrix and run were
            // checked against each other, and other tasks write other parts of the output.
            unsafe {
                sums.write_bytes(0, count * width);
                self.scales(w, (row, columns), scales, unused);
                for start in (0..w.columns).step_by(TILE_COLUMNS) {
                    let span = TILE_COLUMNS.min(w.columns - start);
                    let size = w.kind.size();
                    (self.loops.pack)(&Pack {
                        weights: w.bytes[row * w.row_bytes + start * size..].as_ptr(),
                        row_bytes: w.row_bytes,
                        rows: columns,
                        columns: span,
                        scales: scales.add(start / GROUP),
                        row_groups,
                        tile,
                    });
                    for i in 0..count {
                        x.add(i).write(self.x_at(run, first + i, start));
                    }
                    (self.loops.many)(&Many {
                        tile,
                        units: if self.loops.pairs { span / 2 } else { span },
                        x: std::slice::from_raw_parts(x, count),
                        sums,
                    });
                }
                for i in 0..count {
                    let values = std::slice::from_raw_parts(sums.add(i * width), columns);
                    run.out.write(self.isa, run.first + first + i, column, values);
                }
            }
        });
    }

    /// Where the loops read column `column` of a run's row.
    fn x_at(&self, run: &Run, row: usize, column: usize) -> *const u8 {
        let row = self.x_row(run, row);
        if !self.loops.pairs {
            return self.widened.row(row).wrapping_add(column).cast_const().cast();
        }
        match self.x.row(row) {
            Floats::Bf16(row) => row[column..].as_ptr().cast(),
            _ => unreachable!("pairs are bf16"),
        }
    }
}
