//! From a dense product to tasks: who widens the activations, how the weights are cut, which loop runs.

use std::cell::Cell;

use super::few::{self, Few};
use super::many::{self, Many, Pack, TILE_COLUMNS, WIDTH};
use super::weights::{AsBf16, AsF16, AsF32, AsFloat8, Float, GROUP, Type, Weights};
use crate::element::Floats;
use crate::gather::Gather;
use crate::quantized::scales::{PADDING, Prepare, prepare};
use crate::rows::{Rows, RowsMut};
use crate::scratch::{self, Line, lines};
use crate::tasks::{Run, count_tasks, find_task, with_runs};
use crate::{Cpu, Isa};

/// More rows than this are worth a turned tile of weights.
const FEW_MAX: usize = 8;

/// Weight rows that few rows of activations meet in turn, while the weights are in the first cache.
const FEW_ROWS: usize = 8;

/// Bytes of weights in a task of few rows: some microseconds of reading.
const FEW_TASK_BYTES: usize = 64 << 10;

/// Rows of activations for which a tile of weights is laid out once.
const MANY_ROWS_MAX: usize = 512;

thread_local! {
    static ACTIVATIONS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static TILE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// `y = x · wᵀ`; `y` has a row for each of `x` and a column for each row of `w`.
pub fn product(cpu: &Cpu<'_>, x: &Rows<'_>, w: &Rows<'_>, mut y: RowsMut<'_>) {
    products(cpu, x, std::slice::from_ref(w), std::slice::from_mut(&mut y));
}

/// Several products of the same `x`: the waking of threads is paid once.
pub fn products(cpu: &Cpu<'_>, x: &Rows<'_>, ws: &[Rows<'_>], ys: &mut [RowsMut<'_>]) {
    assert_eq!(ws.len(), ys.len(), "an output for each matrix");
    let mut done = 0;
    while done < ws.len() {
        let end = (done + TOGETHER_MAX).min(ws.len());
        // Matrices of the same type go together.
        let kind = Weights::new(&ws[done]).kind;
        let same = |w: &&Rows<'_>| Weights::new(w).kind == kind;
        let alike = ws[done..end].iter().take_while(same).count();
        let mut weights = [Weights::new(&ws[done]); TOGETHER_MAX];
        with_runs(|runs| {
            for i in 0..alike {
                let (w, y) = (&ws[done + i], &mut ys[done + i]);
                assert_eq!((x.rows, w.columns), (y.rows, x.columns), "rows and columns of x");
                assert_eq!(w.rows, y.columns, "columns of y");
                weights[i] = Weights::new(w);
                runs.push(Run::new(i, 0, w.rows, 0..x.rows, y.shared()));
            }
            multiply(cpu, x, None, &weights[..alike], runs);
        });
        done += alike;
    }
}

/// Matrices that share a call; more than any block of a model has side by side.
pub(crate) const TOGETHER_MAX: usize = 8;

/// Row `i` of `y` is row `rows[i]` of `x` times the weights of expert `experts[i]`.
pub fn gathered_product(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    w: &Rows<'_>,
    gather: &Gather<'_>,
    mut y: RowsMut<'_>,
) {
    let columns = gather.check(x, (w.rows, w.columns), &y);
    let out = y.shared();
    with_runs(|runs| {
        gather.runs(|expert, first, rows| {
            runs.push(Run::new(0, expert * columns, columns, first..first + rows, out));
        });
        multiply(cpu, x, gather.rows, &[Weights::new(w)], runs);
    });
}

/// The loops for one type of weight on one instruction set.
#[derive(Clone, Copy)]
struct Loops {
    few: unsafe fn(&Few<'_>),
    pack: unsafe fn(&Pack),
    many: unsafe fn(&Many<'_>),
    lanes: usize,
    /// `many` takes activations as they are, two columns at a time.
    pairs: bool,
}

impl Loops {
    fn new(isa: Isa, kind: Type, x: &Rows<'_>) -> Option<Loops> {
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
struct Widened {
    base: *mut f32,
    stride: usize,
}

// SAFETY: written by one task to a row, then only read.
unsafe impl Send for Widened {}
// SAFETY: as above.
unsafe impl Sync for Widened {}

impl Widened {
    fn row(&self, row: usize) -> *mut f32 {
        self.base.wrapping_add(row * self.stride)
    }
}

/// Everything a task needs to know.
struct Call<'a> {
    isa: Isa,
    loops: Loops,
    x: &'a Rows<'a>,
    widened: Widened,
    /// The row of activations for each output row.
    map: Option<&'a [u32]>,
    matrices: &'a [Weights<'a>],
}

pub(crate) fn multiply(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    matrices: &[Weights<'_>],
    runs: &mut [Run],
) {
    x.check();
    let Some(loops) = Loops::new(cpu.isa, matrices[0].kind, x) else {
        return multiply_plainly(cpu, x, map, matrices, runs);
    };
    let stride = x.columns.next_multiple_of(16);
    // With pairs, only few rows need floats.
    let floats = !loops.pairs || runs.iter().any(|run| run.rows <= FEW_MAX);
    let rows = if floats { x.rows } else { 0 };
    scratch::with(&ACTIVATIONS, rows * stride * 4, |base| {
        let widened = Widened { base: base.cast(), stride };
        if floats {
            widen(cpu, x, widened);
        }
        let call = Call { isa: cpu.isa, loops, x, widened, map, matrices };
        let tasks = count_tasks(runs, |run| call.tasks(run, cpu.pool.threads()));
        let runs = &*runs;
        cpu.pool.run(tasks, &|task| {
            let (run, task) = find_task(runs, task);
            call.perform(run, task, cpu.pool.threads());
        });
    });
}

fn widen(cpu: &Cpu<'_>, x: &Rows<'_>, to: Widened) {
    // Some microseconds of work in a task.
    let grain = (32_768 / x.columns.max(1)).max(1);
    cpu.pool.run_ranges(x.rows, grain, &|rows| {
        for row in rows {
            // SAFETY: the scratch has room for every row, this task alone writes this one.
            unsafe {
                let out = std::slice::from_raw_parts_mut(to.row(row), to.stride);
                out[x.columns..].fill(0.0);
                crate::rows::widen(cpu.isa, x.row(row), &mut out[..x.columns]);
            }
        }
    });
}

impl Call<'_> {
    fn tasks(&self, run: &Run, threads: usize) -> usize {
        if run.rows == 0 || run.columns == 0 {
            return 0;
        }
        if run.rows <= FEW_MAX {
            return run.columns.div_ceil(self.few_grain(run, threads));
        }
        run.columns.div_ceil(WIDTH * self.loops.lanes) * self.many_blocks(run, threads)
    }

    fn perform(&self, run: &Run, task: usize, threads: usize) {
        if run.rows <= FEW_MAX {
            let grain = self.few_grain(run, threads);
            let first = task * grain;
            return self.few(run, first, grain.min(run.columns - first));
        }
        let blocks = self.many_blocks(run, threads);
        let rows = run.rows.div_ceil(blocks);
        let (tile, block) = (task / blocks, task % blocks);
        let first = (block * rows).min(run.rows);
        self.many(run, tile * WIDTH * self.loops.lanes, first, rows.min(run.rows - first));
    }

    /// Weight rows in a task of few rows.
    fn few_grain(&self, run: &Run, threads: usize) -> usize {
        let fair = run.columns.div_ceil(threads * 4).max(4);
        (FEW_TASK_BYTES / self.matrices[run.matrix].row_bytes.max(1)).clamp(1, fair)
    }

    /// Blocks of activation rows, so that each thread finds some tasks.
    fn many_blocks(&self, run: &Run, threads: usize) -> usize {
        let tiles = run.columns.div_ceil(WIDTH * self.loops.lanes);
        let wanted = (threads * 4).div_ceil(tiles).min(run.rows / 48).max(1);
        run.rows.div_ceil(MANY_ROWS_MAX).max(wanted)
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
        let what = Prepare { scales: from, biases: None, factor, shift: 0.0, first, count };
        // SAFETY: the caller's promise.
        unsafe { prepare(self.isa, &what, scales, unused) }
    }

    /// Columns `first..first + count` of the output.
    fn few(&self, run: &Run, first: usize, count: usize) {
        let w = &self.matrices[run.matrix];
        let mut x = [std::ptr::null(); FEW_MAX];
        for (i, x) in x.iter_mut().enumerate().take(run.rows) {
            *x = self.widened.row(self.x_row(run, i)).cast_const();
        }
        let floats = lines((FEW_ROWS * w.columns.div_ceil(GROUP) + PADDING) * 4) / 4;
        scratch::with(&TILE, (2 * floats + FEW_MAX * FEW_ROWS) * 4, |memory| {
            let scales = memory.cast::<f32>();
            let (unused, out) = (scales.wrapping_add(floats), scales.wrapping_add(2 * floats));
            for start in (first..first + count).step_by(FEW_ROWS) {
                let rows = FEW_ROWS.min(first + count - start);
                let row = run.weight_row + start;
                // SAFETY: the parts of the scratch are as long as `Few` and `scales` say, matrix and run were
                // checked against each other, and other tasks write other columns.
                unsafe {
                    self.scales(w, (row, rows), scales, unused);
                    (self.loops.few)(&Few {
                        weights: w.bytes[row * w.row_bytes..].as_ptr(),
                        row_bytes: w.row_bytes,
                        rows,
                        columns: w.columns,
                        scales,
                        x: &x[..run.rows],
                        out,
                    });
                    for i in 0..run.rows {
                        let values = std::slice::from_raw_parts(out.add(i * rows), rows);
                        run.out.write(self.isa, run.first + i, start, values);
                    }
                }
            }
        });
    }

    /// One tile of weight rows from `column` on, against `count` rows of activations from the run's `first` on.
    fn many(&self, run: &Run, column: usize, first: usize, count: usize) {
        let w = &self.matrices[run.matrix];
        let width = WIDTH * self.loops.lanes;
        let columns = width.min(run.columns - column);
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

    /// Where `many` reads column `column` of a run's row.
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

/// One weight after the other.
fn multiply_plainly(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    matrices: &[Weights<'_>],
    runs: &mut [Run],
) {
    let tasks = count_tasks(runs, |run| run.columns);
    let runs = &*runs;
    cpu.pool.run(tasks, &|task| {
        let (run, column) = find_task(runs, task);
        let w = &matrices[run.matrix];
        for i in run.first..run.first + run.rows {
            let x = x.row(map.map_or(i, |map| map[i] as usize));
            let mut sums = [0f32; 8];
            for k in 0..w.columns {
                sums[k % 8] += w.get(run.weight_row + column, k) * x.get(k);
            }
            // SAFETY: this task alone writes this column.
            unsafe { run.out.write(cpu.isa, i, column, &[sums.iter().sum()]) };
        }
    });
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::element::{Element, FloatsMut};
    use crate::{Pool, isa};

    const TYPES: [Type; 3] = [Type::F32, Type::Bf16, Type::F16];

    /// Numbers of one type.
    enum Owned {
        F32(Vec<f32>),
        Bf16(Vec<bf16>),
        F16(Vec<f16>),
    }

    impl Owned {
        fn random(rng: &mut StdRng, kind: Type, len: usize) -> Owned {
            let values = (0..len).map(|_| rng.random_range(-1f32..1.0));
            match kind {
                Type::Bf16 => Owned::Bf16(values.map(bf16::from_f32).collect()),
                Type::F16 => Owned::F16(values.map(f16::from_f32).collect()),
                _ => Owned::F32(values.collect()),
            }
        }

        fn floats(&self) -> Floats<'_> {
            match self {
                Owned::F32(v) => Floats::F32(v),
                Owned::Bf16(v) => Floats::Bf16(v),
                Owned::F16(v) => Floats::F16(v),
            }
        }
    }

    struct Case {
        isa: Isa,
        x: Type,
        w: Type,
        /// Weight rows, columns, rows of activations.
        shape: (usize, usize, usize),
    }

    /// Against f64, within f32's rounding of the sum of magnitudes.
    fn check(case: &Case, pool: &Pool, rng: &mut StdRng) {
        let (n, k, rows) = case.shape;
        let (x, w) =
            (Owned::random(rng, case.x, rows * k), Owned::random(rng, case.w, (n + 1) * (k + 3)));
        let mut y = vec![0f32; rows * n];
        let cpu = Cpu { isa: case.isa, pool };
        let x = Rows::new(x.floats(), rows, k);
        // At a stride.
        let w = Rows { data: w.floats(), rows: n, columns: k, stride: k + 3 };
        product(&cpu, &x, &w, RowsMut::new(FloatsMut::F32(&mut y), rows, n));
        for (i, got) in y.iter().enumerate() {
            let (x, w) = (x.row(i / n), w.row(i % n));
            let products = || (0..k).map(|k| f64::from(x.get(k)) * f64::from(w.get(k)));
            let (want, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            assert!(
                (f64::from(*got) - want).abs() <= 2e-6 * size + 1e-12,
                "{} {:?}·{:?} {:?} at {i}: {got} for {want}",
                case.isa.name(),
                case.x,
                case.w,
                case.shape
            );
        }
    }

    #[test]
    fn every_type_on_every_instruction_set() {
        let mut rng = StdRng::seed_from_u64(1);
        let pool = Pool::new(2);
        for isa in isa::available() {
            for x in TYPES {
                for w in TYPES {
                    for shape in [(5, 64, 1), (33, 100, 3), (70, 333, 8), (50, 600, 19), (1, 1, 1)]
                    {
                        check(&Case { isa, x, w, shape }, &pool, &mut rng);
                    }
                }
            }
        }
    }

    #[test]
    fn odd_shapes() {
        let mut rng = StdRng::seed_from_u64(2);
        let pool = Pool::new(3);
        for round in 0..150 {
            let isa = *isa::available().get(round % isa::available().len()).unwrap();
            let mut pick = |max: usize| rng.random_range(0..max);
            let (x, w) = (TYPES[pick(3)], TYPES[pick(3)]);
            let shape = (1 + pick(90), 1 + pick(700), 1 + pick(40));
            check(&Case { isa, x, w, shape }, &pool, &mut rng);
        }
    }

    #[test]
    fn experts_and_several_matrices() {
        let mut rng = StdRng::seed_from_u64(3);
        let pool = Pool::new(2);
        let (count, n, k, tokens) = (4, 40, 96, 25);
        let x = Owned::random(&mut rng, Type::Bf16, tokens * k);
        let w = Owned::random(&mut rng, Type::Bf16, count * n * k);
        let (x, w) = (Rows::new(x.floats(), tokens, k), Rows::new(w.floats(), count * n, k));
        let mut experts: Vec<u32> = (0..tokens * 2).map(|_| rng.random_range(0..3)).collect();
        experts.sort_unstable();
        let rows: Vec<u32> = experts.iter().map(|_| rng.random_range(0..tokens as u32)).collect();
        let gather = Gather { experts: &experts, rows: Some(&rows), count };
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let mut whole = vec![bf16::ZERO; tokens * count * n];
            let mut halves = [vec![0f32; tokens * n], vec![0f32; tokens * n * (count - 1)]];
            product(&cpu, &x, &w, RowsMut::new(FloatsMut::Bf16(&mut whole), tokens, count * n));
            let mut gathered = vec![0f32; experts.len() * n];
            let out = RowsMut::new(FloatsMut::F32(&mut gathered), experts.len(), n);
            gathered_product(&cpu, &x, &w, &gather, out);
            let cut = |from, rows| Rows { data: cut(w.data, from * k, rows * k), rows, ..w };
            let [a, b] = &mut halves;
            let mut outs = [
                RowsMut::new(FloatsMut::F32(a), tokens, n),
                RowsMut::new(FloatsMut::F32(b), tokens, n * (count - 1)),
            ];
            products(&cpu, &x, &[cut(0, n), cut(n, n * (count - 1))], &mut outs);
            let near = |a: f32, b: bf16| (a - b.to_f32()).abs() < 0.01 * a.abs().max(1.0);
            for (i, &got) in gathered.iter().enumerate() {
                let (row, column) = (rows[i / n] as usize, experts[i / n] as usize * n + i % n);
                assert!(near(got, whole[row * count * n + column]), "{} {i}", isa.name());
            }
            for (i, &want) in whole.iter().enumerate() {
                let (row, column) = (i / (count * n), i % (count * n));
                let got = match column.checked_sub(n) {
                    None => halves[0][row * n + column],
                    Some(column) => halves[1][row * n * (count - 1) + column],
                };
                assert!(near(got, want), "{} {i}: {got} {}", isa.name(), Element::to_f32(want));
            }
        }
    }

    fn cut(data: Floats<'_>, from: usize, len: usize) -> Floats<'_> {
        match data {
            Floats::Bf16(s) => Floats::Bf16(&s[from..from + len]),
            _ => unreachable!(),
        }
    }
}
