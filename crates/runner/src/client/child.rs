use std::ffi::OsString;
use std::path::PathBuf;

use protocol::Failure;

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// In addition to the environment of this process.
    pub env: Vec<(OsString, OsString)>,
}

/// A started child that has not been given its job yet. Dropping it ends it.
pub struct Child {}

impl Child {
    /// Must be called inside a tokio runtime.
    pub fn spawn(_launch: &Launch) -> Result<Child, Failure> {
        todo!()
    }

    /// A thread of this process that serves [`crate::scripted::Scripted`]; a crash of it looks like a lost runner.
    pub fn in_process() -> Result<Child, Failure> {
        todo!()
    }
}
