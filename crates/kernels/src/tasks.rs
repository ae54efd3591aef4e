//! A product as a list of runs, and runs as tasks for the pool.

use std::cell::Cell;
use std::ops::Range;

use crate::rows::Out;

/// Consecutive rows of activations that meet the same weight rows.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    /// Which of the call's matrices.
    pub matrix: usize,
    pub weight_row: usize,
    /// Weight rows, which are columns of the output.
    pub columns: usize,
    /// First row of the output.
    pub first: usize,
    pub rows: usize,
    pub out: Out,
    pub first_task: usize,
}

impl Run {
    pub fn new(
        matrix: usize,
        weight_row: usize,
        columns: usize,
        rows: Range<usize>,
        out: Out,
    ) -> Run {
        let (first, rows) = (rows.start, rows.len());
        Run { matrix, weight_row, columns, first, rows, out, first_task: 0 }
    }
}

thread_local! {
    static RUNS: Cell<Vec<Run>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's list of runs, empty.
pub(crate) fn with_runs(f: impl FnOnce(&mut Vec<Run>)) {
    let mut runs = RUNS.take();
    runs.clear();
    f(&mut runs);
    RUNS.set(runs);
}

/// Numbers the tasks of all runs; the sum.
pub(crate) fn count_tasks(runs: &mut [Run], tasks: impl Fn(&Run) -> usize) -> usize {
    let mut sum = 0;
    for run in runs {
        run.first_task = sum;
        sum += tasks(run);
    }
    sum
}

/// The run that task `task` belongs to, and its number there.
pub(crate) fn find_task(runs: &[Run], task: usize) -> (&Run, usize) {
    let run = &runs[runs.partition_point(|run| run.first_task <= task) - 1];
    (run, task - run.first_task)
}
