//! The CPU primitive: a kernel written in Rust as a node of MLX's graph, as lazy and as ordered as MLX's own operations.
//!
//! A kernel runs on the thread of MLX's CPU stream and may use threads of its own meanwhile; nothing else of that stream
//! runs until it returns. It is total: whatever could be wrong with its inputs is checked when the node is made. Where one
//! panics all the same, the thread that made the node gets an error from its next `eval` or reading; the panic does not
//! pass through MLX, whose streams do not survive many errors.

pub(crate) mod arrange;
pub(crate) mod draws;
pub(crate) mod experts;
pub(crate) mod fused;
pub(crate) mod gates;
pub(crate) mod gathered;
pub mod pages;
pub mod parts;
pub(crate) mod products;
mod program;
pub(crate) mod recurrent;
pub(crate) mod rows;
pub(crate) mod tape;
mod values;

pub use parts::Part;
pub use products::with_portable_products;

use program::Reach;

use crate::array::Vector;
use crate::device::stream_for;
use crate::ffi::{OLLMLX_DONATED, OLLMLX_FRESH, OLLMLX_SHARED, ollmlx_buffer, ollmlx_output};
use crate::{Array, Device, Dtype, Element, error, with_device};
use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of threads the kernels use from now on; false when they run with another already.
pub fn set_threads(threads: usize) -> bool {
    kernels::pool::set_threads(threads)
}

thread_local! {
    static MLX_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Leaves what is asked for in `f` to MLX's own operations: for measuring what our kernels are worth, and for tests of the
/// way that devices without them go.
pub fn with_mlx_alone<T>(f: impl FnOnce() -> T) -> T {
    products::with(&MLX_ALONE, f)
}

/// Whether our kernels compute what this thread asks for.
pub(crate) fn kernels_compute() -> bool {
    crate::device() == Device::Cpu && !MLX_ALONE.get()
}

/// Arithmetic on host memory. The value carries the parameters; it is dropped when the node is done, on any thread.
pub trait Kernel: Send + Sync + 'static {
    /// For error messages.
    fn name(&self) -> &'static str;

    /// What kind of work it is, for whoever asks where time goes.
    fn part(&self) -> Part {
        Part::Other
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]);
}

/// What an output is before the kernel runs.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Memory with anything in it.
    Fresh { shape: &'a [i32], dtype: Dtype },
    /// The values of that input: its own memory where nothing else refers to it, else a copy. The kernel sees no values
    /// for the input itself.
    Donated(usize),
    /// The memory of that input, whoever else refers to it. For caches: the kernel may write only what no older array is
    /// asked for. The input must be row contiguous.
    Shared(usize),
}

/// An array that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub shape: &'a [i32],
    /// In elements; 0 where values repeat, negative where the axis runs backwards.
    pub strides: &'a [i64],
    pub dtype: Dtype,
    /// All bytes that shape and strides reach; none where an output took the memory over.
    reach: Option<&'a [u8]>,
    /// Where the first element is in `reach`, in elements.
    first: usize,
}

/// An array that a kernel writes: row contiguous.
#[derive(Debug)]
pub struct Output<'a> {
    pub shape: &'a [i32],
    pub dtype: Dtype,
    bytes: &'a mut [u8],
}

impl<'a> Input<'a> {
    /// The values in row-major order, where memory has them so and they are `T`s.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        if !self.is_row_contiguous() { None } else { self.reach::<T>().map(|(values, _)| values) }
    }

    /// All memory that shape and strides reach, and the index of the first element in it.
    pub fn reach<T: Element>(&self) -> Option<(&'a [T], usize)> {
        if !T::reads(self.dtype) {
            return None;
        }
        // SAFETY: any bits are a `T`; the middle is aligned.
        match unsafe { self.reach?.align_to::<T>() } {
            ([], values, []) => Some((values, self.first)),
            _ => None,
        }
    }

    /// As `reach`, as bytes; the index still counts elements.
    fn reach_bytes(&self) -> Option<(&'a [u8], usize)> {
        Some((self.reach?, self.first))
    }

    /// The values' bytes in row-major order, where memory has them so.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        self.reach.filter(|_| self.is_row_contiguous())
    }

    pub fn is_row_contiguous(&self) -> bool {
        let mut expected = 1;
        for (dim, stride) in self.shape.iter().zip(self.strides).rev() {
            if *dim != 1 && *stride != expected {
                return self.shape.contains(&0);
            }
            expected *= i64::from(*dim);
        }
        true
    }
}

