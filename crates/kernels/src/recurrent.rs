//! Linear recurrences: the gated delta rule (arXiv:2412.06464) and the scan of Mamba-2 (arXiv:2405.21060).
//!
//! Each value number of a head has a row of state as wide as the keys, and rows do not see each other. Some rows' states
//! stay in the nearest cache while all tokens pass over them, so prefill needs no chunked form: it reads the state once
//! for [`TOKENS`] tokens. A step of one token is the same with one.

use std::cell::Cell;
use std::ops::Range;

use crate::Cpu;
use crate::element::Floats;
use crate::rope::{Heads, HeadsMut, SharedHeads};
use crate::scratch::{self, Line};
use crate::vector::{Body, LANES_MAX, Source, Target, Vector, math, on};

/// For each token and value head, with state `S` (a row for each value number), key `k`, query `q`, value `v`:
/// `S = decay S`, then `S = S + change kᵀ`, then `y = S q + skip v`.
#[derive(Clone, Copy, Debug)]
pub struct Recurrence<'a> {
    pub change: Change,
    /// Mamba's C.
    pub queries: Heads<'a>,
    /// Mamba's B. As many heads as queries have; they divide the number of value heads.
    pub keys: Heads<'a>,
    /// Mamba's x.
    pub values: Heads<'a>,
    /// `[rows, value heads]`
    pub decay: &'a [f32],
    /// `[rows, value heads]`; Mamba's time step.
    pub beta: &'a [f32],
    /// Multiplies queries.
    pub scale: f32,
    /// Queries and keys are divided by `sqrt(Σ x² + eps)` first.
    pub unit_eps: Option<f32>,
    /// For each value head; Mamba's D.
    pub skip: Option<Floats<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// `beta (v - S k)`: the gated delta rule.
    Delta,
    /// `beta v`: Mamba-2.
    Plain,
}

/// Rows of one sequence and its state, `[value heads, value dim, key dim]`, which moves on by as many tokens.
#[derive(Debug)]
pub struct RecurrentSegment<'a> {
    pub row: usize,
    pub length: usize,
    /// Where it begins; none: with what `state` holds.
    pub before: Option<&'a [f32]>,
    pub state: &'a mut [f32],
}

/// Writes `[rows, value heads, value dim]`; rows that no segment names stay as they are.
pub fn recur(
    cpu: &Cpu<'_>,
    recurrence: &Recurrence<'_>,
    segments: &mut [RecurrentSegment<'_>],
    mut out: HeadsMut<'_>,
) {
    let heads = recurrence.check(segments, &out);
    let out = out.shared();
    let state = |segment: &mut RecurrentSegment<'_>| {
        let to = segment.state.as_mut_ptr();
        State { from: segment.before.map_or(to.cast_const(), <[f32]>::as_ptr), to }
    };
    let states: Vec<State> = segments.iter_mut().map(state).collect();
    let segments = &*segments;
    let perform = |task: usize| {
        let (segment, head) = (task / heads, task % heads);
        let rows = segments[segment].row..segments[segment].row + segments[segment].length;
        scratch::with(&WORK, recurrence.work_floats() * 4, |memory| {
            let (state, work) = (states[segment], memory.cast());
            let body = Head { recurrence, rows, head, state, out, work };
            // SAFETY: shapes were checked, tasks have states and outputs of their own, and `cpu.isa` was chosen for
            // this processor.
            unsafe { on(cpu.isa, body) };
        });
    };
    let rows: usize = segments.iter().map(|segment| segment.length).sum();
    let tasks = segments.len() * heads;
    if rows * heads * recurrence.values.dim * recurrence.keys.dim <= ALONE_PRODUCTS_MAX {
        (0..tasks).for_each(perform);
    } else {
        cpu.pool.run(tasks, &perform);
    }
}

/// What the gates of the delta rule are made of: `decay = exp(-exp(a_log) softplus(a + dt_bias))`, `beta = sigmoid(b)`.
/// `a` and `b` are `[rows, heads]`, the others have a number for each head.
pub fn delta_gates(
    (a, b): (Floats<'_>, Floats<'_>),
    (a_log, dt_bias): (Floats<'_>, Floats<'_>),
    decay: &mut [f32],
    beta: &mut [f32],
) {
    assert_eq!((a.len(), b.len()), (decay.len(), beta.len()), "shapes of gates");
    for (i, (decay, beta)) in decay.iter_mut().zip(beta).enumerate() {
        let head = i % a_log.len();
        let step = math::softplus(a.get(i) + dt_bias.get(head));
        *decay = (-a_log.get(head).exp() * step).exp();
        *beta = 1.0 / (1.0 + (-b.get(i)).exp());
    }
}

