//! What went wrong, in words for a person. A dialect maps `kind` to a status once; inner detail goes to the log.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// What happened, with the numbers: lower case, no full stop, names in backticks.
    pub message: String,
    /// What to do about it, in the same style.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Named after what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request is wrong and will stay wrong.
    InvalidRequest,
    /// The model cannot do what the request asks for.
    Unsupported,
    NotFound,
    /// Too much is waiting: try again later.
    Busy,
    Cancelled,
    /// It does not fit into the memory (or on the disk) that there is.
    NoRoom,
    /// The model's files cannot be used.
    BadModel,
    /// The runner ended or does not answer; the next request starts a new one.
    RunnerLost,
    /// The machine lacks something: a library, a permission, a device.
    Environment,
    /// A fault of ours.
    Internal,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), hint: None }
    }

    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::InvalidRequest, message)
    }

    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Internal, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}
