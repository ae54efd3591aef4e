//! The two JSON documents of a model: its manifest (which blobs) and its config blob (what they are).
//!
//! Written byte for byte as Ollama writes them, so that equal models have equal digests in both programs. Read
//! tolerantly: keys that we do not know are kept in the config and skipped in the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::model::read_small;
use crate::{Digest, Error, Result};

pub const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What a layer holds, by media type.
pub mod media {
    pub const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const MODEL: &str = "application/vnd.ollama.image.model";
    pub const PROJECTOR: &str = "application/vnd.ollama.image.projector";
    pub const ADAPTER: &str = "application/vnd.ollama.image.adapter";
    pub const DRAFT: &str = "application/vnd.ollama.image.draft";
    pub const TEMPLATE: &str = "application/vnd.ollama.image.template";
    /// The old name of `TEMPLATE`.
    pub const PROMPT: &str = "application/vnd.ollama.image.prompt";
    pub const SYSTEM: &str = "application/vnd.ollama.image.system";
    pub const PARAMS: &str = "application/vnd.ollama.image.params";
    pub const MESSAGES: &str = "application/vnd.ollama.image.messages";
    pub const LICENSE: &str = "application/vnd.ollama.image.license";
    /// A safetensors file of one or more tensors; the layer's name is the tensor's.
    pub const TENSOR: &str = "application/vnd.ollama.image.tensor";
    /// A file of the source repository; the layer's name is its path there.
    pub const JSON: &str = "application/vnd.ollama.image.json";
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Layer,
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    pub media_type: String,
    pub digest: Digest,
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// The model or file it was taken from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// Of a tensor, or of a file of the source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The config blob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `safetensors` or `gguf`; empty means `gguf`.
    pub model_format: String,
    pub model_family: String,
    pub model_families: Option<Vec<String>>,
    /// The parameter count for people: `8.0B`.
    pub model_type: String,
    /// The quantisation: `Q4_K_M`, `int4`, or empty.
    pub file_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub renderer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parser: String,
    /// Lowest version of Ollama that can run it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub requires: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote_host: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote_model: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub context_length: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub embedding_length: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<Draft>,
    pub architecture: String,
    pub os: String,
    /// What others wrote there (`rootfs` …).
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What the names of a draft model's tensors begin with, of layers and within them; and those of its files.
pub const DRAFT_TENSORS: &str = "draft.";
pub const DRAFT_FILES: &str = "draft/";

/// A draft model stored in the same manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Draft {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_format: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tensor_prefix: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub config: String,
}

/// A manifest and its bytes, whose digest is the model's.
pub(crate) fn read_manifest(path: &Path) -> Result<(Manifest, Vec<u8>)> {
    let bytes = read_small(path)?;
    match serde_json::from_slice(&bytes) {
        Ok(manifest) => Ok((manifest, bytes)),
        Err(error) => Err(Error::Damaged { path: path.to_owned(), detail: error.to_string() }),
    }
}

impl Manifest {
    pub fn new(config: Layer, layers: Vec<Layer>) -> Manifest {
        Manifest { schema_version: 2, media_type: MANIFEST_TYPE.to_owned(), config, layers }
    }

    /// All blobs it names, the config's too.
    pub fn blobs(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().chain([&self.config])
    }

    pub(crate) fn digests(&self) -> BTreeSet<Digest> {
        self.blobs().map(|layer| layer.digest).collect()
    }

    pub fn size_bytes(&self) -> u64 {
        self.blobs().fold(0, |sum, layer| sum.saturating_add(layer.size_bytes))
    }
}

impl Config {
    /// A key with `null` is one that is not there.
    pub fn from_json(mut json: Value) -> serde_json::Result<Config> {
        if let Some(fields) = json.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        serde_json::from_value(json)
    }

    pub fn is_safetensors(&self) -> bool {
        self.model_format == "safetensors"
    }

    pub fn is_remote(&self) -> bool {
        !self.remote_host.is_empty() && !self.remote_model.is_empty()
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn null_is_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
