//! How a child comes to be: a process of our own binary, or (tests, trying a client without a model) a thread.

use std::path::PathBuf;

use protocol::{Failure, FailureKind};
use runner::{Child, Launch};

/// What a child is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Serve,
    Convert,
}

/// Called inside a tokio runtime; starting a process takes about a millisecond.
pub trait Launcher: Send + Sync + 'static {
    fn launch(&self, job: Job) -> Result<Child, Failure>;
}

/// Starts `<program> runner` or `<program> convert`.
#[derive(Clone, Debug)]
pub struct OwnBinary {
    pub program: PathBuf,
}

impl OwnBinary {
    /// The binary that is running.
    pub fn current() -> Result<OwnBinary, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            let message = format!("cannot find the path of this program: {error}");
            Failure::new(FailureKind::Environment, message)
        })?;
        Ok(OwnBinary { program })
    }
}

impl Launcher for OwnBinary {
    fn launch(&self, job: Job) -> Result<Child, Failure> {
        let command = match job {
            Job::Serve => "runner",
            Job::Convert => "convert",
        };
        let program = self.program.clone();
        Child::spawn(&Launch { program, args: vec![command.into()], env: Vec::new() })
    }
}

/// Serves [`runner::scripted`] on a thread of this process. It cannot convert.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Launcher for InProcess {
    fn launch(&self, job: Job) -> Result<Child, Failure> {
        match job {
            Job::Serve => Child::in_process(),
            Job::Convert => Err(Failure::new(
                FailureKind::Unsupported,
                "the scripted runner cannot convert models",
            )),
        }
    }
}
