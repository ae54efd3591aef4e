//! Arrays out of nothing.

use super::op;
use crate::array::byte_len;
use crate::{Array, Device, Dtype};

#[track_caller]
pub fn zeros(shape: &[i32], dtype: Dtype) -> Array {
    op!(mlx_zeros, [], shape.as_ptr(), shape.len(), dtype as u32)
}

#[track_caller]
pub fn ones(shape: &[i32], dtype: Dtype) -> Array {
    op!(mlx_ones, [], shape.as_ptr(), shape.len(), dtype as u32)
}

/// `shape` filled with `value`.
#[track_caller]
pub fn full(shape: &[i32], value: f64, dtype: Dtype) -> Array {
    let value = Array::scalar(value, dtype);
    op!(mlx_full, [&value], shape.as_ptr(), shape.len(), value.raw(), dtype as u32)
}

/// From `start` to before `stop`.
#[track_caller]
pub fn arange(start: f64, stop: f64, step: f64, dtype: Dtype) -> Array {
    op!(mlx_arange, [], start, stop, step, dtype as u32)
}

/// `count` values from `start` to `stop`, both included.
#[track_caller]
pub fn linspace(start: f64, stop: f64, count: i32, dtype: Dtype) -> Array {
    op!(mlx_linspace, [], start, stop, count, dtype as u32)
}

/// `rows` × `columns` with ones on the `k`th diagonal.
#[track_caller]
pub fn eye(rows: i32, columns: i32, k: i32, dtype: Dtype) -> Array {
    op!(mlx_eye, [], rows, columns, k, dtype as u32)
}

/// `rows` × `columns` with ones on and below the `k`th diagonal.
#[track_caller]
pub fn tri(rows: i32, columns: i32, k: i32, dtype: Dtype) -> Array {
    op!(mlx_tri, [], rows, columns, k, dtype as u32)
}

impl Array {
    /// Zeros of the same shape and dtype.
    #[track_caller]
    pub fn zeros_like(&self) -> Array {
        op!(mlx_zeros_like, [self], self.raw())
    }

    #[track_caller]
    pub fn ones_like(&self) -> Array {
        op!(mlx_ones_like, [self], self.raw())
    }

    /// The lower triangle, up to the `k`th diagonal; zeros elsewhere.
    #[track_caller]
    pub fn tril(&self, k: i32) -> Array {
        op!(mlx_tril, [self], self.raw(), k)
    }

    /// The upper triangle, from the `k`th diagonal on; zeros elsewhere.
    #[track_caller]
    pub fn triu(&self, k: i32) -> Array {
        op!(mlx_triu, [self], self.raw(), k)
    }
}

/// Memory to be written by `Array::write_unread`; zeros until then.
#[track_caller]
pub fn unwritten(shape: &[i32], dtype: Dtype) -> Array {
    match crate::device() {
        // There at once, so that what is recorded can write to it where it lies.
        Device::Cpu => {
            Array::from_bytes(&vec![0; byte_len(shape, dtype).unwrap_or(0)], shape, dtype)
        }
        Device::Gpu => zeros(shape, dtype),
    }
}
