//! Matrix products, dense, gathered and quantised, and convolutions.

use super::{op, op_list, op_options, raw_or_null};
use crate::meter::inside;
use crate::{Array, Device, Dtype, cpu};
use std::ffi::CStr;

/// How quantised weights are encoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Integers with a scale and a bias per group.
    Affine,
    /// 4-bit floats (e2m1), groups of 32 with an e8m0 scale.
    Mxfp4,
    /// 8-bit floats (e4m3), groups of 32 with an e8m0 scale.
    Mxfp8,
    /// 4-bit floats (e2m1), groups of 16 with an e4m3 scale.
    Nvfp4,
}

/// A quantised matrix: packed weights, and a scale (and, affine, a bias) for each group of a row.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    pub w: &'a Array,
    pub scales: &'a Array,
    pub biases: Option<&'a Array>,
    pub group_size: i32,
    pub bits: i32,
    pub mode: Mode,
}

/// Strides, padding and the like of a convolution, one number per spatial axis.
#[derive(Clone, Copy, Debug)]
pub struct Conv<const N: usize> {
    pub stride: [i32; N],
    pub padding: [i32; N],
    pub dilation: [i32; N],
    pub groups: i32,
}

impl Mode {
    pub(crate) fn c_name(self) -> &'static CStr {
        match self {
            Mode::Affine => c"affine",
            Mode::Mxfp4 => c"mxfp4",
            Mode::Mxfp8 => c"mxfp8",
            Mode::Nvfp4 => c"nvfp4",
        }
    }

    /// The name that checkpoints use.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Affine => "affine",
            Mode::Mxfp4 => "mxfp4",
            Mode::Mxfp8 => "mxfp8",
            Mode::Nvfp4 => "nvfp4",
        }
    }

    pub fn from_name(name: &str) -> Option<Mode> {
        [Mode::Affine, Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

impl<const N: usize> Default for Conv<N> {
    fn default() -> Self {
        Conv { stride: [1; N], padding: [0; N], dilation: [1; N], groups: 1 }
    }
}

impl Array {
    #[track_caller]
    pub fn matmul(&self, other: &Array) -> Array {
        op!(mlx_matmul, [self, other], self.raw(), other.raw())
    }

    #[track_caller]
    pub fn outer(&self, other: &Array) -> Array {
        op!(mlx_outer, [self, other], self.raw(), other.raw())
    }

    /// Hadamard transform of the last axis, scaled by 1/√n where no scale is given.
    #[track_caller]
    pub fn hadamard_transform(&self, scale: Option<f32>) -> Array {
        op!(mlx_hadamard_transform, [self], self.raw(), scale.into())
    }
}

/// `alpha` · a·b + `beta` · c
#[track_caller]
pub fn addmm(c: &Array, a: &Array, b: &Array, alpha: f32, beta: f32) -> Array {
    op!(mlx_addmm, [c, a, b], c.raw(), a.raw(), b.raw(), alpha, beta)
}

/// Einstein's notation, as in `"bhld,bhmd->bhlm"`.
#[track_caller]
pub fn einsum(subscripts: &str, operands: &[&Array]) -> Array {
    let subscripts = super::c_string("einsum", subscripts);
    op_list!(mlx_einsum, operands, [subscripts.as_ptr()])
}

/// A product for each pair of matrices that the indices name. `sorted` promises ascending `rhs_indices`.
#[track_caller]
pub fn gather_mm(
    a: &Array,
    b: &Array,
    lhs: Option<&Array>,
    rhs: Option<&Array>,
    sorted: bool,
) -> Array {
    if let (None, Some(which)) = (lhs, rhs)
        && let Some(y) = inside(|| cpu::gathered::dense(a, b, which))
    {
        return y;
    }
    let (l, r) = (raw_or_null(lhs), raw_or_null(rhs));
    op_options!(mlx_gather_mm, [Some(a), Some(b), lhs, rhs], a.raw(), b.raw(), l, r, sorted)
}

/// x · weightᵀ for each of `weights`, `[out, in]`. On the CPU the reading of `x` and the waking of threads are paid once.
#[track_caller]
pub fn linear(x: &Array, weights: &[&Array]) -> Vec<Array> {
    inside(|| cpu::products::dense(x, weights))
        .unwrap_or_else(|| weights.iter().map(|weight| x.matmul(&weight.t())).collect())
}

/// As [`linear`], with quantised weights.
#[track_caller]
pub fn quantized_linear(x: &Array, weights: &[&Quantized<'_>]) -> Vec<Array> {
    inside(|| cpu::products::quantized(x, weights))
        .unwrap_or_else(|| weights.iter().map(|weight| quantized_matmul(x, weight, true)).collect())
}

/// The rows of a quantised table that `indices` [n] name, dense in `dtype`: [n, columns].
#[track_caller]
pub fn take_quantized(table: &Quantized<'_>, indices: &Array, dtype: Dtype) -> Array {
    if let Some(rows) = inside(|| cpu::rows::take_quantized(table, indices, dtype)) {
        return rows;
    }
    let take = |array: &Array| array.take(indices, 0);
    let (w, scales, biases) = (take(table.w), take(table.scales), table.biases.map(take));
    let rows = Quantized { w: &w, scales: &scales, biases: biases.as_ref(), ..*table };
    dequantize(&rows, Some(dtype))
}

/// x · wᵀ where `transpose`, else x · w.
#[track_caller]
pub fn quantized_matmul(x: &Array, q: &Quantized<'_>, transpose: bool) -> Array {
    if rows_of_one_group(q) && crate::device() == Device::Gpu {
        let w = dequantize(q, Some(x.dtype()));
        return x.matmul(&if transpose { w.t() } else { w });
    }
    op_options!(
        mlx_quantized_matmul,
        [Some(x), Some(q.w), Some(q.scales), q.biases],
        x.raw(),
        q.w.raw(),
        q.scales.raw(),
        raw_or_null(q.biases),
        transpose,
        Some(q.group_size).into(),
        Some(q.bits).into(),
        q.mode.c_name().as_ptr(),
    )
}

/// MLX 0.32.2 has a kernel for Hopper that it takes for just these rows, and that gives wrong numbers for some of their
/// shapes. Only tiny layers have them.
fn rows_of_one_group(q: &Quantized<'_>) -> bool {
    q.scales.shape().last() == Some(&1)
}

/// `gather_mm` with quantised matrices.
#[track_caller]
pub fn gather_qmm(
    x: &Array,
    q: &Quantized<'_>,
    lhs: Option<&Array>,
    rhs: Option<&Array>,
    transpose: bool,
    sorted: bool,
) -> Array {
    if let (None, Some(which), true) = (lhs, rhs, transpose)
        && let Some(y) = inside(|| cpu::gathered::quantized(x, q, which))
    {
        return y;
    }
    op_options!(
        mlx_gather_qmm,
        [Some(x), Some(q.w), Some(q.scales), q.biases, lhs, rhs],
        x.raw(),
        q.w.raw(),
        q.scales.raw(),
        raw_or_null(q.biases),
        raw_or_null(lhs),
        raw_or_null(rhs),
        transpose,
        Some(q.group_size).into(),
        Some(q.bits).into(),
        q.mode.c_name().as_ptr(),
        sorted,
    )
}

/// Packed weights, scales and (affine) biases of `w`.
#[track_caller]
pub fn quantize(
    w: &Array,
    group_size: i32,
    bits: i32,
    mode: Mode,
) -> (Array, Array, Option<Array>) {
    let parts = super::op_many!(
        mlx_quantize,
        [w],
        w.raw(),
        Some(group_size).into(),
        Some(bits).into(),
        mode.c_name().as_ptr(),
        raw_or_null(None),
    );
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        (Some(packed), Some(scales)) => (packed, scales, parts.next()),
        _ => crate::error::fail("quantize", &[w], "MLX returned no scales".to_owned()),
    }
}

/// The matrix that `q` stands for; in the dtype of the scales (affine) or bfloat16 where none is asked for.
#[track_caller]
pub fn dequantize(q: &Quantized<'_>, dtype: Option<Dtype>) -> Array {
    op_options!(
        mlx_dequantize,
        [Some(q.w), Some(q.scales), q.biases],
        q.w.raw(),
        q.scales.raw(),
        raw_or_null(q.biases),
        Some(q.group_size).into(),
        Some(q.bits).into(),
        q.mode.c_name().as_ptr(),
        raw_or_null(None),
        dtype.into(),
    )
}

/// `x`: [batch, length, channels in], `w`: [channels out, width, channels in / groups].
#[track_caller]
pub fn conv1d(x: &Array, w: &Array, c: Conv<1>) -> Array {
    let Conv { stride: [s], padding: [p], dilation: [d], groups } = c;
    op!(mlx_conv1d, [x, w], x.raw(), w.raw(), s, p, d, groups)
}

/// `x`: [batch, height, width, channels in], `w`: [channels out, height, width, channels in / groups].
#[track_caller]
pub fn conv2d(x: &Array, w: &Array, c: Conv<2>) -> Array {
    let Conv { stride: s, padding: p, dilation: d, groups } = c;
    op!(mlx_conv2d, [x, w], x.raw(), w.raw(), s[0], s[1], p[0], p[1], d[0], d[1], groups)
}

/// As `conv2d` with a depth before the height.
#[track_caller]
pub fn conv3d(x: &Array, w: &Array, c: Conv<3>) -> Array {
    let Conv { stride: s, padding: p, dilation: d, groups } = c;
    op!(
        mlx_conv3d,
        [x, w],
        x.raw(),
        w.raw(),
        s[0],
        s[1],
        s[2],
        p[0],
        p[1],
        p[2],
        d[0],
        d[1],
        d[2],
        groups
    )
}
