//! How a process ends that has used a GPU.
//!
//! MLX's handles of cuDNN, of streams and of graphs live in statics and in threads of their own, and CUDA's driver
//! leaves first: now and then a handle that is destroyed after it aborts the process, or faults, when all work is long
//! done and well. So such a process ends at once, with its own status, before anything of a library is destroyed. The
//! driver takes its memory back as from any process that ends.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::ffi::{c_int, c_void};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    // In the C library, which Rust's standard library links already. The handler that comes last runs first.
    fn on_exit(handler: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// Call it when the library is open: what it registered for the end comes after this.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn leave_at_once() {
    extern "C" fn leave(status: c_int, _: *mut c_void) {
        // SAFETY: never returns. Rust has flushed its output before it ends a process.
        unsafe { _exit(status) }
    }
    // SAFETY: the handler is a function of this program and needs no argument.
    if unsafe { on_exit(leave, std::ptr::null_mut()) } != 0 {
        tracing::debug!("the end of this process is left to the libraries");
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn leave_at_once() {}
