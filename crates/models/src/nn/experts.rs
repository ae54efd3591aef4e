//! Mixtures of experts, arXiv:1701.06538: each row goes through a few of many small networks, `down(silu(gate) × up)`,
//! and the results are added with the row's routing weights.
//!
//! On the CPU a layer is one call of our kernels, which sort rows by expert. Elsewhere it is MLX's gathered products;
//! where there are many pairs of row and choice they are sorted first, so that an expert's weights are read once.

use std::cell::RefCell;

use mlx::{Array, Dtype};

use crate::nn::{Quantised, swiglu};

/// Pairs of row and choice for which sorting pays.
const SORTED_PAIRS_MIN: i32 = 64;

/// The networks of a layer.
pub struct Experts {
    pub count: i32,
    pub gate_up: GateUp,
    pub down: Stack,
}

pub enum GateUp {
    Apart {
        gate: Stack,
        up: Stack,
    },
    /// Each expert's rows of the gate, then its rows of up.
    Joined(Stack),
}

/// One projection of all experts, the rows of one after those of the other: `[experts × out, in]`.
pub enum Stack {
    Dense(Array),
    /// `global_scale` is `[experts]`.
    Quantised(Quantised),
}

/// The `each` best experts of each row by the softmax of `logits`, `[rows, experts]`, and their weights in f32, both
/// `[rows, each]`; the weights are divided by their sum if `normalised`.
pub fn choose(logits: &Array, each: i32, normalised: bool) -> (Array, Array) {
    let (chosen, weights) = match replayed() {
        Some(chosen) => {
            let weights = weights_of(&softmax(logits), &chosen, normalised);
            (chosen, weights)
        }
        None => best(logits, each, normalised),
    };
    record(&chosen);
    (chosen, weights)
}

fn best(logits: &Array, each: i32, normalised: bool) -> (Array, Array) {
    if let Some(both) = mlx::route(logits, mlx::Routing { each, normalised }) {
        return both;
    }
    let scores = softmax(logits);
    let count = scores.dim(-1);
    let chosen = scores.argpartition(count - each, -1).narrow(1, count - each, count);
    let weights = weights_of(&scores, &chosen, normalised);
    (chosen, weights)
}

fn softmax(logits: &Array) -> Array {
    logits.cast(Dtype::F32).softmax_precise(&[-1])
}

fn weights_of(scores: &Array, chosen: &Array, normalised: bool) -> Array {
    let weights = scores.take_along_axis(chosen, -1);
    if normalised { &weights / &weights.sum(&[-1], true) } else { weights }
}

thread_local! {
    static RECORDED: RefCell<Option<Vec<Array>>> = const { RefCell::new(None) };
    static REPLAYED: RefCell<Option<std::vec::IntoIter<Array>>> = const { RefCell::new(None) };
}

/// What `f` gives, and what all its [`choose`] chose, in turn. For tests, with [`with_choices`].
pub fn choices_of<T>(f: impl FnOnce() -> T) -> (T, Vec<Array>) {
    RECORDED.set(Some(Vec::new()));
    let result = f();
    (result, RECORDED.take().unwrap_or_default())
}

/// `f`, whose [`choose`] choose in turn what is given, with weights of their own. For tests: where two experts are nearly
/// equal, rounding decides which is chosen and all that follows differs, which tells nothing about the arithmetic.
pub fn with_choices<T>(choices: Vec<Array>, f: impl FnOnce() -> T) -> T {
    REPLAYED.set(Some(choices.into_iter()));
    let result = f();
    REPLAYED.set(None);
    result
}

fn replayed() -> Option<Array> {
    REPLAYED.with_borrow_mut(|choices| choices.as_mut()?.next())
}

fn record(chosen: &Array) {
    RECORDED.with_borrow_mut(|choices| choices.iter_mut().for_each(|all| all.push(chosen.clone())));
}

impl Experts {
    /// `x` is `[rows, hidden]`; `chosen` and `weights` are what [`choose`] gives.
    pub fn forward(&self, x: &Array, chosen: &Array, weights: &Array) -> Array {
        let gate_up: Vec<mlx::Stack<'_>> = match &self.gate_up {
            GateUp::Apart { gate, up } => vec![gate.parts(), up.parts()],
            GateUp::Joined(both) => vec![both.parts()],
        };
        let all = mlx::Experts { count: self.count, gate_up: &gate_up, down: self.down.parts() };
        match mlx::experts(x, chosen, weights, &all) {
            Some(y) => y,
            None => self.gathered(x, chosen, weights),
        }
    }

    fn gathered(&self, x: &Array, chosen: &Array, weights: &Array) -> Array {
        let (rows, each) = (chosen.dim(0), chosen.dim(1));
        let pairs = rows * each;
        let results = if pairs < SORTED_PAIRS_MIN {
            self.pairs(&x.repeat(each, 0), &chosen.flatten(0, -1), false)
        } else {
            let chosen = chosen.flatten(0, -1);
            let order = chosen.argsort(0);
            let x = x.take(&order.floor_divide(&Array::from_slice(&[each as u32], &[1])), 0);
            self.pairs(&x, &chosen.take(&order, 0), true).take(&order.argsort(0), 0)
        };
        let results = results.reshape(&[rows, each, -1]);
        (results * weights.expand_dims(&[-1])).sum(&[1], false).cast(x.dtype())
    }

    /// Each row of `x` through the expert beside it.
    fn pairs(&self, x: &Array, experts: &Array, sorted: bool) -> Array {
        let through = |stack: &Stack, x: &Array| stack.product(x, experts, self.count, sorted);
        let hidden = match &self.gate_up {
            GateUp::Apart { gate, up } => swiglu(&through(gate, x), &through(up, x)),
            GateUp::Joined(both) => match &through(both, x).split(2, -1)[..] {
                [gate, up] => swiglu(gate, up),
                _ => unreachable!("split in two"),
            },
        };
        through(&self.down, &hidden)
    }
}

