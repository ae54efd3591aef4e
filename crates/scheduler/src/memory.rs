//! How much memory models may take on this machine, and bytes in words.

/// Of what is free when the server starts; the rest is for everybody else. A machine whose models live in a graphics
/// card's own memory sets `OLLMLX_MEMORY_BYTES`.
const SHARE_PERCENT: u64 = 90;

/// Of all memory of an Apple machine, which is what Metal lets a process keep resident.
#[cfg(target_os = "macos")]
const METAL_SHARE_PERCENT: u64 = 75;

/// `None`: the machine does not say.
#[cfg(target_os = "linux")]
pub(crate) fn budget_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let free = mem_available_bytes(&read("/proc/meminfo")?)?;
    let limit = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    let used = read("/sys/fs/cgroup/memory.current").and_then(|text| text.trim().parse().ok());
    let room = limit.map_or(u64::MAX, |limit: u64| limit.saturating_sub(used.unwrap_or(0)));
    Some(free.min(room) / 100 * SHARE_PERCENT)
}

#[cfg(target_os = "macos")]
pub(crate) fn budget_bytes() -> Option<u64> {
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output();
    let bytes: u64 = String::from_utf8(output.ok()?.stdout).ok()?.trim().parse().ok()?;
    Some(bytes / 100 * METAL_SHARE_PERCENT)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub(crate) fn budget_bytes() -> Option<u64> {
    None
}

#[cfg(any(target_os = "linux", test))]
fn mem_available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A number of bytes, or with a unit: `24GiB`, `800 MiB`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// `5.1 GiB`, `300 MiB`, `12 B`.
pub(crate) fn bytes_in_words(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free() {
        let check = |text, expected| assert_eq!(mem_available_bytes(text), expected);
        check("MemTotal:  9 kB\nMemAvailable:   24 kB\n", Some(24 * 1024));
        check("MemAvailable: many kB\n", None);
        check("MemFree: 24 kB\n", None);
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn this_machine_says() {
        assert!(budget_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn bytes() {
        let check = |text, expected| assert_eq!(parse_bytes(text), expected, "{text}");
        check("1000", Some(1000));
        check("24GiB", Some(24 << 30));
        check("800 MB", Some(800_000_000));
        check("99999999999999GiB", None);
        check("GiB", None);
        check("1 parsec", None);
        assert_eq!(bytes_in_words(5_500_000_000), "5.1 GiB");
        assert_eq!(bytes_in_words(300 << 20), "300 MiB");
        assert_eq!(bytes_in_words(12), "12 B");
    }
}
