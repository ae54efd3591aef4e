//! A server for those who did not start one: `run` starts `serve` in the background and goes on.
//!
//! The new process has a process group of its own, so that Ctrl-C here does not reach it, and logs to a file. It says
//! on its standard output that it listens; if another `run` was faster it cannot listen, ends, and the faster one's
//! server is used.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::host::{Host, switch, variable};
use crate::client::{self, Client};
use crate::fault::{Told, told};
use crate::{paths, terminal};

/// What the background server writes when it listens.
pub const LISTENING: &str = "listening";

/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a faster one may take, once ours has given up.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// A log longer than this is put aside when a server starts; one older log is kept.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// How much of the log's end an error shows.
const LOG_LINES_SHOWN: usize = 5;
const LOG_TAIL_BYTES: u64 = 4096;

/// A client of a server that answers, one started for it if need be.
pub async fn server_or_start() -> anyhow::Result<Client> {
    let client = Client::from_env()?;
    match client.heartbeat().await {
        Err(client::Error::Refused) if may_start(&client.host) => {
            start(&client).await?;
            Ok(client)
        }
        other => {
            other?;
            Ok(client)
        }
    }
}

/// Only on this machine: on the usual port, or at an address that nobody else reaches. One that is chosen to be open to
/// others is opened by hand, unless OLLMLX_AUTOSTART says so.
pub fn may_start(host: &Host) -> bool {
    let allowed = match variable("OLLMLX_AUTOSTART") {
        None => host.is_loopback() || host.is_default(),
        Some(_) => switch("OLLMLX_AUTOSTART") && host.is_local(),
    };
    allowed && host.scheme == "http" && host.path.is_empty()
}

async fn start(client: &Client) -> anyhow::Result<()> {
    let log = paths::server_log().ok_or_else(|| {
        told("cannot start a server in the background: HOME is not set").hint("run `ollmlx serve`")
    })?;
    let mut server = spawn(&log).map_err(|error| {
        told(format!("cannot start a server in the background: {error}"))
            .hint(format!("its log would be `{}`; is it writable?", log.display()))
    })?;
    let pid = server.id();
    let stdout = server.stdout.take();
    let listens = tokio::task::spawn_blocking(move || says_listening(stdout));
    let listens = tokio::time::timeout(START_TIMEOUT, listens).await;
    let ours = matches!(listens, Ok(Ok(true)));
    let timeout = if ours { START_TIMEOUT } else { OTHERS_TIMEOUT };
    if !answers(client, timeout).await {
        return Err(did_not_start(server, &log).into());
    }
    if ours {
        terminal::note_line(&format!(
            "started the {} server in the background (log: {}; to stop it: kill {pid})",
            crate::program::name(),
            paths::shown(&log)
        ));
    }
    Ok(())
}

fn spawn(log: &Path) -> std::io::Result<Child> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::fs::metadata(log).is_ok_and(|facts| facts.len() > LOG_BYTES_MAX) {
        std::fs::rename(log, aside(log))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(std::env::current_exe()?)
        .args(["serve", "--background"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
}

fn aside(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

/// Blocks until the server listens or has ended.
fn says_listening(stdout: Option<ChildStdout>) -> bool {
    let Some(stdout) = stdout else { return false };
    let mut line = String::new();
    let mut limited = BufReader::new(stdout.take(LISTENING.len() as u64 + 1));
    limited.read_line(&mut line).is_ok() && line.trim_end() == LISTENING
}

async fn answers(client: &Client, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if client.heartbeat().await.is_ok() {
            return true;
        }
        tokio::time::sleep(POLL).await;
    }
    false
}

fn did_not_start(mut server: Child, log: &Path) -> Told {
    let how = match server.try_wait() {
        Ok(Some(status)) => format!("it ended with {status}"),
        _ => {
            // It is of no use to anybody.
            let _ = server.kill();
            let _ = server.wait();
            format!("it did not answer within {} s", START_TIMEOUT.as_secs())
        }
    };
    let tail = tail(log).unwrap_or_default();
    let message = format!("the server in the background did not start: {how}\n{}", tail.trim_end());
    told(message.trim_end()).hint(format!("the whole log is `{}`", log.display()))
}

/// The log's last lines.
fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |text: &str, expected: &str| {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(tail(file.path()).unwrap(), expected);
        };
        check("", "");
        check("a\nb\n", "a\nb");
        check("1\n2\n3\n4\n5\n6\n7\n", "3\n4\n5\n6\n7");
        let long = format!("{}\nend\n", "x".repeat(10_000));
        check(&long, &format!("{}\nend", "x".repeat(LOG_TAIL_BYTES as usize - 5)));
    }
}
