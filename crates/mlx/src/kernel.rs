//! Kernels for the GPU from source text: Metal's language through MLX's Metal build, CUDA C++ through its CUDA build.
//!
//! MLX writes the signature (each input and output by its name, with `<name>_shape`, `<name>_strides` and `<name>_ndim`
//! where the body mentions them) around the body given here, compiles it on first use, and keeps it. CUDA's run-time
//! compiler knows no `uint`: write `unsigned`.

use crate::array::{Vector, functions};
use crate::device::stream_for;
use crate::ffi::{
    Functions, mlx_fast_cuda_kernel, mlx_fast_cuda_kernel_config, mlx_fast_metal_kernel,
    mlx_fast_metal_kernel_config, mlx_vector_string,
};
use crate::{Array, Dtype, error, open};
use std::ffi::{CString, c_int};

/// A kernel as text.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub name: &'a str,
    pub inputs: &'a [&'a str],
    pub outputs: &'a [&'a str],
    /// What stands before the kernel: functions and includes.
    pub header: &'a str,
    pub body: &'a str,
    /// Inputs that are not row contiguous are copied first.
    pub ensure_row_contiguous: bool,
}

/// How one call is laid out.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Threads altogether, as in Metal's `dispatchThreads`; MLX divides by the group for CUDA.
    pub grid: [i32; 3],
    pub thread_group: [i32; 3],
    pub outputs: &'a [(&'a [i32], Dtype)],
    pub template: &'a [(&'a str, Template)],
    /// What outputs are filled with before, none for nothing.
    pub init_value: Option<f32>,
}

/// The value of a template parameter.
#[derive(Clone, Copy, Debug)]
pub enum Template {
    Dtype(Dtype),
    Int(i32),
    Bool(bool),
}

/// A kernel for the GPU of this build, compiled when first called.
pub struct Kernel {
    raw: Raw,
    name: &'static str,
    f: &'static Functions,
}

enum Raw {
    Metal(mlx_fast_metal_kernel),
    Cuda(mlx_fast_cuda_kernel),
}

impl Kernel {
    /// For Metal. `atomic_outputs`: outputs are declared as atomics.
    #[track_caller]
    pub fn metal(source: &Source<'_>, atomic_outputs: bool) -> Kernel {
        require("metal_kernel", "metal");
        let (f, text) = (functions(), Text::new("metal_kernel", source));
        // SAFETY: all texts and lists outlive the call, which copies them.
        let raw = unsafe {
            (f.mlx_fast_metal_kernel_new)(
                text.name.as_ptr(),
                text.inputs.raw,
                text.outputs.raw,
                text.body.as_ptr(),
                text.header.as_ptr(),
                source.ensure_row_contiguous,
                atomic_outputs,
            )
        };
        if raw.ctx.is_null() {
            error::fail("metal_kernel", &[], error::take_message());
        }
        Kernel { raw: Raw::Metal(raw), name: "metal_kernel", f }
    }

    /// For CUDA, with that many bytes of dynamic shared memory.
    #[track_caller]
    pub fn cuda(source: &Source<'_>, shared_memory_bytes: i32) -> Kernel {
        require("cuda_kernel", "cuda");
        let (f, text) = (functions(), Text::new("cuda_kernel", source));
        // SAFETY: all texts and lists outlive the call, which copies them.
        let raw = unsafe {
            (f.mlx_fast_cuda_kernel_new)(
                text.name.as_ptr(),
                text.inputs.raw,
                text.outputs.raw,
                text.body.as_ptr(),
                text.header.as_ptr(),
                source.ensure_row_contiguous,
                shared_memory_bytes,
            )
        };
        if raw.ctx.is_null() {
            error::fail("cuda_kernel", &[], error::take_message());
        }
        Kernel { raw: Raw::Cuda(raw), name: "cuda_kernel", f }
    }

