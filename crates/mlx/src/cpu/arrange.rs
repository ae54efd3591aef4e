//! Other arrangements of arrays that are only recorded: strides and offsets, no node of the graph. Each gives None where
//! the array is not recorded (MLX does it then), or asks for what only MLX's own operation refuses in its words.

use smallvec::SmallVec;

use super::tape::{self, Dims, Layout, View, elements, is_recorded, row_major};
use super::{Input, Kernel, Output, Start, call};
use crate::Array;

pub(crate) fn reshape(array: &Array, shape: &[i32]) -> Option<Array> {
    if !is_recorded(array) {
        return None;
    }
    let shape = whole(array, shape)?;
    let straight = |layout: &Layout<'_>| {
        let strides = layout.is_row_major().then(|| row_major(&shape))?;
        Some(View { shape: shape.clone(), strides, skip: 0 })
    };
    tape::view(array, straight).or_else(|| tape::view(&packed(array), straight))
}

/// The shape with its -1 filled in; none where the sizes differ.
fn whole(array: &Array, shape: &[i32]) -> Option<Dims> {
    let mut whole = Dims::from_slice(shape);
    let open: SmallVec<[usize; 2]> = (0..shape.len()).filter(|axis| shape[*axis] == -1).collect();
    let known: usize = shape
        .iter()
        .filter(|dim| **dim != -1)
        .map(|dim| usize::try_from(*dim).ok())
        .product::<Option<_>>()?;
    let size = array.size();
    match open[..] {
        [] => (known == size).then_some(whole),
        [axis] if known > 0 && size.is_multiple_of(known) => {
            whole[axis] = (size / known) as i32;
            Some(whole)
        }
        _ => None,
    }
}

pub(crate) fn transpose(array: &Array, axes: &[i32]) -> Option<Array> {
    tape::view(array, |layout| {
        let ndim = layout.shape.len();
        let mut seen = [false; 16];
        let mut view = View { shape: Dims::new(), strides: SmallVec::new(), skip: 0 };
        for axis in axes {
            let axis = axis_of(*axis, ndim)?;
            if axes.len() != ndim || std::mem::replace(seen.get_mut(axis)?, true) {
                return None;
            }
            view.shape.push(layout.shape[axis]);
            view.strides.push(layout.strides[axis]);
        }
        Some(view)
    })
}

pub(crate) fn swapaxes(array: &Array, a: i32, b: i32) -> Option<Array> {
    tape::view(array, |layout| {
        let (a, b) = (axis_of(a, layout.shape.len())?, axis_of(b, layout.shape.len())?);
        let mut view = View { shape: layout.shape.into(), strides: layout.strides.into(), skip: 0 };
        view.shape.swap(a, b);
        view.strides.swap(a, b);
        Some(view)
    })
}

fn axis_of(axis: i32, ndim: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + ndim as i32 } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < ndim)
}

/// Steps forwards only.
pub(crate) fn slice(array: &Array, start: &[i32], stop: &[i32], steps: &[i32]) -> Option<Array> {
    tape::view(array, |layout| {
        let ndim = layout.shape.len();
        if [start.len(), stop.len(), steps.len()] != [ndim; 3] {
            return None;
        }
        let mut view = View { shape: Dims::new(), strides: SmallVec::new(), skip: 0 };
        for axis in 0..ndim {
            let (from, to, step) = (start[axis], stop[axis], steps[axis]);
            if !(0 <= from && from <= to && to <= layout.shape[axis] && step > 0) {
                return None;
            }
            let stride = layout.strides[axis];
            view.shape.push((to - from + step - 1) / step);
            view.strides.push(stride * i64::from(step));
            view.skip += usize::try_from(i64::from(from) * stride).ok()?;
        }
        Some(view)
    })
}

/// The same values in row-major memory of their own.
pub(crate) fn packed(array: &Array) -> Array {
    struct Pack;
    impl Kernel for Pack {
        fn name(&self) -> &'static str {
            "pack"
        }

        fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
            copy_into(&inputs[0], outputs[0].as_bytes());
        }
    }
    let start = Start::Fresh { shape: array.shape(), dtype: array.dtype() };
    call(Pack, &[array], &[start]).swap_remove(0)
}

