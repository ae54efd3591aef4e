//! Models on disk: names, manifests, blobs, Modelfiles, in Ollama's own layout, so that both programs can share a store.
//!
//! Knows files and nothing else: no HTTP, no tensors' meaning, no threads. Several processes may use one store at once;
//! what keeps it whole:
//! - a blob or manifest appears under its name only when it is complete, on disk and verified (temporary file, fsync,
//!   rename);
//! - a manifest is written only while all its blobs are there, under the same lock under which blobs are removed;
//! - the root is created by the first write, so a store that cannot be written can still be read.

mod blob;
mod capability;
mod create;
mod digest;
mod disk;
mod error;
mod facts;
mod find;
mod go_json;
mod header;
mod manifest;
mod model;
pub mod modelfile;
mod name;
mod prune;
mod root;
#[cfg(test)]
mod testing;

pub use blob::{BlobWriter, FinishedBlob, NewLayer};
pub use capability::{Capability, chat_template_of};
pub use create::{CreateStep, Recipe};
pub use digest::{Digest, DigestError, Hasher};
pub use error::{Error, Result};
pub use facts::{
    ConfigFacts, ModelInfo, TensorInfo, logical_tensors, parameter_size, parse_python_json,
};
pub use header::{SafetensorsHeader, StoredTensor};
pub use manifest::{
    Config, DRAFT_FILES, DRAFT_TENSORS, Draft, Layer, MANIFEST_TYPE, Manifest, media,
};
pub use model::{Model, StoredMessage};
pub use name::{Name, NameError};
pub use prune::Pruned;
pub use root::Store;
