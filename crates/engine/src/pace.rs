//! How much of a prompt goes into a step beside running replies: so much that nobody waits noticeably longer for his next
//! token. The machine tells how much that is, step by step. Pure: it is told times and has no clock.

use std::time::Duration;

use crate::batcher::CHUNK_TOKENS;

/// What a step with a part of a prompt should take. Less would make prompts slower, for each step has a price of its own;
/// the longest pause that a reader is promised is 0.4 s.
const STEP_TIME: Duration = Duration::from_millis(330);

/// Even a slow machine gets on with a prompt.
pub(crate) const ROWS_MIN: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Rows of prompts that take `STEP_TIME`; none before anything was measured.
    rows: Option<f64>,
}

impl Pace {
    pub fn rows_beside(&self) -> usize {
        (self.rows.unwrap_or(0.0) as usize).clamp(ROWS_MIN, CHUNK_TOKENS)
    }

    /// A step with so many rows of prompts took so long, its other rows included.
    pub fn took(&mut self, prompt_rows: usize, time: Duration) {
        if prompt_rows < ROWS_MIN / 2 || time.is_zero() {
            return;
        }
        let share = STEP_TIME.as_secs_f64() / time.as_secs_f64();
        let fits = prompt_rows as f64 * share;
        self.rows = Some(match self.rows {
            None => fits,
            Some(_) if share < 1.0 => fits,
            // A step of few rows says little about one of many: what a step costs anyway is most of it.
            Some(rows) if (prompt_rows as f64) < rows / 2.0 => rows.max(fits),
            Some(rows) => fits.min(rows * 2.0),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine where a step costs `step` and each row `row` (seconds): after a first prompt, how many rows, and
    /// what the longest step took.
    #[track_caller]
    fn check(step: f64, row: f64, first_rows: usize, settles_at: std::ops::Range<usize>) {
        let mut pace = Pace::default();
        let time = |rows: usize| Duration::from_secs_f64(step + row * rows as f64);
        pace.took(first_rows, time(first_rows));
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let rows = pace.rows_beside();
            longest = longest.max(time(rows));
            pace.took(rows, time(rows));
        }
        assert!(settles_at.contains(&pace.rows_beside()), "{}", pace.rows_beside());
        let promised = Duration::from_millis(400);
        assert!(longest <= time(ROWS_MIN).max(promised), "{longest:?}");
    }

    #[test]
    fn it_settles_without_a_long_step() {
        check(0.03, 0.005, 2048, 58..61);
        check(0.03, 0.005, 8, 58..61);
        check(0.01, 0.00002, 600, CHUNK_TOKENS..CHUNK_TOKENS + 1);
        check(0.3, 0.05, 100, ROWS_MIN..ROWS_MIN + 1);
    }
}