impl Output<'_> {
    /// The values in row-major order, where they are `T`s.
    pub fn as_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        if !T::reads(self.dtype) {
            return None;
        }
        // SAFETY: any bits are a `T`; the middle is aligned. What is fresh came from a foreign allocator and holds
        // some bits.
        match unsafe { self.bytes.align_to_mut::<T>() } {
            ([], values, []) => Some(values),
            _ => None,
        }
    }

    pub fn as_bytes(&mut self) -> &mut [u8] {
        self.bytes
    }
}

/// Adds a call of `kernel` to the graph, on the CPU stream of this thread.
#[track_caller]
pub fn call(kernel: impl Kernel, inputs: &[&Array], outputs: &[Start<'_>]) -> Vec<Array> {
    if outputs.iter().any(|start| matches!(start, Start::Shared(_))) {
        SHARED.set(true);
    }
    // Whether memory may be taken over is only known while MLX computes.
    let donated = outputs.iter().any(|start| matches!(start, Start::Donated(_)));
    if crate::device() == Device::Cpu && !donated {
        let _ = stream_for(kernel.name(), inputs);
        return tape::record(Box::new(kernel), inputs, outputs);
    }
    call_now(Box::new(kernel), inputs, outputs)
}

/// As `call`, as a node of its own.
#[track_caller]
fn call_now(kernel: Box<dyn Kernel>, inputs: &[&Array], outputs: &[Start<'_>]) -> Vec<Array> {
    let name = kernel.name();
    let Some(described) = describe(inputs, outputs) else {
        error::fail(name, inputs, "an output names an input that is not there".to_owned());
    };
    let c_name = CString::new(name).unwrap_or_default();
    let (f, stream) = match Device::Cpu {
        device if crate::device() == device => stream_for(name, inputs),
        device => on_device(device, name, inputs),
    };
    let arguments = Vector::of(f, inputs);
    let mut results = Vector::empty(f);
    let payload = Payload { kernel, failure: FAILURE.with(Arc::clone) };
    let payload = Box::into_raw(Box::new(payload)).cast::<c_void>();
    // SAFETY: handles, name and descriptions outlive the call; the payload is what `run_kernel` and `drop_kernel` take,
    // and is theirs from here on, whatever happens.
    let status = unsafe {
        (f.ollmlx_cpu_primitive)(
            &mut results.raw,
            c_name.as_ptr(),
            arguments.raw,
            described.as_ptr(),
            described.len(),
            Some(run_kernel),
            payload,
            Some(drop_kernel),
            stream,
        )
    };
    if status != 0 {
        let message = error::take_message();
        drop((arguments, results));
        error::fail(name, inputs, message);
    }
    results.arrays()
}

#[track_caller]
fn on_device(
    device: Device,
    name: &'static str,
    inputs: &[&Array],
) -> (&'static crate::ffi::Functions, crate::ffi::mlx_stream) {
    match error::catch(|| with_device(device, || stream_for(name, inputs))) {
        Ok(both) => both,
        Err(error) => error::fail(name, inputs, error.message),
    }
}

/// None where an output names an input that is not there.
fn describe(inputs: &[&Array], outputs: &[Start<'_>]) -> Option<Vec<ollmlx_output>> {
    let of = |input: usize, origin| {
        let array = inputs.get(input)?;
        let shape = array.shape();
        Some(ollmlx_output {
            shape: shape.as_ptr(),
            ndim: shape.len(),
            dtype: array.dtype() as u32,
            origin,
            input,
        })
    };
    let fresh = |shape: &[i32], dtype: Dtype| ollmlx_output {
        shape: shape.as_ptr(),
        ndim: shape.len(),
        dtype: dtype as u32,
        origin: OLLMLX_FRESH,
        input: 0,
    };
    let one = |start: &Start<'_>| match start {
        Start::Fresh { shape, dtype } => {
            shape.iter().all(|dim| *dim >= 0).then(|| fresh(shape, *dtype))
        }
        Start::Donated(input) => of(*input, OLLMLX_DONATED),
        Start::Shared(input) => of(*input, OLLMLX_SHARED),
    };
    outputs.iter().map(one).collect()
}

/// What the native side carries: the kernel, and where its thread looks for failures.
struct Payload {
    kernel: Box<dyn Kernel>,
    failure: Arc<Mutex<Option<String>>>,
}

unsafe extern "C" fn drop_kernel(payload: *mut c_void) {
    // SAFETY: made by `call` from exactly this box; the native side calls this once.
    let payload = unsafe { Box::from_raw(payload.cast::<Payload>()) };
    // A destructor that panics must not unwind into C++; there is nobody to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
}

/// Never unwinds: the caller is C++.
unsafe extern "C" fn run_kernel(
    payload: *const c_void,
    inputs: *const ollmlx_buffer,
    inputs_num: usize,
    outputs: *const ollmlx_buffer,
    outputs_num: usize,
) {
    // SAFETY: the payload is alive, and the native side passes two arrays of buffers that live for the call.
    let (payload, inputs, outputs) = unsafe {
        (&*payload.cast::<Payload>(), entries(inputs, inputs_num), entries(outputs, outputs_num))
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the buffers describe living memory; the native side has refused overlaps.
        let inputs: Vec<_> = inputs.iter().map(|buffer| unsafe { input(buffer) }).collect();
        // SAFETY: as above, and outputs are row contiguous.
        let mut outputs: Vec<_> = outputs.iter().map(|buffer| unsafe { output(buffer) }).collect();
        parts::run(&*payload.kernel, &inputs, &mut outputs);
    }));
    if let Err(panic) = outcome {
        let words = panic.downcast_ref::<&str>().map(|text| text.to_string());
        let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let message = format!("the kernel `{}` panicked: {words}", payload.kernel.name());
        // A lock that a panic poisoned still holds what was put in.
        *payload.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }
}

