//! Memory a thread keeps between calls, so that a step allocates nothing once it has run.

use std::cell::Cell;
use std::thread::LocalKey;

/// What a thread keeps of each kind of scratch; more is given back after the call that needed it.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// A cache line, so that everything begins at one.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line(#[allow(dead_code)] [u8; 64]);

pub(crate) type Scratch = LocalKey<Cell<Vec<Line>>>;

/// Calls `f` with at least `bytes` bytes of initialised memory, aligned to 64; the contents are left over from before.
pub(crate) fn with<R>(scratch: &'static Scratch, bytes: usize, f: impl FnOnce(*mut u8) -> R) -> R {
    let mut lines = scratch.take();
    if lines.len() * 64 < bytes {
        lines.resize(bytes.div_ceil(64), Line([0; 64]));
    }
    let result = f(lines.as_mut_ptr().cast());
    if lines.len() * 64 <= KEPT_BYTES_MAX {
        scratch.set(lines);
    }
    result
}

/// The next multiple of a cache line.
pub(crate) fn lines(bytes: usize) -> usize {
    bytes.next_multiple_of(64)
}
