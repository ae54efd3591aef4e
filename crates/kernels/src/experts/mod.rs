//! A mixture of experts: each row of activations goes through a few of many small networks, `down(gate(x) · up(x))`,
//! and the results are added with the row's routing weights.
//!
//! The pairs of row and choice are sorted by expert (counting, so that rows keep their order), and each expert's rows
//! are one product with its weights: few rows stream them, many use a tile of them again and again. All experts'
//! products are tasks of one call of the pool, gate and up together. What lies between the products stays in f32.

use std::cell::Cell;
use std::ops::Range;

use crate::Cpu;
use crate::dense;
use crate::element::Floats;
use crate::gate::{Gate, gated_rows};
use crate::quantized::{self, QuantizedMatrix};
use crate::rows::{Out, Rows, RowsMut};
use crate::scratch::{self, Line, lines};
use crate::spread;
use crate::tasks::{Run, with_runs};
use crate::vector::{Body, Source, SourceRows, Target, TargetRows, Vector, on};

/// The weights of all experts, one expert's rows after the other's.
#[derive(Clone, Copy, Debug)]
pub enum Stack<'a> {
    Dense(Rows<'a>),
    Quantized(QuantizedMatrix<'a>),
}

/// The two projections whose results meet in the gate.
#[derive(Clone, Copy, Debug)]
pub enum GateUp<'a> {
    Apart {
        gate: Stack<'a>,
        up: Stack<'a>,
    },
    /// An expert's rows of the gate, then its rows of up.
    Joined(Stack<'a>),
}

/// Networks of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    pub count: usize,
    pub gate_up: GateUp<'a>,
    pub down: Stack<'a>,
    pub gate: Gate,
}

/// Who does what: `each` experts to a row, `[rows][each]`.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    pub each: usize,
    pub experts: &'a [u32],
    /// What the results are multiplied by.
    pub weights: Floats<'a>,
}

/// Between the products lie two matrices in f32 with a row for each pair; more rows than fit here are done in turn,
/// in blocks that each read the weights again. Below what a thread keeps ([`scratch`]).
const BETWEEN_BYTES_MAX: usize = 60 << 20;

thread_local! {
    static BETWEEN: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// `y[i] = Σ weight · down(gate(x[i]) · up(x[i]))` over the row's experts, added in f32 in the order of the choices.
///
/// Panics where shapes do not fit or an expert is past the last: products read through pointers.
pub fn experts(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    choices: &Choices<'_>,
    experts: &Experts<'_>,
    mut y: RowsMut<'_>,
) {
    let shape = Shape::check(x, choices, experts, &y);
    let pair_bytes = (2 * shape.inner + shape.outputs) * 4;
    let fit = (BETWEEN_BYTES_MAX / pair_bytes.max(1) / choices.each.max(1)).max(1);
    // Blocks of equal size: a short last one would read all weights for little.
    let block = x.rows.div_ceil(x.rows.div_ceil(fit).max(1)).max(1);
    let y = TargetRows::from(&mut y);
    for first in (0..x.rows).step_by(block) {
        let rows = first..(first + block).min(x.rows);
        Block { cpu, x, choices, experts, shape, rows }.compute(y);
    }
}

#[derive(Clone, Copy)]
struct Shape {
    /// Width between the products.
    inner: usize,
    outputs: usize,
}

impl Shape {
    fn check(x: &Rows<'_>, choices: &Choices<'_>, experts: &Experts<'_>, y: &RowsMut<'_>) -> Shape {
        x.check();
        let count = experts.count;
        let pairs = x.rows * choices.each;
        assert_eq!((choices.experts.len(), choices.weights.len()), (pairs, pairs), "choices");
        assert!(choices.experts.iter().all(|&e| (e as usize) < count), "an expert past the last");
        let down = experts.down.shape(count);
        let (twice, columns) = match &experts.gate_up {
            GateUp::Joined(both) => both.shape(count),
            GateUp::Apart { gate, up } => {
                let (rows, columns) = gate.shape(count);
                assert_eq!(up.shape(count), (rows, columns), "shapes of gate and up");
                (2 * rows, columns)
            }
        };
        assert_eq!((columns, twice), (x.columns, 2 * down.1), "shapes of gate, up and down");
        assert_eq!((y.rows, y.columns), (x.rows, down.0), "shape of y");
        Shape { inner: down.1, outputs: down.0 }
    }
}

impl Stack<'_> {
    /// Rows and columns of one expert.
    fn shape(&self, count: usize) -> (usize, usize) {
        let (rows, columns) = match self {
            Stack::Dense(rows) => (rows.rows, rows.columns),
            Stack::Quantized(matrix) => {
                let factors = matrix.factors.len();
                assert!(factors == 0 || factors == count, "a factor for each expert");
                matrix.shape()
            }
        };
        let own = rows / count.max(1);
        assert_eq!(own * count, rows, "{rows} rows of {count} experts");
        (own, columns)
    }
}

