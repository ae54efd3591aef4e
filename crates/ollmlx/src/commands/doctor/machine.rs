//! The processor and its memory.

use std::process::Command;
use std::thread::available_parallelism;

use kernels::isa;
use kernels::pool::default_threads;

use super::Finding;
use crate::terminal::humane;

/// Less memory than the smallest useful models and their context take.
const MEMORY_BYTES_WANTED: u64 = 4 << 30;

pub fn findings() -> Vec<Finding> {
    // As the kernels read it.
    let wish = std::env::var("OLLMLX_CPU_ISA").ok().filter(|wish| !wish.trim().is_empty());
    vec![machine(), instructions(), kernels_finding(wish.as_deref(), default_threads())]
}

fn machine() -> Finding {
    let cores = available_parallelism().map_or(1, usize::from);
    let model = processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let plural = if cores == 1 { "" } else { "s" };
    let head = format!("{model}, {cores} core{plural}");
    match memory_bytes() {
        None => Finding::ok("machine", format!("{head}, memory unknown")),
        Some((total, free)) => {
            let free =
                free.map_or_else(String::new, |free| format!(" ({} free)", humane::bytes(free)));
            let text = format!("{head}, {} memory{free}", humane::bytes(total));
            match total < MEMORY_BYTES_WANTED {
                true => Finding::warning("machine", text, "only very small models will fit"),
                false => Finding::ok("machine", text),
            }
        }
    }
}

fn processor() -> Option<String> {
    let text = match cfg!(target_os = "macos") {
        true => said_by("sysctl", &["-n", "machdep.cpu.brand_string"])?,
        false => field(&std::fs::read_to_string("/proc/cpuinfo").ok()?, "model name")?.to_owned(),
    };
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// All of it, and what is free where that can be told.
fn memory_bytes() -> Option<(u64, Option<u64>)> {
    if cfg!(target_os = "macos") {
        return Some((said_by("sysctl", &["-n", "hw.memsize"])?.trim().parse().ok()?, None));
    }
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let bytes =
        |name: &str| Some(field(&info, name)?.strip_suffix(" kB")?.parse::<u64>().ok()? * 1024);
    Some((bytes("MemTotal")?, bytes("MemAvailable")))
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.split_once(':').filter(|(key, _)| key.trim() == name);
    text.lines().find_map(value).map(|(_, value)| value.trim())
}

fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let done = Command::new(program).args(arguments).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

macro_rules! present {
    ($detect:ident: $($feature:tt),*) => {{
        let mut present: Vec<&str> = Vec::new();
        $(if std::arch::$detect!($feature) { present.push($feature); })*
        present
    }};
}

/// What the processor offers of what fast arithmetic wants.
fn instructions() -> Finding {
    #[cfg(target_arch = "x86_64")]
    let (present, wanted) = (
        present!(
            is_x86_feature_detected: "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw",
            "avx512vnni", "avx512bf16"
        ),
        "avx2",
    );
    #[cfg(target_arch = "aarch64")]
    let (present, wanted) = (
        present!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2"),
        "neon",
    );
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let (present, wanted): (Vec<&str>, &str) = (Vec::new(), "");
    let text = format!("{}: {}", std::env::consts::ARCH, present.join(" "));
    match wanted.is_empty() || present.contains(&wanted) {
        true => Finding::ok("instructions", text),
        false => Finding::warning(
            "instructions",
            text,
            format!("without {wanted}, models on the processor are slow"),
        ),
    }
}

/// What our own kernels make of it, and what the user forces on them.
fn kernels_finding(wish: Option<&str>, threads: usize) -> Finding {
    let choice = isa::choose(wish);
    let plural = if threads == 1 { "" } else { "s" };
    let text = format!("{}, {threads} thread{plural}", choice.isa.name());
    match (choice.warning, wish) {
        (Some(warning), _) => Finding::warning(
            "kernels",
            format!("{text}\n{warning}"),
            "unset OLLMLX_CPU_ISA for the best that this processor has",
        ),
        (None, Some(_)) => Finding::ok("kernels", format!("{text}, forced by OLLMLX_CPU_ISA")),
        (None, None) => Finding::ok("kernels", text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn fields() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nmodel name\t: other\nMemTotal:  100 kB\n";
        for (name, expected) in [
            ("model name", Some("Some CPU @ 2.00GHz")),
            ("MemTotal", Some("100 kB")),
            ("model", None),
        ] {
            assert_eq!(field(text, name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_forced_on_the_kernels_is_told() {
        let check = |wish: Option<&str>, threads, state, expected: String| {
            let finding = kernels_finding(wish, threads);
            assert_eq!((finding.state, finding.text), (state, expected));
        };
        let best = isa::best().name();
        check(None, 2, State::Ok, format!("{best}, 2 threads"));
        check(Some("scalar"), 1, State::Ok, "scalar, 1 thread, forced by OLLMLX_CPU_ISA".into());
        let never = if cfg!(target_arch = "x86_64") { "i8mm" } else { "avx2" };
        let warning = isa::choose(Some(never)).warning.unwrap_or_default();
        assert!(warning.contains(never), "{warning}");
        let used = isa::choose(Some(never)).isa.name();
        check(Some(never), 3, State::Warning, format!("{used}, 3 threads\n{warning}"));
        assert!(kernels_finding(Some(never), 1).hint.is_some());
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let finding = machine();
        assert!(
            finding.text.contains(" core") && finding.text.contains("GB memory"),
            "{finding:?}"
        );
        assert!(instructions().text.starts_with(std::env::consts::ARCH));
    }
}
