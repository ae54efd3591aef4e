//! CPU kernels: pure functions on slices, the choice of instruction set, and the thread pool they share.
//!
//! Nothing here knows MLX, a graph or a model. A kernel takes typed slices with their shapes and strides, checks them
//! with `debug_assert!`, never panics on valid shapes, and accumulates in f32 whatever the inputs are. Each takes a
//! [`Cpu`]: the instruction set to use and the pool to spread over, so that a test can run any supported path. The
//! scalar path is the reference the others are tested against, and is itself tested against f64.
//!
//! How exact: products with dense and with mxfp8 weights are f32 sums. Products with other quantised weights round the
//! activations to 8 bits, which costs about 0.5 % of what products usually are, whatever the kind of weight; everything
//! else of them is f32. Results are rounded once, to the type of the output.
#![allow(unsafe_code)]

mod ahead;
mod attention;
mod convolution;
mod dense;
mod drawing;
mod element;
mod elementwise;
mod embedding;
mod experts;
mod gate;
mod gather;
pub mod isa;
mod norm;
pub mod pool;
mod prepare;
mod quantized;
mod recurrent;
mod rope;
mod routing;
mod rows;
mod sampling;
mod scratch;
mod simd;
mod spread;
mod tasks;
mod vector;

pub use attention::{Attention, Cells, Mask, MaskCells, Segment, Span, Stored, attend};
pub use convolution::{
    ConvolutionSegment, Pictures, ShortConvolution, TAPS_MAX, Window, conv2d, convolve_short,
};
pub use dense::{gathered_product, product, products};
pub use drawing::{Draw, Drawn, Edit, Limits, candidates, draw, noise};
pub use element::{Element, Floats, FloatsMut};
pub use elementwise::{Combine, combine, combine_row, gated_sum, scale, softcap};
pub use embedding::{embed, embed_quantized};
pub use experts::{Choices, Experts, GateUp, Stack, experts};
pub use gate::{Activation, Gate, activate, gated};
pub use gather::Gather;
pub use isa::Isa;
pub use norm::{RmsNorm, layer_norm, layer_norm_of_sum, rms_norm, rms_norm_of_sum};
pub use pool::Pool;
pub use prepare::{Append, CellsMut, HEAD_DIM_MAX, Prepare, StoredMut, append, qk_prepare};
pub use quantized::{
    Kind, QuantizedMatrix, Scales, e4m3, e8m0, gathered_quantized_product, quantized_product,
    quantized_products,
};
pub use recurrent::{Change, Recurrence, RecurrentSegment, delta_gates, recur, scan_gates};
pub use rope::{Heads, HeadsMut, Rope, RopeLayout, rope, rope_angles, rope_width};
pub use routing::{Routing, Score, route};
pub use rows::{Rows, RowsMut};
pub use sampling::{Candidate, argmax, log_sum_exp, softmax, top_k};

/// What a kernel runs on.
#[derive(Clone, Copy)]
pub struct Cpu<'a> {
    pub isa: Isa,
    pub pool: &'a Pool,
}

impl Cpu<'static> {
    /// The process's choice: the best instruction set, or the one `OLLMLX_CPU_ISA` forces, and the shared pool.
    pub fn current() -> Cpu<'static> {
        Cpu { isa: isa::current().isa, pool: pool::shared() }
    }
}

impl Cpu<'_> {
    /// Kernels use the instruction set without asking again: one that the processor lacks must not get that far.
    pub(crate) fn check(&self) {
        assert!(self.isa.supported(), "this processor has no {}", self.isa.name());
    }
}
