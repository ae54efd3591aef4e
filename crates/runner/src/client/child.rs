//! A child and its life: started, waited for, killed. Its standard input is one end of a socket pair.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use protocol::{Failure, FailureKind};
use tokio::process::Command;
use tokio::sync::oneshot;

use super::stderr::Stderr;
use crate::scripted::{self, Scripted};

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// In addition to the environment of this process.
    pub env: Vec<(OsString, OsString)>,
}

/// A started child that has not been given its job yet. Dropping it ends it.
pub struct Child {
    pub(super) socket: UnixStream,
    pub(super) process: Process,
    pub(super) stderr: Stderr,
}

impl Child {
    /// Must be called inside a tokio runtime.
    pub fn spawn(launch: &Launch) -> Result<Child, Failure> {
        let start = || -> io::Result<Child> {
            let (ours, theirs) = UnixStream::pair()?;
            let mut process = Command::new(&launch.program)
                .args(&launch.args)
                .envs(launch.env.iter().cloned())
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                // A Ctrl-C at the server's terminal is the server's to answer: children end with their socket.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            let pid = process.id().unwrap_or_default();
            let stderr = process.stderr.take().map(|from| Stderr::follow(from, pid));
            Ok(Child {
                socket: ours,
                process: Process::Os(Box::new(process)),
                stderr: stderr.unwrap_or_default(),
            })
        };
        start().map_err(|error| cannot_start(&launch.program.display().to_string(), &error))
    }

    /// A thread of this process that serves [`Scripted`]; a crash of it looks like a lost runner.
    pub fn in_process() -> Result<Child, Failure> {
        let start = || -> io::Result<Child> {
            let (ours, theirs) = UnixStream::pair()?;
            let (ended, waiting) = oneshot::channel();
            let socket = ours.try_clone()?;
            std::thread::Builder::new().name("scripted runner".to_owned()).spawn(move || {
                serve_scripted(theirs);
                let _ = ended.send(());
            })?;
            Ok(Child {
                socket: ours,
                process: Process::Thread { socket, ended: waiting, over: false },
                stderr: Stderr::default(),
            })
        };
        start().map_err(|error| cannot_start("a thread", &error))
    }
}

fn serve_scripted(stream: UnixStream) {
    let Ok(line) = stream.try_clone() else { return };
    let crash: scripted::Crash = Box::new(move || {
        let _ = line.shutdown(std::net::Shutdown::Both);
    });
    if let Err(error) =
        crate::serve(stream, |model, progress| Scripted::load(model, progress, crash))
    {
        tracing::info!(%error, "the scripted runner ended");
    }
}

fn cannot_start(what: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Environment, format!("cannot start a runner (`{what}`): {error}"))
        .hint("check that the program is still where it was started from and that more processes may be started")
}

pub(super) enum Process {
    Os(Box<tokio::process::Child>),
    Thread { socket: UnixStream, ended: oneshot::Receiver<()>, over: bool },
}

impl Process {
    pub fn pid(&self) -> Option<u32> {
        match self {
            Process::Os(process) => process.id(),
            Process::Thread { .. } => None,
        }
    }

    /// How it ended, in words that follow "the runner". May be called again.
    pub async fn wait(&mut self) -> Ended {
        match self {
            Process::Os(process) => match process.wait().await {
                Ok(status) => Ended::from(status),
                Err(error) => Ended { how: format!("cannot be waited for: {error}"), signal: None },
            },
            Process::Thread { ended, over, .. } => {
                if !*over {
                    let _ = ended.await;
                    *over = true;
                }
                Ended { how: "ended".to_owned(), signal: None }
            }
        }
    }

    pub fn kill(&mut self) {
        match self {
            Process::Os(process) => {
                let _ = process.start_kill();
            }
            Process::Thread { socket, .. } => {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) struct Ended {
    pub how: String,
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Ended {
        let how = match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, code) => format!("ended with exit status {}", code.unwrap_or_default()),
        };
        Ended { how, signal: status.signal() }
    }
}