/// Rows of activations that are done together.
struct Block<'a> {
    cpu: &'a Cpu<'a>,
    x: &'a Rows<'a>,
    choices: &'a Choices<'a>,
    experts: &'a Experts<'a>,
    shape: Shape,
    rows: Range<usize>,
}

/// Where a block's parts lie.
struct Parts<'a> {
    /// One past the last pair of each expert.
    ends: &'a mut [u32],
    /// The row of activations of each sorted pair, counted in the block.
    sorted: &'a mut [u32],
    /// Where each pair went.
    places: &'a mut [u32],
    /// `[pairs][2 * inner]`, gates beside ups; the gated values take the gates' place.
    hidden: *mut f32,
    /// `[pairs][outputs]`
    results: *mut f32,
}

impl Block<'_> {
    fn compute(&self, y: TargetRows) {
        let pairs = self.rows.len() * self.choices.each;
        if pairs == 0 {
            return self.rows.clone().for_each(|row| self.combine(row, &[], std::ptr::null(), y));
        }
        let (inner, outputs) = (self.shape.inner, self.shape.outputs);
        let sizes = [self.experts.count, pairs, pairs, pairs * 2 * inner, pairs * outputs]
            .map(|count| lines(count * 4));
        scratch::with(&BETWEEN, sizes.iter().sum(), |memory| {
            let at = |part: usize| memory.wrapping_add(sizes[..part].iter().sum());
            // SAFETY: the parts are as long as `sizes` says, apart from each other, and any bits are a number.
            let parts = unsafe {
                let numbers = |part, len| std::slice::from_raw_parts_mut(at(part).cast(), len);
                Parts {
                    ends: numbers(0, self.experts.count),
                    sorted: numbers(1, pairs),
                    places: numbers(2, pairs),
                    hidden: at(3).cast(),
                    results: at(4).cast(),
                }
            };
            self.sort(parts.ends, parts.sorted, parts.places);
            self.gate_up(&parts);
            self.gates(&parts);
            self.down(&parts);
            let (places, results) = (&*parts.places, Shared(parts.results));
            spread::rows(self.cpu, self.rows.len(), self.choices.each * outputs, &|rows| {
                let results = &results;
                for row in rows {
                    let places = &places[row * self.choices.each..][..self.choices.each];
                    self.combine(self.rows.start + row, places, results.0, y);
                }
            });
        });
    }

    fn chosen(&self) -> &[u32] {
        let each = self.choices.each;
        &self.choices.experts[self.rows.start * each..self.rows.end * each]
    }

    fn sort(&self, ends: &mut [u32], sorted: &mut [u32], places: &mut [u32]) {
        ends.fill(0);
        for &expert in self.chosen() {
            ends[expert as usize] += 1;
        }
        let mut start = 0;
        for end in ends.iter_mut() {
            start += std::mem::replace(end, start);
        }
        // Each expert's start moves to its end.
        for (pair, &expert) in self.chosen().iter().enumerate() {
            let place = &mut ends[expert as usize];
            sorted[*place as usize] = (pair / self.choices.each) as u32;
            places[pair] = *place;
            *place += 1;
        }
    }

    fn gate_up(&self, parts: &Parts<'_>) {
        let (inner, hidden) = (self.shape.inner, parts.hidden);
        let out = |from: usize| Out::floats(hidden.wrapping_add(from), 2 * inner);
        let (x, map) = (self.x.part(self.rows.clone()), Some(&*parts.sorted));
        match self.experts.gate_up {
            GateUp::Joined(both) => self.products(&x, map, &[(both, out(0))], parts.ends),
            GateUp::Apart { gate, up } => {
                self.products(&x, map, &[(gate, out(0)), (up, out(inner))], parts.ends);
            }
        }
    }

    fn gates(&self, parts: &Parts<'_>) {
        let (inner, pairs) = (self.shape.inner, parts.sorted.len());
        let (gates, ups) = (parts.hidden, parts.hidden.wrapping_add(inner));
        let [gates_in, ups] =
            [gates, ups].map(|base| SourceRows::new(Source::F32(base), 2 * inner));
        let to = TargetRows::new(Target::F32(gates), 2 * inner);
        // SAFETY: the block's own scratch, `2 * inner` numbers for each pair.
        unsafe { gated_rows(self.cpu, self.experts.gate, [gates_in, ups], to, (pairs, inner)) };
    }

    fn down(&self, parts: &Parts<'_>) {
        let (inner, outputs) = (self.shape.inner, self.shape.outputs);
        let (rows, stride) = (parts.sorted.len(), 2 * inner);
        // SAFETY: the block's own scratch, which nobody writes meanwhile.
        let data = unsafe { std::slice::from_raw_parts(parts.hidden, (rows - 1) * stride + inner) };
        let hidden = Rows { data: Floats::F32(data), rows, columns: inner, stride };
        let out = Out::floats(parts.results, outputs);
        self.products(&hidden, None, &[(self.experts.down, out)], parts.ends);
    }

    /// Each expert's rows with its part of the stacks; those of one kind go together.
    fn products(
        &self,
        x: &Rows<'_>,
        map: Option<&[u32]>,
        stacks: &[(Stack<'_>, Out)],
        ends: &[u32],
    ) {
        let alike = stacks.iter().all(|(stack, _)| stack.alike(&stacks[0].0));
        for stacks in stacks.chunks(if alike { stacks.len() } else { 1 }) {
            with_runs(|runs| {
                let mut start = 0;
                for (expert, &end) in ends.iter().enumerate() {
                    let rows = start..end as usize;
                    start = rows.end;
                    for (i, (stack, out)) in stacks.iter().enumerate().filter(|_| !rows.is_empty())
                    {
                        let own = stack.shape(self.experts.count).0;
                        runs.push(Run::new(i, expert * own, own, rows.clone(), *out));
                    }
                }
                multiply(self.cpu, x, map, stacks, runs);
            });
        }
    }

    fn combine(&self, row: usize, places: &[u32], results: *const f32, y: TargetRows) {
        let (first, weights) = (row * self.choices.each, self.choices.weights);
        let outputs = self.shape.outputs;
        let body = Combine { places, weights, first, results, outputs, to: y.row(row) };
        // SAFETY: a result for each place and a weight for each choice; this task alone writes the row.
        unsafe { on(self.cpu.isa, body) };
    }
}

struct Shared(*const f32);

// SAFETY: only read by then.
unsafe impl Sync for Shared {}

impl Stack<'_> {
    fn alike(&self, other: &Stack<'_>) -> bool {
        match (self, other) {
            (Stack::Dense(a), Stack::Dense(b)) => {
                dense::Weights::new(a).kind == dense::Weights::new(b).kind
            }
            (Stack::Quantized(a), Stack::Quantized(b)) => a.kind() == b.kind(),
            _ => false,
        }
    }
}