/// Mamba-2's: the time step `softplus(dt + dt_bias)` within `limits`, and `decay = exp(-exp(a_log) step)`.
pub fn scan_gates(
    dt: Floats<'_>,
    (a_log, dt_bias): (Floats<'_>, Floats<'_>),
    limits: (f32, f32),
    decay: &mut [f32],
    steps: &mut [f32],
) {
    assert_eq!((dt.len(), dt.len()), (decay.len(), steps.len()), "shapes of gates");
    for (i, (decay, to)) in decay.iter_mut().zip(steps).enumerate() {
        let head = i % a_log.len();
        let step = math::softplus(dt.get(i) + dt_bias.get(head)).max(limits.0).min(limits.1);
        *decay = (-a_log.get(head).exp() * step).exp();
        *to = step;
    }
}

thread_local! {
    static WORK: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Tokens whose queries, keys and values are in f32 at a time: 96 KiB for heads of 128.
const TOKENS: usize = 64;

/// Rows of state side by side.
const ROWS: usize = 8;

/// Products of two numbers below which threads are not worth it.
const ALONE_PRODUCTS_MAX: usize = 50_000;

/// Where a segment's state is before its first tokens, and where it goes.
#[derive(Clone, Copy)]
struct State {
    from: *const f32,
    to: *mut f32,
}
// SAFETY: tasks have heads of their own.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

impl Recurrence<'_> {
    /// Panics on shapes that do not fit; gives the number of value heads.
    fn check(&self, segments: &[RecurrentSegment<'_>], out: &HeadsMut<'_>) -> usize {
        let Recurrence { queries, keys, values, .. } = self;
        let (rows, heads) = (values.rows, values.heads);
        for part in [queries, keys, values] {
            part.check();
            assert_eq!(part.rows, rows, "rows of queries, keys and values");
        }
        assert_eq!((queries.heads, queries.dim), (keys.heads, keys.dim), "queries and keys");
        assert_eq!((out.rows, out.heads, out.dim), (rows, heads, values.dim), "shape of output");
        assert!(
            keys.heads > 0 && heads.is_multiple_of(keys.heads),
            "{heads} heads on {}",
            keys.heads
        );
        assert_eq!((self.decay.len(), self.beta.len()), (rows * heads, rows * heads), "gates");
        assert!(self.skip.is_none_or(|skip| skip.len() == heads), "a skip for each head");
        let mut next = 0;
        for segment in segments {
            let RecurrentSegment { row, length, .. } = *segment;
            assert!(row >= next && row + length <= rows, "rows {row} + {length} of {rows}");
            next = row + length;
            let numbers = heads * values.dim * keys.dim;
            assert_eq!(segment.state.len(), numbers, "numbers of state");
            assert!(
                segment.before.is_none_or(|before| before.len() == numbers && length > 0),
                "numbers of the state before"
            );
        }
        heads
    }

    fn widths(&self) -> (usize, usize) {
        (self.keys.dim.next_multiple_of(LANES_MAX), self.values.dim.next_multiple_of(LANES_MAX))
    }

    fn work_floats(&self) -> usize {
        let (key, value) = self.widths();
        TOKENS * (2 * key + 2 * value) + ROWS * key
    }
}

/// One value head of one sequence.
struct Head<'a> {
    recurrence: &'a Recurrence<'a>,
    rows: Range<usize>,
    head: usize,
    state: State,
    out: SharedHeads,
    work: *mut f32,
}

/// Pointers into a task's memory.
#[derive(Clone, Copy)]
struct Work {
    queries: *mut f32,
    keys: *mut f32,
    values: *mut f32,
    outs: *mut f32,
    state: *mut f32,
    key_stride: usize,
    value_stride: usize,
}

