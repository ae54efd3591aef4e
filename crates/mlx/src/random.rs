//! Random numbers. The key is always explicit: the same key gives the same numbers, on every device.

use crate::ffi::mlx_array;
use crate::ops::op;
use crate::{Array, Dtype, error};

/// A key from a seed.
#[track_caller]
pub fn key(seed: u64) -> Array {
    let (f, _) = crate::device::stream_for("random_key", &[]);
    let mut raw = mlx_array::NULL;
    // SAFETY: the destination is null and gets a new reference.
    match unsafe { (f.mlx_random_key)(&mut raw, seed) } {
        // SAFETY: as above.
        0 => unsafe { Array::from_raw(raw) },
        _ => error::fail("random_key", &[], error::take_message()),
    }
}

/// Two keys from one.
#[track_caller]
pub fn split(key: &Array) -> (Array, Array) {
    let keys = split_into(key, 2);
    (keys.select(0, 0), keys.select(0, 1))
}

/// `count` keys from one, [count, 2].
#[track_caller]
pub fn split_into(key: &Array, count: i32) -> Array {
    op!(mlx_random_split_num, [key], key.raw(), count)
}

/// Random bits, uint32.
#[track_caller]
pub fn bits(shape: &[i32], key: &Array) -> Array {
    op!(mlx_random_bits, [key], shape.as_ptr(), shape.len(), 4, key.raw())
}

/// Between `low` and below `high`.
#[track_caller]
pub fn uniform(low: f32, high: f32, shape: &[i32], dtype: Dtype, key: &Array) -> Array {
    let (low, high) = (Array::scalar(low.into(), dtype), Array::scalar(high.into(), dtype));
    op!(
        mlx_random_uniform,
        [key],
        low.raw(),
        high.raw(),
        shape.as_ptr(),
        shape.len(),
        dtype as u32,
        key.raw()
    )
}

#[track_caller]
pub fn normal(shape: &[i32], dtype: Dtype, mean: f32, deviation: f32, key: &Array) -> Array {
    op!(
        mlx_random_normal,
        [key],
        shape.as_ptr(),
        shape.len(),
        dtype as u32,
        mean,
        deviation,
        key.raw()
    )
}

#[track_caller]
pub fn gumbel(shape: &[i32], dtype: Dtype, key: &Array) -> Array {
    op!(mlx_random_gumbel, [key], shape.as_ptr(), shape.len(), dtype as u32, key.raw())
}

/// True with the probability `p`, in `shape`.
#[track_caller]
pub fn bernoulli(p: &Array, shape: &[i32], key: &Array) -> Array {
    op!(mlx_random_bernoulli, [p, key], p.raw(), shape.as_ptr(), shape.len(), key.raw())
}

/// One index along `axis` for each row, by logits that need not be normalised.
#[track_caller]
pub fn categorical(logits: &Array, axis: i32, key: &Array) -> Array {
    op!(mlx_random_categorical, [logits, key], logits.raw(), axis, key.raw())
}

/// Integers from `low` to below `high`.
#[track_caller]
pub fn randint(low: i32, high: i32, shape: &[i32], key: &Array) -> Array {
    let (low, high) =
        (Array::scalar(low.into(), Dtype::I32), Array::scalar(high.into(), Dtype::I32));
    op!(
        mlx_random_randint,
        [key],
        low.raw(),
        high.raw(),
        shape.as_ptr(),
        shape.len(),
        Dtype::I32 as u32,
        key.raw()
    )
}

/// The rows of `axis` in random order.
#[track_caller]
pub fn permutation(x: &Array, axis: i32, key: &Array) -> Array {
    op!(mlx_random_permutation, [x, key], x.raw(), axis, key.raw())
}
