//! Many elements into one, running totals, order.

use super::op;
use crate::{Array, Dtype};

/// Reductions over `axes`, all of them where none is named.
macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident = $all:ident, $some:ident),* $(,)?) => {
        impl Array {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self, axes: &[i32], keepdims: bool) -> Array {
                match axes {
                    [] => op!($all, [self], self.raw(), keepdims),
                    axes => op!($some, [self], self.raw(), axes.as_ptr(), axes.len(), keepdims),
                }
            }
        )*}
    };
}

reductions! {
    sum = mlx_sum, mlx_sum_axes, mean = mlx_mean, mlx_mean_axes, max = mlx_max, mlx_max_axes, min = mlx_min, mlx_min_axes,
    prod = mlx_prod, mlx_prod_axes, logsumexp = mlx_logsumexp, mlx_logsumexp_axes,
    all = mlx_all, mlx_all_axes, any = mlx_any, mlx_any_axes,
}

impl Array {
    /// `ddof` is taken from the count: 0 for the population, 1 for a sample.
    #[track_caller]
    pub fn var(&self, axes: &[i32], keepdims: bool, ddof: i32) -> Array {
        op!(mlx_var_axes, [self], self.raw(), axes.as_ptr(), axes.len(), keepdims, ddof)
    }

    #[track_caller]
    pub fn std(&self, axes: &[i32], keepdims: bool, ddof: i32) -> Array {
        op!(mlx_std_axes, [self], self.raw(), axes.as_ptr(), axes.len(), keepdims, ddof)
    }

    /// In the array's own precision.
    #[track_caller]
    pub fn softmax(&self, axes: &[i32]) -> Array {
        op!(mlx_softmax_axes, [self], self.raw(), axes.as_ptr(), axes.len(), false)
    }

    /// Computed in float32 whatever the dtype.
    #[track_caller]
    pub fn softmax_precise(&self, axes: &[i32]) -> Array {
        op!(mlx_softmax_axes, [self], self.raw(), axes.as_ptr(), axes.len(), true)
    }

    /// Running sum, each element included.
    #[track_caller]
    pub fn cumsum(&self, axis: i32) -> Array {
        op!(mlx_cumsum_axis, [self], self.raw(), axis, false, true, None::<Dtype>.into())
    }

    /// Running sum of what comes before each element.
    #[track_caller]
    pub fn cumsum_before(&self, axis: i32) -> Array {
        op!(mlx_cumsum_axis, [self], self.raw(), axis, false, false, None::<Dtype>.into())
    }

    #[track_caller]
    pub fn cumprod(&self, axis: i32) -> Array {
        op!(mlx_cumprod_axis, [self], self.raw(), axis, false, true, None::<Dtype>.into())
    }

    #[track_caller]
    pub fn cummax(&self, axis: i32) -> Array {
        op!(mlx_cummax_axis, [self], self.raw(), axis, false, true)
    }

    #[track_caller]
    pub fn logcumsumexp(&self, axis: i32) -> Array {
        op!(mlx_logcumsumexp_axis, [self], self.raw(), axis, false, true)
    }

    /// The index of the largest, the first of equals. uint32.
    #[track_caller]
    pub fn argmax(&self, axis: i32, keepdims: bool) -> Array {
        let last = !keepdims && (axis == -1 || axis + 1 == self.ndim() as i32);
        if let Some(places) = last.then(|| crate::cpu::rows::argmax(self)).flatten() {
            return places;
        }
        op!(mlx_argmax_axis, [self], self.raw(), axis, keepdims)
    }

    #[track_caller]
    pub fn argmin(&self, axis: i32, keepdims: bool) -> Array {
        op!(mlx_argmin_axis, [self], self.raw(), axis, keepdims)
    }

    /// Ascending.
    #[track_caller]
    pub fn sort(&self, axis: i32) -> Array {
        op!(mlx_sort_axis, [self], self.raw(), axis)
    }

    #[track_caller]
    pub fn argsort(&self, axis: i32) -> Array {
        op!(mlx_argsort_axis, [self], self.raw(), axis)
    }

    /// The `kth` smallest is in its place, smaller ones before it, larger ones after.
    #[track_caller]
    pub fn partition(&self, kth: i32, axis: i32) -> Array {
        op!(mlx_partition_axis, [self], self.raw(), kth, axis)
    }

    #[track_caller]
    pub fn argpartition(&self, kth: i32, axis: i32) -> Array {
        op!(mlx_argpartition_axis, [self], self.raw(), kth, axis)
    }

    /// The `k` largest, in no order.
    #[track_caller]
    pub fn topk(&self, k: i32, axis: i32) -> Array {
        op!(mlx_topk_axis, [self], self.raw(), k, axis)
    }

    /// Where each of `values` would be inserted into this ascending sequence, before its equals.
    #[track_caller]
    pub fn searchsorted(&self, values: &Array) -> Array {
        op!(mlx_searchsorted, [self, values], self.raw(), values.raw(), c"left".as_ptr())
    }

    /// Whether all elements agree within `atol + rtol · |other|`.
    #[track_caller]
    pub fn allclose(&self, other: &Array, rtol: f64, atol: f64) -> Array {
        op!(mlx_allclose, [self, other], self.raw(), other.raw(), rtol, atol, false)
    }
}

/// Whether shapes and all elements are equal.
#[track_caller]
pub fn array_equal(a: &Array, b: &Array) -> Array {
    op!(mlx_array_equal, [a, b], a.raw(), b.raw(), false)
}
