//! Tokens drawn from rows of logits. MLX has the parts; as a whole it is a kernel of ours on the CPU. Where [`draw`]
//! gives None, the caller builds it from MLX's operations, in the order that `kernels::draw` documents.

use std::sync::Arc;

pub use kernels::{Edit, Limits};

use crate::meter::inside;
use crate::{Array, cpu};

/// One draw.
#[derive(Clone, Debug)]
pub struct Draw {
    /// The row of logits.
    pub row: usize,
    pub limits: Limits,
    /// Randomness.
    pub key: u64,
    /// What is done to the logits first; at most one for each token.
    pub edits: Arc<[Edit]>,
    /// A bit for each token that may be drawn, 32 to a word; tokens beyond may not.
    pub allowed: Option<Arc<[u32]>>,
    /// Log-probabilities of the raw logits are wanted, with so many alternatives.
    pub logprobs: Option<usize>,
}

/// What was drawn: arrays still to be computed, with a row for each draw.
#[derive(Clone, Debug)]
pub struct Draws {
    /// u32 [draws]
    pub tokens: Array,
    /// Where one of the draws wants them.
    pub logprobs: Option<Logprobs>,
}

#[derive(Clone, Debug)]
pub struct Logprobs {
    /// f32 [draws]
    pub chosen: Array,
    /// u32 and f32, [draws, as many as are wanted at most], the likeliest first.
    pub top: Option<(Array, Array)>,
}

/// Draws from `logits`, [rows, vocabulary]. None where our kernels do not take it.
#[track_caller]
pub fn draw(logits: &Array, draws: &[Draw]) -> Option<Draws> {
    inside(|| cpu::draws::draw(logits, draws))
}

/// A token's random number within a draw, in units of 2⁻³²: half a step above this.
pub fn noise(key: u64, token: u32) -> u32 {
    kernels::noise(key, token)
}
