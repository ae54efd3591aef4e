//! JSON Schema as it is honoured: every keyword is either kept, turned into something equal, known to say nothing about
//! values, or refused by name. What is left is a small dialect (draft 2020-12) that the grammar compiler takes in full.
//!
//! Understood from all drafts since 4. `format` is enforced for the names in [`super::formats`] and an annotation for
//! names that no draft defines; whole numbers get at most 18 digits, which is what readers with 64-bit floats can hold.

mod finite;
mod keywords;
mod numbers;
mod read;

use serde_json::{Value, json};

pub(super) use read::read;

/// White space in JSON: between two parts one blank, or one line break and an indentation.
const BLANK: &str = r"[ ]|\r?\n[ \t]{0,40}";

/// A schema that was read, as a rule of Lark.
pub(super) fn lark(read: &Value) -> String {
    let mut schema = match read {
        Value::Object(fields) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    let guidance = json!({
        "whitespace_flexible": true,
        "whitespace_pattern": BLANK,
        // Without `u`: a key that is spelt in escapes would be another key to the grammar.
        "json_allowed_escapes": "nrbtf\"\\",
    });
    schema.insert("x-guidance".to_owned(), guidance);
    format!("%json {}", Value::Object(schema))
}
