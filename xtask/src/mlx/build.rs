//! Builds mlx-c and our C++ file with cmake, against the library and headers of the unpacked wheel.

use super::{MLX_C_VERSION, Places, Variant, say};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lines of the log that an error repeats: enough for a compiler's message, little enough for a screen.
const LOG_TAIL_LINES: usize = 30;

/// The source of mlx-c lies in the crate `mlx-sys`, which cargo fetches for us and never builds.
pub fn mlx_c_source(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run `cargo metadata`")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed\nhint: its own words are above");
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("`cargo metadata` wrote no JSON")?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` lists no packages")?;
    let found = packages.iter().find(|p| p["name"] == "mlx-sys" && p["version"] == MLX_C_VERSION);
    let manifest = found.and_then(|p| p["manifest_path"].as_str());
    let manifest =
        manifest.with_context(|| format!("cargo did not fetch `mlx-sys` {MLX_C_VERSION}"))?;
    let source = Path::new(manifest).with_file_name("src").join("mlx-c");
    if !source.join("CMakeLists.txt").is_file() {
        bail!("the source of mlx-c is not inside `mlx-sys` {MLX_C_VERSION}");
    }
    Ok(source)
}

/// Returns the build directory, with the libraries in it.
pub fn build(variant: Variant, places: &Places, unpacked: &Path, source: &Path) -> Result<PathBuf> {
    let build = places.work.join("build");
    let log = places.work.join("build.log");
    File::create(&log).with_context(|| format!("cannot create `{}`", log.display()))?;
    say("configuring mlx-c");
    let configured = run(configure(variant, places, unpacked, source, &build), &log);
    if configured.is_err() && build.join("CMakeCache.txt").is_file() {
        // What an earlier run left may be of another place or another compiler.
        std::fs::remove_dir_all(&build)?;
        run(configure(variant, places, unpacked, source, &build), &log)?;
    } else {
        configured?;
    }
    say("building mlx-c and the CPU primitive (about a minute)");
    let mut make = Command::new("cmake");
    let jobs = std::thread::available_parallelism().map_or(2, |n| n.get());
    make.arg("--build").arg(&build).args(["--parallel", &jobs.to_string()]);
    run(make, &log)?;
    Ok(build)
}

fn configure(
    variant: Variant,
    places: &Places,
    unpacked: &Path,
    source: &Path,
    build: &Path,
) -> Command {
    let mut command = Command::new("cmake");
    command
        .arg("-S")
        .arg(&places.native)
        .arg("-B")
        .arg(build)
        .args(["-DCMAKE_BUILD_TYPE=Release", "-Wno-dev"])
        .arg(define("MLX_ROOT", &unpacked.join("mlx")))
        .arg(define("MLX_C_SOURCE", source))
        .arg(format!(
            "-DOLLMLX_PLAIN_ALLOCATOR={}",
            if variant == Variant::Cpu { "ON" } else { "OFF" }
        ));
    command
}

fn define(name: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(format!("-D{name}="));
    argument.push(path);
    argument
}

/// Runs a build step: everything into the log, percentages to a terminal, the last lines into the error.
fn run(mut command: Command, log: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    // One pipe for both streams, so that a compiler's words stand where they were said.
    let (output, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run `{program}`"))?;
    // It holds this end of the pipe, which must close for the output to end.
    drop(command);
    let mut out = File::options().append(true).open(log)?;
    let mut progress = Progress::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(out, "{line}")?;
        progress.see(&line);
    }
    progress.end();
    if !child.wait()?.success() {
        bail!("`{program}` failed; the end of {}:\n{}", log.display(), tail(log)?);
    }
    Ok(())
}

fn tail(log: &Path) -> Result<String> {
    let mut lines = VecDeque::new();
    for line in BufReader::new(File::open(log)?).split(b'\n') {
        lines.push_back(String::from_utf8_lossy(&line?).into_owned());
        if lines.len() > LOG_TAIL_LINES {
            lines.pop_front();
        }
    }
    Ok(Vec::from(lines).join("\n"))
}

/// Shows cmake's own percentages on one line of a terminal, nothing elsewhere.
#[derive(Default)]
struct Progress {
    shown: bool,
}

impl Progress {
    fn see(&mut self, line: &str) {
        if let (Some(percent), true) = (percent(line), stderr().is_terminal()) {
            self.shown = true;
            eprint!("\rmlx: {percent:>3} %");
        }
    }

    fn end(self) {
        if self.shown {
            eprintln!();
        }
    }
}

/// `[ 51%] Building …` → 51
fn percent(line: &str) -> Option<u32> {
    line.trim_start().strip_prefix('[')?.split_once("%]")?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<u32>) {
        assert_eq!(percent(line), expected, "{line}");
    }

    #[test]
    fn percentages_are_read_from_the_lines_of_make() {
        check("[ 51%] Building CXX object x.o", Some(51));
        check("[100%] Built target mlxc", Some(100));
        check("Scanning dependencies", None);
        check("[3/40] Building", None);
    }

    #[test]
    fn a_failing_step_repeats_the_end_of_its_log() {
        let log = std::env::temp_dir().join(format!("ollmlx-log-{}", std::process::id()));
        File::create(&log).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 100 ]; do i=$((i + 1)); echo line $i; done; echo broken >&2; exit 1"]);
        let error = run(command, &log).unwrap_err().to_string();
        std::fs::remove_file(&log).unwrap();
        assert!(
            error.contains("broken") && error.contains("line 100") && !error.contains("line 10\n"),
            "{error}"
        );
    }
}