impl Stack {
    fn parts(&self) -> mlx::Stack<'_> {
        match self {
            Stack::Dense(weights) => mlx::Stack::Dense(weights),
            Stack::Quantised(weights) => {
                mlx::Stack::Quantized(weights.parts(), weights.global_scale.as_ref())
            }
        }
    }

    /// `[pairs, in]` → `[pairs, out]`
    fn product(&self, x: &Array, experts: &Array, count: i32, sorted: bool) -> Array {
        let apart = |array: &Array| array.unflatten(0, &[count, -1]);
        // Not `expand_dims`: MLX 0.32.2 on CUDA takes the stride of the new axis, 1, for that from row to row.
        let rows = x.reshape(&[x.dim(0), 1, x.dim(1)]);
        let y = match self {
            Stack::Dense(weights) => {
                let turned = apart(weights).swapaxes(1, 2);
                mlx::gather_mm(&rows, &turned, None, Some(experts), sorted)
            }
            Stack::Quantised(weights) => {
                let (weight, scales) = (apart(&weights.weight), apart(&weights.scales));
                let biases = weights.biases.as_ref().map(apart);
                let parts = mlx::Quantized {
                    w: &weight,
                    scales: &scales,
                    biases: biases.as_ref(),
                    ..weights.parts()
                };
                mlx::gather_qmm(&rows, &parts, None, Some(experts), true, sorted)
            }
        };
        let y = y.squeeze(&[1]);
        match self {
            Stack::Quantised(Quantised { global_scale: Some(scales), .. }) => {
                (y.cast(Dtype::F32) * scales.take(experts, 0).expand_dims(&[1])).cast(x.dtype())
            }
            _ => y.cast(x.dtype()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use mlx::{Mode, random};

    use super::*;
    use crate::nn::Scheme;

    const COUNT: i32 = 5;

    fn stack(out: i32, input: i32, quantised: bool, seed: u64) -> Stack {
        let dense = random::normal(&[COUNT * out, input], Dtype::F32, 0.0, 0.1, &random::key(seed));
        if !quantised {
            return Stack::Dense(dense);
        }
        let scheme = Scheme { bits: 4, group_size: 32, mode: Mode::Affine };
        let (weight, scales, biases) = mlx::quantize(&dense, 32, 4, Mode::Affine);
        Stack::Quantised(Quantised { weight, scales, biases, global_scale: None, scheme })
    }

    fn difference(a: &Array, b: &Array) -> f32 {
        (a - b).abs().max(&[], false).item::<f32>().unwrap()
    }

    /// Our kernels and MLX's gathered products give the same.
    fn check(rows: i32, quantised: bool, joined: bool) {
        let (hidden, inner) = (64, 96);
        let gate_up = match joined {
            true => GateUp::Joined(stack(2 * inner, hidden, quantised, 1)),
            false => GateUp::Apart {
                gate: stack(inner, hidden, quantised, 1),
                up: stack(inner, hidden, quantised, 2),
            },
        };
        let down = stack(hidden, inner, quantised, 3);
        let experts = Experts { count: COUNT, gate_up, down };
        let x = random::normal(&[rows, hidden], Dtype::F32, 0.0, 1.0, &random::key(4));
        let logits = random::normal(&[rows, COUNT], Dtype::F32, 0.0, 1.0, &random::key(5));
        let (chosen, weights) = choose(&logits, 2, true);
        let ours = mlx::cpu::with_portable_products(|| experts.forward(&x, &chosen, &weights));
        let theirs = experts.gathered(&x, &chosen, &weights);
        assert_eq!(ours.shape(), [rows, hidden]);
        let size = theirs.abs().max(&[], false).item::<f32>().unwrap();
        let off = difference(&ours, &theirs);
        assert!(size > 0.1 && off < 1e-5 * size, "{rows} rows: {off} of {size}");
    }

    #[test]
    fn both_ways_agree() {
        mlx::open().unwrap();
        for rows in [1, 7, 50] {
            for quantised in [false, true] {
                check(rows, quantised, rows == 7);
            }
        }
    }

    /// The choice as MLX's operations make it, in any order of the chosen.
    #[test]
    fn both_choices_agree() {
        mlx::open().unwrap();
        let logits = random::normal(&[40, 32], Dtype::F32, 0.0, 1.0, &random::key(6));
        for normalised in [false, true] {
            let (chosen, weights) = choose(&logits, 8, normalised);
            let scores = logits.softmax_precise(&[-1]);
            let best = scores.topk(8, -1).sort(-1);
            let best = if normalised { &best / &best.sum(&[-1], true) } else { best };
            assert!(difference(&weights.sort(-1), &best) < 1e-6);
            let found = scores.take_along_axis(&chosen, -1);
            let found = if normalised { &found / &found.sum(&[-1], true) } else { found };
            assert!(difference(&weights, &found) < 1e-6);
        }
    }
}
