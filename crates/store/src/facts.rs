//! Numbers about a model that `/api/show` and lists tell: from `config.json` and from the tensors' shapes.

use serde_json::Value;

use crate::{Model, Result, TensorInfo};

/// What `config.json` says; 0 where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFacts {
    /// `model_type`.
    pub architecture: String,
    pub context_length: u64,
    pub embedding_length: u64,
    pub block_count: u64,
    pub head_count: u64,
    pub head_count_kv: u64,
    pub feed_forward_length: u64,
    pub vocab_size: u64,
}

/// What `/api/show` tells of a safetensors model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    pub facts: ConfigFacts,
    /// Exact, from the shapes; a quantised tensor counts the weights it stands for.
    pub parameter_count: u64,
    /// One entry per tensor; a quantised one has its own shape and the name of its quantisation as type.
    pub tensors: Vec<TensorInfo>,
}

impl ConfigFacts {
    pub fn of(config: &Value) -> ConfigFacts {
        let _ = config;
        unimplemented!()
    }
}

impl Model {
    /// Reads `config.json` and the headers of all tensors (not their data).
    pub fn info(&self) -> Result<ModelInfo> {
        unimplemented!()
    }
}

/// `139584` as `140K`, eight thousand million as `8B`.
pub fn parameter_size(count: u64) -> String {
    let _ = count;
    unimplemented!()
}
