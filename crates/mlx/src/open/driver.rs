//! Asks the CUDA driver whether there is a device, without MLX: a CUDA build may only be opened where there is one.

use std::ffi::c_int;

type Init = unsafe extern "C" fn(u32) -> c_int;
type DeviceGetCount = unsafe extern "C" fn(*mut c_int) -> c_int;

/// The number of devices, at least 1, or why there is none.
pub fn cuda_devices() -> Result<usize, String> {
    // SAFETY: the driver's library, opened as every CUDA program opens it; it is left open, as it may not be closed.
    let driver = unsafe { libloading::Library::new("libcuda.so.1") };
    let driver = std::mem::ManuallyDrop::new(
        driver.map_err(|_| "there is no NVIDIA driver (libcuda.so.1)".to_owned())?,
    );
    // SAFETY: signatures of the driver API, stable since its first version.
    let (init, count) = unsafe {
        (driver.get::<Init>(b"cuInit"), driver.get::<DeviceGetCount>(b"cuDeviceGetCount"))
    };
    let (Ok(init), Ok(count)) = (init, count) else {
        return Err("libcuda.so.1 is no NVIDIA driver".to_owned());
    };
    // SAFETY: the only flag allowed is 0.
    match unsafe { init(0) } {
        0 => {}
        code => return Err(format!("the NVIDIA driver does not start (cuInit returned {code})")),
    }
    let mut devices = 0;
    // SAFETY: the destination is ours.
    match unsafe { count(&mut devices) } {
        0 if devices > 0 => Ok(devices as usize),
        0 => Err("the NVIDIA driver sees no device".to_owned()),
        code => Err(format!("the NVIDIA driver cannot count its devices (code {code})")),
    }
}
