//! Gates, caps and factors on our own kernels: one value from another, or from two, element by element. Each gives None
//! for what it does not take, and MLX computes that.

use kernels::{Activation, Cpu, Gate, Rows, RowsMut};

use super::values::{Values, View, floats_mut, is_float};
use super::{Input, Kernel, Output, Start, call, kernels_compute};
use crate::Array;
use crate::fast::Gate as Asked;

/// f(gate) × x.
#[track_caller]
pub(crate) fn gated(gate: Asked, gates: &Array, x: &Array) -> Option<Array> {
    let alike = gates.shape() == x.shape() && gates.dtype() == x.dtype();
    let activation = match gate {
        Asked::Silu => Activation::Silu,
        Asked::GeluTanh => Activation::GeluTanh,
        Asked::Sigmoid => Activation::Sigmoid,
    };
    if alike { element_wise(Gated { activation }, &[gates, x]) } else { None }
}

struct Gated {
    activation: Activation,
}

impl Kernel for Gated {
    fn name(&self) -> &'static str {
        match self.activation {
            Activation::Silu => "swiglu",
            Activation::GeluTanh => "geglu",
            _ => "gate",
        }
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let (gates, x) = (Even::of(&inputs[0]), Even::of(&inputs[1]));
        let y = rows_mut(&mut outputs[0], &inputs[0]);
        let gate = Gate::Times(self.activation);
        kernels::gated(&Cpu::current(), gate, &gates.rows(), &x.rows(), y);
    }
}

/// base + sigmoid(gate) × x, with a gate for each row: [rows, 1].
#[track_caller]
pub(crate) fn gated_sum(base: &Array, gates: &Array, x: &Array) -> Option<Array> {
    let &[rows, _] = base.shape() else { return None };
    let fits = base.shape() == x.shape()
        && gates.shape() == [rows, 1]
        && [x.dtype(), gates.dtype()] == [base.dtype(); 2];
    if fits { element_wise(GatedSum, &[base, gates, x]) } else { None }
}

struct GatedSum;

impl Kernel for GatedSum {
    fn name(&self) -> &'static str {
        "gated_sum"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let (base, x) = (Even::of(&inputs[0]), Even::of(&inputs[2]));
        let gates = Values::of(&inputs[1]);
        let y = rows_mut(&mut outputs[0], &inputs[0]);
        kernels::gated_sum(&Cpu::current(), &base.rows(), gates.floats(), &x.rows(), y);
    }
}

/// cap × tanh(x / cap).
#[track_caller]
pub(crate) fn softcap(x: &Array, cap: f32) -> Option<Array> {
    element_wise(Mapped { name: "softcap", by: cap, map: kernels::softcap }, &[x])
}

/// factor × x.
#[track_caller]
pub(crate) fn scaled(x: &Array, factor: f32) -> Option<Array> {
    element_wise(Mapped { name: "scaled", by: factor, map: kernels::scale }, &[x])
}

/// Each value by itself, with a number for all.
struct Mapped {
    name: &'static str,
    by: f32,
    map: fn(&Cpu<'_>, f32, &Rows<'_>, RowsMut<'_>),
}

impl Kernel for Mapped {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let x = Even::of(&inputs[0]);
        (self.map)(&Cpu::current(), self.by, &x.rows(), rows_mut(&mut outputs[0], &inputs[0]));
    }
}

/// One node whose output is like its first input.
#[track_caller]
fn element_wise(kernel: impl Kernel, inputs: &[&Array]) -> Option<Array> {
    let takes = |array: &&Array| is_float(array) && array.ndim() > 0 && array.size() > 0;
    if !kernels_compute() || !inputs.iter().all(takes) {
        return None;
    }
    let start = Start::Fresh { shape: inputs[0].shape(), dtype: inputs[0].dtype() };
    Some(call(kernel, inputs, &[start]).swap_remove(0))
}

/// An array as rows at one stride: as it lies where that is possible (a slice of columns), else copied.
struct Even<'a> {
    view: View<'a>,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> Even<'a> {
    fn of(input: &Input<'a>) -> Even<'a> {
        let (rows, columns) = rows_of(input);
        if let &[_, _] = input.shape {
            let view = View::of(input);
            let stride = view.strides[0];
            if stride >= columns {
                return Even { view, rows, columns, stride };
            }
        }
        Even { view: View::packed(input), rows, columns, stride: columns }
    }

    fn rows(&self) -> Rows<'_> {
        let data = self.view.floats_from(self.view.first);
        Rows { data, rows: self.rows, columns: self.columns, stride: self.stride }
    }
}

fn rows_of(input: &Input<'_>) -> (usize, usize) {
    let columns = input.shape.last().map_or(1, |dim| *dim as usize);
    (input.shape.iter().map(|dim| *dim as usize).product::<usize>() / columns, columns)
}

fn rows_mut<'a>(output: &'a mut Output<'_>, like: &Input<'_>) -> RowsMut<'a> {
    let (rows, columns) = rows_of(like);
    RowsMut::new(floats_mut(output), rows, columns)
}
