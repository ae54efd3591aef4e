//! One model as its manifest and small blobs describe it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Config, Digest, Manifest, Name};

#[derive(Clone, Debug)]
pub struct Model {
    /// As stored.
    pub name: Name,
    /// Of the manifest's bytes: what users see as the model's id.
    pub digest: Digest,
    pub modified: jiff::Timestamp,
    /// Of all blobs.
    pub size_bytes: u64,
    /// It ships with the program and cannot be removed.
    pub is_builtin: bool,
    pub config: Config,
    pub manifest: Manifest,
    /// Options by name, in the order of the file.
    pub params: IndexMap<String, Value>,
    pub template: Option<String>,
    pub system: Option<String>,
    pub messages: Vec<StoredMessage>,
    pub licenses: Vec<String>,
    /// Safetensors blobs, by the name of their tensor or group of tensors.
    pub tensors: Vec<(String, PathBuf)>,
    /// Files of the source repository (`config.json`, `chat_template.jinja` …) by their name.
    pub files: BTreeMap<String, PathBuf>,
    /// The weights of a GGUF model.
    pub gguf: Vec<PathBuf>,
}

/// A MESSAGE of a Modelfile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    #[serde(default)]
    pub role: String,
    #[serde(default)]
    pub content: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    /// Base64, as the client sent them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}