/// One or two stacks that are alike.
fn multiply(
    cpu: &Cpu<'_>,
    x: &Rows<'_>,
    map: Option<&[u32]>,
    stacks: &[(Stack<'_>, Out)],
    runs: &mut [Run],
) {
    let last = stacks[stacks.len() - 1].0;
    match (stacks[0].0, last) {
        (Stack::Dense(a), Stack::Dense(b)) => {
            let weights = [a, b].map(|rows| dense::Weights::new(&rows));
            dense::multiply(cpu, x, map, &weights[..stacks.len()], runs);
        }
        (Stack::Quantized(a), Stack::Quantized(b)) => {
            quantized::multiply(cpu, x, map, &[a, b][..stacks.len()], runs);
        }
        _ => unreachable!("stacks that are alike"),
    }
}

/// The results of one row, weighted and added.
struct Combine<'a> {
    places: &'a [u32],
    weights: Floats<'a>,
    /// The weight of the first choice.
    first: usize,
    results: *const f32,
    outputs: usize,
    to: Target,
}

impl Body for Combine<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for i in (0..self.outputs).step_by(V::LANES) {
            // SAFETY: as in `vector`; results are read to the end of a row, or of a vector inside of it.
            unsafe {
                let mut sum = V::zero();
                for (choice, &place) in self.places.iter().enumerate() {
                    let from = self.results.add(place as usize * self.outputs + i);
                    let count = V::LANES.min(self.outputs - i);
                    let result =
                        if count == V::LANES { V::load(from) } else { V::load_part(from, count) };
                    let weight = V::splat(self.weights.get(self.first + choice));
                    sum = V::fma(weight, result, sum);
                }
                self.to.store_to::<V>(i, self.outputs, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests;
