//! What hybrid models have beside attention: a short convolution that remembers its last inputs, and the gated delta
//! rule, arXiv:2412.06464, whose memory is a matrix for each head. Our kernels on the CPU, operations of MLX elsewhere.
//!
//! Rows of several sequences stand one after the other. Each has a state before, zeros where it begins, and gets a new
//! one, in f32; states are values, so an older one stays what it was.

use crate::cpu::recurrent as ours;
use crate::meter::inside;
use crate::{Array, Dtype, concatenate, fast, stack, where_};

/// Tokens of the delta rule that are computed at once, and the longest inverse: a power of two.
const CHUNK: i32 = 64;

/// The rows of one sequence, at least one, and its state before them.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    pub length: i32,
    pub state: &'a Array,
}

/// silu(Σ_j weights[j] · x[t − taps + 1 + j]) for each channel: `x` is [rows, channels], `weights` [taps, channels]. Also
/// the new states, [taps − 1, channels] each: the last inputs.
#[track_caller]
pub fn short_convolution(
    x: &Array,
    weights: &Array,
    sequences: &[Sequence<'_>],
) -> (Array, Vec<Array>) {
    inside(|| ours::short_convolution(x, weights, sequences))
        .unwrap_or_else(|| short_convolution_of_mlx(x, weights, sequences))
}

/// As `short_convolution`, by MLX's operations, whatever the device.
#[track_caller]
pub fn short_convolution_of_mlx(
    x: &Array,
    weights: &Array,
    sequences: &[Sequence<'_>],
) -> (Array, Vec<Array>) {
    let (y, states) = in_groups(sequences, |rows, batch, states| {
        convolved(&of_batch(&x.cast(Dtype::F32), &rows, batch), weights, states)
    });
    (y.cast(x.dtype()), states)
}

/// `x` [batch, length, channels] and `states` [batch, taps − 1, channels].
fn convolved(x: &Array, weights: &Array, states: &Array) -> (Array, Array) {
    let (length, taps) = (x.dim(1), weights.dim(0));
    let all = concatenate(&[states, x], 1);
    let tap = |j: i32| all.narrow(1, j, j + length) * weights.select(0, j).cast(Dtype::F32);
    let sum = (1..taps).fold(tap(0), |sum, j| sum + tap(j));
    (sum.silu(), all.narrow(1, length, length + taps - 1))
}

/// S ← exp(−exp(a_log) · softplus(a + dt_bias)) · S, then S ← S + sigmoid(b) (v − S k) kᵀ, then y = S q, for each token
/// and head. Queries and keys are brought to length 1, queries then divided by √key_dim.
#[derive(Clone, Copy, Debug)]
pub struct DeltaRule<'a> {
    /// [rows, width]: the queries of all key heads, their keys, the values of all heads.
    pub qkv: &'a Array,
    /// [rows, heads]
    pub a: &'a Array,
    /// [rows, heads]
    pub b: &'a Array,
    /// [heads]
    pub a_log: &'a Array,
    /// [heads]
    pub dt_bias: &'a Array,
    /// Divides `heads`: neighbours share queries and keys.
    pub key_heads: i32,
    pub key_dim: i32,
    pub heads: i32,
    pub value_dim: i32,
    /// Added to the square of a length.
    pub unit_eps: f32,
}

impl DeltaRule<'_> {
    pub fn width(&self) -> i32 {
        2 * self.key_heads * self.key_dim + self.heads * self.value_dim
    }

    /// [heads, value_dim, key_dim]
    pub fn state_shape(&self) -> [i32; 3] {
        [self.heads, self.value_dim, self.key_dim]
    }

    /// [rows, heads × value_dim], and the new states.
    #[track_caller]
    pub fn forward(&self, sequences: &[Sequence<'_>]) -> (Array, Vec<Array>) {
        inside(|| ours::delta_rule(self, sequences))
            .unwrap_or_else(|| self.forward_of_mlx(sequences))
    }

    /// As `forward`, by MLX's operations, whatever the device.
    #[track_caller]
    pub fn forward_of_mlx(&self, sequences: &[Sequence<'_>]) -> (Array, Vec<Array>) {
        let tokens = self.tokens();
        let (y, states) = in_groups(sequences, |rows, batch, states| {
            let tokens = tokens.of_batch(&rows, batch);
            let (y, states) = match tokens.queries.dim(2) {
                1 => tokens.step(states),
                _ => tokens.chunks(states),
            };
            // [batch, heads, length, value_dim] → [batch, length, heads × value_dim]
            (y.swapaxes(1, 2).flatten(2, 3), states)
        });
        (y.cast(self.qkv.dtype()), states)
    }

    /// Everything of all rows, in f32.
    fn tokens(&self) -> Tokens {
        let DeltaRule { key_heads, key_dim, heads, .. } = *self;
        let keys = key_heads * key_dim;
        let parts = self.qkv.cast(Dtype::F32).split_at(&[keys, 2 * keys], -1);
        let unit = |x: &Array| {
            let x = x.unflatten(-1, &[key_heads, key_dim]);
            let length = (x.square().sum(&[-1], true) + self.unit_eps).sqrt();
            (x / length).repeat(heads / key_heads, 1)
        };
        let step = self.a.cast(Dtype::F32) + self.dt_bias.cast(Dtype::F32);
        let step = step.logaddexp(&Array::scalar(0.0, Dtype::F32));
        Tokens {
            queries: fast::scaled(&unit(&parts[0]), (key_dim as f32).sqrt().recip()),
            keys: unit(&parts[1]),
            values: parts[2].unflatten(-1, &[heads, self.value_dim]),
            log_decay: -(self.a_log.cast(Dtype::F32).exp() * step),
            beta: self.b.cast(Dtype::F32).sigmoid(),
        }
    }
}

/// Of rows, [rows, heads, dim], the last two without dim; or of a batch, [batch, heads, length, dim].
struct Tokens {
    queries: Array,
    keys: Array,
    values: Array,
    log_decay: Array,
    beta: Array,
}

impl Tokens {
    fn map(&self, f: impl Fn(&Array) -> Array) -> Tokens {
        Tokens {
            queries: f(&self.queries),
            keys: f(&self.keys),
            values: f(&self.values),
            log_decay: f(&self.log_decay),
            beta: f(&self.beta),
        }
    }

    fn of_batch(&self, rows: &std::ops::Range<i32>, batch: i32) -> Tokens {
        self.map(|x| of_batch(x, rows, batch).swapaxes(1, 2))
    }

    /// One token of each; `states` are [batch, heads, value_dim, key_dim].
    fn step(&self, states: &Array) -> (Array, Array) {
        let row = |x: &Array| x.swapaxes(2, 3);
        let states = states * self.log_decay.exp().expand_dims(&[-1]);
        let seen = states.matmul(&row(&self.keys));
        let change = (row(&self.values) - seen) * self.beta.expand_dims(&[-1]);
        let states = states + change * &self.keys;
        (row(&states.matmul(&row(&self.queries))), states)
    }

    /// The paper's parallel form: within a chunk of C tokens all changes are the solution of one triangular system of C
    /// unknowns for each head, which knows no state; then chunk after chunk takes the state along.
    fn chunks(&self, states: &Array) -> (Array, Array) {
        let length = self.queries.dim(2);
        let chunk = (length as u32).next_power_of_two().min(CHUNK as u32) as i32;
        let filled = (length + chunk - 1) / chunk * chunk;
        // Tokens of zeros behind the end change nothing: β = 0, decay = 1.
        let pad = |x: &Array| x.pad(&[2], &[0], &[filled - length], 0.0, crate::Pad::Constant);
        let cut = self.map(|x| pad(x).unflatten(2, &[-1, chunk]));
        let Tokens { queries, keys, values, .. } = &cut;
        let total = cut.log_decay.cumsum(-1);
        let column = total.expand_dims(&[-1]);
        let between = &column - total.expand_dims(&[-2]);
        let lower = crate::tri(chunk, chunk, 0, Dtype::Bool);
        let nothing = Array::scalar(f64::NEG_INFINITY, Dtype::F32);
        let decay = where_(&lower, &between, &nothing).exp();
        let beta = cut.beta.expand_dims(&[-1]);
        let scaled_keys = keys * &beta;
        let turned = keys.swapaxes(-1, -2);
        let strict = (scaled_keys.matmul(&turned) * &decay).tril(-1);
        let inverse = unit_lower_inverse(&strict, chunk);
        let own = inverse.matmul(&(values * &beta));
        let seen = inverse.matmul(&(scaled_keys * column.exp()));
        let within = queries.matmul(&turned) * &decay;
        let from_state = queries * column.exp();
        let last = total.narrow(-1, chunk - 1, chunk);
        let to_state = (keys * (&last - &total).exp().expand_dims(&[-1])).swapaxes(-1, -2);
        let kept = last.exp().expand_dims(&[-1]);

        let mut state = states.swapaxes(-1, -2);
        let mut outs = Vec::new();
        for index in 0..filled / chunk {
            let at = |x: &Array| x.select(2, index);
            let change = at(&own) - at(&seen).matmul(&state);
            outs.push(at(&from_state).matmul(&state) + at(&within).matmul(&change));
            state = at(&kept) * &state + at(&to_state).matmul(&change);
        }
        let y = concatenate(&outs.iter().collect::<Vec<_>>(), 2);
        (y.narrow(2, 0, length), state.swapaxes(-1, -2))
    }
}

/// (1 + L)⁻¹ for strictly lower triangular L, [.., size, size], size a power of two. The inverse of blocks on the diagonal
/// gives that of blocks twice as large: the corner of [[A, 0], [B, D]] becomes −D⁻¹ B A⁻¹. As stable as substitution;
/// a product of powers of L is not.
fn unit_lower_inverse(lower: &Array, size: i32) -> Array {
    let mut inverse = crate::eye(size, size, 0, Dtype::F32);
    let mut block = 1;
    while block < size {
        let corner = |i: i32, j: i32| {
            i / (2 * block) == j / (2 * block) && i / block % 2 == 1 && j / block % 2 == 0
        };
        let mask: Vec<f32> =
            (0..size * size).map(|at| f32::from(corner(at / size, at % size))).collect();
        let corners = lower * Array::from_slice(&mask, &[size, size]);
        inverse = &inverse - inverse.matmul(&corners).matmul(&inverse);
        block *= 2;
    }
    inverse
}

/// [rows, …] → [batch, length, …]
fn of_batch(x: &Array, rows: &std::ops::Range<i32>, batch: i32) -> Array {
    x.narrow(0, rows.start, rows.end).unflatten(0, &[batch, -1])
}

/// `f` of the rows, the number and the stacked states of sequences that are of equal length: all at once, or else each
/// by itself. It gives [batch, length, …] and states.
fn in_groups(
    sequences: &[Sequence<'_>],
    f: impl Fn(std::ops::Range<i32>, i32, &Array) -> (Array, Array),
) -> (Array, Vec<Array>) {
    let even = sequences.windows(2).all(|pair| pair[0].length == pair[1].length);
    let groups: Vec<&[Sequence<'_>]> =
        if even { vec![sequences] } else { sequences.chunks(1).collect() };
    let (mut outs, mut states, mut row) = (Vec::new(), Vec::new(), 0);
    for group in groups {
        let rows = row..row + group.iter().map(|sequence| sequence.length).sum::<i32>();
        row = rows.end;
        let before = stack(&group.iter().map(|sequence| sequence.state).collect::<Vec<_>>(), 0);
        let (out, after) = f(rows, group.len() as i32, &before);
        outs.push(out.flatten(0, 1));
        states.extend((0..group.len() as i32).map(|index| after.select(0, index)));
    }
    (concatenate(&outs.iter().collect::<Vec<_>>(), 0), states)
}
