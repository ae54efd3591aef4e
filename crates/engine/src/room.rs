//! How much memory there is for keys and values when a model is loaded: what the device has left, without what a step
//! needs to compute, and without a margin for everybody else.
//!
//! A GPU's queue holds what all the steps in it compute, which may be as much as all layers of a long chunk make. MLX
//! waits for work under way when it has more memory than its limit. So on a GPU the limit is what is left here, whoever
//! has the rest: without it the device itself would refuse, and MLX cannot be trusted after that.

use std::path::Path;

/// Of what is free; the rest is for everybody else.
const SHARE_PERCENT: usize = 90;

/// Of the weights, for what one step computes beside them.
const WORKING_PERCENT: usize = 5;

/// And of every step, whatever the model.
const WORKING_BYTES: usize = 128 << 20;

/// And on a GPU, where a part of the layers is in the queue at least: weights, and the rows of the longest chunk.
const QUEUE_PERCENT: usize = 8;
const QUEUE_BYTES: usize = 1 << 30;

/// Of a GPU's free memory, what MLX may have before it waits; what is left is for its libraries.
const LIMIT_PERCENT: usize = 95;

/// Whatever else is said: who let the model in wants it to answer.
const BUDGET_BYTES_MIN: usize = 64 << 20;

/// Bytes that pages and states may take. `granted_bytes` is what the whole runner may, weights included.
pub(crate) fn budget_bytes(weights_bytes: usize, granted_bytes: Option<u64>) -> usize {
    let free = free_bytes().unwrap_or(usize::MAX) / 100 * SHARE_PERCENT;
    let granted = granted_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let granted = granted.map_or(usize::MAX, |bytes| bytes.saturating_sub(weights_bytes));
    let (percent, bytes) = match mlx::device() {
        mlx::Device::Cpu => (WORKING_PERCENT, WORKING_BYTES),
        mlx::Device::Gpu => (WORKING_PERCENT + QUEUE_PERCENT, WORKING_BYTES + QUEUE_BYTES),
    };
    let working = weights_bytes / 100 * percent + bytes;
    free.min(granted).saturating_sub(working).max(BUDGET_BYTES_MIN)
}

/// Lets MLX wait before a GPU's memory is full, or what was granted. To be called when the weights are there.
pub(crate) fn limit(granted_bytes: Option<u64>) {
    if mlx::device() == mlx::Device::Cpu {
        return;
    }
    let Some(free) = mlx::memory::device_free_bytes() else { return };
    let weights = mlx::memory::active_bytes();
    let granted = granted_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    // With less than a part of the layers needs it would wait after each operation.
    let least = weights.saturating_add(BUDGET_BYTES_MIN + WORKING_BYTES + QUEUE_BYTES);
    let granted = granted.map_or(usize::MAX, |bytes| bytes.max(least));
    let there = weights.saturating_add(free / 100 * LIMIT_PERCENT);
    let limit = there.min(granted).min(mlx::memory::limit_bytes());
    if let Err(error) = mlx::memory::set_limit(limit) {
        tracing::warn!(%error, "the limit of the device's memory cannot be set");
    }
}

/// What the model and its draft model get of it: both remember the same tokens, so each as its pages are large.
pub(crate) fn shares(bytes: usize, page_bytes: usize, draft_page_bytes: usize) -> (usize, usize) {
    let pages = bytes / (page_bytes + draft_page_bytes).max(1);
    let draft = pages * draft_page_bytes;
    (bytes - draft, draft)
}

/// What the device has left; none where nothing says.
fn free_bytes() -> Option<usize> {
    match mlx::device() {
        // The system calls the pages of mapped weights available: they are not.
        mlx::Device::Cpu => Some(machine_free_bytes()?.saturating_sub(mlx::memory::mapped_bytes())),
        mlx::Device::Gpu => {
            Some(mlx::memory::limit_bytes().saturating_sub(mlx::memory::active_bytes()))
        }
    }
}

/// The least of what the machine has and what each control group around this process leaves.
fn machine_free_bytes() -> Option<usize> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = available_bytes(&read(Path::new("/proc/meminfo"))?)?;
    let own = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let groups = Path::new("/sys/fs/cgroup").join(own);
    let left = |group: &Path| {
        let number = |name: &str| read(&group.join(name))?.trim().parse::<usize>().ok();
        Some(number("memory.max")?.saturating_sub(number("memory.current").unwrap_or(0)))
    };
    let around = groups.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup"));
    Some(around.filter_map(left).fold(machine, usize::min))
}

fn available_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left() {
        assert_eq!(shares(1000, 70, 0), (1000, 0));
        assert_eq!(shares(1000, 70, 25), (750, 250));
        assert_eq!(shares(1000, 0, 0), (1000, 0));
        assert_eq!(available_bytes("MemTotal:  9 kB\nMemAvailable:   24 kB\n"), Some(24 << 10));
        assert_eq!(available_bytes("MemAvailable: many kB\n"), None);
        mlx::open().unwrap();
        let free = budget_bytes(0, None);
        assert!(budget_bytes(1000 << 20, None) < free);
        if mlx::device() == mlx::Device::Cpu {
            assert_eq!(budget_bytes(100 << 20, Some(400 << 20)), (300 - 128 - 5) << 20);
        }
        assert_eq!(budget_bytes(400 << 20, Some(300 << 20)), BUDGET_BYTES_MIN);
    }
}
