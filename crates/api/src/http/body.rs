//! Request bodies: bounded, then parsed as JSON whatever their content type.

use axum::body::Body;
use serde::de::DeserializeOwned;

use crate::json;

/// A chat with some dozen large pictures fits. Its price: a request may hold this much memory about three times over
/// (bytes, parsed value, message). Blobs are streamed and not counted here.
const BODY_BYTES_MAX: usize = 128 << 20;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// No JSON value at all.
    #[error("EOF")]
    Empty,
    #[error("{0}")]
    Malformed(String),
    #[error("the request body is larger than {} MiB", BODY_BYTES_MAX >> 20)]
    TooLarge,
    /// The client did not send what it had announced.
    #[error("unexpected EOF")]
    Broken,
}

pub(crate) async fn read<T: DeserializeOwned>(body: Body) -> Result<T, BodyError> {
    use axum::body::HttpBody;
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(BodyError::TooLarge);
    }
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| {
        use std::error::Error;
        match error.source().is_some_and(|source| source.to_string().contains("length limit")) {
            true => BodyError::TooLarge,
            false => BodyError::Broken,
        }
    })?;
    decode(&bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    let value = json::parse(bytes).map_err(|error| match error {
        json::SyntaxError::Empty => BodyError::Empty,
        other => BodyError::Malformed(other.to_string()),
    })?;
    json::decode(value).map_err(|mismatch| BodyError::Malformed(mismatch.to_string()))
}
