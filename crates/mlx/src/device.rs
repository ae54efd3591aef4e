//! Where a thread computes: its device, and its stream on it, made on first use.

use crate::array::Vector;
use crate::ffi::{Functions, MLX_CPU, MLX_GPU, mlx_array, mlx_device, mlx_stream};
use crate::open::library;
use crate::{Dtype, EvalError, error};
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Device {
    Cpu,
    /// The first GPU, of Metal or CUDA.
    Gpu,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Cpu => "cpu",
            Device::Gpu => "gpu",
        })
    }
}

thread_local! {
    /// None until somebody names one: the library's best.
    static CHOSEN: Cell<Option<Device>> = const { Cell::new(None) };
    static STREAMS: RefCell<[Option<Stream>; 2]> = const { RefCell::new([None, None]) };
}

/// The device on which this thread's operations run.
pub fn device() -> Device {
    CHOSEN.get().or_else(|| library().ok().map(|l| l.device())).unwrap_or(Device::Cpu)
}

/// Chooses the device of this thread's next operations. Asking for a GPU that is not there fails with the next operation.
pub fn set_device(device: Device) {
    CHOSEN.set(Some(device));
}

/// Runs `f` with its operations on `device`.
pub fn with_device<T>(device: Device, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Device>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOSEN.set(self.0);
        }
    }
    let _restore = Restore(CHOSEN.replace(Some(device)));
    f()
}

/// Waits until everything this thread has asked of its device is done.
pub fn synchronize() -> Result<(), EvalError> {
    let Ok(library) = library() else { return Ok(()) };
    let stream = stream(library.functions()).map_err(EvalError::Failed)?;
    // SAFETY: the stream belongs to this thread and lives as long as it.
    match unsafe { (library.functions().mlx_synchronize)(stream) } {
        0 => Ok(()),
        _ => Err(EvalError::from_last_message()),
    }
}

/// This thread's stream on its device; an error in MLX's words where that device is not there.
pub(crate) fn stream(f: &'static Functions) -> Result<mlx_stream, String> {
    let device = device();
    STREAMS.with_borrow_mut(|streams| {
        let slot = &mut streams[device as usize];
        if slot.is_none() {
            *slot = Some(Stream::new(f, device)?);
        }
        slot.as_ref().map(|stream| stream.raw).ok_or_else(String::new)
    })
}

/// MLX's default stream of a device for the thread that made this.
struct Stream {
    raw: mlx_stream,
    f: &'static Functions,
}

