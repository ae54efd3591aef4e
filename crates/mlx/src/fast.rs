//! Fused operations: norms, rotary positions, gates, attention. MLX's own on a GPU, our kernels on the CPU.

use std::cell::RefCell;

use crate::compile::{Compiled, Shapes, compile};
use crate::cpu::fused::{self, Offsets};
use crate::cpu::gates;
use crate::meter::inside;
use crate::ops::{op_options, raw_or_null};
use crate::{Array, Device, Dtype, device};

/// x / √(mean(x²) + eps) · weight, over the last axis.
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Array {
    let wider = |weight: &Array| if weight.dtype() == x.dtype() { x.dtype() } else { Dtype::F32 };
    rms_norm_in(x, weight, eps, weight.map_or(x.dtype(), wider))
}

/// As `rms_norm`, the result in `dtype`: the arithmetic is f32, so that a weight may be finer than what it multiplies.
#[track_caller]
pub fn rms_norm_in(x: &Array, weight: Option<&Array>, eps: f32, dtype: Dtype) -> Array {
    if let Some(y) = inside(|| fused::rms_norm(x, weight, eps, dtype)) {
        return y;
    }
    norm_of_mlx(x, weight, eps).cast(dtype)
}

#[track_caller]
fn norm_of_mlx(x: &Array, weight: Option<&Array>, eps: f32) -> Array {
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

/// What opens a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// SwiGLU's.
    Silu,
    /// GEGLU's, in the form with tanh.
    GeluTanh,
    Sigmoid,
}

/// f(`gates`) × `x`, of one shape and dtype.
#[track_caller]
pub fn gated(gate: Gate, gates: &Array, x: &Array) -> Array {
    if let Some(y) = inside(|| gates::gated(gate, gates, x)) {
        return y;
    }
    match gate.as_one_kernel() {
        Some(kernel) => kernel.call(&[gates, x]).swap_remove(0),
        None => gate.of_mlx(gates) * x,
    }
}

thread_local! {
    /// Of this thread, as MLX's compiled graphs are. They live as long as the process: MLX has state of the thread of its
    /// own, which may be gone before ours.
    static GATES: RefCell<Vec<(Gate, Option<&'static Compiled>)>> = const { RefCell::new(Vec::new()) };
}

impl Gate {
    /// f(gate) × x by one kernel of a GPU instead of one for each operation: in decoding starting them is what costs. None
    /// where MLX cannot compile.
    fn as_one_kernel(self) -> Option<&'static Compiled> {
        if device() == Device::Cpu {
            return None;
        }
        GATES.with_borrow_mut(|all| {
            if let Some((_, kernel)) = all.iter().find(|(gate, _)| *gate == self) {
                return *kernel;
            }
            let gated = move |inputs: &[Array]| vec![self.of_mlx(&inputs[0]) * &inputs[1]];
            let kernel = compile(gated, Shapes::Any).ok();
            let kernel = kernel.map(|kernel| &*Box::leak(Box::new(kernel)));
            all.push((self, kernel));
            kernel
        })
    }

    fn of_mlx(self, x: &Array) -> Array {
        match self {
            Gate::Silu => x.silu(),
            Gate::Sigmoid => x.sigmoid(),
            Gate::GeluTanh => {
                // ½ (1 + tanh z) = sigmoid(2z), z = √(2/π) (x + 0.044715 x³)
                let wide = x.cast(Dtype::F32);
                let twice = &wide * (wide.square() * 0.044_715 + 1.0) * 1.595_769;
                (&wide * twice.sigmoid()).cast(x.dtype())
            }
        }
    }
}

/// `base` + sigmoid(`gates`) × `x`: rows [rows, width], a gate for each, [rows, 1].
#[track_caller]
pub fn gated_sum(base: &Array, gates: &Array, x: &Array) -> Array {
    inside(|| gates::gated_sum(base, gates, x)).unwrap_or_else(|| base + gates.sigmoid() * x)
}

/// cap · tanh(x / cap)
#[track_caller]
pub fn softcap(x: &Array, cap: f32) -> Array {
    inside(|| gates::softcap(x, cap)).unwrap_or_else(|| {
        let wide = x.cast(Dtype::F32);
        ((wide / cap).tanh() * cap).cast(x.dtype())
    })
}

/// factor · x, the factor in f32.
#[track_caller]
pub fn scaled(x: &Array, factor: f32) -> Array {
    inside(|| gates::scaled(x, factor))
        .unwrap_or_else(|| (x.cast(Dtype::F32) * factor).cast(x.dtype()))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;
    use crate::random;

    fn difference(a: &Array, b: &Array) -> f32 {
        let wide = |x: &Array| x.cast(Dtype::F32);
        (wide(a) - wide(b)).abs().max(&[], false).item::<f32>().unwrap()
    }

    /// Our kernels and MLX's operations agree, on rows that lie together and on columns of wider ones.
    #[test]
    fn both_ways_agree() {
        crate::open().unwrap();
        let wide = random::normal(&[7, 90], Dtype::F32, 0.0, 3.0, &random::key(1));
        let rows = random::normal(&[7, 1], Dtype::F32, 0.0, 1.0, &random::key(2));
        for (dtype, bound) in [(Dtype::F32, 2e-6), (Dtype::Bf16, 0.1)] {
            let (wide, rows) = (wide.cast(dtype), rows.cast(dtype));
            let parts = [(0, 30), (30, 60), (60, 90)].map(|(a, b)| wide.narrow(1, a, b));
            for [a, b] in [[&parts[0], &parts[1]], [&parts[2].contiguous(), &parts[0]]] {
                for gate in [Gate::Silu, Gate::GeluTanh, Gate::Sigmoid] {
                    let found = gated(gate, a, b);
                    assert_eq!((found.shape(), found.dtype()), (a.shape(), dtype));
                    let off = difference(&found, &(gate.of_mlx(a) * b));
                    assert!(off <= 4.0 * bound, "{gate:?} {dtype}: {off}");
                }
                let off = difference(&gated_sum(a, &rows, b), &(a + rows.sigmoid() * b));
                assert!(off <= bound, "gated sum {dtype}: {off}");
            }
        }
    }

    #[test]
    fn caps_factors_and_finer_weights() {
        crate::open().unwrap();
        let x = Array::from_slice(&[-100.0_f32, 0.5, 3.0], &[1, 3]);
        let found = softcap(&x, 2.0).to_vec::<f32>().unwrap();
        let expected = [-2.0, 2.0 * 0.25_f32.tanh(), 2.0 * 1.5_f32.tanh()];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        assert_eq!(scaled(&x, 3.0).to_vec::<f32>().unwrap(), [-300.0, 1.5, 9.0]);
        // In bf16 the weight is 1, and 1.4142 stays what it is; 1.4184 is nearer to the next number.
        let x = Array::from_slice(&[254.0_f32, 2.0], &[1, 2]).cast(Dtype::Bf16);
        let weight = Array::from_slice(&[1.003_f32, 1.0], &[2]);
        let y = rms_norm_in(&x, Some(&weight), 0.0, Dtype::Bf16);
        let one = rms_norm_in(&x, Some(&weight.cast(Dtype::Bf16)), 0.0, Dtype::Bf16);
        assert_eq!((y.dtype(), one.dtype()), (Dtype::Bf16, Dtype::Bf16));
        assert!(difference(&y, &one) > 0.0, "the weight was rounded first");
    }
}
