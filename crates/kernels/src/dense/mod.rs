//! Products with dense weights, `y[M, N] = x[M, K] · W[N, K]ᵀ`, in f32, bf16, f16 and (with scales) 8-bit floats.
//!
//! Weights are widened on the way; activations are brought to f32 once. Few rows stream the weights ([`few`]), many
//! use a tile of them again and again ([`many`]), both adding in the same order. Where both sides are bf16 and the
//! processor has a fast product for it, that is used: the same numbers, added in pairs in f32, with tiles ([`tiled`]) or
//! without.

mod call;
mod few;
mod many;
mod run;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod weights;

pub(crate) use run::{TOGETHER_MAX, multiply};
pub use run::{gathered_product, product, products};
pub(crate) use weights::Weights;
