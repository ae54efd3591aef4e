//! What MLX holds and may hold, in bytes, over all threads. Zeros while the library is not open. Pages of keys and values,
//! which are no arrays, count as such.

use crate::cpu::pages;
use crate::device::{device, device_info};
use crate::open::library;
use crate::safetensors;
use crate::{EvalError, ffi::Functions};

/// Memory of arrays and pages.
pub fn active_bytes() -> usize {
    figure(|f| f.mlx_get_active_memory) + pages::bytes()
}

/// Memory of arrays that lie in files where these were mapped. Not among the others: the system may take it and read it again,
/// which is slow, so whoever plans counts it.
pub fn mapped_bytes() -> usize {
    safetensors::mapped_bytes()
}

/// The most that arrays have had since the start or `reset_peak`, and the most that pages have had: a bound where the two
/// came at different times.
pub fn peak_bytes() -> usize {
    figure(|f| f.mlx_get_peak_memory) + pages::peak_bytes()
}

/// Freed memory kept for the next array.
pub fn cache_bytes() -> usize {
    figure(|f| f.mlx_get_cache_memory)
}

/// Where MLX begins to wait for running work before it allocates more. A guideline, not a wall.
pub fn limit_bytes() -> usize {
    figure(|f| f.mlx_get_memory_limit)
}

/// What the device has left, whoever has the rest, kept buffers of MLX's included in what is left; none where nothing
/// says.
pub fn device_free_bytes() -> Option<usize> {
    let info = device_info(device());
    let (_, free) = info.iter().find(|(name, _)| *name == "free_memory")?;
    Some(free.parse::<usize>().ok()?.saturating_add(cache_bytes()))
}

pub fn reset_peak() {
    pages::reset_peak();
    act(|f| f.mlx_reset_peak_memory);
}

/// Gives the kept memory back to the system.
pub fn clear_cache() {
    act(|f| f.mlx_clear_cache);
}

/// Returns the limit before.
pub fn set_cache_limit(bytes: usize) -> Result<usize, EvalError> {
    set(|f| f.mlx_set_cache_limit, bytes)
}

/// Returns the limit before.
pub fn set_limit(bytes: usize) -> Result<usize, EvalError> {
    set(|f| f.mlx_set_memory_limit, bytes)
}

/// How much a GPU of Metal may keep resident; nothing happens elsewhere. Returns the limit before.
pub fn set_wired_limit(bytes: usize) -> Result<usize, EvalError> {
    set(|f| f.mlx_set_wired_limit, bytes)
}

type Get = unsafe extern "C" fn(*mut usize) -> i32;
type Act = unsafe extern "C" fn() -> i32;
type Set = unsafe extern "C" fn(*mut usize, usize) -> i32;

fn figure(which: fn(&Functions) -> Get) -> usize {
    let mut bytes = 0;
    if let Ok(library) = library() {
        // SAFETY: the destination is ours.
        unsafe { which(library.functions())(&mut bytes) };
    }
    bytes
}

fn act(which: fn(&Functions) -> Act) {
    if let Ok(library) = library() {
        // SAFETY: no arguments, no preconditions.
        unsafe { which(library.functions())() };
    }
}

fn set(which: fn(&Functions) -> Set, bytes: usize) -> Result<usize, EvalError> {
    let library = library().map_err(|error| EvalError::Failed(error.to_string()))?;
    let mut before = 0;
    // SAFETY: the destination is ours.
    match unsafe { which(library.functions())(&mut before, bytes) } {
        0 => Ok(before),
        _ => Err(EvalError::from_last_message()),
    }
}
