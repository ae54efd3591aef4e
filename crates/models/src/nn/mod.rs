//! Layers that architectures share. Each holds its weights and is a pure function of its input; none knows a
//! checkpoint's names (`weights` gives them their tensors) nor how a cache stores what it gives back.

mod attention;
mod embedding;
mod experts;
mod linear;
mod mlp;
mod norm;
mod rope;

use mlx::Array;
use mlx::fast::Gate;

pub use attention::{AttentionOptions, Mask, attend};
pub use embedding::Embedding;
pub use experts::{Experts, GateUp, Stack, choices_of, choose, with_choices};
pub use linear::{Linear, Quantised, Scheme};
pub use mlp::Mlp;
pub use norm::RmsNorm;
pub use rope::Rope;

/// The gate of SwiGLU, arXiv:2002.05202: silu(gate) × up.
pub fn swiglu(gate: &Array, up: &Array) -> Array {
    mlx::fast::gated(Gate::Silu, gate, up)
}

/// cap × tanh(x / cap): x within ±cap.
pub fn softcap(x: &Array, cap: f32) -> Array {
    mlx::fast::softcap(x, cap)
}
