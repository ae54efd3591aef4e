//! A bar with percent, size, rate and remaining time. Pure but for the clock it starts with.

use std::time::{Duration, Instant};

use crate::terminal::humane;

pub struct Bar {
    message: String,
    total_bytes: u64,
    initial_bytes: u64,
    completed_bytes: u64,
    started: Instant,
    done: bool,
    /// The last few seconds, for the rate: when, and how many bytes were there.
    marks: Vec<(Instant, u64)>,
}

/// Of the rate: it is that of the last ten seconds or so.
const MARKS_MAX: usize = 10;

impl Bar {
    pub fn new(message: &str, total_bytes: u64, completed_bytes: u64) -> Bar {
        Bar {
            message: message.trim().to_owned(),
            total_bytes,
            initial_bytes: completed_bytes,
            completed_bytes,
            started: Instant::now(),
            done: completed_bytes >= total_bytes,
            marks: Vec::new(),
        }
    }

    pub fn set(&mut self, completed_bytes: u64, now: Instant) {
        self.completed_bytes = completed_bytes.min(self.total_bytes);
        self.done |= self.completed_bytes >= self.total_bytes;
        if self.marks.last().is_none_or(|(at, _)| now.duration_since(*at) > Duration::from_secs(1))
        {
            self.marks.push((now, self.completed_bytes));
            if self.marks.len() > MARKS_MAX {
                self.marks.remove(0);
            }
        }
    }

    fn percent(&self) -> f64 {
        match self.total_bytes {
            0 => 0.0,
            total => self.completed_bytes as f64 / total as f64 * 100.0,
        }
    }

    fn bytes_per_second(&self) -> Option<u64> {
        let (to, bytes) = *self.marks.last()?;
        let (from, before) = match self.marks.as_slice() {
            [_] => (self.started, self.initial_bytes),
            marks => marks[0],
        };
        let seconds = to.duration_since(from).as_secs_f64().round();
        (seconds > 0.0).then(|| (bytes.saturating_sub(before) as f64 / seconds) as u64)
    }

    pub fn text(&self, width: usize) -> String {
        let head = format!("{} {:3.0}%", self.message, self.percent());
        let total = humane::bytes(self.total_bytes);
        let rate = self.bytes_per_second().filter(|rate| !self.done && *rate > 0);
        let size = if self.done {
            format!("{total:>6}{:7}", "")
        } else {
            format!("{:>6}/{total:>6}", humane::bytes(self.completed_bytes))
        };
        let speed = match rate {
            None => " ".repeat(18),
            Some(rate) => {
                let left = (self.total_bytes - self.completed_bytes) / rate;
                format!("  {:>6}/s  {:>6}", humane::bytes(rate), short_duration(left))
            }
        };
        let tail = size + &speed;
        let room = width.saturating_sub(head.chars().count() + tail.chars().count() + 5);
        let full = (room as f64 * self.percent() / 100.0) as usize;
        format!("{head} ▕{}{}▏ {tail}", "█".repeat(full), " ".repeat(room - full.min(room)))
    }
}

/// `1h2m`, `3m5s`, `59s`; two units at most.
fn short_duration(seconds: u64) -> String {
    match seconds {
        360_000.. => "99h+".to_owned(),
        3600.. => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        60.. => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_the_width() {
        let mut bar = Bar::new("pulling 8934d96d3f08:", 4_700_000_000, 0);
        let now = bar.started;
        for (at, completed) in [(1, 100_000_000), (3, 300_000_000), (5, 500_000_000)] {
            bar.set(completed, now + Duration::from_secs(at));
        }
        let text = bar.text(80);
        assert_eq!(text.chars().count(), 79, "{text}");
        assert!(text.starts_with("pulling 8934d96d3f08:  11% ▕█"), "{text}");
        assert!(text.ends_with("▏ 500 MB/4.7 GB  100 MB/s     42s"), "{text}");
        bar.set(u64::MAX, now + Duration::from_secs(47));
        let text = bar.text(80);
        assert!(text.starts_with("pulling 8934d96d3f08: 100% ▕███"), "{text}");
        assert!(text.ends_with("▏ 4.7 GB                         "), "{text}");
        assert_eq!(bar.text(10).matches('█').count(), 0);
    }

    #[test]
    fn remaining_times() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (185, "3m5s"), (3725, "1h2m"), (400_000, "99h+")]
        {
            assert_eq!(short_duration(seconds), expected);
        }
    }
}
