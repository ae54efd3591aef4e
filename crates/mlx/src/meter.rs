//! Time spent by this thread inside libmlxc, and inside what stands in for it on the CPU (the recording of our kernels),
//! for benches that want to tell it apart from what is above this room. Off unless started; then each call costs two
//! readings of the clock. They are measured first and count as inside: at a thousand calls in a step they would else be
//! most of what looks like ours.

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Empty calls by which the meter measures itself.
const CALIBRATION_CALLS: u32 = 2000;

#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    pub time: Duration,
    pub calls: u64,
}

thread_local! {
    static METER: Cell<Option<Meter>> = const { Cell::new(None) };
    /// What a metered call costs beside what it counts.
    static COST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Starts from zero.
pub fn start() {
    METER.set(Some(Meter::default()));
    let start = Instant::now();
    (0..CALIBRATION_CALLS).for_each(|_| inside(|| black_box(())));
    let uncounted = start.elapsed().saturating_sub(METER.get().unwrap_or_default().time);
    COST.set(uncounted / CALIBRATION_CALLS);
    METER.set(Some(Meter::default()));
}

/// What was spent since `start`.
pub fn stop() -> Meter {
    let meter = METER.take().unwrap_or_default();
    let calls = u32::try_from(meter.calls).unwrap_or(u32::MAX);
    Meter { time: meter.time + COST.get() * calls, ..meter }
}

/// Counts a call, if anybody wants to know. Calls within a call are part of it.
#[track_caller]
pub(crate) fn inside<T>(call: impl FnOnce() -> T) -> T {
    struct Within;
    impl Drop for Within {
        fn drop(&mut self) {
            WITHIN.set(false);
        }
    }
    let Ok(Some(mut meter)) = METER.try_with(Cell::get) else { return call() };
    if WITHIN.replace(true) {
        return call();
    }
    let within = Within;
    let start = Instant::now();
    let result = call();
    meter.time += start.elapsed();
    meter.calls += 1;
    METER.set(Some(meter));
    drop(within);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_while_it_runs_and_its_own_cost_is_not_ours() {
        inside(|| black_box(()));
        // Whoever shares the processor may take it in the middle of one try, hardly of each.
        let near = (0..20).any(|_| {
            start();
            let begin = Instant::now();
            (0..10_000).for_each(|_| inside(|| inside(|| black_box(()))));
            let whole = begin.elapsed();
            let meter = stop();
            assert_eq!(meter.calls, 10_000, "a call within a call is part of it");
            meter.time > whole / 2 && meter.time < whole * 2
        });
        assert!(near, "what the meter costs is taken for ours");
        inside(|| black_box(()));
        assert_eq!(stop().calls, 0, "it is off");
    }
}
