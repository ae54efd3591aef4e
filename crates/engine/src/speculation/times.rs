//! What steps take, apart from how fast the machine happens to be. Pure; times come from outside.
//!
//! A machine changes its speed by a quarter within seconds. Compared as they were measured, steps that were seen last while
//! it was slow look dear, and whoever believes that keeps to the others and never learns better. So plain steps tell how
//! fast the machine is just now, all times are divided by that, and steps with drafts count only soon after plain ones.
//! What counts are medians, which one step that took ten times as long does not move. Only ratios of times mean anything.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Times by which a kind of step is known. More forget later what a longer history changes.
const KEPT: usize = 31;

/// Plain steps that tell how fast the machine is just now; and so many of a kind have to be known for that.
const LATEST: usize = 5;

/// Plain steps of a size before anything is compared with them. Price: so many tokens later the first draft.
const PLAIN_MIN: usize = 5;

/// After so many steps without a plain one nobody knows how fast the machine is.
const FRESH_STEPS: u32 = 16;

#[derive(Debug)]
pub(super) struct Times {
    /// By rows.
    plain: BTreeMap<usize, Typical>,
    verifying: BTreeMap<usize, Typical>,
    /// For each token of the longest draft.
    drafting: Typical,
    /// For each token that a drafter only reads.
    reading: Typical,
    /// What plain steps took, in what is typical of their size.
    latest: Typical,
    since_plain: u32,
}

/// The median of the last few values.
#[derive(Debug)]
struct Typical {
    values: VecDeque<f64>,
    kept: usize,
    median: f64,
    /// The first value is that of somebody who was never asked before, and is left out.
    is_cold: bool,
}

impl Times {
    pub fn new() -> Times {
        let cold = || Typical { is_cold: true, ..Typical::default() };
        let [drafting, reading] = [cold(), cold()];
        let latest = Typical::of_last(LATEST);
        let (plain, verifying) = (BTreeMap::new(), BTreeMap::new());
        Times { plain, verifying, drafting, reading, latest, since_plain: 0 }
    }

    pub fn add_plain(&mut self, rows: usize, time: Duration) {
        let time = time.as_secs_f64();
        let typical = self.plain.entry(rows).or_default();
        if typical.values.len() >= LATEST {
            self.latest.add(time / typical.median);
        }
        typical.add(time / slowness(&self.latest));
        self.since_plain = 0;
    }

    pub fn add_verifying(&mut self, rows: usize, time: Duration) {
        self.since_plain = self.since_plain.saturating_add(1);
        let time = time.as_secs_f64() / slowness(&self.latest);
        let typical = self.verifying.entry(rows).or_default();
        if self.since_plain <= FRESH_STEPS || typical.values.is_empty() {
            typical.add(time);
        }
    }

    pub fn add_drafting(&mut self, depth: usize, time: Duration) {
        self.drafting.add(time.as_secs_f64() / slowness(&self.latest) / depth.max(1) as f64);
    }

    pub fn add_reading(&mut self, tokens: usize, time: Duration) {
        self.reading.add(time.as_secs_f64() / slowness(&self.latest) / tokens.max(1) as f64);
    }

    /// Unless too few such steps were measured.
    pub fn plain(&self, rows: usize) -> Option<f64> {
        let known = self.plain.get(&rows).filter(|typical| typical.values.len() >= PLAIN_MIN);
        known.map(|typical| typical.median)
    }

    pub fn has_verified(&self) -> bool {
        !self.verifying.is_empty()
    }

    /// For each token of the longest draft.
    pub fn drafting(&self) -> f64 {
        self.drafting.median
    }

    /// For each token.
    pub fn reading(&self) -> f64 {
        self.reading.median
    }