impl Stream {
    fn new(f: &'static Functions, device: Device) -> Result<Stream, String> {
        with_handle(f, device, |handle| {
            let mut raw = mlx_stream::NULL;
            // SAFETY: the device handle lives for the call; `raw` is filled in or stays null.
            match unsafe { (f.mlx_get_default_stream)(&mut raw, handle) } {
                0 => Ok(Stream { raw, f }),
                _ => Err(error::take_message()),
            }
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `mlx_get_default_stream` and freed once; MLX's own stream behind it stays.
        unsafe { (self.f.mlx_stream_free)(self.raw) };
    }
}

fn with_handle<T>(f: &Functions, device: Device, run: impl FnOnce(mlx_device) -> T) -> T {
    let kind = if device == Device::Cpu { MLX_CPU } else { MLX_GPU };
    // SAFETY: a plain constructor and its destructor around the use.
    let handle = unsafe { (f.mlx_device_new_type)(kind, 0) };
    let result = run(handle);
    // SAFETY: as above; nothing keeps the handle.
    unsafe { (f.mlx_device_free)(handle) };
    result
}

/// Whether MLX can compute on `device`.
pub(crate) fn is_available(f: &Functions, device: Device) -> bool {
    with_handle(f, device, |handle| {
        let mut available = false;
        // SAFETY: the handle lives for the call, the flag is ours.
        unsafe { (f.mlx_device_is_available)(&mut available, handle) == 0 && available }
    })
}

/// A small sum with a known result, on a stream of `device`. Before the library counts as open, so without `Array`.
pub(crate) fn computes(f: &Functions, device: Device) -> Result<(), String> {
    with_handle(f, device, |handle| {
        let (mut stream, mut ones, mut sum) = (mlx_stream::NULL, mlx_array::NULL, mlx_array::NULL);
        let shape = [3, 5];
        // SAFETY: all handles are ours, null until filled, and freed below; the shape outlives the call; data is read
        // after the evaluation that made it.
        unsafe {
            let evaluated = (f.mlx_get_default_stream)(&mut stream, handle) == 0
                && (f.mlx_ones)(&mut ones, shape.as_ptr(), shape.len(), Dtype::F32 as u32, stream)
                    == 0
                && (f.mlx_sum)(&mut sum, ones, false, stream) == 0
                && (f.mlx_eval)(Vector::of_raw(f, sum).raw) == 0;
            let value = if evaluated {
                (f.mlx_array_data_uint8)(sum).cast::<f32>().read_unaligned()
            } else {
                0.0
            };
            (f.mlx_array_free)(sum);
            (f.mlx_array_free)(ones);
            (f.mlx_stream_free)(stream);
            match (evaluated, value) {
                (true, 15.0) => Ok(()),
                (true, value) => Err(format!("the {device} adds fifteen ones to {value}")),
                (false, _) => Err(error::take_message()),
            }
        }
    })
}

/// Makes `device` the one on which MLX itself synchronises.
pub(crate) fn make_default(f: &Functions, device: Device) {
    // SAFETY: the handle lives for the call.
    with_handle(f, device, |handle| unsafe { (f.mlx_set_default_device)(handle) });
}

/// What MLX knows about a device by name: `device_name` and `architecture` as text, sizes in bytes as numbers.
pub fn device_info(device: Device) -> Vec<(&'static str, String)> {
    const KEYS: [(&CStr, &str); 6] = [
        (c"device_name", "device_name"),
        (c"architecture", "architecture"),
        (c"memory_size", "memory_size"),
        (c"total_memory", "total_memory"),
        (c"free_memory", "free_memory"),
        (c"max_recommended_working_set_size", "max_recommended_working_set_size"),
    ];
    let Ok(library) = library() else { return Vec::new() };
    let f = library.functions();
    with_handle(f, device, |handle| {
        // SAFETY: constructor, calls and destructor of one handle that stays here; keys are C strings.
        unsafe {
            let mut info = (f.mlx_device_info_new)();
            let found = match (f.mlx_device_info_get)(&mut info, handle) {
                0 => KEYS
                    .iter()
                    .filter_map(|(key, name)| Some((*name, info_value(f, info, key)?)))
                    .collect(),
                _ => Vec::new(),
            };
            (f.mlx_device_info_free)(info);
            found
        }
    })
}

/// # Safety
/// `info` is a living handle that `mlx_device_info_get` has filled.
unsafe fn info_value(
    f: &Functions,
    info: crate::ffi::mlx_device_info,
    key: &CStr,
) -> Option<String> {
    let (mut exists, mut is_text) = (false, false);
    let mut text = std::ptr::null();
    let mut number = 0_usize;
    // SAFETY: all outputs are ours; the text belongs to `info` and is copied before that is freed.
    unsafe {
        (f.mlx_device_info_has_key)(&mut exists, info, key.as_ptr());
        if !exists || (f.mlx_device_info_is_string)(&mut is_text, info, key.as_ptr()) != 0 {
            return None;
        }
        if is_text {
            let got = (f.mlx_device_info_get_string)(&mut text, info, key.as_ptr()) == 0
                && !text.is_null();
            return got.then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
        }
        let got = (f.mlx_device_info_get_size)(&mut number, info, key.as_ptr()) == 0;
        got.then(|| number.to_string())
    }
}

/// The stream for an operation, or an unwinding `GraphError`.
#[track_caller]
pub(crate) fn stream_for(
    operation: &'static str,
    inputs: &[&crate::Array],
) -> (&'static Functions, mlx_stream) {
    let library = match library() {
        Ok(library) => library,
        Err(error) => error::fail(operation, inputs, error.to_string()),
    };
    match stream(library.functions()) {
        Ok(stream) => (library.functions(), stream),
        Err(message) => error::fail(operation, inputs, message),
    }
}
