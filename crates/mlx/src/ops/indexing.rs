//! Parts of an array, and writing parts of it.

use super::op;
use crate::Array;
use crate::array::Vector;
use crate::cpu::{arrange, rows};
use crate::meter::inside;
use crate::{Device, device};

impl Array {
    /// `start` to before `stop` by `strides`, for every axis.
    #[track_caller]
    pub fn slice(&self, start: &[i32], stop: &[i32], strides: &[i32]) -> Array {
        if let Some(view) = inside(|| arrange::slice(self, start, stop, strides)) {
            return view;
        }
        let (a, b, c) = (
            (start.as_ptr(), start.len()),
            (stop.as_ptr(), stop.len()),
            (strides.as_ptr(), strides.len()),
        );
        op!(mlx_slice, [self], self.raw(), a.0, a.1, b.0, b.1, c.0, c.1)
    }

    /// `start` to before `stop` of one axis, all of the others.
    #[track_caller]
    pub fn narrow(&self, axis: i32, start: i32, stop: i32) -> Array {
        let (mut low, mut high) = (vec![0; self.ndim()], self.shape().to_vec());
        let size = self.dim(axis);
        let axis = (if axis < 0 { axis + low.len() as i32 } else { axis }) as usize;
        if start < 0 || stop < start || stop > size {
            let message = format!("{start}..{stop} is no part of axis {axis}, which has {size}");
            crate::error::fail("narrow", &[self], message);
        }
        (low[axis], high[axis]) = (start, stop);
        self.slice(&low, &high, &vec![1; low.len()])
    }

    /// One index of an axis; the axis goes away.
    #[track_caller]
    pub fn select(&self, axis: i32, index: i32) -> Array {
        let index = if index < 0 { index + self.dim(axis) } else { index };
        self.narrow(axis, index, index + 1).squeeze(&[axis])
    }

    /// `size` elements of each of `axes` from the places in `start` (an array with one index per axis).
    #[track_caller]
    pub fn slice_dynamic(&self, start: &Array, axes: &[i32], size: &[i32]) -> Array {
        let (a, s) = ((axes.as_ptr(), axes.len()), (size.as_ptr(), size.len()));
        op!(mlx_slice_dynamic, [self, start], self.raw(), start.raw(), a.0, a.1, s.0, s.1)
    }

    /// A copy with `update` in the slice; in place where nobody else holds this array.
    #[track_caller]
    pub fn slice_update(
        &self,
        update: &Array,
        start: &[i32],
        stop: &[i32],
        strides: &[i32],
    ) -> Array {
        let (a, b, c) = (
            (start.as_ptr(), start.len()),
            (stop.as_ptr(), stop.len()),
            (strides.as_ptr(), strides.len()),
        );
        op!(
            mlx_slice_update,
            [self, update],
            self.raw(),
            update.raw(),
            a.0,
            a.1,
            b.0,
            b.1,
            c.0,
            c.1
        )
    }

    /// As `slice_update`, for places that nothing reads any more, nor before this is done: memory that grows behind its
    /// end, made by `unwritten`. Written in place, whoever else holds this array.
    #[track_caller]
    pub fn write_unread(&self, update: &Array, start: &[i32]) -> Array {
        let ends = start.iter().zip(update.shape()).map(|(start, size)| start + size);
        let stop: Vec<i32> = ends.collect();
        let within = || stop.iter().zip(self.shape()).all(|(stop, size)| stop <= size);
        let fits = start.len() == self.ndim() && update.ndim() == self.ndim() && within();
        if !fits || self.dtype() != update.dtype() || start.iter().any(|at| *at < 0) {
            let message = format!("nothing of that shape and dtype is at {start:?}");
            crate::error::fail("write_unread", &[self, update], message);
        }
        match device() {
            Device::Cpu => inside(|| arrange::write(self, update, start)),
            Device::Gpu => self.sole().slice_update(update, start, &stop, &vec![1; stop.len()]),
        }
    }

