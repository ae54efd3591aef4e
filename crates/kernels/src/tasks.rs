//! A product as a list of runs, and runs as tasks for the pool.
//!
//! A run of few rows is cut into ranges of weight rows, which stream by once. A run of many rows is cut into tiles of
//! weight rows by blocks of activation rows.

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
    /// Where its activations begin among those laid out for tiles ([`count_panels`]).
    pub panel: usize,
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
        Run { matrix, weight_row, columns, first, rows, out, first_task: 0, panel: 0 }
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

/// Numbers the panels of `rows` rows that runs of at least `least` rows make, those of the same rows once; the sum.
pub(crate) fn count_panels(runs: &mut [Run], rows: usize, least: usize) -> usize {
    let (mut start, mut sum, mut last) = (0, 0, 0..0);
    for run in runs {
        let same = last == (run.first..run.first + run.rows);
        if !same && run.rows >= least {
            (start, last) = (sum, run.first..run.first + run.rows);
            sum += run.rows.div_ceil(rows);
        }
        run.panel = if run.rows >= least { start } else { sum };
    }
    sum
}

/// The run that panel `panel` belongs to, and its number there.
pub(crate) fn find_panel(runs: &[Run], panel: usize) -> (&Run, usize) {
    let run = &runs[runs.partition_point(|run| run.panel <= panel) - 1];
    (run, panel - run.panel)
}

/// The run that task `task` belongs to, and its number there.
pub(crate) fn find_task(runs: &[Run], task: usize) -> (&Run, usize) {
    let run = &runs[runs.partition_point(|run| run.first_task <= task) - 1];
    (run, task - run.first_task)
}

/// Rows of activations that the loops for few rows take; more are worth a transposed tile of weights.
pub(crate) const FEW_MAX: usize = 12;

/// Bytes of weights in a task of few rows at most: tens of microseconds of reading. Each beginning costs: memory is asked
/// for ahead only once a stream is known, and whose stream goes on where is a guess.
const FEW_TASK_BYTES: usize = 512 << 10;

/// Tasks of few rows for each thread where a call has less to read, all its runs together: none waits long for the last,
/// also where another process slows one down.
const FEW_TASKS_PER_THREAD: usize = 8;

/// Smaller tasks are made only where threads would have fewer than `FEW_TASKS_PER_THREAD_MIN`.
const FEW_TASK_BYTES_MIN: usize = 128 << 10;
const FEW_TASKS_PER_THREAD_MIN: usize = 4;

/// Rows of activations for which a tile of weights is laid out once; each costs its width in f32 of a thread's memory.
const MANY_ROWS_MAX: usize = 512;

/// Fewer rows are not worth laying out a tile again.
const MANY_ROWS_MIN: usize = 48;

/// How runs are cut.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    pub threads: usize,
    /// Weight rows in a tile.
    pub tile_rows: usize,
    /// Of many rows of activations, parts begin at a multiple of this.
    pub row_grain: usize,
}

/// How the runs of one call are cut.
#[derive(Clone, Copy)]
struct Sizes {
    cut: Cut,
    /// Bytes of weights in a task of few rows.
    few_bytes: usize,
}

/// The tasks of a call: its runs, and how they are cut.
pub(crate) struct Tasks<'a> {
    pub runs: &'a [Run],
    pub count: usize,
    sizes: Sizes,
    /// Of a row of each matrix.
    row_bytes: &'a (dyn Fn(usize) -> usize + Sync),
}

impl<'a> Tasks<'a> {
    pub fn new(
        cut: Cut,
        runs: &'a mut [Run],
        row_bytes: &'a (dyn Fn(usize) -> usize + Sync),
    ) -> Tasks<'a> {
        let sizes = Sizes::new(cut, runs, row_bytes);
        let count = count_tasks(runs, |run| sizes.tasks(run, row_bytes(run.matrix)));
        Tasks { runs, count, sizes, row_bytes }
    }

    pub fn get(&self, task: usize) -> (&'a Run, Part) {
        let (run, task) = find_task(self.runs, task);
        (run, self.sizes.part(run, (self.row_bytes)(run.matrix), task))
    }

    /// Matrix and weight row with which the thread that has this task will probably go on: threads take tasks in turn.
    pub fn next(&self, task: usize) -> (usize, usize) {
        let (run, part) = self.get((task + self.sizes.cut.threads).min(self.count - 1));
        (run.matrix, run.weight_row + part.of(run).0.start)
    }
}

/// One task: columns of the output (weight rows), and for many rows of activations a block of those.
pub(crate) enum Part {
    Few { columns: Range<usize> },
    Many { columns: Range<usize>, rows: Range<usize> },
}

impl Part {
    /// Columns of the output, and rows of the run.
    pub fn of(self, run: &Run) -> (Range<usize>, Range<usize>) {
        match self {
            Part::Few { columns } => (columns, 0..run.rows),
            Part::Many { columns, rows } => (columns, rows),
        }
    }
}

impl Sizes {
    fn new(cut: Cut, runs: &[Run], row_bytes: &dyn Fn(usize) -> usize) -> Sizes {
        let few = runs.iter().filter(|run| run.rows <= FEW_MAX);
        let bytes: usize = few.map(|run| run.columns * row_bytes(run.matrix)).sum();
        let share = |tasks: usize| bytes.div_ceil(cut.threads * tasks);
        let least = share(FEW_TASKS_PER_THREAD_MIN).min(FEW_TASK_BYTES_MIN);
        let few_bytes = share(FEW_TASKS_PER_THREAD).max(least).clamp(1, FEW_TASK_BYTES);
        Sizes { cut, few_bytes }
    }

