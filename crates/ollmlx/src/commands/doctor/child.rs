//! What could crash or hang is asked of a child process, which answers in JSON on its standard output.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::fault::{Told, told};

/// A first use of a GPU compiles kernels.
const TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
/// Price: memory, for a child that talks without end.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Lines of a dead child's standard error that are shown.
const LAST_WORDS_LINES: usize = 3;

pub const ANOTHER_VARIANT: &str = "another MLX variant is chosen by OLLAMA_LLM_LIBRARY, like `cpu`";

/// What `doctor` with this flag answers.
pub fn ask<T: DeserializeOwned>(flag: &str) -> Result<T, Told> {
    let cannot =
        |error: std::io::Error| told(format!("cannot start a process to try MLX in: {error}"));
    let mut child = Command::new(std::env::current_exe().map_err(cannot)?)
        .args(["doctor", flag])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child).map_err(cannot)?;
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    match status {
        None => Err(told(format!("trying it did not end within {} s", TIMEOUT.as_secs()))
            .hint(format!("a device that hangs; {ANOTHER_VARIANT}"))),
        Some(status) if status.success() => serde_json::from_str(&stdout)
            .map_err(|error| told(format!("trying it ended without an answer: {error}"))),
        Some(status) => Err(ended(status, &stderr)),
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
            // The rest is read too, so that the child can end.
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `None` for a child that had to be killed.
fn wait(child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn ended(status: ExitStatus, stderr: &str) -> Told {
    let how = match status.signal() {
        Some(signal) => format!("trying it ended the process with signal {signal}"),
        None => format!("trying it failed ({status})"),
    };
    let lines: Vec<&str> = stderr.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join("\n");
    let message = format!("{how}\n{last}");
    told(message.trim_end())
        .hint(format!("the library does not fit this machine; {ANOTHER_VARIANT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_dies_is_told() {
        let told = ended(ExitStatus::from_raw(11), "a\nb\nc\nd\n");
        assert_eq!(told.message, "trying it ended the process with signal 11\nb\nc\nd");
        let told = ended(ExitStatus::from_raw(1 << 8), "");
        assert_eq!(told.message, "trying it failed (exit status: 1)");
    }
}
