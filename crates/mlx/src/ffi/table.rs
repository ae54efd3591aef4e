//! The function table: every function of mlx-c (and of our library beside it) that we call, declared once.
//!
//! All symbols are resolved when the library is opened, so that an unsuitable one is refused then, with the names of what
//! it lacks, and not in the middle of an answer. A test compares each line with the installed headers.

use super::types::*;
use std::ffi::{c_char, c_int, c_void};

macro_rules! functions {
    ($(#[$doc:meta])* $table:ident; $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        $(#[$doc])*
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($ty),*) $(-> $ret)?,)*
        }

        impl $table {
            const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Name, argument types and return type of each line, for the comparison with the headers.
            #[cfg(test)]
            pub const DECLARATIONS: &[(&str, &[&str], &str)] =
                &[$((stringify!($name), &[$(stringify!($ty)),*], concat!("" $(, stringify!($ret))?))),*];

            /// Resolves every symbol, or names those that are missing.
            pub fn resolve(library: &'static libloading::Library) -> Result<$table, Vec<&'static str>> {
                // SAFETY: the symbol is looked up and not used.
                let absent = |name: &&&str| unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err();
                let missing: Vec<_> = Self::NAMES.iter().filter(absent).copied().collect();
                if !missing.is_empty() {
                    return Err(missing);
                }
                Ok($table {
                    $($name: {
                        // SAFETY: the declaration is the header's, which a test checks; the library is never closed.
                        let symbol = unsafe { library.get(stringify!($name).as_bytes()) };
                        *symbol.map_err(|_| vec![stringify!($name)])?
                    },)*
                })
            }
        }
    };
}

functions! {
    /// What is needed to know which version this is, before anything else is asked of it.
    Early;
    fn mlx_string_new() -> mlx_string;
    fn mlx_string_data(text: mlx_string) -> *const c_char;
    fn mlx_string_free(text: mlx_string) -> c_int;
    fn mlx_version(str_: *mut mlx_string) -> c_int;
    fn mlx_set_error_handler(handler: mlx_error_handler_func, data: *mut c_void, dtor: mlx_destructor);
}

