//! Products with a weight matrix, dense or quantised.

use std::fmt;

use mlx::{Array, Device, Dtype, Mode, Quantized};

/// x → x · weightᵀ (+ bias), over the last axis.
pub struct Linear {
    weight: Weight,
    bias: Option<Array>,
}

enum Weight {
    /// `[out, in]`, and the transposed view of it, made once.
    Dense {
        rows: Array,
        turned: Array,
    },
    Quantised(Quantised),
}

/// A matrix `[out, in]` in groups of a row's elements that share a scale (and, in affine mode, a bias).
#[derive(Clone)]
pub struct Quantised {
    /// `[out, in × bits / 32]`, u32.
    pub weight: Array,
    /// `[out, in / group_size]`.
    pub scales: Array,
    /// As the scales; of affine mode only.
    pub biases: Option<Array>,
    /// A second scale of the whole matrix, f32 (nvfp4).
    pub global_scale: Option<Array>,
    pub scheme: Scheme,
}

/// How a quantised matrix is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    pub bits: i32,
    pub group_size: i32,
    pub mode: Mode,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scheme { bits, group_size, mode } = self;
        write!(f, "{bits} bits in groups of {group_size} ({})", mode.name())
    }
}

impl Linear {
    /// `weight` is `[out, in]`.
    pub fn dense(weight: &Array, bias: Option<Array>) -> Linear {
        let weight = Weight::Dense { rows: weight.clone(), turned: weight.t() };
        Linear { weight, bias }
    }

    pub fn quantised(weight: Quantised, bias: Option<Array>) -> Linear {
        Linear { weight: Weight::Quantised(weight), bias }
    }

    /// A layer of its own that gives some of this one's results, in the order of `rows`; of one without bias.
    pub fn of_rows(&self, rows: &Array) -> Linear {
        assert!(self.bias.is_none(), "a bias would have to go along");
        let some = |array: &Array| array.take(rows, 0);
        match &self.weight {
            Weight::Dense { rows, .. } => Linear::dense(&some(rows), None),
            Weight::Quantised(q) => {
                let (weight, scales) = (some(&q.weight), some(&q.scales));
                let biases = q.biases.as_ref().map(some);
                Linear::quantised(Quantised { weight, scales, biases, ..q.clone() }, None)
            }
        }
    }

    /// What it holds.
    pub fn arrays(&self) -> Vec<Array> {
        match &self.weight {
            Weight::Dense { rows, .. } => vec![rows.clone()],
            Weight::Quantised(q) => q.arrays(),
        }
    }

    pub fn forward(&self, x: &Array) -> Array {
        let [y] = Linear::together([self], x);
        y
    }

    /// The products of several weights with the same rows, which cost the CPU one call.
    pub fn together<const N: usize>(linears: [&Linear; N], x: &Array) -> [Array; N] {
        if mlx::device() == Device::Gpu {
            return linears.map(|linear| linear.alone(x));
        }
        let dense = all(linears.map(|linear| linear.weight.dense()));
        let quantised = all(linears.map(|linear| linear.weight.quantised()));
        let products = match (dense, quantised) {
            (Some(weights), _) => mlx::linear(x, &weights),
            (None, Some(weights)) => Quantised::products(weights, x),
            (None, None) => return linears.map(|linear| linear.forward(x)),
        };
        let mut products = products.into_iter();
        linears.map(|linear| {
            let y = products.next().expect("a product for each weight");
            match &linear.bias {
                Some(bias) => y + bias,
                None => y,
            }
        })
    }

    fn alone(&self, x: &Array) -> Array {
        match (&self.weight, &self.bias) {
            (Weight::Dense { turned, .. }, None) => x.matmul(turned),
            (Weight::Dense { turned, .. }, Some(bias)) => mlx::addmm(bias, x, turned, 1.0, 1.0),
            (Weight::Quantised(weight), None) => weight.matmul(x),
            (Weight::Quantised(weight), Some(bias)) => weight.matmul(x) + bias,
        }
    }
}

/// All of them, if none is missing. Layers do this hundreds of times a step: nothing is allocated.
fn all<T: Copy, const N: usize>(some: [Option<T>; N]) -> Option<[T; N]> {
    let whole = some.iter().all(Option::is_some);
    whole.then(|| some.map(|one| one.expect("none is missing")))
}

impl Weight {
    fn dense(&self) -> Option<&Array> {
        match self {
            Weight::Dense { rows, .. } => Some(rows),
            Weight::Quantised(_) => None,
        }
    }

    fn quantised(&self) -> Option<&Quantised> {
        match self {
            Weight::Quantised(weight) => Some(weight),
            Weight::Dense { .. } => None,
        }
    }
}

impl Quantised {
    /// What it holds.
    pub fn arrays(&self) -> Vec<Array> {
        let others = [&self.biases, &self.global_scale].into_iter().flatten();
        [&self.weight, &self.scales].into_iter().chain(others).cloned().collect()
    }

    fn matmul(&self, x: &Array) -> Array {
        self.globally_scaled(&mlx::quantized_matmul(x, &self.parts(), true), x.dtype())
    }

    fn products<const N: usize>(weights: [&Quantised; N], x: &Array) -> Vec<Array> {
        let parts = weights.map(Quantised::parts);
        let mut products = mlx::quantized_linear(x, &parts.each_ref());
        for (weight, y) in weights.iter().zip(&mut products) {
            *y = weight.globally_scaled(y, x.dtype());
        }
        products
    }

    pub(super) fn parts(&self) -> Quantized<'_> {
        let Scheme { bits, group_size, mode } = self.scheme;
        let (w, scales, biases) = (&self.weight, &self.scales, self.biases.as_ref());
        Quantized { w, scales, biases, group_size, bits, mode }
    }

    /// The rows of `indices`, dense, in `dtype`.
    pub(super) fn rows(&self, indices: &Array, dtype: Dtype) -> Array {
        self.globally_scaled(&mlx::take_quantized(&self.parts(), indices, dtype), dtype)
    }

    /// Multiplied in f32: rounded to bf16, the scale alone would be off by up to 0.4 %.
    fn globally_scaled(&self, y: &Array, dtype: Dtype) -> Array {
        match &self.global_scale {
            Some(scale) => (y.cast(Dtype::F32) * scale).cast(dtype),
            None => y.cast(dtype),
        }
    }
}
