//! The types of mlx-c, declared as its headers lay them out. Their names are the headers', so that both can be compared.
#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};

/// Every handle of mlx-c is a struct with one pointer.
macro_rules! handles {
    ($($name:ident)*) => {$(
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name {
            pub ctx: *mut c_void,
        }

        impl $name {
            #[allow(dead_code)]
            pub const NULL: $name = $name { ctx: std::ptr::null_mut() };
        }
    )*};
}

handles! {
    mlx_array mlx_closure mlx_device mlx_device_info mlx_fast_cuda_kernel mlx_fast_cuda_kernel_config
    mlx_fast_metal_kernel mlx_fast_metal_kernel_config mlx_stream mlx_string mlx_vector_array mlx_vector_string
}

pub type mlx_dtype = u32;
pub type mlx_device_type = u32;
pub type mlx_destructor = Option<unsafe extern "C" fn(*mut c_void)>;
pub type mlx_error_handler_func = Option<unsafe extern "C" fn(*const c_char, *mut c_void)>;
pub type mlx_closure_func =
    Option<unsafe extern "C" fn(*mut mlx_vector_array, mlx_vector_array, *mut c_void) -> c_int>;
pub type ollmlx_kernel = Option<
    unsafe extern "C" fn(*const c_void, *const ollmlx_buffer, usize, *const ollmlx_buffer, usize),
>;

pub const MLX_CPU: mlx_device_type = 0;
pub const MLX_GPU: mlx_device_type = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlx_optional_int {
    pub value: c_int,
    pub has_value: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlx_optional_float {
    pub value: f32,
    pub has_value: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mlx_optional_dtype {
    pub value: mlx_dtype,
    pub has_value: bool,
}

impl From<Option<i32>> for mlx_optional_int {
    fn from(value: Option<i32>) -> Self {
        mlx_optional_int { value: value.unwrap_or(0), has_value: value.is_some() }
    }
}

impl From<Option<f32>> for mlx_optional_float {
    fn from(value: Option<f32>) -> Self {
        mlx_optional_float { value: value.unwrap_or(0.0), has_value: value.is_some() }
    }
}

impl From<Option<crate::Dtype>> for mlx_optional_dtype {
    fn from(value: Option<crate::Dtype>) -> Self {
        mlx_optional_dtype {
            value: value.map_or(0, |dtype| dtype as u32),
            has_value: value.is_some(),
        }
    }
}

/// A buffer as our primitive hands it to a kernel; see `native/primitive.h`.
#[repr(C)]
pub struct ollmlx_buffer {
    pub data: *mut c_void,
    pub shape: *const i32,
    pub strides: *const i64,
    pub ndim: usize,
    pub size: usize,
    pub dtype: mlx_dtype,
}

pub type ollmlx_origin = u32;
pub const OLLMLX_FRESH: ollmlx_origin = 0;
pub const OLLMLX_DONATED: ollmlx_origin = 1;
pub const OLLMLX_SHARED: ollmlx_origin = 2;

#[repr(C)]
pub struct ollmlx_output {
    pub shape: *const c_int,
    pub ndim: usize,
    pub dtype: mlx_dtype,
    pub origin: ollmlx_origin,
    pub input: usize,
}