functions! {
    /// Everything else.
    Functions;
    // devices and streams
    fn mlx_device_new_type(kind: mlx_device_type, index: c_int) -> mlx_device;
    fn mlx_device_free(dev: mlx_device) -> c_int;
    fn mlx_device_is_available(avail: *mut bool, dev: mlx_device) -> c_int;
    fn mlx_device_info_new() -> mlx_device_info;
    fn mlx_device_info_get(info: *mut mlx_device_info, dev: mlx_device) -> c_int;
    fn mlx_device_info_free(info: mlx_device_info) -> c_int;
    fn mlx_device_info_has_key(exists: *mut bool, info: mlx_device_info, key: *const c_char) -> c_int;
    fn mlx_device_info_is_string(is_string: *mut bool, info: mlx_device_info, key: *const c_char) -> c_int;
    fn mlx_device_info_get_string(value: *mut *const c_char, info: mlx_device_info, key: *const c_char) -> c_int;
    fn mlx_device_info_get_size(value: *mut usize, info: mlx_device_info, key: *const c_char) -> c_int;
    fn mlx_set_default_device(dev: mlx_device) -> c_int;
    fn mlx_get_default_stream(stream: *mut mlx_stream, dev: mlx_device) -> c_int;
    fn mlx_stream_free(stream: mlx_stream) -> c_int;
    fn mlx_synchronize(stream: mlx_stream) -> c_int;
    // memory
    fn mlx_clear_cache() -> c_int;
    fn mlx_get_active_memory(res: *mut usize) -> c_int;
    fn mlx_get_cache_memory(res: *mut usize) -> c_int;
    fn mlx_get_memory_limit(res: *mut usize) -> c_int;
    fn mlx_get_peak_memory(res: *mut usize) -> c_int;
    fn mlx_reset_peak_memory() -> c_int;
    fn mlx_set_cache_limit(res: *mut usize, limit: usize) -> c_int;
    fn mlx_set_memory_limit(res: *mut usize, limit: usize) -> c_int;
    fn mlx_set_wired_limit(res: *mut usize, limit: usize) -> c_int;
    // arrays
    fn mlx_array_free(arr: mlx_array) -> c_int;
    fn mlx_array_set(arr: *mut mlx_array, src: mlx_array) -> c_int;
    fn mlx_array_new_data(data: *const c_void, shape: *const c_int, dim: c_int, dtype: mlx_dtype) -> mlx_array;
    fn mlx_array_eval(arr: mlx_array) -> c_int;
    fn mlx_array_size(arr: mlx_array) -> usize;
    fn mlx_array_ndim(arr: mlx_array) -> usize;
    fn mlx_array_shape(arr: mlx_array) -> *const c_int;
    fn mlx_array_dtype(arr: mlx_array) -> mlx_dtype;
    fn mlx_array_strides(arr: mlx_array) -> *const usize;
    fn mlx_array_data_uint8(arr: mlx_array) -> *const u8;
    fn _mlx_array_is_available(res: *mut bool, arr: mlx_array) -> c_int;
    // vectors
    fn mlx_vector_array_free(vec: mlx_vector_array) -> c_int;
    fn mlx_vector_array_new_data(data: *const mlx_array, size: usize) -> mlx_vector_array;
    fn mlx_vector_array_set_data(vec: *mut mlx_vector_array, data: *const mlx_array, size: usize) -> c_int;
    fn mlx_vector_array_size(vec: mlx_vector_array) -> usize;
    fn mlx_vector_array_get(res: *mut mlx_array, vec: mlx_vector_array, idx: usize) -> c_int;
    fn mlx_vector_string_new() -> mlx_vector_string;
    fn mlx_vector_string_free(vec: mlx_vector_string) -> c_int;
    fn mlx_vector_string_append_value(vec: mlx_vector_string, val: *const c_char) -> c_int;
    // evaluation
    fn mlx_eval(outputs: mlx_vector_array) -> c_int;
    fn mlx_async_eval(outputs: mlx_vector_array) -> c_int;
    // closures
    fn mlx_closure_free(cls: mlx_closure) -> c_int;
    fn mlx_closure_new_func_payload(fun: mlx_closure_func, payload: *mut c_void, dtor: mlx_destructor) -> mlx_closure;
    fn mlx_closure_apply(res: *mut mlx_vector_array, cls: mlx_closure, input: mlx_vector_array) -> c_int;
    fn mlx_compile(res: *mut mlx_closure, fun: mlx_closure, shapeless: bool) -> c_int;
    // arithmetic
    fn mlx_abs(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_add(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_arccos(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_arcsin(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_arctan(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_arctan2(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_bitwise_and(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_bitwise_invert(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_bitwise_or(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_bitwise_xor(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_ceil(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_clip(res: *mut mlx_array, a: mlx_array, a_min: mlx_array, a_max: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_cos(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_cosh(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_divide(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_equal(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_erf(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_erfinv(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_exp(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_expm1(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_floor(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_floor_divide(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_greater(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_greater_equal(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_isfinite(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_isinf(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_isnan(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_left_shift(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_less(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_less_equal(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_log(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_log10(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_log1p(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_log2(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_logaddexp(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_logical_and(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_logical_not(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_logical_or(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_maximum(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_minimum(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_multiply(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_nan_to_num(res: *mut mlx_array, a: mlx_array, nan: f32, posinf: mlx_optional_float, neginf: mlx_optional_float, s: mlx_stream) -> c_int;
    fn mlx_negative(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_not_equal(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_power(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_reciprocal(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_remainder(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_right_shift(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_round(res: *mut mlx_array, a: mlx_array, decimals: c_int, s: mlx_stream) -> c_int;
    fn mlx_rsqrt(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_sigmoid(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_sign(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_sin(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_sinh(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_sqrt(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_square(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_subtract(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_tan(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_tanh(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_where(res: *mut mlx_array, condition: mlx_array, x: mlx_array, y: mlx_array, s: mlx_stream) -> c_int;
    // creation
    fn mlx_arange(res: *mut mlx_array, start: f64, stop: f64, step: f64, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_eye(res: *mut mlx_array, n: c_int, m: c_int, k: c_int, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_full(res: *mut mlx_array, shape: *const c_int, shape_num: usize, vals: mlx_array, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_linspace(res: *mut mlx_array, start: f64, stop: f64, num: c_int, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_ones(res: *mut mlx_array, shape: *const c_int, shape_num: usize, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_ones_like(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_tri(res: *mut mlx_array, n: c_int, m: c_int, k: c_int, kind: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_tril(res: *mut mlx_array, x: mlx_array, k: c_int, s: mlx_stream) -> c_int;
    fn mlx_triu(res: *mut mlx_array, x: mlx_array, k: c_int, s: mlx_stream) -> c_int;
    fn mlx_zeros(res: *mut mlx_array, shape: *const c_int, shape_num: usize, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_zeros_like(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    // shape
    fn mlx_as_strided(res: *mut mlx_array, a: mlx_array, shape: *const c_int, shape_num: usize, strides: *const i64, strides_num: usize, offset: usize, s: mlx_stream) -> c_int;
    fn mlx_astype(res: *mut mlx_array, a: mlx_array, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_broadcast_to(res: *mut mlx_array, a: mlx_array, shape: *const c_int, shape_num: usize, s: mlx_stream) -> c_int;
    fn mlx_concatenate_axis(res: *mut mlx_array, arrays: mlx_vector_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_contiguous(res: *mut mlx_array, a: mlx_array, allow_col_major: bool, s: mlx_stream) -> c_int;
    fn mlx_expand_dims_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, s: mlx_stream) -> c_int;
    fn mlx_flatten(res: *mut mlx_array, a: mlx_array, start_axis: c_int, end_axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_flip_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_moveaxis(res: *mut mlx_array, a: mlx_array, source: c_int, destination: c_int, s: mlx_stream) -> c_int;
    fn mlx_pad(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, low_pad_size: *const c_int, low_pad_size_num: usize, high_pad_size: *const c_int, high_pad_size_num: usize, pad_value: mlx_array, mode: *const c_char, s: mlx_stream) -> c_int;
    fn mlx_repeat_axis(res: *mut mlx_array, arr: mlx_array, repeats: c_int, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_reshape(res: *mut mlx_array, a: mlx_array, shape: *const c_int, shape_num: usize, s: mlx_stream) -> c_int;
    fn mlx_roll_axis(res: *mut mlx_array, a: mlx_array, shift: *const c_int, shift_num: usize, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_split(res: *mut mlx_vector_array, a: mlx_array, num_splits: c_int, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_split_sections(res: *mut mlx_vector_array, a: mlx_array, indices: *const c_int, indices_num: usize, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_squeeze_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, s: mlx_stream) -> c_int;
    fn mlx_stack_axis(res: *mut mlx_array, arrays: mlx_vector_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_swapaxes(res: *mut mlx_array, a: mlx_array, axis1: c_int, axis2: c_int, s: mlx_stream) -> c_int;
    fn mlx_tile(res: *mut mlx_array, arr: mlx_array, reps: *const c_int, reps_num: usize, s: mlx_stream) -> c_int;
    fn mlx_transpose(res: *mut mlx_array, a: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_transpose_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, s: mlx_stream) -> c_int;
    fn mlx_unflatten(res: *mut mlx_array, a: mlx_array, axis: c_int, shape: *const c_int, shape_num: usize, s: mlx_stream) -> c_int;
    fn mlx_view(res: *mut mlx_array, a: mlx_array, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_from_fp8(res: *mut mlx_array, x: mlx_array, dtype: mlx_dtype, s: mlx_stream) -> c_int;
    fn mlx_to_fp8(res: *mut mlx_array, x: mlx_array, s: mlx_stream) -> c_int;
    // indexing
    fn mlx_masked_scatter(res: *mut mlx_array, a: mlx_array, mask: mlx_array, src: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_put_along_axis(res: *mut mlx_array, a: mlx_array, indices: mlx_array, values: mlx_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_scatter(res: *mut mlx_array, a: mlx_array, indices: mlx_vector_array, updates: mlx_array, axes: *const c_int, axes_num: usize, s: mlx_stream) -> c_int;
    fn mlx_scatter_add(res: *mut mlx_array, a: mlx_array, indices: mlx_vector_array, updates: mlx_array, axes: *const c_int, axes_num: usize, s: mlx_stream) -> c_int;
    fn mlx_scatter_add_axis(res: *mut mlx_array, a: mlx_array, indices: mlx_array, values: mlx_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_slice(res: *mut mlx_array, a: mlx_array, start: *const c_int, start_num: usize, stop: *const c_int, stop_num: usize, strides: *const c_int, strides_num: usize, s: mlx_stream) -> c_int;
    fn mlx_slice_dynamic(res: *mut mlx_array, a: mlx_array, start: mlx_array, axes: *const c_int, axes_num: usize, slice_size: *const c_int, slice_size_num: usize, s: mlx_stream) -> c_int;
    fn mlx_slice_update(res: *mut mlx_array, src: mlx_array, update: mlx_array, start: *const c_int, start_num: usize, stop: *const c_int, stop_num: usize, strides: *const c_int, strides_num: usize, s: mlx_stream) -> c_int;
    fn mlx_slice_update_add(res: *mut mlx_array, src: mlx_array, update: mlx_array, start: *const c_int, start_num: usize, stop: *const c_int, stop_num: usize, strides: *const c_int, strides_num: usize, s: mlx_stream) -> c_int;
    fn mlx_slice_update_dynamic(res: *mut mlx_array, src: mlx_array, update: mlx_array, start: mlx_array, axes: *const c_int, axes_num: usize, s: mlx_stream) -> c_int;
    fn mlx_take_axis(res: *mut mlx_array, a: mlx_array, indices: mlx_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_take_along_axis(res: *mut mlx_array, a: mlx_array, indices: mlx_array, axis: c_int, s: mlx_stream) -> c_int;
    // reductions
    fn mlx_all(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_all_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_any(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_any_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_array_equal(res: *mut mlx_array, a: mlx_array, b: mlx_array, equal_nan: bool, s: mlx_stream) -> c_int;
    fn mlx_allclose(res: *mut mlx_array, a: mlx_array, b: mlx_array, rtol: f64, atol: f64, equal_nan: bool, s: mlx_stream) -> c_int;
    fn mlx_argmax_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_argmin_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_argpartition_axis(res: *mut mlx_array, a: mlx_array, kth: c_int, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_argsort_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_cummax_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, reverse: bool, inclusive: bool, s: mlx_stream) -> c_int;
    fn mlx_cumprod_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, reverse: bool, inclusive: bool, dtype: mlx_optional_dtype, s: mlx_stream) -> c_int;
    fn mlx_cumsum_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, reverse: bool, inclusive: bool, dtype: mlx_optional_dtype, s: mlx_stream) -> c_int;
    fn mlx_logcumsumexp_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, reverse: bool, inclusive: bool, s: mlx_stream) -> c_int;
    fn mlx_logsumexp(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_logsumexp_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_max(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_max_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_mean(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_mean_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_min(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_min_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_partition_axis(res: *mut mlx_array, a: mlx_array, kth: c_int, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_prod(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_prod_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_searchsorted(res: *mut mlx_array, sorted_sequence: mlx_array, values: mlx_array, side: *const c_char, s: mlx_stream) -> c_int;
    fn mlx_softmax_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, precise: bool, s: mlx_stream) -> c_int;
    fn mlx_sort_axis(res: *mut mlx_array, a: mlx_array, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_std_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, ddof: c_int, s: mlx_stream) -> c_int;
    fn mlx_sum(res: *mut mlx_array, a: mlx_array, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_sum_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, s: mlx_stream) -> c_int;
    fn mlx_topk_axis(res: *mut mlx_array, a: mlx_array, k: c_int, axis: c_int, s: mlx_stream) -> c_int;
    fn mlx_var_axes(res: *mut mlx_array, a: mlx_array, axes: *const c_int, axes_num: usize, keepdims: bool, ddof: c_int, s: mlx_stream) -> c_int;
    // products
    fn mlx_addmm(res: *mut mlx_array, c: mlx_array, a: mlx_array, b: mlx_array, alpha: f32, beta: f32, s: mlx_stream) -> c_int;
    fn mlx_conv1d(res: *mut mlx_array, input: mlx_array, weight: mlx_array, stride: c_int, padding: c_int, dilation: c_int, groups: c_int, s: mlx_stream) -> c_int;
    fn mlx_conv2d(res: *mut mlx_array, input: mlx_array, weight: mlx_array, stride_0: c_int, stride_1: c_int, padding_0: c_int, padding_1: c_int, dilation_0: c_int, dilation_1: c_int, groups: c_int, s: mlx_stream) -> c_int;
    fn mlx_conv3d(res: *mut mlx_array, input: mlx_array, weight: mlx_array, stride_0: c_int, stride_1: c_int, stride_2: c_int, padding_0: c_int, padding_1: c_int, padding_2: c_int, dilation_0: c_int, dilation_1: c_int, dilation_2: c_int, groups: c_int, s: mlx_stream) -> c_int;
    fn mlx_dequantize(res: *mut mlx_array, w: mlx_array, scales: mlx_array, biases: mlx_array, group_size: mlx_optional_int, bits: mlx_optional_int, mode: *const c_char, global_scale: mlx_array, dtype: mlx_optional_dtype, s: mlx_stream) -> c_int;
    fn mlx_einsum(res: *mut mlx_array, subscripts: *const c_char, operands: mlx_vector_array, s: mlx_stream) -> c_int;
    fn mlx_gather_mm(res: *mut mlx_array, a: mlx_array, b: mlx_array, lhs_indices: mlx_array, rhs_indices: mlx_array, sorted_indices: bool, s: mlx_stream) -> c_int;
    fn mlx_gather_qmm(res: *mut mlx_array, x: mlx_array, w: mlx_array, scales: mlx_array, biases: mlx_array, lhs_indices: mlx_array, rhs_indices: mlx_array, transpose: bool, group_size: mlx_optional_int, bits: mlx_optional_int, mode: *const c_char, sorted_indices: bool, s: mlx_stream) -> c_int;
    fn mlx_hadamard_transform(res: *mut mlx_array, a: mlx_array, scale: mlx_optional_float, s: mlx_stream) -> c_int;
    fn mlx_matmul(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_outer(res: *mut mlx_array, a: mlx_array, b: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_quantize(res: *mut mlx_vector_array, w: mlx_array, group_size: mlx_optional_int, bits: mlx_optional_int, mode: *const c_char, global_scale: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_quantized_matmul(res: *mut mlx_array, x: mlx_array, w: mlx_array, scales: mlx_array, biases: mlx_array, transpose: bool, group_size: mlx_optional_int, bits: mlx_optional_int, mode: *const c_char, s: mlx_stream) -> c_int;
    // fast
    fn mlx_fast_layer_norm(res: *mut mlx_array, x: mlx_array, weight: mlx_array, bias: mlx_array, eps: f32, s: mlx_stream) -> c_int;
    fn mlx_fast_rms_norm(res: *mut mlx_array, x: mlx_array, weight: mlx_array, eps: f32, s: mlx_stream) -> c_int;
    fn mlx_fast_rope(res: *mut mlx_array, x: mlx_array, dims: c_int, traditional: bool, base: mlx_optional_float, scale: f32, offset: c_int, freqs: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_fast_rope_dynamic(res: *mut mlx_array, x: mlx_array, dims: c_int, traditional: bool, base: mlx_optional_float, scale: f32, offset: mlx_array, freqs: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_fast_scaled_dot_product_attention(res: *mut mlx_array, queries: mlx_array, keys: mlx_array, values: mlx_array, scale: f32, mask_mode: *const c_char, mask_arr: mlx_array, sinks: mlx_array, force_fused: bool, s: mlx_stream) -> c_int;
    fn mlx_fast_cuda_kernel_config_new() -> mlx_fast_cuda_kernel_config;
    fn mlx_fast_cuda_kernel_config_free(cls: mlx_fast_cuda_kernel_config);
    fn mlx_fast_cuda_kernel_config_add_output_arg(cls: mlx_fast_cuda_kernel_config, shape: *const c_int, size: usize, dtype: mlx_dtype) -> c_int;
    fn mlx_fast_cuda_kernel_config_set_grid(cls: mlx_fast_cuda_kernel_config, grid1: c_int, grid2: c_int, grid3: c_int) -> c_int;
    fn mlx_fast_cuda_kernel_config_set_thread_group(cls: mlx_fast_cuda_kernel_config, thread1: c_int, thread2: c_int, thread3: c_int) -> c_int;
    fn mlx_fast_cuda_kernel_config_set_init_value(cls: mlx_fast_cuda_kernel_config, value: f32) -> c_int;
    fn mlx_fast_cuda_kernel_config_add_template_arg_dtype(cls: mlx_fast_cuda_kernel_config, name: *const c_char, dtype: mlx_dtype) -> c_int;
    fn mlx_fast_cuda_kernel_config_add_template_arg_int(cls: mlx_fast_cuda_kernel_config, name: *const c_char, value: c_int) -> c_int;
    fn mlx_fast_cuda_kernel_config_add_template_arg_bool(cls: mlx_fast_cuda_kernel_config, name: *const c_char, value: bool) -> c_int;
    fn mlx_fast_cuda_kernel_new(name: *const c_char, input_names: mlx_vector_string, output_names: mlx_vector_string, source: *const c_char, header: *const c_char, ensure_row_contiguous: bool, shared_memory: c_int) -> mlx_fast_cuda_kernel;
    fn mlx_fast_cuda_kernel_free(cls: mlx_fast_cuda_kernel);
    fn mlx_fast_cuda_kernel_apply(outputs: *mut mlx_vector_array, cls: mlx_fast_cuda_kernel, inputs: mlx_vector_array, config: mlx_fast_cuda_kernel_config, stream: mlx_stream) -> c_int;
    fn mlx_fast_metal_kernel_config_new() -> mlx_fast_metal_kernel_config;
    fn mlx_fast_metal_kernel_config_free(cls: mlx_fast_metal_kernel_config);
    fn mlx_fast_metal_kernel_config_add_output_arg(cls: mlx_fast_metal_kernel_config, shape: *const c_int, size: usize, dtype: mlx_dtype) -> c_int;
    fn mlx_fast_metal_kernel_config_set_grid(cls: mlx_fast_metal_kernel_config, grid1: c_int, grid2: c_int, grid3: c_int) -> c_int;
    fn mlx_fast_metal_kernel_config_set_thread_group(cls: mlx_fast_metal_kernel_config, thread1: c_int, thread2: c_int, thread3: c_int) -> c_int;
    fn mlx_fast_metal_kernel_config_set_init_value(cls: mlx_fast_metal_kernel_config, value: f32) -> c_int;
    fn mlx_fast_metal_kernel_config_add_template_arg_dtype(cls: mlx_fast_metal_kernel_config, name: *const c_char, dtype: mlx_dtype) -> c_int;
    fn mlx_fast_metal_kernel_config_add_template_arg_int(cls: mlx_fast_metal_kernel_config, name: *const c_char, value: c_int) -> c_int;
    fn mlx_fast_metal_kernel_config_add_template_arg_bool(cls: mlx_fast_metal_kernel_config, name: *const c_char, value: bool) -> c_int;
    fn mlx_fast_metal_kernel_new(name: *const c_char, input_names: mlx_vector_string, output_names: mlx_vector_string, source: *const c_char, header: *const c_char, ensure_row_contiguous: bool, atomic_outputs: bool) -> mlx_fast_metal_kernel;
    fn mlx_fast_metal_kernel_free(cls: mlx_fast_metal_kernel);
    fn mlx_fast_metal_kernel_apply(outputs: *mut mlx_vector_array, cls: mlx_fast_metal_kernel, inputs: mlx_vector_array, config: mlx_fast_metal_kernel_config, stream: mlx_stream) -> c_int;
    // random
    fn mlx_random_bernoulli(res: *mut mlx_array, p: mlx_array, shape: *const c_int, shape_num: usize, key: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_random_bits(res: *mut mlx_array, shape: *const c_int, shape_num: usize, width: c_int, key: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_random_categorical(res: *mut mlx_array, logits: mlx_array, axis: c_int, key: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_random_gumbel(res: *mut mlx_array, shape: *const c_int, shape_num: usize, dtype: mlx_dtype, key: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_random_key(res: *mut mlx_array, seed: u64) -> c_int;
    fn mlx_random_normal(res: *mut mlx_array, shape: *const c_int, shape_num: usize, dtype: mlx_dtype, loc: f32, scale: f32, key: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_random_permutation(res: *mut mlx_array, x: mlx_array, axis: c_int, key: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_random_randint(res: *mut mlx_array, low: mlx_array, high: mlx_array, shape: *const c_int, shape_num: usize, dtype: mlx_dtype, key: mlx_array, s: mlx_stream) -> c_int;
    fn mlx_random_split_num(res: *mut mlx_array, key: mlx_array, num: c_int, s: mlx_stream) -> c_int;
    fn mlx_random_uniform(res: *mut mlx_array, low: mlx_array, high: mlx_array, shape: *const c_int, shape_num: usize, dtype: mlx_dtype, key: mlx_array, s: mlx_stream) -> c_int;
    // ours
    fn ollmlx_cpu_primitive(res: *mut mlx_vector_array, name: *const c_char, inputs: mlx_vector_array, outputs: *const ollmlx_output, outputs_num: usize, kernel: ollmlx_kernel, payload: *mut c_void, drop: mlx_destructor, s: mlx_stream) -> c_int;
    fn ollmlx_array_over(res: *mut mlx_array, data: *mut c_void, shape: *const c_int, ndim: usize, dtype: mlx_dtype, payload: *mut c_void, drop: mlx_destructor) -> c_int;
    fn ollmlx_array_sole(res: *mut mlx_array, a: mlx_array) -> c_int;
    fn ollmlx_native_version() -> c_int;
}