/// Joined along the first axis, where all but that axis agree and something is recorded.
pub(crate) fn concatenate(arrays: &[&Array], axis: i32) -> Option<Array> {
    struct Join;
    impl Kernel for Join {
        fn name(&self) -> &'static str {
            "concatenate"
        }

        fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
            let mut rest = outputs[0].as_bytes();
            for input in inputs {
                let (part, after) = rest.split_at_mut(elements(input.shape) * input.dtype.size());
                copy_into(input, part);
                rest = after;
            }
        }
    }
    let (first, others) = arrays.split_first()?;
    let alike = |array: &&Array| {
        array.dtype() == first.dtype()
            && array.ndim() == first.ndim()
            && array.shape()[1..] == first.shape()[1..]
    };
    let fits = first.ndim() > 0 && (axis == 0 || axis == -(first.ndim() as i32));
    if !fits || !others.iter().all(alike) || !arrays.iter().any(|array| is_recorded(array)) {
        return None;
    }
    let mut shape = Dims::from_slice(first.shape());
    shape[0] = arrays.iter().map(|array| array.shape()[0]).sum();
    let start = Start::Fresh { shape: &shape, dtype: first.dtype() };
    Some(call(Join, arrays, &[start]).swap_remove(0))
}

/// `whole` with `part` at `start`, written into the memory of `whole`, whoever reads that: see `Array::write_unread`.
pub(crate) fn write(whole: &Array, part: &Array, start: &[i32]) -> Array {
    struct Write {
        start: SmallVec<[usize; 4]>,
    }
    impl Kernel for Write {
        fn name(&self) -> &'static str {
            "write"
        }

        fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
            let (part, whole) = (&inputs[1], &mut outputs[0]);
            let item = part.dtype.size();
            let strides = row_major(whole.shape);
            let run = part.shape.last().map_or(1, |dim| *dim as usize);
            let first: usize =
                self.start.iter().zip(&strides).map(|(at, by)| at * *by as usize).sum();
            let bytes = whole.as_bytes();
            for_each_run(part, |index, values| {
                let at: usize = index.iter().zip(&strides).map(|(at, by)| at * *by as usize).sum();
                let at = (first + at) * item;
                bytes[at..at + run * item].copy_from_slice(values);
            });
        }
    }
    let start = start.iter().map(|at| *at as usize).collect();
    call(Write { start }, &[whole, part], &[Start::Shared(0)]).swap_remove(0)
}

/// The values in row-major order.
pub(super) fn copy_into(input: &Input<'_>, to: &mut [u8]) {
    if let Some(bytes) = input.as_bytes() {
        to.copy_from_slice(bytes);
        return;
    }
    let mut at = 0;
    for_each_run(input, |_, values| {
        to[at..at + values.len()].copy_from_slice(values);
        at += values.len();
    });
}

/// The bytes of each stretch along the last axis, with its place on all the others.
fn for_each_run(input: &Input<'_>, mut take: impl FnMut(&[usize], &[u8])) {
    let Some((bytes, first)) = input.reach_bytes() else { return };
    let (item, axes) = (input.dtype.size(), input.shape.len().saturating_sub(1));
    let (run, step) = match (input.shape.last(), input.strides.last()) {
        (Some(run), Some(step)) => (*run as usize, *step),
        _ => (1, 1),
    };
    let runs: usize = elements(&input.shape[..axes]);
    let mut gathered: Vec<u8> = Vec::new();
    let mut index: SmallVec<[usize; 4]> = SmallVec::from_elem(0, axes);
    for _ in 0..if run == 0 { 0 } else { runs } {
        let offset: i64 =
            index.iter().zip(input.strides).map(|(at, stride)| *at as i64 * stride).sum();
        let begin = first as i64 + offset;
        if step == 1 || run == 1 {
            let begin = begin as usize * item;
            take(&index, &bytes[begin..begin + run * item]);
        } else {
            gathered.clear();
            for at in 0..run as i64 {
                let from = (begin + at * step) as usize * item;
                gathered.extend_from_slice(&bytes[from..from + item]);
            }
            take(&index, &gathered);
        }
        for (at, dim) in index.iter_mut().zip(&input.shape[..axes]).rev() {
            *at += 1;
            if *at < *dim as usize {
                break;
            }
            *at = 0;
        }
    }
}
