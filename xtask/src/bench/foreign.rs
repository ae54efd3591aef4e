//! Processor time that others took while something was measured: a machine of several users is quiet only now and then, and
//! a measurement must know when it was not. Linux tells; elsewhere nothing is known.

use std::time::Instant;

/// Of /proc's times.
const TICKS_PER_SECOND: f64 = 100.0;

/// A moment in the accounts of the machine and of this process's children that have ended.
pub struct Watch {
    start: Instant,
    all_and_own: Option<(f64, f64)>,
}

impl Watch {
    pub fn start() -> Watch {
        Watch { start: Instant::now(), all_and_own: read() }
    }

    /// Cores that others kept busy since then, hypervisor's theft among them.
    pub fn cores(&self) -> Option<f64> {
        let ((all, own), (all_now, own_now)) = (self.all_and_own?, read()?);
        let seconds = self.start.elapsed().as_secs_f64();
        Some((((all_now - all) - (own_now - own)) / seconds).max(0.0))
    }
}

fn read() -> Option<(f64, f64)> {
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let process = std::fs::read_to_string("/proc/self/stat").ok()?;
    Some((busy(&machine)?, children(&process)?))
}

/// Seconds of all processors that were not idle.
fn busy(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let [user, nice, system, _, _, irq, soft, steal, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + soft + steal) / TICKS_PER_SECOND)
}

/// Seconds of children that have ended: the 16th and 17th words, the second of which may hold spaces.
fn children(stat: &str) -> Option<f64> {
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| rest.get(at)?.parse::<f64>().ok();
    Some((ticks(13)? + ticks(14)?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4\n";
        assert_eq!(busy(stat), Some(1.71));
        assert_eq!(busy("intr 5"), None);
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 700 800 20 0 1";
        assert_eq!(children(stat), Some(15.0));
        assert_eq!(children("7"), None);
    }
}
