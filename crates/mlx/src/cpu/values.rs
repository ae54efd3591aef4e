//! What our kernels read and write, out of what the primitive hands over: floats in row-major order.
//!
//! Inputs that do not lie so are copied first; that is rare (a slice of a larger array) and costs what a copy costs.

use std::borrow::Cow;

use half::{bf16, f16};
use kernels::{Floats, FloatsMut};
use smallvec::SmallVec;

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

    pub fn part(&self, range: std::ops::Range<usize>) -> Floats<'_> {
        match self {
            Values::F32(values) => Floats::F32(&values[range]),
            Values::Bf16(values) => Floats::Bf16(&values[range]),
            Values::F16(values) => Floats::F16(&values[range]),
        }
    }
}

/// Whether `Values` can hold it.
pub(super) fn is_float(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::F32 | Dtype::Bf16 | Dtype::F16)
}

/// The dtype of what is computed of both, by MLX's rule.
pub(super) fn promoted(a: Dtype, b: Dtype) -> Dtype {
    if a == b { a } else { Dtype::F32 }
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

/// An array whose last axis is without gaps, with the strides of the others.
pub(super) struct View<'a> {
    values: Values<'a>,
    pub first: usize,
    pub shape: Axes,
    pub strides: Axes,
}

/// A number for each axis; more than four are rare.
pub(super) type Axes = SmallVec<[usize; 4]>;

impl<'a> View<'a> {
    pub fn of(input: &Input<'a>) -> View<'a> {
        let shape: Axes = input.shape.iter().map(|dim| *dim as usize).collect();
        let straight =
            input.strides.last() == Some(&1) && input.strides.iter().all(|stride| *stride >= 0);
        if !straight {
            return View::packed(input);
        }
        let (values, first) = match input.dtype {
            Dtype::F32 => reached(input, Values::F32),
            Dtype::Bf16 => reached(input, Values::Bf16),
            Dtype::F16 => reached(input, Values::F16),
            other => unreachable!("checked when the node was made: {other}"),
        };
        View {
            values,
            first,
            shape,
            strides: input.strides.iter().map(|stride| *stride as usize).collect(),
        }
    }

    /// In row-major order, which may take a copy.
    pub fn packed(input: &Input<'a>) -> View<'a> {
        let shape: Axes = input.shape.iter().map(|dim| *dim as usize).collect();
        View { values: Values::of(input), first: 0, strides: row_major(&shape), shape }
    }

    pub fn floats(&self) -> Floats<'_> {
        self.values.floats()
    }

    /// From this element on.
    pub fn floats_from(&self, first: usize) -> Floats<'_> {
        match self.floats() {
            Floats::F32(values) => Floats::F32(&values[first..]),
            Floats::Bf16(values) => Floats::Bf16(&values[first..]),
            Floats::F16(values) => Floats::F16(&values[first..]),
        }
    }
}

fn reached<'a, T: Element>(
    input: &Input<'a>,
    wrap: impl Fn(Cow<'a, [T]>) -> Values<'a>,
) -> (Values<'a>, usize) {
    let (memory, first) = input.reach::<T>().expect("the dtype was checked when the node was made");
    (wrap(Cow::Borrowed(memory)), first)
}

fn row_major(shape: &[usize]) -> Axes {
    let mut strides = Axes::from_elem(1, shape.len());
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    strides
}

/// A stretch of an output's memory.
pub(super) fn part_mut<'a>(
    output: &'a mut Output<'_>,
    range: std::ops::Range<usize>,
) -> FloatsMut<'a> {
    match floats_mut(output) {
        FloatsMut::F32(values) => FloatsMut::F32(&mut values[range]),
        FloatsMut::Bf16(values) => FloatsMut::Bf16(&mut values[range]),
        FloatsMut::F16(values) => FloatsMut::F16(&mut values[range]),
    }
}
