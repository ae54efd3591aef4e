//! The entries: what is checked, who widens the activations, how a product becomes tasks.

use std::cell::Cell;

use super::call::{Call, Loops, Widened};
use super::many::WIDTH;
#[cfg(target_arch = "x86_64")]
use super::tiled;
use super::weights::Weights;
use crate::Cpu;
use crate::gather::Gather;
use crate::rows::{Rows, RowsMut};
use crate::scratch::{self, Line};
use crate::tasks::{Cut, Run, Tasks, count_tasks, find_task, with_runs};

thread_local! {
    static ACTIVATIONS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
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

pub(crate) fn multiply(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    matrices: &[Weights<'_>],
    runs: &mut [Run],
) {
    x.check();
    cpu.check();
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = tiled::entry(cpu.isa, matrices[0].kind, x) {
        return tiled::multiply(tiles, cpu, x, map, matrices, runs);
    }
    let Some(loops) = Loops::new(cpu.isa, matrices[0].kind, x) else {
        return multiply_plainly(cpu, x, map, matrices, runs);
    };
    let stride = x.columns.next_multiple_of(16);
    let rows = if loops.pairs { 0 } else { x.rows };
    scratch::with(&ACTIVATIONS, rows * stride * 4, |base| {
        let widened = Widened { base: base.cast(), stride };
        if !loops.pairs {
            widen(cpu, x, widened);
        }
        let cut = Cut { threads: cpu.pool.threads(), tile_rows: WIDTH * loops.lanes, row_grain: 1 };
        let row_bytes = |matrix: usize| matrices[matrix].row_bytes;
        let tasks = Tasks::new(cut, runs, &row_bytes);
        let call = Call { isa: cpu.isa, loops, tasks: &tasks, x, widened, map, matrices };
        cpu.pool.run(tasks.count, &|task| call.perform(task));
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

    use super::super::weights::Type;
    use super::*;
    use crate::element::{Element, Floats, FloatsMut};
    use crate::{Isa, Pool, isa};

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
    fn a_row_does_not_depend_on_the_others() {
        let mut rng = StdRng::seed_from_u64(4);
        let pools = [Pool::new(1), Pool::new(3)];
        for (isa, x, w) in isa::available()
            .into_iter()
            .flat_map(|isa| TYPES.map(|x| TYPES.map(|w| (isa, x, w))).into_iter().flatten())
        {
            let mut pick = |max: usize| 1 + rng.random_range(0..max);
            let (n, k, rows) = (pick(90), pick(700), pick(64));
            let x = Owned::random(&mut rng, x, rows * k);
            let w = Owned::random(&mut rng, w, n * k);
            let (x, w) = (Rows::new(x.floats(), rows, k), Rows::new(w.floats(), n, k));
            let bits = |range: std::ops::Range<usize>, pool: &Pool| -> Vec<u32> {
                let mut y = vec![0f32; range.len() * n];
                let out = RowsMut::new(FloatsMut::F32(&mut y), range.len(), n);
                product(&Cpu { isa, pool }, &x.part(range), &w, out);
                y.into_iter().map(f32::to_bits).collect()
            };
            let whole = bits(0..rows, &pools[0]);
            let mut first = 0;
            while first < rows {
                let end = (first + rng.random_range(1..20)).min(rows);
                let part = bits(first..end, &pools[first % 2]);
                let context = format!("{} {n} by {k}, {first}..{end} of {rows}", isa.name());
                assert!(part == whole[first * n..end * n], "{context}");
                first = end;
            }
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

    /// Tiles add as the instruction is defined, whatever is multiplied together; here emulated, where the processor has
    /// none. (What the processor does is compared with the emulation beside it.)
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tiles_add_in_one_order() {
        let mut rng = StdRng::seed_from_u64(5);
        let pools = [Pool::new(1), Pool::new(3)];
        for isa in isa::available().into_iter().filter(|isa| isa.has_avx512()) {
            let hardware = tiled::entry(isa, Type::Bf16, &Rows::new(Floats::Bf16(&[]), 0, 1));
            for (n, k, rows) in
                [(33, 95, 13), (16, 64, 1), (70, 33, 35), (32, 1, 16), (100, 160, 66)]
            {
                let mut numbers = |len: usize| -> Vec<bf16> {
                    (0..len).map(|_| bf16::from_f32(rng.random_range(-1.0..1.0))).collect()
                };
                let (x, w) = (numbers(rows * (k + 1)), numbers(n * (k + 3)));
                // Both at a stride, rows elsewhere than where they come from, and in several runs.
                let x_rows = Rows { data: Floats::Bf16(&x), rows, columns: k, stride: k + 1 };
                let w_rows = Rows { data: Floats::Bf16(&w), rows: n, columns: k, stride: k + 3 };
                let map: Vec<u32> = (0..rows as u32).rev().collect();
                for (tiles, pool) in [Some(tiled::emulated as unsafe fn(&_)), hardware]
                    .into_iter()
                    .flatten()
                    .flat_map(|tiles| pools.iter().map(move |pool| (tiles, pool)))
                {
                    let mut y = vec![0f32; rows * n];
                    let out = RowsMut::new(FloatsMut::F32(&mut y), rows, n).shared();
                    let first = rng.random_range(0..rows);
                    let mut runs = [0..first, first..rows].map(|rows| Run::new(0, 0, n, rows, out));
                    let cpu = Cpu { isa, pool };
                    let weights = [Weights::new(&w_rows)];
                    tiled::multiply(tiles, &cpu, &x_rows, Some(&map), &weights, &mut runs);
                    for (i, got) in y.iter().enumerate() {
                        let (row, column) = (rows - 1 - i / n, i % n);
                        let (x, w) = (&x[row * (k + 1)..][..k], &w[column * (k + 3)..][..k]);
                        let want = tiled::reference(w, x);
                        assert_eq!(got.to_bits(), want.to_bits(), "{n} {k} {rows} at {i}");
                    }
                }
            }
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
