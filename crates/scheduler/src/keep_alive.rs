//! How long a model stays loaded after its last request.

use std::time::Duration;

use serde_json::Value;

use crate::DurationError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    Forever,
    For(Duration),
}

impl KeepAlive {
    pub const NONE: KeepAlive = KeepAlive::For(Duration::ZERO);
    pub const DEFAULT: KeepAlive = KeepAlive::For(Duration::from_secs(300));

    /// A request's `keep_alive`: a number is seconds, a text a Go duration, negative is forever, `null` says nothing.
    pub fn from_json(_value: &Value) -> Result<Option<KeepAlive>, DurationError> {
        todo!()
    }
}
