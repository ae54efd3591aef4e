//! Products with quantised weights, `y[M, N] = x[M, K] · W[N, K]ᵀ`, straight from MLX's packed layouts.
//!
//! Weights are read where they lie (mapped files): nothing is repacked at load time. Activations are quantised to
//! bytes, one scale to 32 values ([`activations`] states the error), except beside mxfp8 weights and on the scalar
//! path, which stay in f32. Few rows and many take different roads ([`few`], [`many`]).

mod activations;
mod call;
mod codec;
mod few;
mod many;
mod matrix;
mod reference;
mod run;
pub(crate) mod scales;
#[cfg(test)]
pub(crate) mod testing;
mod tiled;

pub use matrix::{Kind, QuantizedMatrix};
pub(crate) use run::multiply;
pub use run::{gathered_quantized_product, quantized_product, quantized_products};
pub use scales::{Scales, e4m3, e8m0};