impl Body for Head<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let r = self.recurrence;
        let (key_stride, value_stride) = r.widths();
        let (dim, value_dim) = (r.keys.dim, r.values.dim);
        let key_head = self.head * r.keys.heads / r.values.heads;
        // SAFETY: as in `vector`; `work_floats` has room for all.
        unsafe {
            let queries = self.work;
            let keys = queries.add(TOKENS * key_stride);
            let values = keys.add(TOKENS * key_stride);
            let outs = values.add(TOKENS * value_stride);
            let state = outs.add(TOKENS * value_stride);
            let work = Work { queries, keys, values, outs, state, key_stride, value_stride };
            let own = self.head * value_dim * dim;
            let to = self.state.to.add(own);
            let mut from = self.state.from.add(own);
            let mut start = self.rows.start;
            while start < self.rows.end {
                let rows = start..(start + TOKENS).min(self.rows.end);
                start = rows.end;
                for (t, row) in rows.clone().enumerate() {
                    let (q, k) = (r.queries.at(row, key_head), r.keys.at(row, key_head));
                    load::<V>(q, dim, r.scale, r.unit_eps, queries.add(t * key_stride));
                    load::<V>(k, dim, 1.0, r.unit_eps, keys.add(t * key_stride));
                    let v = r.values.at(row, self.head);
                    load::<V>(v, value_dim, 1.0, None, values.add(t * value_stride));
                }
                for first in (0..value_dim).step_by(ROWS) {
                    let count = ROWS.min(value_dim - first);
                    let at = first * dim;
                    let states = (Source::F32(from.add(at)), Target::F32(to.add(at)));
                    pass::<V>(r, self.head, &rows, work, states, (first, count));
                }
                from = to;
                let skip = V::splat(r.skip.map_or(0.0, |skip| skip.get(self.head)));
                for (t, row) in rows.enumerate() {
                    let out = self.out.at(row, self.head);
                    for i in (0..value_dim).step_by(V::LANES) {
                        let at = t * value_stride + i;
                        let y = V::fma(V::load(values.add(at)), skip, V::load(outs.add(at)));
                        out.store_to::<V>(i, value_dim, y);
                    }
                }
            }
        }
    }
}

/// As f32, times `scale`, perhaps brought to length 1 before, padded with zeros.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn load<V: Vector>(
    from: Source,
    dim: usize,
    scale: f32,
    unit_eps: Option<f32>,
    to: *mut f32,
) {
    // SAFETY: as in `vector`.
    unsafe {
        let factor = match unit_eps {
            Some(eps) => scale / (crate::norm::squares::<V>(from, 0.0, dim) + eps).sqrt(),
            None => scale,
        };
        let factor = V::splat(factor);
        for i in (0..dim).step_by(V::LANES) {
            V::store(to.add(i), V::mul(from.load_to::<V>(i, dim), factor));
        }
    }
}

/// All tokens over `count` rows of state from `first` on, which are read and written at these places.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn pass<V: Vector>(
    r: &Recurrence<'_>,
    head: usize,
    rows: &Range<usize>,
    work: Work,
    (from, to): (Source, Target),
    (first, count): (usize, usize),
) {
    let (dim, heads) = (r.keys.dim, r.values.heads);
    let stride = work.key_stride;
    // SAFETY: as in `vector`. Rows past `count` are worked on too, in memory of their own.
    unsafe {
        for row in 0..count {
            for i in (0..dim).step_by(V::LANES) {
                let v = from.at(row * dim).load_to::<V>(i, dim);
                V::store(work.state.add(row * stride + i), v);
            }
        }
        for (t, row) in rows.clone().enumerate() {
            let (decay, beta) = (r.decay[row * heads + head], r.beta[row * heads + head]);
            let (q, k) = (work.queries.add(t * stride), work.keys.add(t * stride));
            let value = work.values.add(t * work.value_stride + first);
            let mut change = [0f32; ROWS];
            for (row, change) in change.iter_mut().enumerate().take(count) {
                *change = beta * *value.add(row);
            }
            if r.change == Change::Delta {
                let seen = dots::<V>(work.state, stride, k, dim);
                for row in 0..count {
                    change[row] -= beta * decay * seen[row];
                }
            }
            let out = step::<V>(work.state, stride, (q, k), dim, decay, change);
            let to = work.outs.add(t * work.value_stride + first);
            to.copy_from_nonoverlapping(out.as_ptr(), count);
        }
        for row in 0..count {
            for i in (0..dim).step_by(V::LANES) {
                let v = V::load(work.state.add(row * stride + i));
                to.at(row * dim).store_to::<V>(i, dim, v);
            }
        }
    }
}

