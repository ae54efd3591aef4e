//! Fused operations: norms, rotary positions, gates, attention. MLX's own on a GPU, our kernels on the CPU.

use crate::Array;
use crate::cpu::fused::{self, Offsets};
use crate::meter::inside;
use crate::ops::{op_options, raw_or_null};

/// x / √(mean(x²) + eps) · weight, over the last axis.
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Array {
    if let Some(y) = inside(|| fused::rms_norm(x, weight, eps)) {
        return y;
    }
    op_options!(mlx_fast_rms_norm, [Some(x), weight], x.raw(), raw_or_null(weight), eps)
}

/// (x − mean) / √(variance + eps) · weight + bias, over the last axis.
#[track_caller]
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Array {
    let (w, b) = (raw_or_null(weight), raw_or_null(bias));
    op_options!(mlx_fast_layer_norm, [Some(x), weight, bias], x.raw(), w, b, eps)
}

/// Rotary position embedding of the first `dims` of the last axis; the axis before it is the position. What is rotated
/// must hold every element by itself: MLX 0.32.2 on CUDA gives the result the strides of its input, so that rows which
/// a broadcast made one stay one.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    pub dims: i32,
    /// Pairs are neighbours (true) or the two halves (false).
    pub traditional: bool,
    pub angles: Angles<'a>,
    /// Positions are multiplied by this.
    pub scale: f32,
}

#[derive(Clone, Copy, Debug)]
pub enum Angles<'a> {
    /// base^(-2i/dims)
    Base(f32),
    /// The wavelength divided by 2π of each pair: angle = position / freqs[i].
    Freqs(&'a Array),
}

impl<'a> Angles<'a> {
    fn split(self) -> (Option<f32>, Option<&'a Array>) {
        match self {
            Angles::Base(base) => (Some(base), None),
            Angles::Freqs(freqs) => (None, Some(freqs)),
        }
    }
}

impl Rope<'_> {
    /// The first position is `offset`.
    #[track_caller]
    pub fn apply(&self, x: &Array, offset: i32) -> Array {
        if let Some(y) = inside(|| fused::rope(self, x, Offsets::One(offset))) {
            return y;
        }
        let (base, freqs) = self.angles.split();
        op_options!(
            mlx_fast_rope,
            [Some(x), freqs],
            x.raw(),
            self.dims,
            self.traditional,
            base.into(),
            self.scale,
            offset,
            raw_or_null(freqs),
        )
    }

    /// The first position is a value of the graph: one for all, or one for each of the first axis.
    #[track_caller]
    pub fn apply_at(&self, x: &Array, offset: &Array) -> Array {
        if let Some(y) = inside(|| fused::rope(self, x, Offsets::Each(offset))) {
            return y;
        }
        let (base, freqs) = self.angles.split();
        op_options!(
            mlx_fast_rope_dynamic,
            [Some(x), Some(offset), freqs],
            x.raw(),
            self.dims,
            self.traditional,
            base.into(),
            self.scale,
            offset.raw(),
            raw_or_null(freqs),
        )
    }
}

/// silu(gate) × up: the gate of SwiGLU.
#[track_caller]
pub fn swiglu(gate: &Array, up: &Array) -> Array {
    inside(|| fused::swiglu(gate, up)).unwrap_or_else(|| gate.silu() * up)
}

#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    None,
    /// The last query sees all keys, the one before it all but one, and so on.
    Causal,
    /// Booleans (true: seen) or numbers to add to the scores; broadcast to [batch, heads, queries, keys].
    Array(&'a Array),
}

/// softmax(`scale` · q·kᵀ + mask) · v. `q`: [batch, heads, queries, dim]; `k`, `v`: [batch, heads of k and v, keys, dim],
/// whose heads divide those of `q`. `sinks`: one score per head that only takes part in the softmax's sum.
#[track_caller]
pub fn scaled_dot_product_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Mask<'_>,
    sinks: Option<&Array>,
) -> Array {
    if let Some(y) = inside(|| fused::attention(q, k, v, scale, mask, sinks)) {
        return y;
    }
    let (mode, array) = match mask {
        Mask::None => (c"", None),
        Mask::Causal => (c"causal", None),
        Mask::Array(array) => (c"array", Some(array)),
    };
    op_options!(
        mlx_fast_scaled_dot_product_attention,
        [Some(q), Some(k), Some(v), array, sinks],
        q.raw(),
        k.raw(),
        v.raw(),
        scale,
        mode.as_ptr(),
        raw_or_null(array),
        raw_or_null(sinks),
        false,
    )
}

/// The rows of one sequence in a batch, and what they attend to: `[1, heads of k and v, keys, dim]`. Its own keys are
/// the last ones.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    pub start: i32,
    pub length: i32,
    pub keys: &'a Array,
    pub values: &'a Array,
}

/// Attention of rows `[rows, heads, 1, dim]` of sequences that follow each other, in the same shape. `causal`: a row sees
/// its own key and those before. None where there is no kernel for it; then ask sequence by sequence.
#[track_caller]
pub fn ragged_attention(
    q: &Array,
    parts: &[Ragged<'_>],
    scale: f32,
    causal: bool,
) -> Option<Array> {
    inside(|| fused::ragged_attention(q, parts, scale, causal))
}
