//! Time spent inside libmlxc by this thread, for benches that want to tell it apart from our own. Off unless started;
//! then each call costs two readings of the clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    pub time: Duration,
    pub calls: u64,
}

thread_local! {
    static METER: Cell<Option<Meter>> = const { Cell::new(None) };
}

/// Starts from zero.
pub fn start() {
    METER.set(Some(Meter::default()));
}

/// What was spent since `start`.
pub fn stop() -> Meter {
    METER.take().unwrap_or_default()
}

/// Counts a call, if anybody wants to know. Calls do not nest.
pub(crate) fn inside<T>(call: impl FnOnce() -> T) -> T {
    let Ok(Some(mut meter)) = METER.try_with(Cell::get) else { return call() };
    let start = Instant::now();
    let result = call();
    meter.time += start.elapsed();
    meter.calls += 1;
    METER.set(Some(meter));
    result
}
