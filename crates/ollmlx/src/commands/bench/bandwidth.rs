//! How fast this machine reads memory: what a decode step could at best need for the weights it reads.

use std::hint::black_box;
use std::time::Instant;

/// Read in each pass; far more than caches keep for one of many users. Price: so much memory for some seconds.
const BYTES: usize = 1 << 30;
/// The median of so many passes counts.
const PASSES: usize = 5;
/// Independent sums, so that no addition waits for the one before.
const SUMS: usize = 32;

/// Bytes a second, read by one thread and by `threads`.
pub struct Bandwidth {
    pub one: f64,
    pub all: f64,
}

impl Bandwidth {
    pub fn measure(threads: usize) -> Bandwidth {
        Bandwidth::of(&vec![1; BYTES / size_of::<u64>()], threads)
    }

    fn of(memory: &[u64], threads: usize) -> Bandwidth {
        Bandwidth { one: median_rate(memory, 1), all: median_rate(memory, threads.max(1)) }
    }
}

fn median_rate(memory: &[u64], threads: usize) -> f64 {
    let mut rates: Vec<f64> = (0..PASSES).map(|_| rate(memory, threads)).collect();
    rates.sort_by(f64::total_cmp);
    rates[PASSES / 2]
}

fn rate(memory: &[u64], threads: usize) -> f64 {
    let part = memory.len().div_ceil(threads).max(1);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let mut parts = memory.chunks(part);
        let own = parts.next().unwrap_or_default();
        for part in parts {
            scope.spawn(move || black_box(sum(part)));
        }
        black_box(sum(own));
    });
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}

fn sum(values: &[u64]) -> u64 {
    let mut sums = [0_u64; SUMS];
    let chunks = values.chunks_exact(SUMS);
    let rest = chunks.remainder().iter().fold(0_u64, |sum, value| sum.wrapping_add(*value));
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter().fold(rest, |sum, value| sum.wrapping_add(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read_once() {
        for count in [0, 1, SUMS, 3 * SUMS + 5] {
            assert_eq!(sum(&vec![3; count]), 3 * count as u64);
        }
        assert_eq!(sum(&[u64::MAX, 3]), 2);
    }

    #[test]
    fn rates_are_of_this_world() {
        let memory = vec![1; 1 << 18];
        for threads in [0, 1, 3] {
            let Bandwidth { one, all } = Bandwidth::of(&memory, threads);
            assert!([one, all].iter().all(|rate| (1e6..1e14).contains(rate)), "{one} {all}");
        }
    }
}
