//! What our kernels read and write, out of what the primitive hands over: floats in row-major order.
//!
//! Inputs that do not lie so are copied first; that is rare (a slice of a larger array) and costs what a copy costs.

use std::borrow::Cow;

use half::{bf16, f16};
use kernels::{Floats, FloatsMut};

use super::{Input, Output};
use crate::{Array, Dtype, Element};

pub(super) enum Values<'a> {
    F32(Cow<'a, [f32]>),
    Bf16(Cow<'a, [bf16]>),
    F16(Cow<'a, [f16]>),
}

impl<'a> Values<'a> {
    pub fn of(input: &Input<'a>) -> Values<'a> {
        match input.dtype {
            Dtype::F32 => Values::F32(in_order(input)),
            Dtype::Bf16 => Values::Bf16(in_order(input)),
            Dtype::F16 => Values::F16(in_order(input)),
            other => unreachable!("checked when the node was made: {other}"),
        }
    }

    pub fn floats(&self) -> Floats<'_> {
        match self {
            Values::F32(values) => Floats::F32(values),
            Values::Bf16(values) => Floats::Bf16(values),
            Values::F16(values) => Floats::F16(values),
        }
    }
}

/// Whether `Values` can hold it.
pub(super) fn is_float(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::F32 | Dtype::Bf16 | Dtype::F16)
}

pub(super) fn floats_mut<'a>(output: &'a mut Output<'_>) -> FloatsMut<'a> {
    let checked = "an output has the dtype it was asked for, and memory of an allocator is aligned";
    match output.dtype {
        Dtype::F32 => FloatsMut::F32(output.as_slice().expect(checked)),
        Dtype::Bf16 => FloatsMut::Bf16(output.as_slice().expect(checked)),
        Dtype::F16 => FloatsMut::F16(output.as_slice().expect(checked)),
        other => unreachable!("checked when the node was made: {other}"),
    }
}

/// The elements in row-major order.
pub(super) fn in_order<'a, T: Element>(input: &Input<'a>) -> Cow<'a, [T]> {
    if let Some(values) = input.as_slice() {
        return Cow::Borrowed(values);
    }
    let (memory, first) = input.reach::<T>().expect("the dtype was checked when the node was made");
    let size: usize = input.shape.iter().map(|dim| *dim as usize).product();
    let mut values = Vec::with_capacity(size);
    let mut index = vec![0i32; input.shape.len()];
    for _ in 0..size {
        let offset: i64 =
            index.iter().zip(input.strides).map(|(i, stride)| i64::from(*i) * stride).sum();
        values.push(memory[(first as i64 + offset) as usize]);
        for (i, dim) in index.iter_mut().zip(input.shape).rev() {
            *i += 1;
            if *i < *dim {
                break;
            }
            *i = 0;
        }
    }
    Cow::Owned(values)
}