    /// Of a step of so many rows where a plain one has `plain_rows` and takes `plain`: measured, or on a line through what
    /// is next to it. Not less than the plain step, and no more than as many plain steps as it is as large.
    pub fn verifying(&self, rows: usize, plain_rows: usize, plain: f64) -> f64 {
        let known = |(rows, typical): (&usize, &Typical)| (*rows, typical.median);
        let below = self.verifying.range(plain_rows + 1..=rows).next_back().map(known);
        let above = self.verifying.range(rows..).next().map(known);
        let line = |from: (usize, f64), to: (usize, f64)| match to.0 - from.0 {
            0 => to.1,
            width => from.1 + (to.1 - from.1) * (rows - from.0) as f64 / width as f64,
        };
        let time = match (below, above) {
            (Some(below), Some(above)) => line(below, above),
            (None, Some(above)) => line((plain_rows, plain), above),
            // As steep as it was so far.
            (Some((known, time)), None) => {
                let slope = ((time - plain) / (known - plain_rows) as f64).max(0.0);
                time + slope * (rows - known) as f64
            }
            (None, None) => plain,
        };
        time.clamp(plain, plain * rows as f64 / plain_rows as f64)
    }
}

/// How many times as long as usual all takes just now.
fn slowness(latest: &Typical) -> f64 {
    if latest.median.is_normal() { latest.median } else { 1.0 }
}

impl Default for Typical {
    fn default() -> Typical {
        Typical::of_last(KEPT)
    }
}

impl Typical {
    fn of_last(kept: usize) -> Typical {
        Typical { values: VecDeque::with_capacity(kept), kept, median: 0.0, is_cold: false }
    }

    fn add(&mut self, value: f64) {
        if std::mem::take(&mut self.is_cold) {
            return;
        }
        if self.values.len() == self.kept {
            self.values.pop_front();
        }
        self.values.push_back(value);
        let mut sorted: Vec<f64> = self.values.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        self.median = sorted[sorted.len() / 2];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of a plain step of one row, and then of one of three rows where drafts are verified, in that.
    #[track_caller]
    fn check(plain: &[u64], verifying: &[u64], expected: f64) {
        let mut times = Times::new();
        plain.iter().for_each(|time| times.add_plain(1, Duration::from_millis(*time)));
        verifying.iter().for_each(|time| times.add_verifying(3, Duration::from_millis(*time)));
        let plain = times.plain(1).unwrap();
        let found = times.verifying(3, 1, plain) / plain;
        assert!((found - expected).abs() < 0.01, "{found}");
    }

    #[test]
    fn times_are_compared_as_of_one_moment() {
        check(&[20; 9], &[30], 1.5);
        check(&[20; 5], &[], 1.0);
        // Slow at first, or now; and one that nobody should believe.
        check(&[&[40; 20][..], &[20; 5]].concat(), &[30], 1.5);
        check(&[&[20; 20][..], &[40; 5]].concat(), &[60], 1.5);
        check(&[900, 20, 20, 20, 20, 20, 1, 20, 20], &[30, 30, 900, 30], 1.5);
        // Within what is possible.
        check(&[20; 9], &[900], 3.0);
        check(&[20; 9], &[1], 1.0);
        // Long after the last plain step the machine may be another.
        check(&[20; 9], &[&[30; 16][..], &[60; 40]].concat(), 1.5);
    }

    #[test]
    fn the_first_draft_of_all_tells_nothing() {
        let mut times = Times::new();
        times.add_drafting(2, Duration::from_secs(2));
        assert_eq!(times.drafting(), 0.0);
        times.add_drafting(2, Duration::from_secs(4));
        assert_eq!(times.drafting(), 2.0);
    }

    #[test]
    fn other_sizes_lie_on_a_line() {
        let mut times = Times::new();
        (0..9).for_each(|_| times.add_plain(1, Duration::from_millis(10)));
        times.add_verifying(3, Duration::from_millis(14));
        times.add_verifying(7, Duration::from_millis(30));
        let plain = times.plain(1).unwrap();
        for (rows, expected) in [(2, 12.0), (3, 14.0), (5, 22.0), (7, 30.0), (9, 36.7)] {
            let found = times.verifying(rows, 1, plain) * 1000.0;
            assert!((found - expected).abs() < 0.1, "{rows}: {found}");
        }
        assert_eq!(times.plain(2), None);
    }
}
