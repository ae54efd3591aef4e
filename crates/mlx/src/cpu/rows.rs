//! Sums of rows, rows of tables, the largest of a row: our kernels in place of MLX's.

use std::borrow::Cow;

use kernels::{Combine, Cpu, Rows, RowsMut};

use super::products::{Held, Shape};
use super::values::{Values, floats_mut, in_order, is_float};
use super::{Input, Kernel, Output, Start, call, kernels_compute};
use crate::{Array, Dtype, Quantized};

/// Where a result is recorded, so may be what is computed of it.
fn ours(arrays: &[&Array]) -> bool {
    kernels_compute() && arrays.iter().any(|array| super::tape::is_recorded(array))
}

/// a ∘ b, element by element.
#[track_caller]
pub(crate) fn combine(how: Combine, a: &Array, b: &Array) -> Option<Array> {
    let alike = || a.shape() == b.shape() && a.dtype() == b.dtype() && is_float(a);
    if !ours(&[a, b]) || !alike() || a.size() == 0 {
        return None;
    }
    let start = Start::Fresh { shape: a.shape(), dtype: a.dtype() };
    Some(call(Both { how }, &[a, b], &[start]).swap_remove(0))
}

struct Both {
    how: Combine,
}

impl Kernel for Both {
    fn name(&self) -> &'static str {
        match self.how {
            Combine::Add => "add",
            Combine::Multiply => "multiply",
        }
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let (a, b) = (Values::of(&inputs[0]), Values::of(&inputs[1]));
        let columns = inputs[0].shape.last().map_or(1, |dim| *dim as usize);
        let rows = a.floats().len() / columns;
        let (a, b) = (Rows::new(a.floats(), rows, columns), Rows::new(b.floats(), rows, columns));
        let y = RowsMut::new(floats_mut(&mut outputs[0]), rows, columns);
        kernels::combine(&Cpu::current(), self.how, &a, &b, y);
    }
}

pub(super) fn are_ids(indices: &Array) -> bool {
    matches!(indices.dtype(), Dtype::U32 | Dtype::I32) && indices.size() > 0
}

pub(super) fn ids<'a>(input: &Input<'a>) -> Cow<'a, [u32]> {
    match input.dtype {
        Dtype::I32 => in_order::<i32>(input).iter().map(|id| *id as u32).collect(),
        _ => in_order(input),
    }
}

/// Rows of a table: `indices` [n] → [n, columns]. A number that is no row fails the evaluation.
#[track_caller]
pub(crate) fn take(table: &Array, indices: &Array) -> Option<Array> {
    let &[_, columns] = table.shape() else { return None };
    let &[count] = indices.shape() else { return None };
    if !kernels_compute() || !is_float(table) || !are_ids(indices) || table.size() == 0 {
        return None;
    }
    let start = Start::Fresh { shape: &[count, columns], dtype: table.dtype() };
    Some(call(Take, &[table, indices], &[start]).swap_remove(0))
}

struct Take;

impl Kernel for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let (table, ids) = (Values::of(&inputs[0]), ids(&inputs[1]));
        let (rows, columns) = (inputs[0].shape[0] as usize, inputs[0].shape[1] as usize);
        let table = Rows::new(table.floats(), rows, columns);
        let y = RowsMut::new(floats_mut(&mut outputs[0]), ids.len(), columns);
        kernels::embed(&Cpu::current(), &table, &ids, y);
    }
}

/// As `take`, of a quantised table, in `dtype`.
#[track_caller]
pub(crate) fn take_quantized(
    table: &Quantized<'_>,
    indices: &Array,
    dtype: Dtype,
) -> Option<Array> {
    let &[count] = indices.shape() else { return None };
    let float = matches!(dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16);
    if !kernels_compute() || !are_ids(indices) || !float {
        return None;
    }
    let columns = table.scales.dim(-1) * table.group_size;
    let shape = Shape::of(table, columns)?;
    let inputs: Vec<&Array> =
        [table.w, table.scales].into_iter().chain(table.biases).chain([indices]).collect();
    let start = Start::Fresh { shape: &[count, columns], dtype };
    Some(call(TakeQuantized { shape }, &inputs, &[start]).swap_remove(0))
}

struct TakeQuantized {
    shape: Shape,
}

impl Kernel for TakeQuantized {
    fn name(&self) -> &'static str {
        "take_quantized"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let Some((indices, parts)) = inputs.split_last() else { return };
        let (table, ids) = (Held::of(&self.shape, parts), ids(indices));
        let y = RowsMut::new(floats_mut(&mut outputs[0]), ids.len(), self.shape.columns());
        kernels::embed_quantized(&Cpu::current(), &table.matrix(), &ids, y);
    }
}

/// The place of the largest value of each row, u32: [rows, columns] → [rows].
#[track_caller]
pub(crate) fn argmax(x: &Array) -> Option<Array> {
    let &[rows, columns] = x.shape() else { return None };
    if !ours(&[x]) || !is_float(x) || columns == 0 {
        return None;
    }
    let start = Start::Fresh { shape: &[rows], dtype: Dtype::U32 };
    Some(call(ArgMax, &[x], &[start]).swap_remove(0))
}

struct ArgMax;

impl Kernel for ArgMax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let x = Values::of(&inputs[0]);
        let columns = inputs[0].shape[1] as usize;
        let places = outputs[0].as_slice::<u32>().unwrap_or_default();
        for (row, place) in places.iter_mut().enumerate() {
            let row = x.part(row * columns..(row + 1) * columns);
            *place = kernels::argmax(&Cpu::current(), row) as u32;
        }
    }
}
