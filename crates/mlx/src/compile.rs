//! `compile`: MLX fuses a function's graph into fewer kernels, on a GPU.
//!
//! Refused on the CPU, where MLX would start a C++ compiler on the user's machine. The compiled graphs are kept per
//! thread, and a new shape is compiled anew unless the function is shapeless.

use crate::array::{Vector, functions};
use crate::device::stream_for;
use crate::ffi::{Functions, mlx_array, mlx_closure, mlx_vector_array};
use crate::{Array, Device, GraphError, device, error};
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use thiserror::Error;

#[derive(Clone, Debug, Error)]
pub enum CompileError {
    #[error(
        "MLX cannot compile for the CPU without a C++ compiler at run time\nhint: call the function itself"
    )]
    Cpu,
    #[error("the function could not be compiled: {0}")]
    Failed(String),
}

/// Whether a compiled function may be used for other shapes than those it was traced with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shapes {
    Fixed,
    /// The function must not look at shapes.
    Any,
}

/// A function that MLX has seen once, or will with its first call.
pub struct Compiled {
    closure: Closure,
}

type Function = dyn Fn(&[Array]) -> Vec<Array>;

/// Prepares `function` for this thread's device. What it captures stays alive as long as the result.
pub fn compile(
    function: impl Fn(&[Array]) -> Vec<Array> + 'static,
    shapes: Shapes,
) -> Result<Compiled, CompileError> {
    if device() == Device::Cpu {
        return Err(CompileError::Cpu);
    }
    let f = functions();
    let plain = Closure::new(f, Box::new(function));
    let mut closure = Closure { raw: mlx_closure::NULL, f };
    // SAFETY: the destination is null and is filled; MLX keeps a reference of its own to the plain closure.
    match unsafe { (f.mlx_compile)(&mut closure.raw, plain.raw, shapes == Shapes::Any) } {
        0 => Ok(Compiled { closure }),
        _ => Err(CompileError::Failed(error::take_message())),
    }
}

impl Compiled {
    /// Unwinds as the function itself would.
    #[track_caller]
    pub fn call(&self, inputs: &[&Array]) -> Vec<Array> {
        self.closure.apply(inputs)
    }
}

/// A function of Rust as a closure of mlx-c.
struct Closure {
    raw: mlx_closure,
    f: &'static Functions,
}

impl Closure {
    fn new(f: &'static Functions, function: Box<Function>) -> Closure {
        let payload = Box::into_raw(Box::new(function)).cast::<c_void>();
        // SAFETY: the payload is what both functions take; mlx-c drops it once.
        let raw = unsafe {
            (f.mlx_closure_new_func_payload)(Some(call_function), payload, Some(drop_function))
        };
        Closure { raw, f }
    }

    #[track_caller]
    fn apply(&self, inputs: &[&Array]) -> Vec<Array> {
        stream_for("compiled", inputs);
        let arguments = Vector::of(self.f, inputs);
        let mut results = Vector::empty(self.f);
        // SAFETY: closure and arguments are alive; the destination is null and is filled.
        let status =
            unsafe { (self.f.mlx_closure_apply)(&mut results.raw, self.raw, arguments.raw) };
        if status == 0 {
            return results.arrays();
        }
        let message = error::take_message();
        drop((arguments, results));
        match FAILURE.take() {
            Some(Failure::Graph(error)) => std::panic::resume_unwind(Box::new(error)),
            Some(Failure::Panic(payload)) => std::panic::resume_unwind(payload),
            None => error::fail("compiled", inputs, message),
        }
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: ours (or null, which mlx-c accepts), freed once.
        unsafe { (self.f.mlx_closure_free)(self.raw) };
    }
}

/// What the function failed with, kept while C++ passes only the fact along.
enum Failure {
    Graph(GraphError),
    Panic(Box<dyn std::any::Any + Send>),
}

thread_local! {
    static FAILURE: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Never unwinds: the caller is C++.
unsafe extern "C" fn call_function(
    results: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the payload is the box made in `new`; `inputs` lives for the call and is freed by mlx-c.
        let function = unsafe { &*payload.cast::<Box<Function>>() };
        let borrowed = std::mem::ManuallyDrop::new(Vector { raw: inputs, f: functions() });
        error::catch(|| function(&borrowed.arrays()))
    }));
    let failure = match outcome {
        Ok(Ok(arrays)) => {
            let handles: Vec<mlx_array> = arrays.iter().map(Array::raw).collect();
            // SAFETY: the handles are alive; `results` is mlx-c's and takes references of its own.
            return unsafe {
                (functions().mlx_vector_array_set_data)(results, handles.as_ptr(), handles.len())
            };
        }
        Ok(Err(error)) => Failure::Graph(error),
        Err(payload) => Failure::Panic(payload),
    };
    FAILURE.set(Some(failure));
    1
}

unsafe extern "C" fn drop_function(payload: *mut c_void) {
    // SAFETY: made in `new`, dropped once.
    let function = unsafe { Box::from_raw(payload.cast::<Box<Function>>()) };
    // A destructor that panics must not unwind into C++; there is nobody to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(function)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, catch, ones, with_device};
    use std::rc::Rc;

    fn doubled(inputs: &[Array]) -> Vec<Array> {
        vec![&inputs[0] + &inputs[0]]
    }

    /// What `function` gives when MLX calls it.
    fn check(function: impl Fn(&[Array]) -> Vec<Array> + 'static, expected: Result<&[f32], &str>) {
        let closure = Closure::new(functions(), Box::new(function));
        let outcome = catch(|| closure.apply(&[&ones(&[2], Dtype::F32)]));
        match (outcome, expected) {
            (Ok(arrays), Ok(values)) => assert_eq!(arrays[0].to_vec::<f32>().unwrap(), values),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (outcome, _) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn functions_of_rust_pass_values_and_errors_through_mlx() {
        crate::open().unwrap();
        check(doubled, Ok(&[2.0, 2.0]));
        check(|x| vec![x[0].matmul(&ones(&[3, 3], Dtype::F32))], Err("compile.rs"));
        check(|x| vec![x[0].reshape(&[7])], Err("`reshape` of float32[2]"));
    }

    #[test]
    fn other_panics_arrive_at_the_caller() {
        crate::open().unwrap();
        let closure =
            Closure::new(functions(), Box::new(|_| std::panic::resume_unwind(Box::new(5_u8))));
        let outcome = catch_unwind(AssertUnwindSafe(|| closure.apply(&[])));
        assert_eq!(outcome.err().and_then(|p| p.downcast::<u8>().ok()).as_deref(), Some(&5));
    }

    #[test]
    fn captures_are_dropped_with_the_closure() {
        crate::open().unwrap();
        let captured = Rc::new(());
        let held = captured.clone();
        let closure = Closure::new(
            functions(),
            Box::new(move |x| {
                let _ = &held;
                doubled(x)
            }),
        );
        assert_eq!(Rc::strong_count(&captured), 2);
        drop(closure);
        assert_eq!(Rc::strong_count(&captured), 1);
    }

    #[test]
    fn the_cpu_is_refused() {
        crate::open().unwrap();
        let refused = with_device(Device::Cpu, || compile(doubled, Shapes::Fixed));
        assert!(matches!(refused, Err(CompileError::Cpu)));
    }
}
