//! When work is worth spreading over threads.

use std::ops::Range;

use crate::Cpu;

/// Values below which a kernel that touches each a few times stays on its thread: some microseconds of work, about
/// what waking a worker costs.
const ALONE_VALUES_MAX: usize = 32_768;

/// Values in one task.
const TASK_VALUES: usize = 16_384;

/// Gives ranges of `rows` to `task`, each row `values` of work.
pub(crate) fn rows(
    cpu: &Cpu<'_>,
    rows: usize,
    values: usize,
    task: &(dyn Fn(Range<usize>) + Sync),
) {
    if rows == 0 {
        return;
    }
    if rows < 2 || rows * values <= ALONE_VALUES_MAX {
        return task(0..rows);
    }
    cpu.pool.run_ranges(rows, (TASK_VALUES / values.max(1)).max(1), task);
}
