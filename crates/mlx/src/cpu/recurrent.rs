//! The short convolution and the gated delta rule on our own kernels, one node for all sequences of a batch: see
//! `crate::recurrent`. States are read where they lie and written to new memory, because older ones may be kept.

use kernels::{
    Activation, Change, ConvolutionSegment, Cpu, Floats, FloatsMut, Heads, HeadsMut, Recurrence,
    RecurrentSegment, Rows, RowsMut, ShortConvolution, TAPS_MAX,
};
use smallvec::SmallVec;

use super::values::{Values, floats_mut, in_order, is_float};
use super::{Input, Kernel, Output, Start, call, kernels_compute};
use crate::recurrent::{DeltaRule, Sequence};
use crate::{Array, Dtype};

/// In rows, of each sequence.
type Lengths = SmallVec<[usize; 8]>;

fn lengths(sequences: &[Sequence<'_>]) -> Lengths {
    sequences.iter().map(|sequence| sequence.length as usize).collect()
}

fn states<'a>(sequences: &'a [Sequence<'a>]) -> impl Iterator<Item = &'a Array> {
    sequences.iter().map(|sequence| sequence.state)
}

/// Whether rows are all sequences', and states are of this shape.
fn fit(sequences: &[Sequence<'_>], rows: i32, shape: &[i32]) -> bool {
    states(sequences).all(|state| state.shape() == shape && state.dtype() == Dtype::F32)
        && sequences.iter().all(|sequence| sequence.length > 0)
        && sequences.iter().map(|sequence| sequence.length).sum::<i32>() == rows
}

#[track_caller]
pub(crate) fn short_convolution(
    x: &Array,
    weights: &Array,
    sequences: &[Sequence<'_>],
) -> Option<(Array, Vec<Array>)> {
    let (&[rows, channels], &[taps, width]) = (x.shape(), weights.shape()) else { return None };
    let state = [taps - 1, channels];
    let ours = kernels_compute()
        && is_float(x)
        && is_float(weights)
        && width == channels
        && (2..=TAPS_MAX as i32).contains(&taps)
        && fit(sequences, rows, &state);
    if !ours || x.size() == 0 {
        return None;
    }
    let inputs: Vec<&Array> = [x, weights].into_iter().chain(states(sequences)).collect();
    let mut starts = vec![Start::Fresh { shape: x.shape(), dtype: x.dtype() }];
    starts.resize(1 + sequences.len(), Start::Fresh { shape: &state, dtype: Dtype::F32 });
    let mut results = call(Convolve { lengths: lengths(sequences) }, &inputs, &starts);
    Some((results.remove(0), results))
}

struct Convolve {
    lengths: Lengths,
}

impl Kernel for Convolve {
    fn name(&self) -> &'static str {
        "short_convolution"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let (Some((y, states)), [x, weights, before @ ..]) = (outputs.split_first_mut(), inputs)
        else {
            return;
        };
        let [rows, channels] = [0, 1].map(|axis| x.shape[axis] as usize);
        let mut row = 0;
        let mut segments: SmallVec<[ConvolutionSegment<'_>; 8]> = SmallVec::new();
        for ((&length, before), state) in self.lengths.iter().zip(before).zip(states) {
            let state = state.as_slice::<f32>().unwrap_or_default();
            state.copy_from_slice(&in_order::<f32>(before));
            segments.push(ConvolutionSegment { row, length, state: FloatsMut::F32(state) });
            row += length;
        }
        let (x, taps) = (Values::of(x), Values::of(weights));
        let convolution = ShortConvolution {
            weights: Rows::new(taps.floats(), weights.shape[0] as usize, channels),
            bias: None,
            activation: Some(Activation::Silu),
        };
        kernels::convolve_short(
            &Cpu::current(),
            &convolution,
            &Rows::new(x.floats(), rows, channels),
            &mut segments,
            RowsMut::new(floats_mut(y), rows, channels),
        );
    }
}

#[track_caller]
pub(crate) fn delta_rule(
    rule: &DeltaRule<'_>,
    sequences: &[Sequence<'_>],
) -> Option<(Array, Vec<Array>)> {
    let DeltaRule { qkv, a, b, a_log, dt_bias, .. } = *rule;
    let &[rows, _] = qkv.shape() else { return None };
    let state = rule.state_shape();
    let heads = [rows, rule.heads];
    let ours = kernels_compute()
        && [qkv, a, b, a_log, dt_bias].into_iter().all(is_float)
        && [a.shape(), b.shape()] == [&heads[..]; 2]
        && [a_log.shape(), dt_bias.shape()] == [&heads[1..]; 2]
        && qkv.dim(-1) == rule.width()
        && rule.heads % rule.key_heads == 0
        && fit(sequences, rows, &state);
    if !ours || qkv.size() == 0 {
        return None;
    }
    let inputs: Vec<&Array> =
        [qkv, a, b, a_log, dt_bias].into_iter().chain(states(sequences)).collect();
    let shape = [rows, rule.heads * rule.value_dim];
    let mut starts = vec![Start::Fresh { shape: &shape, dtype: qkv.dtype() }];
    starts.resize(1 + sequences.len(), Start::Fresh { shape: &state, dtype: Dtype::F32 });
    let kernel = Delta {
        key_heads: rule.key_heads as usize,
        key_dim: rule.key_dim as usize,
        heads: rule.heads as usize,
        value_dim: rule.value_dim as usize,
        unit_eps: rule.unit_eps,
        lengths: lengths(sequences),
    };
    let mut results = call(kernel, &inputs, &starts);
    Some((results.remove(0), results))
}

struct Delta {
    key_heads: usize,
    key_dim: usize,
    heads: usize,
    value_dim: usize,
    unit_eps: f32,
    lengths: Lengths,
}

impl Kernel for Delta {
    fn name(&self) -> &'static str {
        "delta_rule"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let (Some((y, states)), [qkv, a, b, a_log, dt_bias, before @ ..]) =
            (outputs.split_first_mut(), inputs)
        else {
            return;
        };
        let (rows, width) = (qkv.shape[0] as usize, qkv.shape[1] as usize);
        let (mut decay, mut beta) = (vec![0.0; rows * self.heads], vec![0.0; rows * self.heads]);
        let [a, b, a_log, dt_bias] = [a, b, a_log, dt_bias].map(Values::of);
        kernels::delta_gates(
            (a.floats(), b.floats()),
            (a_log.floats(), dt_bias.floats()),
            &mut decay,
            &mut beta,
        );
        let qkv = Values::of(qkv);
        let keys = self.key_heads * self.key_dim;
        let part = |first: usize, heads: usize, dim: usize| Heads {
            data: from(qkv.floats(), first),
            rows,
            heads,
            dim,
            row_stride: width,
            head_stride: dim,
        };
        let recurrence = Recurrence {
            change: Change::Delta,
            queries: part(0, self.key_heads, self.key_dim),
            keys: part(keys, self.key_heads, self.key_dim),
            values: part(2 * keys, self.heads, self.value_dim),
            decay: &decay,
            beta: &beta,
            scale: (self.key_dim as f32).sqrt().recip(),
            unit_eps: Some(self.unit_eps),
            skip: None,
        };
        let before: SmallVec<[_; 8]> = before.iter().map(in_order::<f32>).collect();
        let mut row = 0;
        let mut segments: SmallVec<[RecurrentSegment<'_>; 8]> = SmallVec::new();
        for ((&length, before), state) in self.lengths.iter().zip(&before).zip(states) {
            let state = state.as_slice::<f32>().unwrap_or_default();
            segments.push(RecurrentSegment { row, length, before: Some(before), state });
            row += length;
        }
        let y = HeadsMut::new(floats_mut(y), rows, self.heads, self.value_dim);
        kernels::recur(&Cpu::current(), &recurrence, &mut segments, y);
    }
}

fn from(floats: Floats<'_>, first: usize) -> Floats<'_> {
    match floats {
        Floats::F32(values) => Floats::F32(&values[first..]),
        Floats::Bf16(values) => Floats::Bf16(&values[first..]),
        Floats::F16(values) => Floats::F16(&values[first..]),
    }
}
