//! Mixtures against f64, for every kind of weight on every instruction set.

use half::bf16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::element::{Element, FloatsMut};
use crate::gate::Activation;
use crate::isa::{self, Isa};
use crate::quantized::testing::{self, dequantized, rounded};
use crate::{Kind, Pool};

const COUNT: usize = 6;

/// One layer's weights in memory of their own.
enum Owned {
    Quantized(testing::Weights, Vec<f32>),
    Bf16(Vec<bf16>, usize),
}

impl Owned {
    fn random(rng: &mut StdRng, kind: Option<Kind>, (rows, columns): (usize, usize)) -> Owned {
        let shape = (COUNT * rows, columns);
        let numbers = |rng: &mut StdRng| -> Vec<bf16> {
            let count = shape.0 * columns;
            (0..count).map(|_| bf16::from_f32(rng.random_range(-0.5..0.5))).collect()
        };
        match kind {
            Some(kind) => {
                let of = |kind| if kind == Kind::Nvfp4 { COUNT } else { 0 };
                let factors = (0..of(kind)).map(|_| rng.random_range(0.5..1.5)).collect();
                Owned::Quantized(testing::Weights::random(rng, kind, shape), factors)
            }
            None => Owned::Bf16(numbers(rng), columns),
        }
    }

    fn stack(&self) -> Stack<'_> {
        match self {
            Owned::Quantized(weights, factors) => {
                Stack::Quantized(weights.matrix().with_factors(factors))
            }
            Owned::Bf16(numbers, columns) => {
                let rows = numbers.len() / columns;
                Stack::Dense(Rows::new(Floats::Bf16(numbers), rows, *columns))
            }
        }
    }

    /// `[rows][columns]`
    fn values(&self) -> Vec<f32> {
        match self {
            Owned::Quantized(weights, factors) => {
                dequantized(&weights.matrix().with_factors(factors))
            }
            Owned::Bf16(numbers, _) => numbers.iter().map(|n| Element::to_f32(*n)).collect(),
        }
    }
}

struct Case {
    /// Of gate and up, and of down; none is bf16.
    kinds: [Option<Kind>; 2],
    joined: bool,
    rows: usize,
    each: usize,
    choose: fn(&mut StdRng) -> u32,
}

const HIDDEN: usize = 128;
const INNER: usize = 192;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn products(weights: &[f32], first: usize, count: usize, x: &[f32]) -> Vec<f64> {
    let rows = weights.chunks_exact(x.len()).skip(first).take(count);
    let one = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
    rows.map(one).collect()
}

/// In f64, from activations that go through `seen` before each product.
fn exact(
    [gates, ups, downs]: [&[f32]; 3],
    x: &[f32],
    choices: &[(u32, f32)],
    seen: &dyn Fn(&[f32]) -> Vec<f32>,
) -> Vec<f64> {
    let (x, mut y) = (seen(x), vec![0f64; HIDDEN]);
    for &(expert, weight) in choices {
        let expert = expert as usize;
        let gates = products(gates, expert * INNER, INNER, &x);
        let ups = products(ups, expert * INNER, INNER, &x);
        let hidden: Vec<f32> =
            gates.iter().zip(ups).map(|(gate, up)| (silu(*gate) * up) as f32).collect();
        let results = products(downs, expert * HIDDEN, HIDDEN, &seen(&hidden));
        y.iter_mut().zip(results).for_each(|(y, result)| *y += f64::from(weight) * result);
    }
    y
}

/// The root of the mean square of the differences, relative to that of the numbers.
fn error(got: &[f32], want: &[f64]) -> f64 {
    let pairs = got.iter().zip(want);
    let squares: f64 = pairs.map(|(got, want)| (f64::from(*got) - want).powi(2)).sum();
    (squares / want.iter().map(|want| want * want).sum::<f64>()).sqrt()
}

