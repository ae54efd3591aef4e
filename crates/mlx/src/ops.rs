//! MLX's operations under MLX's names: methods where one array is the subject, functions where there are several or none.
//!
//! Each is a line in `op!`: which function of the table, which arrays it reads (for the message when it fails), and the
//! rest of its arguments. Nothing is computed here; the result is a node of the graph.

mod arithmetic;
mod creation;
mod draws;
mod experts;
mod indexing;
mod operators;
mod products;
mod reductions;
mod shape;

pub use arithmetic::where_;
pub use creation::{arange, eye, full, linspace, ones, tri, unwritten, zeros};
pub use draws::{Draw, Draws, Edit, Limits, Logprobs, draw, noise};
pub use experts::{Experts, Routing, Stack, experts, route};
pub use products::{
    Conv, Mode, Quantized, addmm, conv1d, conv2d, conv3d, dequantize, einsum, gather_mm,
    gather_qmm, linear, quantize, quantized_linear, quantized_matmul, take_quantized,
};
pub use reductions::array_equal;
pub use shape::{Pad, concatenate, stack};

use crate::array::Vector;
use crate::device::stream_for;
use crate::ffi::{Functions, mlx_array, mlx_stream, mlx_vector_array};
use crate::{Array, error, meter};
use std::ffi::CString;

/// `op!(mlx_add, [a, b], a.raw(), b.raw())`: one result. The stream is appended.
macro_rules! op {
    ($function:ident, [$($input:expr),* $(,)?] $(, $argument:expr)* $(,)?) => {
        $crate::ops::one(stringify!($function), &[$($input),*], |f, out, stream| {
            // SAFETY: the declaration is the header's; handles and slices outlive the call; `out` is filled or untouched.
            unsafe { (f.$function)(out, $($argument,)* stream) }
        })
    };
}

/// As `op!`, for functions with a list of results.
macro_rules! op_many {
    ($function:ident, [$($input:expr),* $(,)?] $(, $argument:expr)* $(,)?) => {
        $crate::ops::many(stringify!($function), &[$($input),*], |f, out, stream| {
            // SAFETY: the declaration is the header's; handles and slices outlive the call; `out` is filled or untouched.
            unsafe { (f.$function)(out, $($argument,)* stream) }
        })
    };
}

pub(crate) use {op, op_many};

#[track_caller]
pub(crate) fn one(
    function: &'static str,
    inputs: &[&Array],
    call: impl FnOnce(&'static Functions, *mut mlx_array, mlx_stream) -> i32,
) -> Array {
    let (f, stream) = stream_for(name(function), inputs);
    let mut raw = mlx_array::NULL;
    if meter::inside(|| call(f, &mut raw, stream)) != 0 {
        error::fail(name(function), inputs, error::take_message());
    }
    // SAFETY: the call succeeded, so it put a new reference there.
    unsafe { Array::from_raw(raw) }
}

#[track_caller]
pub(crate) fn many(
    function: &'static str,
    inputs: &[&Array],
    call: impl FnOnce(&'static Functions, *mut mlx_vector_array, mlx_stream) -> i32,
) -> Vec<Array> {
    let (f, stream) = stream_for(name(function), inputs);
    let mut results = Vector::empty(f);
    if meter::inside(|| call(f, &mut results.raw, stream)) != 0 {
        error::fail(name(function), inputs, error::take_message());
    }
    results.arrays()
}

fn name(function: &'static str) -> &'static str {
    function.strip_prefix("mlx_").unwrap_or(function)
}

/// The handle of an array that may be absent.
pub(crate) fn raw_or_null(array: Option<&Array>) -> mlx_array {
    array.map_or(mlx_array::NULL, Array::raw)
}

/// The arrays that are there, for an error's list of inputs.
#[track_caller]
pub(crate) fn one_with_options(
    function: &'static str,
    inputs: &[Option<&Array>],
    call: impl FnOnce(&'static Functions, *mut mlx_array, mlx_stream) -> i32,
) -> Array {
    let present: Vec<&Array> = inputs.iter().flatten().copied().collect();
    one(function, &present, call)
}

/// As `op!`, with inputs that may be absent.
macro_rules! op_options {
    ($function:ident, [$($input:expr),* $(,)?] $(, $argument:expr)* $(,)?) => {
        $crate::ops::one_with_options(stringify!($function), &[$($input),*], |f, out, stream| {
            // SAFETY: the declaration is the header's; handles and slices outlive the call; null marks an absent array.
            unsafe { (f.$function)(out, $($argument,)* stream) }
        })
    };
}

pub(crate) use op_options;

/// As `op!`, for a list of arrays handed over as one vector: `op_list!(mlx_stack_axis, arrays, |vector| vector, axis)`.
macro_rules! op_list {
    ($function:ident, $arrays:expr, [$($before:expr),*] $(, $after:expr)*) => {
        $crate::ops::one(stringify!($function), $arrays, |f, out, stream| {
            let vector = $crate::array::Vector::of(f, $arrays);
            // SAFETY: the declaration is the header's; the vector and the slices outlive the call.
            unsafe { (f.$function)(out, $($before,)* vector.raw, $($after,)* stream) }
        })
    };
}

pub(crate) use op_list;

/// A text for C; one with a zero byte in it is an error of `operation`.
#[track_caller]
pub(crate) fn c_string(operation: &'static str, text: &str) -> CString {
    match CString::new(text) {
        Ok(text) => text,
        Err(_) => error::fail(operation, &[], "the text contains a zero byte".to_owned()),
    }
}