    #[track_caller]
    pub fn call(&self, inputs: &[&Array], launch: &Launch<'_>) -> Vec<Array> {
        let (f, stream) = stream_for(self.name, inputs);
        let arguments = Vector::of(f, inputs);
        let mut results = Vector::empty(f);
        let template = names(self.name, launch);
        // SAFETY: kernel, arguments and configuration live for the call; the destination is null and is filled.
        let status = unsafe {
            match self.raw {
                Raw::Metal(kernel) => {
                    let config = MetalConfig::new(f, launch, &template);
                    (f.mlx_fast_metal_kernel_apply)(
                        &mut results.raw,
                        kernel,
                        arguments.raw,
                        config.raw,
                        stream,
                    )
                }
                Raw::Cuda(kernel) => {
                    let config = CudaConfig::new(f, launch, &template);
                    (f.mlx_fast_cuda_kernel_apply)(
                        &mut results.raw,
                        kernel,
                        arguments.raw,
                        config.raw,
                        stream,
                    )
                }
            }
        };
        if status != 0 {
            let message = error::take_message();
            drop((arguments, results));
            error::fail(self.name, inputs, message);
        }
        results.arrays()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe {
            match self.raw {
                Raw::Metal(kernel) => (self.f.mlx_fast_metal_kernel_free)(kernel),
                Raw::Cuda(kernel) => (self.f.mlx_fast_cuda_kernel_free)(kernel),
            }
        }
    }
}

/// MLX would say so only when it compiles the kernel.
#[track_caller]
fn require(operation: &'static str, backend: &str) {
    let variant = match open() {
        Ok(library) => library.opened().variant.clone(),
        Err(error) => error::fail(operation, &[], error.to_string()),
    };
    if !variant.starts_with(backend) {
        error::fail(operation, &[], format!("the MLX that was opened is the `{variant}` build"));
    }
}

fn names(operation: &'static str, launch: &Launch<'_>) -> Vec<(CString, Template)> {
    let name = |(name, value): &(&str, Template)| (crate::ops::c_string(operation, name), *value);
    launch.template.iter().map(name).collect()
}