    /// As `slice_update`, adding.
    #[track_caller]
    pub fn slice_update_add(
        &self,
        update: &Array,
        start: &[i32],
        stop: &[i32],
        strides: &[i32],
    ) -> Array {
        let (a, b, c) = (
            (start.as_ptr(), start.len()),
            (stop.as_ptr(), stop.len()),
            (strides.as_ptr(), strides.len()),
        );
        op!(
            mlx_slice_update_add,
            [self, update],
            self.raw(),
            update.raw(),
            a.0,
            a.1,
            b.0,
            b.1,
            c.0,
            c.1
        )
    }

    /// As `slice_update`, at places that are values of the graph.
    #[track_caller]
    pub fn slice_update_dynamic(&self, update: &Array, start: &Array, axes: &[i32]) -> Array {
        let a = (axes.as_ptr(), axes.len());
        op!(
            mlx_slice_update_dynamic,
            [self, update, start],
            self.raw(),
            update.raw(),
            start.raw(),
            a.0,
            a.1
        )
    }

    /// The rows (of `axis`) that `indices` name, in its shape.
    #[track_caller]
    pub fn take(&self, indices: &Array, axis: i32) -> Array {
        if let Some(rows) = (axis == 0).then(|| rows::take(self, indices)).flatten() {
            return rows;
        }
        op!(mlx_take_axis, [self, indices], self.raw(), indices.raw(), axis)
    }

    #[track_caller]
    pub fn take_along_axis(&self, indices: &Array, axis: i32) -> Array {
        op!(mlx_take_along_axis, [self, indices], self.raw(), indices.raw(), axis)
    }

    #[track_caller]
    pub fn put_along_axis(&self, indices: &Array, values: &Array, axis: i32) -> Array {
        op!(
            mlx_put_along_axis,
            [self, indices, values],
            self.raw(),
            indices.raw(),
            values.raw(),
            axis
        )
    }

    /// Adds `values` at `indices` along one axis; places named twice get both.
    #[track_caller]
    pub fn scatter_add_axis(&self, indices: &Array, values: &Array, axis: i32) -> Array {
        op!(
            mlx_scatter_add_axis,
            [self, indices, values],
            self.raw(),
            indices.raw(),
            values.raw(),
            axis
        )
    }

    /// Adds the slices `updates` (shape: that of the indices, then of a slice with 1 at `axes`) at the places that
    /// `indices` name, one array for each of `axes`.
    #[track_caller]
    pub fn scatter_add(&self, indices: &[&Array], updates: &Array, axes: &[i32]) -> Array {
        super::one("mlx_scatter_add", &[self, updates], |f, out, stream| {
            let indices = Vector::of(f, indices);
            // SAFETY: the declaration is the header's; the vector and the slices outlive the call.
            unsafe {
                (f.mlx_scatter_add)(
                    out,
                    self.raw(),
                    indices.raw,
                    updates.raw(),
                    axes.as_ptr(),
                    axes.len(),
                    stream,
                )
            }
        })
    }

    /// As `scatter_add`, replacing.
    #[track_caller]
    pub fn scatter(&self, indices: &[&Array], updates: &Array, axes: &[i32]) -> Array {
        super::one("mlx_scatter", &[self, updates], |f, out, stream| {
            let indices = Vector::of(f, indices);
            // SAFETY: the declaration is the header's; the vector and the slices outlive the call.
            unsafe {
                (f.mlx_scatter)(
                    out,
                    self.raw(),
                    indices.raw,
                    updates.raw(),
                    axes.as_ptr(),
                    axes.len(),
                    stream,
                )
            }
        })
    }

    /// `source`'s elements, in order, into the places where `mask` holds.
    #[track_caller]
    pub fn masked_scatter(&self, mask: &Array, source: &Array) -> Array {
        op!(mlx_masked_scatter, [self, mask, source], self.raw(), mask.raw(), source.raw())
    }
}