/// Each row of state times `k`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn dots<V: Vector>(
    state: *const f32,
    stride: usize,
    k: *const f32,
    dim: usize,
) -> [f32; ROWS] {
    // SAFETY: as in `vector`.
    unsafe {
        let mut sums = [V::zero(); ROWS];
        for i in (0..dim).step_by(V::LANES) {
            let k = V::load(k.add(i));
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = V::fma(V::load(state.add(row * stride + i)), k, *sum);
            }
        }
        totals::<V>(sums)
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn totals<V: Vector>(sums: [V::F; ROWS]) -> [f32; ROWS] {
    let mut totals = [0f32; ROWS];
    for (total, sum) in totals.iter_mut().zip(sums) {
        // SAFETY: as in `vector`.
        *total = unsafe { V::sum(sum) };
    }
    totals
}

/// Moves each row of state on; its product with `q`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn step<V: Vector>(
    state: *mut f32,
    stride: usize,
    (q, k): (*const f32, *const f32),
    dim: usize,
    decay: f32,
    change: [f32; ROWS],
) -> [f32; ROWS] {
    // SAFETY: as in `vector`.
    unsafe {
        let decay = V::splat(decay);
        let mut sums = [V::zero(); ROWS];
        for i in (0..dim).step_by(V::LANES) {
            let (q, k) = (V::load(q.add(i)), V::load(k.add(i)));
            for (row, sum) in sums.iter_mut().enumerate() {
                let at = state.add(row * stride + i);
                let new = V::fma(k, V::splat(change[row]), V::mul(V::load(at), decay));
                V::store(at, new);
                *sum = V::fma(new, q, *sum);
            }
        }
        totals::<V>(sums)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::element::FloatsMut;
    use crate::{Pool, isa};

    #[derive(Clone, Copy, Debug)]
    struct Case {
        change: Change,
        heads: usize,
        value_heads: usize,
        dim: usize,
        value_dim: usize,
        unit: bool,
    }

    /// Two sequences, one of them one token, with random states; one row belongs to nobody.
    fn check(case: Case, length: usize) {
        let Case { change, heads, value_heads, dim, value_dim, unit } = case;
        let mut rng = StdRng::seed_from_u64(dim as u64);
        let rows = length + 2;
        let mut numbers = |count: usize| -> Vec<bf16> {
            (0..count).map(|_| bf16::from_f32(rng.random_range(-1.0..1.0))).collect()
        };
        let (q, k) = (numbers(rows * heads * dim), numbers(rows * heads * dim));
        let v = numbers(rows * value_heads * value_dim);
        let skip = numbers(value_heads);
        let count = value_heads * value_dim * dim;
        let states: Vec<Vec<f32>> =
            (0..2).map(|_| numbers(count).iter().map(|x| x.to_f32()).collect()).collect();
        let gate = |rng: &mut StdRng, range: Range<f32>| -> Vec<f32> {
            (0..rows * value_heads).map(|_| rng.random_range(range.clone())).collect()
        };
        let decay = gate(&mut rng, 0.5..1.0);
        // Without units keys are long, and the delta rule is stable for small steps only.
        let beta = gate(&mut rng, if unit { 0.0..1.0 } else { 0.0..0.02 });
        let recurrence = Recurrence {
            change,
            queries: Heads::new(Floats::Bf16(&q), rows, heads, dim),
            keys: Heads::new(Floats::Bf16(&k), rows, heads, dim),
            values: Heads::new(Floats::Bf16(&v), rows, value_heads, value_dim),
            decay: &decay,
            beta: &beta,
            scale: 0.3,
            unit_eps: unit.then_some(1e-6),
            skip: (change == Change::Plain).then_some(Floats::Bf16(&skip)),
        };
        let parts = [(0, length), (length + 1, 1)];
        let mut want = vec![9f64; rows * value_heads * value_dim];
        let ends: Vec<Vec<f64>> = parts
            .iter()
            .zip(&states)
            .map(|(&part, state)| exact(&recurrence, part, state, &mut want))
            .collect();
        for isa in isa::available() {
            for threads in [1, 2] {
                let pool = Pool::new(threads);
                // In place with one thread, from another place with two.
                let begins = states.clone();
                let before = |state: usize| (threads > 1).then(|| &begins[state][..]);
                let mut states = match threads {
                    1 => states.clone(),
                    _ => vec![vec![f32::NAN; count]; states.len()],
                };
                let mut out = vec![9f32; rows * value_heads * value_dim];
                let mut segments: Vec<RecurrentSegment<'_>> = parts
                    .iter()
                    .zip(&mut states)
                    .enumerate()
                    .map(|(i, (&(row, length), state))| RecurrentSegment {
                        row,
                        length,
                        before: before(i),
                        state,
                    })
                    .collect();
                let to = HeadsMut::new(FloatsMut::F32(&mut out), rows, value_heads, value_dim);
                recur(&Cpu { isa, pool: &pool }, &recurrence, &mut segments, to);
                let near = |got: f32, want: f64, what: &str, i: usize| {
                    let off = (f64::from(got) - want).abs();
                    let bound = 2e-5 * want.abs().max(1.0);
                    assert!(off <= bound, "{} {case:?} {what} {i}: {got} {want}", isa.name());
                };
                for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
                    near(got, want, "out", i);
                }
                for (state, end) in states.iter().zip(&ends) {
                    for (i, (&got, &want)) in state.iter().zip(end).enumerate() {
                        near(got, want, "state", i);
                    }
                }
            }
        }
    }

    fn exact(
        r: &Recurrence<'_>,
        (first, length): (usize, usize),
        state: &[f32],
        out: &mut [f64],
    ) -> Vec<f64> {
        let (dim, value_dim, heads) = (r.keys.dim, r.values.dim, r.values.heads);
        let mut state: Vec<f64> = state.iter().map(|&x| f64::from(x)).collect();
        let read = |of: &Heads<'_>, row: usize, head: usize, unit: bool| -> Vec<f64> {
            let at = row * of.row_stride + head * of.head_stride;
            let x: Vec<f64> = (0..of.dim).map(|i| f64::from(of.data.get(at + i))).collect();
            let square: f64 = x.iter().map(|x| x * x).sum();
            let by = if unit { (square + 1e-6).sqrt() } else { 1.0 };
            x.iter().map(|x| x / by).collect()
        };
        for row in first..first + length {
            for head in 0..heads {
                let key_head = head * r.keys.heads / heads;
                let (q, k) = (
                    read(&r.queries, row, key_head, r.unit_eps.is_some()),
                    read(&r.keys, row, key_head, r.unit_eps.is_some()),
                );
                let v = read(&r.values, row, head, false);
                let (decay, beta) = (r.decay[row * heads + head], r.beta[row * heads + head]);
                for (i, v) in v.iter().enumerate() {
                    let state = &mut state[(head * value_dim + i) * dim..][..dim];
                    state.iter_mut().for_each(|s| *s *= f64::from(decay));
                    let seen: f64 = state.iter().zip(&k).map(|(s, k)| s * k).sum();
                    let change = match r.change {
                        Change::Delta => f64::from(beta) * (v - seen),
                        Change::Plain => f64::from(beta) * v,
                    };
                    state.iter_mut().zip(&k).for_each(|(s, k)| *s += change * k);
                    let y: f64 = state.iter().zip(&q).map(|(s, q)| s * q).sum();
                    let skip = r.skip.map_or(0.0, |skip| f64::from(skip.get(head)));
                    out[(row * heads + head) * value_dim + i] = y * f64::from(r.scale) + skip * v;
                }
            }
        }
        state
    }

    #[test]
    fn delta_rule_and_scan() {
        for change in [Change::Delta, Change::Plain] {
            let case =
                Case { change, heads: 2, value_heads: 4, dim: 128, value_dim: 64, unit: true };
            check(case, 1);
            check(case, 70);
            check(Case { dim: 24, value_dim: 13, unit: false, ..case }, 9);
            check(Case { heads: 1, value_heads: 3, dim: 64, value_dim: 80, ..case }, 130);
        }
    }

    #[test]
    fn gates() {
        let (a, b) = ([-3.0, 0.0, 2.0, 40.0], [-100.0, 0.0, 1.0, 100.0]);
        let (a_log, bias) = ([0.5, -1.0], [0.1, 0.2]);
        let (mut decay, mut beta) = ([0f32; 4], [0f32; 4]);
        let per_head = (Floats::F32(&a_log), Floats::F32(&bias));
        delta_gates((Floats::F32(&a), Floats::F32(&b)), per_head, &mut decay, &mut beta);
        let (mut scan, mut steps) = ([0f32; 4], [0f32; 4]);
        scan_gates(Floats::F32(&a), per_head, (0.01, 3.0), &mut scan, &mut steps);
        for i in 0..4 {
            let step = (f64::from(a[i]) + f64::from(bias[i % 2])).exp().ln_1p();
            let rate = f64::from(a_log[i % 2]).exp();
            let near = |got: f32, want: f64| {
                assert!((f64::from(got) - want).abs() <= 2e-6 * want.abs() + 1e-30, "{got} {want}");
            };
            near(decay[i], (-rate * step).exp());
            near(beta[i], 1.0 / (1.0 + (-f64::from(b[i])).exp()));
            near(steps[i], step.clamp(0.01f32.into(), 3.0));
            near(scan[i], (-rate * step.clamp(0.01f32.into(), 3.0)).exp());
        }
    }
}