/// A configuration of mlx-c for one call. Both backends have the same functions under two names.
macro_rules! config {
    ($name:ident, $raw:ident, $new:ident, $free:ident, $output:ident, $grid:ident, $group:ident, $init:ident,
     $dtype:ident, $int:ident, $bool:ident) => {
        struct $name {
            raw: $raw,
            f: &'static Functions,
        }

        impl $name {
            fn new(
                f: &'static Functions,
                launch: &Launch<'_>,
                template: &[(CString, Template)],
            ) -> $name {
                // SAFETY: one new handle, which the destructor frees; slices and texts outlive the calls that copy them.
                unsafe {
                    let raw = (f.$new)();
                    for (shape, dtype) in launch.outputs {
                        (f.$output)(raw, shape.as_ptr(), shape.len(), *dtype as u32);
                    }
                    let ([x, y, z], [a, b, c]) = (launch.grid, launch.thread_group);
                    (f.$grid)(raw, x, y, z);
                    (f.$group)(raw, a, b, c);
                    if let Some(value) = launch.init_value {
                        (f.$init)(raw, value);
                    }
                    for (name, value) in template {
                        let _: c_int = match *value {
                            Template::Dtype(dtype) => (f.$dtype)(raw, name.as_ptr(), dtype as u32),
                            Template::Int(value) => (f.$int)(raw, name.as_ptr(), value),
                            Template::Bool(value) => (f.$bool)(raw, name.as_ptr(), value),
                        };
                    }
                    $name { raw, f }
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: ours, freed once.
                unsafe { (self.f.$free)(self.raw) };
            }
        }
    };
}

config!(
    MetalConfig,
    mlx_fast_metal_kernel_config,
    mlx_fast_metal_kernel_config_new,
    mlx_fast_metal_kernel_config_free,
    mlx_fast_metal_kernel_config_add_output_arg,
    mlx_fast_metal_kernel_config_set_grid,
    mlx_fast_metal_kernel_config_set_thread_group,
    mlx_fast_metal_kernel_config_set_init_value,
    mlx_fast_metal_kernel_config_add_template_arg_dtype,
    mlx_fast_metal_kernel_config_add_template_arg_int,
    mlx_fast_metal_kernel_config_add_template_arg_bool
);

config!(
    CudaConfig,
    mlx_fast_cuda_kernel_config,
    mlx_fast_cuda_kernel_config_new,
    mlx_fast_cuda_kernel_config_free,
    mlx_fast_cuda_kernel_config_add_output_arg,
    mlx_fast_cuda_kernel_config_set_grid,
    mlx_fast_cuda_kernel_config_set_thread_group,
    mlx_fast_cuda_kernel_config_set_init_value,
    mlx_fast_cuda_kernel_config_add_template_arg_dtype,
    mlx_fast_cuda_kernel_config_add_template_arg_int,
    mlx_fast_cuda_kernel_config_add_template_arg_bool
);

/// A source as C strings.
struct Text {
    name: CString,
    header: CString,
    body: CString,
    inputs: Names,
    outputs: Names,
}

impl Text {
    #[track_caller]
    fn new(operation: &'static str, source: &Source<'_>) -> Text {
        Text {
            name: crate::ops::c_string(operation, source.name),
            header: crate::ops::c_string(operation, source.header),
            body: crate::ops::c_string(operation, source.body),
            inputs: Names::new(operation, source.inputs),
            outputs: Names::new(operation, source.outputs),
        }
    }
}

/// A list of texts of mlx-c.
struct Names {
    raw: mlx_vector_string,
    f: &'static Functions,
}

impl Names {
    #[track_caller]
    fn new(operation: &'static str, names: &[&str]) -> Names {
        let f = functions();
        // SAFETY: a new handle, which the destructor frees.
        let list = Names { raw: unsafe { (f.mlx_vector_string_new)() }, f };
        for name in names {
            let name = crate::ops::c_string(operation, name);
            // SAFETY: the list is alive; the text is copied.
            unsafe { (f.mlx_vector_string_append_value)(list.raw, name.as_ptr()) };
        }
        list
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { (self.f.mlx_vector_string_free)(self.raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catch;

    const DOUBLE: Source<'static> = Source {
        name: "double_it",
        inputs: &["x"],
        outputs: &["y"],
        header: "",
        body: "",
        ensure_row_contiguous: true,
    };

    fn check(make: impl FnOnce() -> Kernel, backend: &str) {
        let variant = open().unwrap().opened().variant.clone();
        if !variant.starts_with(backend) {
            let refused = catch(make).err().expect("a kernel for another backend was taken");
            assert!(refused.to_string().contains(&format!("`{variant}` build")), "{refused}");
            return;
        }
        let launch = Launch {
            grid: [4, 1, 1],
            thread_group: [4, 1, 1],
            outputs: &[(&[4], Dtype::F32)],
            template: &[("T", Template::Dtype(Dtype::F32)), ("BY", Template::Int(2))],
            init_value: None,
        };
        let x = Array::from_slice(&[1_f32, 2.0, 3.0, 4.0], &[4]);
        let y = make().call(&[&x], &launch).swap_remove(0);
        assert_eq!(y.to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0, 8.0]);
    }

    #[test]
    fn kernels_run_on_their_backend_and_are_refused_elsewhere() {
        let metal =
            Source { body: "uint i = thread_position_in_grid.x; y[i] = T(x[i] * BY);", ..DOUBLE };
        check(|| Kernel::metal(&metal, false), "metal");
        let cuda = Source {
            body: "unsigned i = blockIdx.x * blockDim.x + threadIdx.x; y[i] = T(x[i] * BY);",
            ..DOUBLE
        };
        check(|| Kernel::cuda(&cuda, 0), "cuda");
    }
}
