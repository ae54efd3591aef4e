//! Where the time of our kernels goes: by kernel, and by the kind of work. For benches; off unless started. Then a kernel
//! costs two readings of the clock and a lock nobody else wants; else the reading of one number.
//!
//! One thread runs all kernels of a stream, one after the other, so that their times add up to no more than passed. What
//! is missing of that was spent outside: in our own code, in MLX, in waiting.

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
    add(kernel, took.saturating_sub(INSIDE.get()));
    INSIDE.set(around + took);
}

fn add(kernel: &dyn Kernel, time: Duration) {
    let part = kernel.part();
    let name = if part == Part::Between { "between" } else { kernel.name() };
    let mut all = SPENT.lock().unwrap_or_else(PoisonError::into_inner);
    match all.iter_mut().find(|spent| spent.kernel == name) {
        Some(spent) => (spent.time, spent.calls) = (spent.time + time, spent.calls + 1),
        None => all.push(Spent { kernel: name, part, time, calls: 1 }),
    }
}
