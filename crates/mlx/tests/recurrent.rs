//! The short convolution and the delta rule: our kernels and MLX's operations give the same, in one piece or token by
//! token, alone or beside others.
#![allow(clippy::unwrap_used)]

use mlx::recurrent::{DeltaRule, Sequence, short_convolution, short_convolution_of_mlx};
use mlx::{Array, Device, Dtype, random};

fn open() {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
}

fn normal(shape: &[i32], deviation: f32, seed: u64) -> Array {
    random::normal(shape, Dtype::F32, 0.0, deviation, &random::key(seed))
}

#[track_caller]
fn check(what: &str, found: &Array, expected: &Array, tolerance: f32) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    let wide = |x: &Array| x.cast(Dtype::F32).to_vec::<f32>().unwrap();
    let (found, expected) = (wide(found), wide(expected));
    let size = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let off = found.iter().zip(&expected).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(size > 0.01, "{what}: nothing to compare");
    assert!(off <= tolerance * size, "{what}: {off} of {size}");
}

type Both = (Array, Vec<Array>);

/// `f` over rows of several sequences: all tokens of each at once, beside the others.
fn together(lengths: &[i32], states: &[Array], f: impl Fn(&[Sequence<'_>]) -> Both) -> Both {
    let sequence = |(length, state): (&i32, _)| Sequence { length: *length, state };
    f(&lengths.iter().zip(states).map(sequence).collect::<Vec<_>>())
}

/// Every other sequence begins here.
fn state(shape: &[i32], index: usize) -> Array {
    match index % 2 {
        0 => normal(shape, 1.0, 10 + index as u64),
        _ => mlx::zeros(shape, Dtype::F32),
    }
}

const CHANNELS: i32 = 40;
const TAPS: i32 = 4;

fn check_convolution(lengths: &[i32], dtype: Dtype, tolerance: f32) {
    let rows: i32 = lengths.iter().sum();
    let x = normal(&[rows, CHANNELS], 1.0, 1).cast(dtype);
    let weights = normal(&[TAPS, CHANNELS], 0.5, 2).cast(dtype);
    let states: Vec<_> = (0..lengths.len()).map(|i| state(&[TAPS - 1, CHANNELS], i)).collect();
    let what = format!("{lengths:?} {dtype}");
    let (y, after) = together(lengths, &states, |all| short_convolution(&x, &weights, all));
    let (other, others) =
        together(lengths, &states, |all| short_convolution_of_mlx(&x, &weights, all));
    check(&what, &y, &other, tolerance);
    for (state, other) in after.iter().zip(&others) {
        check(&what, state, other, 0.0);
    }
    // Token by token, each sequence by itself.
    let mut row = 0;
    for (index, length) in lengths.iter().enumerate() {
        let mut state = states[index].clone();
        for at in row..row + length {
            let one = [Sequence { length: 1, state: &state }];
            let (found, mut next) = short_convolution(&x.narrow(0, at, at + 1), &weights, &one);
            check(&what, &found, &y.narrow(0, at, at + 1), 0.0);
            state = next.remove(0);
        }
        check(&what, &state, &after[index], 0.0);
        row += length;
    }
}

#[test]
fn convolutions_agree() {
    open();
    for lengths in [&[1][..], &[2], &[9], &[1, 1, 1], &[4, 4], &[5, 1, 2]] {
        check_convolution(lengths, Dtype::F32, 1e-6);
        check_convolution(lengths, Dtype::Bf16, 0.008);
    }
}

struct Rule {
    qkv: Array,
    a: Array,
    b: Array,
    a_log: Array,
    dt_bias: Array,
}

const KEY_HEADS: i32 = 2;
const HEADS: i32 = 4;
const KEY_DIM: i32 = 16;
const VALUE_DIM: i32 = 24;

impl Rule {
    fn new(rows: i32) -> Rule {
        let width = 2 * KEY_HEADS * KEY_DIM + HEADS * VALUE_DIM;
        Rule {
            qkv: normal(&[rows, width], 1.0, 1),
            a: normal(&[rows, HEADS], 1.0, 2),
            b: normal(&[rows, HEADS], 2.0, 3),
            a_log: normal(&[HEADS], 1.0, 4) - 2.0,
            dt_bias: normal(&[HEADS], 0.5, 5),
        }
    }

    fn rows(&self, first: i32, end: i32) -> Rule {
        let some = |x: &Array| x.narrow(0, first, end);
        Rule {
            qkv: some(&self.qkv),
            a: some(&self.a),
            b: some(&self.b),
            a_log: self.a_log.clone(),
            dt_bias: self.dt_bias.clone(),
        }
    }

    fn rule(&self) -> DeltaRule<'_> {
        let Rule { qkv, a, b, a_log, dt_bias } = self;
        DeltaRule {
            qkv,
            a,
            b,
            a_log,
            dt_bias,
            key_heads: KEY_HEADS,
            key_dim: KEY_DIM,
            heads: HEADS,
            value_dim: VALUE_DIM,
            unit_eps: 1e-6,
        }
    }
}

/// `change` makes the rule's inputs special. Our kernel goes token by token whatever comes at once; where there is none,
/// one token is another formula than many, and both are as near to each other as either is to the kernel.
fn check_rule(lengths: &[i32], change: impl Fn(Rule) -> Rule) {
    let all = change(Rule::new(lengths.iter().sum()));
    let rule = all.rule();
    let states: Vec<_> = (0..lengths.len()).map(|i| state(&rule.state_shape(), i)).collect();
    let what = format!("{lengths:?}");
    let by_token = if mlx::device() == Device::Cpu { 1e-6 } else { 1e-5 };
    let (y, after) = together(lengths, &states, |all| rule.forward(all));
    let (other, others) = together(lengths, &states, |all| rule.forward_of_mlx(all));
    check(&what, &y, &other, 1e-5);
    for (state, other) in after.iter().zip(&others) {
        check(&what, state, other, 1e-5);
    }
    let mut row = 0;
    for (index, length) in lengths.iter().enumerate() {
        let (mut state, mut by_mlx) = (states[index].clone(), states[index].clone());
        for at in row..row + length {
            let one = all.rows(at, at + 1);
            let sequence = [Sequence { length: 1, state: &state }];
            let (found, mut next) = one.rule().forward(&sequence);
            check(&what, &found, &y.narrow(0, at, at + 1), by_token);
            let sequence = [Sequence { length: 1, state: &by_mlx }];
            let mut next_by_mlx = one.rule().forward_of_mlx(&sequence).1;
            (state, by_mlx) = (next.remove(0), next_by_mlx.remove(0));
            mlx::eval(&[&state, &by_mlx]).unwrap();
        }
        check(&what, &state, &after[index], by_token);
        check(&what, &by_mlx, &after[index], 1e-5);
        row += length;
    }
}

#[test]
fn delta_rules_agree() {
    open();
    for lengths in [&[1][..], &[2], &[64], &[150], &[1, 1, 1], &[7, 7], &[70, 1, 3]] {
        check_rule(lengths, |rule| rule);
    }
}

/// Where one token comes again and again, and hardly anything is forgotten, the triangular system is as bad as it gets:
/// its powers reach 1e18.
#[test]
fn equal_keys_are_no_trouble_for_chunks() {
    open();
    check_rule(&[128], |rule| {
        let first = rule.qkv.narrow(0, 0, 1).broadcast_to(rule.qkv.shape()).contiguous();
        Rule { qkv: first, a: rule.a - 20.0, b: rule.b.abs() + 3.0, ..rule }
    });
}