/// # Safety
/// `first` points at `count` entries that live for `'a`, or `count` is 0.
unsafe fn entries<'a, T>(first: *const T, count: usize) -> &'a [T] {
    // SAFETY: by contract.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(first, count) } }
}

/// # Safety
/// `buffer` describes memory that lives, and that nobody writes, for `'a`.
unsafe fn input<'a>(buffer: &'a ollmlx_buffer) -> Input<'a> {
    let dtype = Dtype::from_raw(buffer.dtype);
    // SAFETY: `ndim` entries each, by contract.
    let (shape, strides) =
        unsafe { (entries(buffer.shape, buffer.ndim), entries(buffer.strides, buffer.ndim)) };
    let empty = Input { shape, strides, dtype, reach: Some(&[]), first: 0 };
    if buffer.size == 0 {
        return empty;
    }
    if buffer.data.is_null() {
        return Input { reach: None, ..empty };
    }
    let reach = Reach::new(buffer.data.cast(), shape, strides, dtype);
    // SAFETY: exactly the memory that shape and strides reach from the first element, which MLX allocated.
    let bytes = unsafe { reach.slice() };
    Input { reach: Some(bytes), first: reach.first, ..empty }
}

/// # Safety
/// `buffer` describes row contiguous memory that lives, and that only this reaches, for `'a`.
unsafe fn output<'a>(buffer: &'a ollmlx_buffer) -> Output<'a> {
    let dtype = Dtype::from_raw(buffer.dtype);
    // SAFETY: `ndim` entries, by contract.
    let shape = unsafe { entries(buffer.shape, buffer.ndim) };
    let bytes: &mut [u8] = match buffer.size {
        0 => &mut [],
        // SAFETY: `size` elements, by contract.
        size => unsafe {
            std::slice::from_raw_parts_mut(buffer.data.cast::<u8>(), size * dtype.size())
        },
    };
    Output { shape, dtype, bytes }
}

thread_local! {
    /// Whether this thread has ever shared a buffer. Then its memory is only read in the order of the stream.
    static SHARED: Cell<bool> = const { Cell::new(false) };

    /// The message of a kernel of this thread that panicked.
    static FAILURE: Arc<Mutex<Option<String>>> = Arc::default();
}

/// What a kernel of this thread has failed with since this was asked last.
pub(crate) fn take_failure() -> Option<String> {
    FAILURE.with(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).take())
}

pub(crate) fn buffers_are_shared() -> bool {
    SHARED.get()
}
