//! Where the time of our kernels goes: by kernel, and by the kind of work. For benches; off unless started. Then a kernel
//! costs two readings of the clock and a lock nobody else wants; else the reading of one number.
//!
//! One thread runs all kernels of a stream, one after the other, so that their times add up to no more than passed. What
//! is missing of that was spent outside: in our own code, in MLX, in waiting. On a GPU, where kernels are MLX's, only
//! this is told apart: handing it work, and waiting for it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Input, Kernel, Output};

/// A kind of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Products,
    Attention,
    /// Any other kernel.
    Other,
    /// What a recorded sequence of kernels takes itself.
    Between,
    /// Handing a GPU its work, and waiting for it.
    Queue,
}

/// What one kernel took, all its calls together.
#[derive(Clone, Debug)]
pub struct Spent {
    pub kernel: &'static str,
    pub part: Part,
    pub time: Duration,
    pub calls: u64,
}

static WATCHING: AtomicBool = AtomicBool::new(false);
static SPENT: Mutex<Vec<Spent>> = Mutex::new(Vec::new());

thread_local! {
    /// Time of kernels that ran inside of the one that runs.
    static INSIDE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Starts from zero.
pub fn start() {
    SPENT.lock().unwrap_or_else(PoisonError::into_inner).clear();
    WATCHING.store(true, Ordering::Relaxed);
}

/// What was spent since `start`, the most first.
pub fn stop() -> Vec<Spent> {
    WATCHING.store(false, Ordering::Relaxed);
    let mut spent = std::mem::take(&mut *SPENT.lock().unwrap_or_else(PoisonError::into_inner));
    spent.sort_by_key(|spent| std::cmp::Reverse(spent.time));
    spent
}

/// Runs a kernel, and notes what it took if anybody wants to know.
pub(super) fn run(kernel: &dyn Kernel, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
    if !WATCHING.load(Ordering::Relaxed) {
        return kernel.run(inputs, outputs);
    }
    let around = INSIDE.replace(Duration::ZERO);
    let start = Instant::now();
    kernel.run(inputs, outputs);
    let took = start.elapsed();
    let part = kernel.part();
    let name = if part == Part::Between { "between" } else { kernel.name() };
    add(name, part, took.saturating_sub(INSIDE.get()));
    INSIDE.set(around + took);
}

/// `call`, which starts a GPU's work or waits for it; notes what it took if anybody wants to know.
pub(crate) fn queue<T>(name: &'static str, call: impl FnOnce() -> T) -> T {
    if !WATCHING.load(Ordering::Relaxed) {
        return call();
    }
    let start = Instant::now();
    let result = call();
    add(name, Part::Queue, start.elapsed());
    result
}

fn add(name: &'static str, part: Part, time: Duration) {
    let mut all = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
    match all.iter_mut().find(|spent| spent.kernel == name) {
        Some(spent) => (spent.time, spent.calls) = (spent.time + time, spent.calls + 1),
        None => all.push(Spent { kernel: name, part, time, calls: 1 }),
    }
}
