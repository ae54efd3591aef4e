//! The entries: what is checked, who quantises the activations, how a product becomes tasks.

use std::cell::Cell;

use super::activations::{Activations, Layout, SPAN, quantize_row};
use super::call::{Call, Loops};
use super::many::WIDTH;
use super::matrix::{Kind, QuantizedMatrix};
use super::reference;
use super::tiled::{PANEL_ROWS, Panels};
use crate::dense;
use crate::gather::Gather;
use crate::rows::{Rows, RowsMut};
use crate::scratch::{self, Line};
use crate::tasks::{
    Cut, FEW_MAX, Run, Tasks, count_panels, count_tasks, find_panel, find_task, with_runs,
};
use crate::{Cpu, Isa};

thread_local! {
    static ACTIVATIONS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static ROW: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// `y = x · wᵀ`; `y` has a row for each of `x` and a column for each weight row.
pub fn quantized_product(cpu: &Cpu<'_>, x: &Rows<'_>, w: &QuantizedMatrix<'_>, mut y: RowsMut<'_>) {
    quantized_products(cpu, x, std::slice::from_ref(w), std::slice::from_mut(&mut y));
}

/// Several products of the same `x`: its quantisation and the waking of threads are paid once.
pub fn quantized_products(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    ws: &[QuantizedMatrix<'_>],
    ys: &mut [RowsMut<'_>],
) {
    assert_eq!(ws.len(), ys.len(), "an output for each matrix");
    let mut done = 0;
    while done < ws.len() {
        // Matrices of the same kind go together.
        let together = ws[done..].iter().take(dense::TOGETHER_MAX);
        let alike = together.take_while(|w| w.kind == ws[done].kind).count();
        let (ws, ys) = (&ws[done..done + alike], &mut ys[done..done + alike]);
        done += alike;
        with_runs(|runs| {
            for (i, (w, y)) in ws.iter().zip(ys).enumerate() {
                assert_eq!((x.rows, w.columns), (y.rows, x.columns), "rows and columns of x");
                assert_eq!(w.rows, y.columns, "columns of y");
                assert!(w.factors.is_empty(), "experts are multiplied one by one");
                let (out, columns) = (y.shared(), w.rows);
                runs.push(Run::new(i, 0, columns, 0..x.rows, out));
            }
            multiply(cpu, x, None, ws, runs);
        });
    }
}

/// Row `i` of `y` is row `rows[i]` of `x` times the weights of expert `experts[i]`.
pub fn gathered_quantized_product(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    w: &QuantizedMatrix<'_>,
    gather: &Gather<'_>,
    mut y: RowsMut<'_>,
) {
    let columns = gather.check(x, (w.rows, w.columns), &y);
    assert!(w.factors.is_empty() || w.factors.len() == gather.count, "a factor for each expert");
    let out = y.shared();
    with_runs(|runs| {
        gather.runs(|expert, first, rows| {
            runs.push(Run::new(0, expert * columns, columns, first..first + rows, out));
        });
        multiply(cpu, x, gather.rows, std::slice::from_ref(w), runs);
    });
}

pub(crate) fn multiply(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    matrices: &[QuantizedMatrix<'_>],
    runs: &mut [Run],
) {
    x.check();
    cpu.check();
    let kind = matrices[0].kind;
    let Some(mut loops) = Loops::new(cpu.isa, kind) else {
        return multiply_plainly(cpu, x, map, matrices, runs);
    };
    loops.tiled = loops.tiled.filter(|_| tiles_pay(kind, runs));
    multiply_by(loops, cpu, x, map, matrices, runs);
}

/// Whether the processor's tiles would be full. They are not where scales are those of half a span: a tile is half empty
/// and there is as much to scale. Nor where many runs end in the middle of a panel, as the rows of a mixture's experts do.
fn tiles_pay(kind: Kind, runs: &[Run]) -> bool {
    let many = || runs.iter().map(|run| run.rows).filter(|&rows| rows > FEW_MAX);
    let (rows, places) =
        (many().sum::<usize>(), many().map(|rows| rows.next_multiple_of(PANEL_ROWS)));
    kind.group() >= SPAN && places.sum::<usize>() * 8 <= rows * 9
}

fn multiply_by(
    loops: Loops,
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    matrices: &[QuantizedMatrix<'_>],
    runs: &mut [Run],
) {
    let group = matrices[0].kind.group();
    let layout = Layout::new(x.columns, loops.planes, loops.lanes, group);
    let panels = Panels::new(x.columns, loops.planes, group);
    let count = match loops.tiled {
        Some(_) => count_panels(runs, PANEL_ROWS, FEW_MAX + 1),
        None => 0,
    };
    let x_bytes = x.rows * layout.row_bytes();
    let (threads, tile_rows) = (cpu.pool.threads(), WIDTH * loops.lanes);
    let row_grain = if count > 0 { PANEL_ROWS } else { 1 };
    let matrix_row_bytes = |matrix: usize| matrices[matrix].row_bytes();
    let tasks = Tasks::new(Cut { threads, tile_rows, row_grain }, runs, &matrix_row_bytes);
    scratch::with(&ACTIVATIONS, x_bytes + panels.bytes(count), |base| {
        let panels = (count > 0).then(|| panels.at(base.wrapping_add(x_bytes)));
        let activations = Activations { base, layout };
        quantize_rows(cpu, x, &activations);
        let call =
            Call { isa: cpu.isa, loops, tasks: &tasks, x: activations, panels, map, matrices };
        if let Some(panels) = &panels {
            cpu.pool.run(count, &|panel| {
                let (run, index) = find_panel(tasks.runs, panel);
                call.fill_panel(panels, run, index);
            });
        }
        cpu.pool.run(tasks.count, &|task| call.perform(task));
    });
}

fn quantize_rows(cpu: &Cpu<'_>, x: &Rows<'_>, to: &Activations) {
    // Two microseconds of work in a task.
    let grain = (4096 / x.columns.max(1)).max(1);
    cpu.pool.run_ranges(x.rows, grain, &|rows| {
        for row in rows {
            let at = to.row(row).codes.cast_mut();
            // SAFETY: the scratch has room for every row, this task alone writes this one.
            unsafe { quantize_row(cpu.isa, x.row(row), &to.layout, at) };
        }
    });
}

/// Without a loop of bytes for this kind: 8-bit floats go the way of dense weights, the rest one by one.
fn multiply_plainly<'a>(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    matrices: &[QuantizedMatrix<'a>],
    runs: &mut [Run],
) {
    if matrices[0].kind == Kind::Mxfp8 && cpu.isa != Isa::Scalar {
        let float8 = |w: &QuantizedMatrix<'a>| {
            dense::Weights::float8(w.codes, w.columns, w.scales, w.factor)
        };
        let mut floats = [float8(&matrices[0]); dense::TOGETHER_MAX];
        for (to, w) in floats.iter_mut().zip(matrices) {
            *to = float8(w);
        }
        return dense::multiply(cpu, x, map, &floats[..matrices.len()], runs);
    }
    let tasks = count_tasks(runs, |run| run.columns);
    let runs = &*runs;
    cpu.pool.run(tasks, &|task| {
        let (run, column) = find_task(runs, task);
        let w = &matrices[run.matrix];
        scratch::with(&ROW, w.columns * 4, |memory| {
            // SAFETY: the scratch is as long and initialised.
            let row = unsafe { std::slice::from_raw_parts_mut(memory.cast::<f32>(), w.columns) };
            reference::dequantize_row(w, run.weight_row + column, row);
            for i in run.first..run.first + run.rows {
                let x = x.row(map.map_or(i, |map| map[i] as usize));
                // SAFETY: this task alone writes this column.
                unsafe { run.out.write(cpu.isa, i, column, &[reference::dot(row, x)]) };
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::testing::{KINDS, Weights, dequantized, deviation, exact, rounded};
    use super::super::tiled;
    use super::*;
    use crate::element::{Element, Floats, FloatsMut};
    use crate::{Pool, isa};

    struct Case {
        isa: Isa,
        weights: Weights,
        x: Vec<f32>,
        rows: usize,
    }

    /// Every path against f64: the integer paths within f32's rounding of the product of the rounded activations,
    /// and within six standard deviations of that of the unrounded one.
    fn check(case: &Case, pool: &Pool) {
        let Case { isa, weights, x, rows } = case;
        let (n, k) = weights.shape;
        let w = weights.matrix();
        let mut y = vec![0f32; rows * n];
        let out = RowsMut::new(FloatsMut::F32(&mut y), *rows, n);
        let cpu = Cpu { isa: *isa, pool };
        quantized_product(&cpu, &Rows::new(Floats::F32(x), *rows, k), &w, out);
        let floats = dequantized(&w);
        let integers = Loops::new(*isa, weights.kind).is_some();
        for row in 0..*rows {
            let x = &x[row * k..][..k];
            let seen = if integers { rounded(x) } else { x.to_vec() };
            for column in 0..n {
                let got = f64::from(y[row * n + column]);
                let context = format!(
                    "{} {:?} {:?} rows {rows} at {row},{column}",
                    isa.name(),
                    weights.kind,
                    weights.shape
                );
                let weights = &floats[column * k..][..k];
                let (want, size) = exact(weights, &seen);
                assert!((got - want).abs() <= 4e-6 * size + 1e-9, "{context}: {got} for {want}");
                let want = exact(weights, x).0;
                let bound = 6.0 * deviation(weights, x) + 4e-6 * size;
                assert!((got - want).abs() <= bound, "{context}: {got} for exactly {want}");
            }
        }
    }

    #[test]
    fn every_kind_on_every_instruction_set() {
        let mut rng = StdRng::seed_from_u64(1);
        let pool = Pool::new(2);
        for isa in isa::available() {
            for kind in KINDS {
                for (n, k, rows) in
                    [(5, 256, 1), (33, 384, 3), (70, 640, 8), (50, 1152, 19), (32, 128, 64)]
                {
                    let weights = Weights::random(&mut rng, kind, (n, k));
                    let x = (0..rows * k).map(|_| rng.random_range(-1.0..1.0)).collect();
                    check(&Case { isa, weights, x, rows }, &pool);
                }
            }
        }
    }

    /// Bits of the product of rows `rows` of a case, computed together and alone.
    fn bits(case: &Case, rows: std::ops::Range<usize>, pool: &Pool) -> Vec<u32> {
        let (n, k) = case.weights.shape;
        let mut y = vec![0f32; rows.len() * n];
        let out = RowsMut::new(FloatsMut::F32(&mut y), rows.len(), n);
        let x = &case.x[rows.start * k..rows.end * k];
        let cpu = Cpu { isa: case.isa, pool };
        let x = Rows::new(Floats::F32(x), rows.len(), k);
        quantized_product(&cpu, &x, &case.weights.matrix(), out);
        y.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let mut rng = StdRng::seed_from_u64(6);
        let pools = [Pool::new(1), Pool::new(3)];
        let affine = [2, 3, 4, 5, 6, 8]
            .into_iter()
            .flat_map(|bits| [32, 64, 128].map(|group| Kind::Affine { bits, group }));
        for kind in affine.chain([Kind::Mxfp4, Kind::Mxfp8, Kind::Nvfp4]) {
            for isa in isa::available() {
                // Some spans of less than a block, and some of more than a tile.
                let k = kind.group() * rng.random_range(1..1500 / kind.group());
                let (n, rows) = (rng.random_range(1..50), rng.random_range(1..65));
                let weights = Weights::random(&mut rng, kind, (n, k));
                let x = (0..rows * k).map(|_| rng.random_range(-1.0..1.0)).collect();
                let case = Case { isa, weights, x, rows };
                let whole = bits(&case, 0..rows, &pools[0]);
                let mut first = 0;
                while first < rows {
                    let end = (first + rng.random_range(1..20)).min(rows);
                    let part = bits(&case, first..end, &pools[first % 2]);
                    let context = format!("{} {kind:?} {n} by {k}", isa.name());
                    assert!(
                        part == whole[first * n..end * n],
                        "{context}, {first}..{end} of {rows}"
                    );
                    first = end;
                }
            }
        }
    }

    /// What the module's head states: beside f64, of activations that were not rounded, a product is off by half a
    /// percent of what products usually are, whatever the weights' kind and whether rows are few or many.
    fn check_loss(rng: &mut StdRng, kind: Kind, rows: usize, pool: &Pool) {
        let (n, k) = (48, 768);
        let weights = Weights::random(rng, kind, (n, k));
        let (w, floats) = (weights.matrix(), dequantized(&weights.matrix()));
        // Twelve uniform numbers make a normal one.
        let normal = |rng: &mut StdRng| (0..12).map(|_| rng.random_range(-0.5f32..0.5)).sum();
        let x: Vec<f32> = (0..rows * k).map(|_| normal(rng)).collect();
        let wanted: Vec<f64> = (0..rows * n)
            .map(|i| exact(&floats[i % n * k..][..k], &x[i / n * k..][..k]).0)
            .collect();
        for isa in isa::available().into_iter().filter(|&isa| Loops::new(isa, kind).is_some()) {
            let mut y = vec![0f32; rows * n];
            let out = RowsMut::new(FloatsMut::F32(&mut y), rows, n);
            quantized_product(&Cpu { isa, pool }, &Rows::new(Floats::F32(&x), rows, k), &w, out);
            let squares = |of: &dyn Fn(usize) -> f64| (0..y.len()).map(|i| of(i).powi(2)).sum();
            let (off, size): (f64, f64) =
                (squares(&|i| f64::from(y[i]) - wanted[i]), squares(&|i| wanted[i]));
            let loss = (off / size).sqrt();
            assert!((0.003..0.007).contains(&loss), "{} {kind:?} {rows} rows: {loss}", isa.name());
        }
    }

    #[test]
    fn rounding_activations_costs_half_a_percent() {
        let mut rng = StdRng::seed_from_u64(5);
        let pool = Pool::new(2);
        let affine = [2, 3, 4, 5, 6, 8]
            .into_iter()
            .flat_map(|bits| [32, 64, 128].map(|group| Kind::Affine { bits, group }));
        for kind in affine.chain([Kind::Mxfp4, Kind::Nvfp4]) {
            check_loss(&mut rng, kind, 3, &pool);
            check_loss(&mut rng, kind, 20, &pool);
        }
    }

    #[test]
    fn odd_shapes() {
        let mut rng = StdRng::seed_from_u64(2);
        let pool = Pool::new(3);
        for round in 0..150 {
            let isa = *isa::available().get(round % isa::available().len()).unwrap();
            let kind = KINDS[rng.random_range(0..KINDS.len())];
            let k = kind.group() * rng.random_range(1..20);
            let (n, rows) = (rng.random_range(1..90), rng.random_range(1..40));
            let weights = Weights::random(&mut rng, kind, (n, k));
            let x = (0..rows * k).map(|_| rng.random_range(-1.0..1.0)).collect();
            check(&Case { isa, weights, x, rows }, &pool);
        }
    }

    /// Tiles give what the loops without give, bit for bit; here emulated, where the processor has none.
    #[test]
    fn tiles_change_no_bit() {
        let mut rng = StdRng::seed_from_u64(6);
        let pool = Pool::new(2);
        for isa in isa::available() {
            for kind in KINDS {
                let Some(loops) = Loops::new(isa, kind) else { continue };
                let Some(emulated) = tiled::emulated(isa) else { continue };
                let tiles = if isa == Isa::Amx { vec![loops.tiled] } else { vec![] };
                for (n, k, rows) in [(33, 384, 13), (70, 640, 16), (50, 1152, 35), (9, 2176, 49)] {
                    let weights = Weights::random(&mut rng, kind, (n, k));
                    let x: Vec<f32> = (0..rows * k).map(|_| rng.random_range(-1.0..1.0)).collect();
                    // Two matrices of the same rows, and a run of rows that lie elsewhere.
                    let map: Vec<u32> = (0..rows as u32).rev().collect();
                    let product = |tiled, map: Option<&[u32]>| {
                        let mut ys = [vec![0f32; rows * n], vec![0f32; rows * n]];
                        let outs = ys
                            .each_mut()
                            .map(|y| RowsMut::new(FloatsMut::F32(y), rows, n).shared());
                        let mut runs = vec![
                            Run::new(0, 0, n, 0..13, outs[0]),
                            Run::new(1, 0, n, 0..13, outs[1]),
                            Run::new(0, 0, n, 13..rows, outs[0]),
                        ];
                        let x = Rows::new(Floats::F32(&x), rows, k);
                        let matrices = [weights.matrix(), weights.matrix()];
                        let cpu = Cpu { isa, pool: &pool };
                        let mut loops = loops;
                        loops.tiled = tiled;
                        multiply_by(loops, &cpu, &x, map, &matrices, &mut runs);
                        ys
                    };
                    for map in [None, Some(&map[..])] {
                        let want = product(None, map);
                        assert!(want[0].iter().all(|y| y.is_finite() && *y != 0.0));
                        for tiles in [vec![Some(emulated)], tiles.clone()].concat() {
                            let got = product(tiles, map);
                            assert!(got == want, "{} {kind:?} {n} {k} {rows}", isa.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_for_full_panels() {
        let out = RowsMut::new(FloatsMut::F32(&mut []), 0, 0).shared();
        let check = |kind, rows: &[usize], pay| {
            let runs = rows.iter().map(|&rows| Run::new(0, 0, 8, 0..rows, out)).collect::<Vec<_>>();
            assert_eq!(tiles_pay(kind, &runs), pay, "{kind:?} {rows:?}");
        };
        let kind = Kind::Affine { bits: 4, group: 64 };
        check(kind, &[512, 512], true);
        check(kind, &[16], true);
        check(kind, &[100], true);
        check(kind, &[17], false);
        check(Kind::Mxfp4, &[512], true);
        check(Kind::Nvfp4, &[512], false);
        // Experts: few rows each, of which some go to no panel; and enough.
        check(kind, &[3, 33, 12, 25, 41, 30], false);
        check(kind, &[3, 133, 12, 125, 141, 120], true);
    }

    #[test]
    fn other_types_and_several_matrices() {
        let mut rng = StdRng::seed_from_u64(3);
        let pool = Pool::new(2);
        let (k, rows) = (192, 11);
        let kinds = [KINDS[3], KINDS[3], KINDS[6], KINDS[7]];
        let weights: Vec<Weights> = kinds
            .iter()
            .enumerate()
            .map(|(i, &kind)| Weights::random(&mut rng, kind, (10 + i * 23, k)))
            .collect();
        let x: Vec<f16> =
            (0..rows * k).map(|_| f16::from_f32(rng.random_range(-1.0..1.0))).collect();
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let matrices: Vec<_> = weights.iter().map(Weights::matrix).collect();
            let mut ys: Vec<Vec<bf16>> =
                weights.iter().map(|w| vec![bf16::ZERO; w.shape.0 * rows]).collect();
            let mut outs: Vec<RowsMut<'_>> = ys
                .iter_mut()
                .zip(&weights)
                .map(|(y, w)| RowsMut::new(FloatsMut::Bf16(y), rows, w.shape.0))
                .collect();
            quantized_products(&cpu, &Rows::new(Floats::F16(&x), rows, k), &matrices, &mut outs);
            for (y, w) in ys.iter().zip(&matrices) {
                let floats = dequantized(w);
                for (i, got) in y.iter().enumerate() {
                    let x: Vec<f32> = x[i / w.rows * k..][..k].iter().map(|x| x.to_f32()).collect();
                    let seen = if isa == Isa::Scalar { x } else { rounded(&x) };
                    let (want, size) = exact(&floats[i % w.rows * k..][..k], &seen);
                    let bound = 0.004 * want.abs() + 4e-6 * size;
                    let got = f64::from(Element::to_f32(*got));
                    assert!((got - want).abs() <= bound, "{} {i}: {got} for {want}", isa.name());
                }
            }
        }
    }

    #[test]
    fn experts() {
        let mut rng = StdRng::seed_from_u64(4);
        let pool = Pool::new(2);
        let (count, n, k, tokens) = (5, 48, 256, 30);
        let weights = Weights::random(&mut rng, KINDS[3], (count * n, k));
        let x: Vec<f32> = (0..tokens * k).map(|_| rng.random_range(-1.0..1.0)).collect();
        // Two experts to a token; the last expert gets none, the first many.
        let mut pairs: Vec<(u32, u32)> = (0..tokens as u32)
            .flat_map(|token| [(0, token), (rng.random_range(1..4), token)])
            .collect();
        for sorted in [false, true] {
            if sorted {
                pairs.sort();
            }
            let experts: Vec<u32> = pairs.iter().map(|pair| pair.0).collect();
            let rows: Vec<u32> = pairs.iter().map(|pair| pair.1).collect();
            for isa in isa::available() {
                let cpu = Cpu { isa, pool: &pool };
                let mut y = vec![0f32; pairs.len() * n];
                let gather = Gather { experts: &experts, rows: Some(&rows), count };
                let out = RowsMut::new(FloatsMut::F32(&mut y), pairs.len(), n);
                let floats = dequantized(&weights.matrix());
                let x_rows = Rows::new(Floats::F32(&x), tokens, k);
                gathered_quantized_product(&cpu, &x_rows, &weights.matrix(), &gather, out);
                for (i, &(expert, token)) in pairs.iter().enumerate() {
                    let x = &x[token as usize * k..][..k];
                    let seen = if isa == Isa::Scalar { x.to_vec() } else { rounded(x) };
                    for column in 0..n {
                        let row = expert as usize * n + column;
                        let (want, size) = exact(&floats[row * k..][..k], &seen);
                        let got = f64::from(y[i * n + column]);
                        assert!((got - want).abs() <= 4e-6 * size, "{} {i} {column}", isa.name());
                    }
                }
            }
        }
    }
}
