//! Durations in Go's notation (`1h30m`, `300ms`), which clients send and expect, with Go's error texts.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
    /// A JSON value that is neither a number nor a text; named in Go's words.
    #[error("Unsupported type: '{0}'")]
    UnsupportedType(&'static str),
}

/// Nanoseconds, negative ones too.
pub fn parse(_text: &str) -> Result<i64, DurationError> {
    todo!()
}

/// As Go prints it: `1h30m0s`, `1.5s`, `300ms`, `0s`.
pub fn print(_duration: Duration) -> String {
    todo!()
}
