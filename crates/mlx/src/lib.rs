//! MLX for everybody above: arrays, operations, memory, and the library behind them, opened at run time.
//!
//! This is the only room with `unsafe` (beside the kernels). It knows no model and no request.
//!
//! - `open` finds libmlxc once per process. Until then, and where it fails, no array can be made.
//! - Operations build a graph and return `Array`; a wrong one unwinds with a `GraphError`, which `catch` turns into a
//!   `Result`. Only `eval` and what reads values runs anything, and returns `Result`: lack of memory is no bug.
//! - `Array` stays on its thread, because MLX's streams do. Every thread works on its own stream of its chosen device.

#![allow(unsafe_code)]

mod array;
pub mod compile;
pub mod cpu;
mod device;
mod dtype;
mod error;
pub mod fast;
mod ffi;
pub mod kernel;
pub mod memory;
pub mod meter;
mod open;
mod ops;
pub mod random;
mod reading;
pub mod recurrent;
pub mod safetensors;
mod selftest;

pub use array::{Array, async_eval, eval};
pub use cpu::pages;
pub use device::{Device, device, device_info, set_device, synchronize, with_device};
pub use dtype::{Dtype, Element};
pub use error::{EvalError, GraphError, OpenError, catch, split_hint};
pub use open::{Attempt, Library, Opened, Outcome, Report, open, report};
pub use ops::{
    Conv, Draw, Draws, Edit, Experts, Limits, Logprobs, Mode, Pad, Quantized, Routing, Stack,
    addmm, arange, array_equal, concatenate, conv1d, conv2d, conv3d, dequantize, draw, einsum,
    experts, eye, full, gather_mm, gather_qmm, linear, linspace, noise, ones, quantize,
    quantized_linear, quantized_matmul, route, stack, take_quantized, tri, unwritten, where_,
    zeros,
};
pub use reading::Reading;
pub use selftest::{Check, selftest};

/// The MLX this program is made for; another version is refused.
pub const MLX_VERSION: &str = "0.32.2";
