//! JSON in exactly the bytes Go's encoder writes: digests of models are digests of these bytes.

use serde::Serialize;

/// One document and its newline.
pub(crate) fn encode(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    Ok(text.into_bytes())
}
