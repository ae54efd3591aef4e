//! Products with a weight matrix, dense or quantised.

use std::fmt;

use mlx::{Array, Device, Dtype, Mode, Quantized};

/// x → x · weightᵀ (+ bias), over the last axis.
pub struct Linear {
    weight: Weight,
    bias: Option<Array>,
}

enum Weight {
    /// `[in, out]`: a transposed view, made once.
    Dense(Array),
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
        Linear { weight: Weight::Dense(weight.t()), bias }
    }

    pub fn quantised(weight: Quantised, bias: Option<Array>) -> Linear {
        Linear { weight: Weight::Quantised(weight), bias }
    }

    pub fn forward(&self, x: &Array) -> Array {
        match (&self.weight, &self.bias) {
            (Weight::Dense(weight), None) => x.matmul(weight),
            (Weight::Dense(weight), Some(bias)) => mlx::addmm(bias, x, weight, 1.0, 1.0),
            (Weight::Quantised(weight), None) => weight.matmul(x),
            (Weight::Quantised(weight), Some(bias)) => weight.matmul(x) + bias,
        }
    }
}

impl Quantised {
    fn matmul(&self, x: &Array) -> Array {
        // MLX's CPU kernel sums in the input's dtype: in bf16 that loses three times what a dense bf16 product does, and
        // it is eight times as slow as in f32.
        let wide = (mlx::device() == Device::Cpu).then(|| x.cast(Dtype::F32));
        let y = mlx::quantized_matmul(wide.as_ref().unwrap_or(x), &self.parts(), true);
        self.globally_scaled(y, x.dtype())
    }

    fn parts(&self) -> Quantized<'_> {
        let Scheme { bits, group_size, mode } = self.scheme;
        let (w, scales, biases) = (&self.weight, &self.scales, self.biases.as_ref());
        Quantized { w, scales, biases, group_size, bits, mode }
    }

    /// The rows of `indices`, dense, in `dtype`.
    pub(super) fn rows(&self, indices: &Array, dtype: Dtype) -> Array {
        let take = |array: &Array| array.take(indices, 0);
        let rows = Quantised {
            weight: take(&self.weight),
            scales: take(&self.scales),
            biases: self.biases.as_ref().map(take),
            ..self.clone()
        };
        self.globally_scaled(mlx::dequantize(&rows.parts(), Some(dtype)), dtype)
    }

    /// Multiplied in f32: rounded to bf16, the scale alone would be off by up to 0.4 %.
    fn globally_scaled(&self, y: Array, dtype: Dtype) -> Array {
        match &self.global_scale {
            Some(scale) => (y.cast(Dtype::F32) * scale).cast(dtype),
            None => y.cast(dtype),
        }
    }
}