fn check(case: &Case, pool: &Pool) {
    let mut rng = StdRng::seed_from_u64(case.rows as u64);
    let [inner, outer] = case.kinds;
    let [gate, up] = [0, 1].map(|_| Owned::random(&mut rng, inner, (INNER, HIDDEN)));
    let both = Owned::random(&mut rng, inner, (2 * INNER, HIDDEN));
    let down = Owned::random(&mut rng, outer, (HIDDEN, INNER));
    let x: Vec<f32> = (0..case.rows * HIDDEN).map(|_| rng.random_range(-0.5..0.5)).collect();
    let pairs = case.rows * case.each;
    let chosen: Vec<u32> = (0..pairs).map(|_| (case.choose)(&mut rng)).collect();
    let weights: Vec<f32> = (0..pairs).map(|_| rng.random_range(0.0..1.0)).collect();
    let (gates, ups) = match case.joined {
        false => (gate.values(), up.values()),
        true => {
            let (values, mut parts) = (both.values(), (vec![], vec![]));
            for expert in values.chunks_exact(2 * INNER * HIDDEN) {
                parts.0.extend_from_slice(&expert[..INNER * HIDDEN]);
                parts.1.extend_from_slice(&expert[INNER * HIDDEN..]);
            }
            parts
        }
    };
    let all: [&[f32]; 3] = [&gates, &ups, &down.values()];
    let choices: Vec<(u32, f32)> = chosen.iter().copied().zip(weights.clone()).collect();
    let wanted = |seen: &dyn Fn(&[f32]) -> Vec<f32>| -> Vec<f64> {
        let each = case.each.max(1);
        let rows = x.chunks_exact(HIDDEN).zip(choices.chunks(each));
        rows.flat_map(|(x, choices)| exact(all, x, choices, seen)).collect()
    };
    let (plain, bytes) = (wanted(&|x| x.to_vec()), wanted(&rounded));
    let gate_up = match case.joined {
        true => GateUp::Joined(both.stack()),
        false => GateUp::Apart { gate: gate.stack(), up: up.stack() },
    };
    let layer =
        Experts { count: COUNT, gate_up, down: down.stack(), gate: Gate::Times(Activation::Silu) };
    let choices = Choices { each: case.each, experts: &chosen, weights: Floats::F32(&weights) };
    for isa in isa::available() {
        let mut y = vec![7f32; case.rows * HIDDEN];
        let to = RowsMut::new(FloatsMut::F32(&mut y), case.rows, HIDDEN);
        let x = Rows::new(Floats::F32(&x), case.rows, HIDDEN);
        experts(&Cpu { isa, pool }, &x, &choices, &layer, to);
        let integers =
            |kind: Option<Kind>| kind.is_some_and(|kind| kind != Kind::Mxfp8) && isa != Isa::Scalar;
        let context = format!("{} {:?}, {} rows", isa.name(), case.kinds, case.rows);
        match case.kinds.map(integers) {
            // A byte that f32 and f64 round to different sides costs a little more than f32's rounding.
            [true, true] => {
                assert!(error(&y, &bytes) < 3e-4, "{context}: {}", error(&y, &bytes));
                assert!(error(&y, &plain) < 0.02, "{context}: {}", error(&y, &plain));
            }
            [false, false] => {
                assert!(error(&y, &plain) < 3e-6, "{context}: {}", error(&y, &plain));
            }
            _ => assert!(error(&y, &plain) < 0.02, "{context}: {}", error(&y, &plain)),
        }
    }
}

fn any(rng: &mut StdRng) -> u32 {
    // Two of them get nothing.
    [0, 2, 2, 3, 5][rng.random_range(0..5)]
}

#[test]
fn every_kind() {
    let pool = Pool::new(2);
    for kind in testing::KINDS.into_iter().map(Some).chain([None]) {
        for rows in [1, 7, 40] {
            let group = kind.map_or(1, Kind::group);
            if HIDDEN.is_multiple_of(group) && INNER.is_multiple_of(group) {
                let kinds = [kind; 2];
                check(&Case { kinds, joined: rows == 7, rows, each: 3, choose: any }, &pool);
            }
        }
    }
}

#[test]
fn kinds_that_differ_and_choices_that_agree() {
    let pool = Pool::new(3);
    let [four, six] = [4, 6].map(|bits| Some(Kind::Affine { bits, group: 32 }));
    check(&Case { kinds: [four, six], joined: false, rows: 5, each: 2, choose: any }, &pool);
    check(&Case { kinds: [four, None], joined: true, rows: 5, each: 1, choose: any }, &pool);
    check(&Case { kinds: [None; 2], joined: false, rows: 50, each: 2, choose: |_| 5 }, &pool);
    check(&Case { kinds: [four; 2], joined: false, rows: 50, each: 1, choose: |_| 0 }, &pool);
}

#[test]
fn no_rows_and_no_choices() {
    let pool = Pool::new(2);
    let x = [1f32; 2 * 8];
    let stack = Stack::Dense(Rows::new(Floats::F32(&x), 2, 8));
    let layer = Experts {
        count: 2,
        gate_up: GateUp::Apart { gate: stack, up: stack },
        down: Stack::Dense(Rows::new(Floats::F32(&x), 16, 1)),
        gate: Gate::Times(Activation::Silu),
    };
    for rows in [0, 2] {
        let mut y = vec![7f32; rows * 8];
        let choices = Choices { each: 0, experts: &[], weights: Floats::F32(&[]) };
        let to = RowsMut::new(FloatsMut::F32(&mut y), rows, 8);
        let cpu = Cpu { isa: isa::best(), pool: &pool };
        experts(&cpu, &Rows::new(Floats::F32(&x[..rows * 8]), rows, 8), &choices, &layer, to);
        assert_eq!(y, vec![0f32; rows * 8]);
    }
}

#[test]
#[should_panic(expected = "an expert past the last")]
fn an_expert_past_the_last() {
    let (pool, x, mut y) = (Pool::new(1), [1f32; 16], [0f32; 8]);
    let stack = Stack::Dense(Rows::new(Floats::F32(&x), 2, 8));
    let layer = Experts {
        count: 2,
        gate_up: GateUp::Apart { gate: stack, up: stack },
        down: Stack::Dense(Rows::new(Floats::F32(&x), 16, 1)),
        gate: Gate::Times(Activation::Silu),
    };
    let choices = Choices { each: 1, experts: &[2], weights: Floats::F32(&[1.0]) };
    let to = RowsMut::new(FloatsMut::F32(&mut y), 1, 8);
    let rows = Rows::new(Floats::F32(&x[..8]), 1, 8);
    experts(&Cpu { isa: Isa::Scalar, pool: &pool }, &rows, &choices, &layer, to);
}
