//! How a child comes to be: a process of our own binary, or (tests, trying a client without a model) a thread.

use std::path::PathBuf;

use protocol::Failure;

/// What a child is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Serve,
    Convert,
}

pub trait Launcher: Send + Sync + 'static {
    fn launch(&self, job: Job) -> Result<runner::Child, Failure>;
}

/// Starts `<program> runner` or `<program> convert`.
#[derive(Clone, Debug)]
pub struct OwnBinary {
    pub program: PathBuf,
}

impl OwnBinary {
    /// The binary that is running.
    pub fn current() -> Result<OwnBinary, Failure> {
        todo!()
    }
}

impl Launcher for OwnBinary {
    fn launch(&self, _job: Job) -> Result<runner::Child, Failure> {
        todo!()
    }
}

/// Serves `runner::Scripted` on a thread of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Launcher for InProcess {
    fn launch(&self, _job: Job) -> Result<runner::Child, Failure> {
        todo!()
    }
}