    /// How many tasks a run makes, whose weights have `row_bytes` to a row.
    fn tasks(&self, run: &Run, row_bytes: usize) -> usize {
        if run.rows == 0 || run.columns == 0 {
            return 0;
        }
        if run.rows <= FEW_MAX {
            return run.columns.div_ceil(self.few_columns(run, row_bytes));
        }
        run.columns.div_ceil(self.cut.tile_rows) * self.blocks(run)
    }

    /// Task `task` of a run.
    fn part(&self, run: &Run, row_bytes: usize, task: usize) -> Part {
        let range = |index: usize, len: usize, end: usize| {
            (index * len).min(end)..((index + 1) * len).min(end)
        };
        if run.rows <= FEW_MAX {
            let columns = range(task, self.few_columns(run, row_bytes), run.columns);
            return Part::Few { columns };
        }
        let blocks = self.blocks(run);
        let columns = range(task / blocks, self.cut.tile_rows, run.columns);
        let block = run.rows.div_ceil(blocks).next_multiple_of(self.cut.row_grain);
        Part::Many { columns, rows: range(task % blocks, block, run.rows) }
    }

    fn few_columns(&self, run: &Run, row_bytes: usize) -> usize {
        // A vector of weight rows takes as long as one of them; for several rows two do, which make a tile.
        let grain = if run.rows == 1 { self.cut.tile_rows / 2 } else { self.cut.tile_rows };
        let parts = (run.columns * row_bytes).div_ceil(self.few_bytes).max(1);
        run.columns.div_ceil(parts).next_multiple_of(grain)
    }

    /// Blocks of activation rows, so that each thread finds some tasks.
    fn blocks(&self, run: &Run) -> usize {
        let tiles = run.columns.div_ceil(self.cut.tile_rows);
        let wanted = (self.cut.threads * 4).div_ceil(tiles).min(run.rows / MANY_ROWS_MIN).max(1);
        run.rows.div_ceil(MANY_ROWS_MAX).max(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::FloatsMut;
    use crate::rows::RowsMut;

    /// The tasks of a run cover each cell of its output once.
    fn check(rows: usize, columns: usize, row_bytes: usize, cut: Cut) {
        let out = RowsMut::new(FloatsMut::F32(&mut []), 0, 0).shared();
        let run = Run::new(0, 0, columns, 0..rows, out);
        let sizes = Sizes::new(cut, &[run], &|_| row_bytes);
        let mut seen = vec![0u8; rows * columns];
        for task in 0..sizes.tasks(&run, row_bytes) {
            let (columns_range, rows_range) = sizes.part(&run, row_bytes, task).of(&run);
            assert!(rows_range.len() <= MANY_ROWS_MAX);
            for row in rows_range {
                columns_range.clone().for_each(|column| seen[row * columns + column] += 1);
            }
        }
        assert!(seen.iter().all(|&count| count == 1), "{rows} by {columns}");
    }

    /// The weight rows in each task of a call of one row of activations, whose matrices have so many of 1 KiB.
    fn sizes(matrices: &[usize], threads: usize) -> Vec<usize> {
        let out = RowsMut::new(FloatsMut::F32(&mut []), 0, 0).shared();
        let run = |(i, &columns): (usize, &usize)| Run::new(i, 0, columns, 0..1, out);
        let mut runs: Vec<Run> = matrices.iter().enumerate().map(run).collect();
        let cut = Cut { threads, tile_rows: 32, row_grain: 1 };
        let tasks = Tasks::new(cut, &mut runs, &|_| 1024);
        (0..tasks.count)
            .map(|task| {
                let (run, part) = tasks.get(task);
                part.of(run).0.len()
            })
            .collect()
    }

    /// What a task reads depends on the call, not on how many matrices it is cut into already.
    #[test]
    fn tasks_of_few_rows_are_a_share_of_the_call() {
        assert_eq!(sizes(&[2048], 2), [128; 16]);
        assert_eq!(sizes(&[6144], 2), [384; 16]);
        assert_eq!(sizes(&[1024], 2), [128; 8]);
        assert_eq!(sizes(&[1 << 20], 2), [512; 2048]);
        // Experts: as many as there are, none cut; and all cut for more threads.
        assert_eq!(sizes(&[512; 16], 2), [512; 16]);
        assert_eq!(sizes(&[512; 16], 16), [128; 64]);
        assert_eq!(sizes(&[1024, 512, 512], 2), [128; 16]);
        assert_eq!(sizes(&[40], 2), [16, 16, 8]);
    }

    #[test]
    fn tasks_cover_the_output() {
        for threads in [1, 2, 64] {
            for rows in [0, 1, 8, 12, 13, 48, 100, 512, 513, 1500] {
                for columns in [0, 1, 31, 32, 33, 700] {
                    check(rows, columns, 1000, Cut { threads, tile_rows: 32, row_grain: 16 });
                    check(rows, columns, 100_000, Cut { threads, tile_rows: 8, row_grain: 1 });
                }
            }
        }
    }
}
