//! The same elements in another arrangement.

use super::{op, op_list, op_many};
use crate::Array;
use crate::cpu::arrange;
use crate::meter::inside;

/// How `pad` fills the border.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pad {
    /// With a value.
    Constant,
    /// With the nearest element.
    Edge,
}

/// Joined along an existing axis.
#[track_caller]
pub fn concatenate(arrays: &[&Array], axis: i32) -> Array {
    if let Some(joined) = inside(|| arrange::concatenate(arrays, axis)) {
        return joined;
    }
    op_list!(mlx_concatenate_axis, arrays, [], axis)
}

/// Joined along a new axis.
#[track_caller]
pub fn stack(arrays: &[&Array], axis: i32) -> Array {
    op_list!(mlx_stack_axis, arrays, [], axis)
}

impl Array {
    /// One dimension may be -1: what remains.
    #[track_caller]
    pub fn reshape(&self, shape: &[i32]) -> Array {
        if let Some(view) = inside(|| arrange::reshape(self, shape)) {
            return view;
        }
        op!(mlx_reshape, [self], self.raw(), shape.as_ptr(), shape.len())
    }

    /// Axes `first` to `last` become one.
    #[track_caller]
    pub fn flatten(&self, first: i32, last: i32) -> Array {
        op!(mlx_flatten, [self], self.raw(), first, last)
    }

    /// One axis becomes several.
    #[track_caller]
    pub fn unflatten(&self, axis: i32, shape: &[i32]) -> Array {
        op!(mlx_unflatten, [self], self.raw(), axis, shape.as_ptr(), shape.len())
    }

    /// Axes in the order given.
    #[track_caller]
    pub fn transpose(&self, axes: &[i32]) -> Array {
        if let Some(view) = inside(|| arrange::transpose(self, axes)) {
            return view;
        }
        op!(mlx_transpose_axes, [self], self.raw(), axes.as_ptr(), axes.len())
    }

    /// All axes reversed.
    #[track_caller]
    pub fn t(&self) -> Array {
        op!(mlx_transpose, [self], self.raw())
    }

    #[track_caller]
    pub fn swapaxes(&self, a: i32, b: i32) -> Array {
        if let Some(view) = inside(|| arrange::swapaxes(self, a, b)) {
            return view;
        }
        op!(mlx_swapaxes, [self], self.raw(), a, b)
    }

    #[track_caller]
    pub fn moveaxis(&self, from: i32, to: i32) -> Array {
        op!(mlx_moveaxis, [self], self.raw(), from, to)
    }

    /// New axes of size 1, at these places of the result.
    #[track_caller]
    pub fn expand_dims(&self, axes: &[i32]) -> Array {
        op!(mlx_expand_dims_axes, [self], self.raw(), axes.as_ptr(), axes.len())
    }

    /// Without these axes, whose size is 1.
    #[track_caller]
    pub fn squeeze(&self, axes: &[i32]) -> Array {
        op!(mlx_squeeze_axes, [self], self.raw(), axes.as_ptr(), axes.len())
    }

    #[track_caller]
    pub fn broadcast_to(&self, shape: &[i32]) -> Array {
        op!(mlx_broadcast_to, [self], self.raw(), shape.as_ptr(), shape.len())
    }

    /// `parts` equal pieces.
    #[track_caller]
    pub fn split(&self, parts: i32, axis: i32) -> Vec<Array> {
        op_many!(mlx_split, [self], self.raw(), parts, axis)
    }

    /// Pieces that end at these places, and the rest.
    #[track_caller]
    pub fn split_at(&self, places: &[i32], axis: i32) -> Vec<Array> {
        op_many!(mlx_split_sections, [self], self.raw(), places.as_ptr(), places.len(), axis)
    }

    /// Each element `repeats` times in a row.
    #[track_caller]
    pub fn repeat(&self, repeats: i32, axis: i32) -> Array {
        op!(mlx_repeat_axis, [self], self.raw(), repeats, axis)
    }

    /// The whole, repeated along each axis.
    #[track_caller]
    pub fn tile(&self, repeats: &[i32]) -> Array {
        op!(mlx_tile, [self], self.raw(), repeats.as_ptr(), repeats.len())
    }

    /// A border along `axes`: `low` before, `high` after. `value` counts for `Pad::Constant`.
    #[track_caller]
    pub fn pad(&self, axes: &[i32], low: &[i32], high: &[i32], value: f64, mode: Pad) -> Array {
        let value = Array::scalar(value, self.dtype());
        let mode = if mode == Pad::Edge { c"edge" } else { c"constant" };
        let (a, l, h) =
            ((axes.as_ptr(), axes.len()), (low.as_ptr(), low.len()), (high.as_ptr(), high.len()));
        op!(
            mlx_pad,
            [self, &value],
            self.raw(),
            a.0,
            a.1,
            l.0,
            l.1,
            h.0,
            h.1,
            value.raw(),
            mode.as_ptr()
        )
    }

    /// Turned around along one axis.
    #[track_caller]
    pub fn flip(&self, axis: i32) -> Array {
        op!(mlx_flip_axis, [self], self.raw(), axis)
    }

    /// Shifted along one axis, with what falls off coming in at the other end.
    #[track_caller]
    pub fn roll(&self, shift: i32, axis: i32) -> Array {
        op!(mlx_roll_axis, [self], self.raw(), [shift].as_ptr(), 1, axis)
    }

    /// The same values in row-major memory; no copy where they are.
    #[track_caller]
    pub fn contiguous(&self) -> Array {
        op!(mlx_contiguous, [self], self.raw(), false)
    }

    /// A window on the memory of the row-major array: `strides` and `offset` count elements. MLX does not check the reach;
    /// this does.
    #[track_caller]
    pub fn as_strided(&self, shape: &[i32], strides: &[i64], offset: usize) -> Array {
        if !window_fits(shape, strides, offset, self.size()) {
            let message = format!(
                "a window {shape:?} with strides {strides:?} from {offset} leaves the array"
            );
            crate::error::fail("as_strided", &[self], message);
        }
        let s = (strides.as_ptr(), strides.len());
        op!(mlx_as_strided, [self], self.raw(), shape.as_ptr(), shape.len(), s.0, s.1, offset)
    }
}

fn window_fits(shape: &[i32], strides: &[i64], offset: usize, size: usize) -> bool {
    if shape.len() != strides.len() || shape.iter().any(|dim| *dim < 0) {
        return false;
    }
    if shape.contains(&0) {
        return true;
    }
    let (mut low, mut high) = (offset as i128, offset as i128);
    for (dim, stride) in shape.iter().zip(strides) {
        let reach = i128::from(dim - 1) * i128::from(*stride);
        low += reach.min(0);
        high += reach.max(0);
    }
    low >= 0 && high < size as i128
}
