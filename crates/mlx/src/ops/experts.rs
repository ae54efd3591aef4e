//! Mixtures of experts. MLX has their products ([`super::gather_mm`], [`super::gather_qmm`]) and nothing for the rest; on
//! the CPU not all of the products. Where these functions give None, the caller builds the layer from MLX's operations.

use super::Quantized;
use crate::meter::inside;
use crate::{Array, cpu};

/// One projection of all experts, the rows of one after those of the other: `[experts × out, in]`.
#[derive(Clone, Copy, Debug)]
pub enum Stack<'a> {
    Dense(&'a Array),
    /// With a factor for each expert, f32, where each was quantised with a scale of its own (nvfp4).
    Quantized(Quantized<'a>, Option<&'a Array>),
}

/// The networks of a layer: down(silu(gate x) × up x) each.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    pub count: i32,
    /// Gate and up; or one, whose rows for an expert are those of the gate and then those of up.
    pub gate_up: &'a [Stack<'a>],
    pub down: Stack<'a>,
}

/// How rows choose experts by the softmax of the router's logits.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    /// Experts to a row.
    pub each: i32,
    /// The chosen weights are divided by their sum.
    pub normalised: bool,
}

/// Σ weight × expert(x) for each row of `x`, `[rows, hidden]`; `chosen` and `weights` (f32) are `[rows, each]`. None where
/// our kernels do not take it.
#[track_caller]
pub fn experts(x: &Array, chosen: &Array, weights: &Array, experts: &Experts<'_>) -> Option<Array> {
    inside(|| cpu::experts::experts(x, chosen, weights, experts))
}

/// The experts of each row of `logits`, `[rows, experts]`, and their weights in f32, both `[rows, each]`. None where our
/// kernels do not take it.
#[track_caller]
pub fn route(logits: &Array, routing: Routing) -> Option<(Array, Array)> {
    inside(|| cpu::experts::route(logits, routing))
}
