//! The parts of the server's replies that commands show. Unknown fields are ignored, missing ones are empty.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Debug, Deserialize)]
pub struct Refusal {
    pub error: String,
    #[serde(default)]
    pub hint: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Version {
    pub version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Models<T> {
    #[serde(bound(deserialize = "T: Deserialize<'de>"))]
    pub models: Vec<T>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listed {
    pub name: String,
    pub remote_model: String,
    pub modified_at: String,
    pub size: u64,
    pub digest: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Loaded {
    pub name: String,
    pub size: u64,
    pub size_vram: u64,
    pub digest: String,
    pub expires_at: String,
    pub context_length: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Shown {
    pub license: String,
    pub modelfile: String,
    pub parameters: String,
    pub template: String,
    pub system: String,
    pub details: Details,
    pub messages: Vec<Message>,
    pub remote_model: String,
    pub remote_host: String,
    pub model_info: Option<Map<String, Value>>,
    pub projector_info: Option<Map<String, Value>>,
    pub tensors: Vec<Tensor>,
    pub capabilities: Vec<String>,
    pub requires: String,
}

impl Shown {
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Details {
    pub parent_model: String,
    pub family: String,
    pub parameter_size: String,
    pub quantization_level: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tensor {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub shape: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    pub role: String,
    pub content: String,
    #[serde(skip_serializing)]
    pub thinking: String,
    #[serde(skip_serializing)]
    pub tool_calls: Vec<Called>,
}

impl Message {
    pub fn new(role: &str, content: impl Into<String>) -> Message {
        Message { role: role.to_owned(), content: content.into(), ..Message::default() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Called {
    pub function: CalledFunction,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CalledFunction {
    pub name: String,
    pub arguments: Map<String, Value>,
}

/// A piece of `/api/generate`'s or `/api/chat`'s answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Piece {
    pub response: String,
    pub thinking: String,
    pub message: Message,
    pub tool_calls: Vec<Called>,
    pub done: bool,
    #[serde(flatten)]
    pub metrics: Metrics,
}

impl Piece {
    pub fn thinking(&self) -> &str {
        if self.thinking.is_empty() { &self.message.thinking } else { &self.thinking }
    }

    pub fn content(&self) -> &str {
        if self.response.is_empty() { &self.message.content } else { &self.response }
    }

    pub fn calls(&self) -> &[Called] {
        if self.tool_calls.is_empty() { &self.message.tool_calls } else { &self.tool_calls }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metrics {
    pub total_duration: u64,
    pub load_duration: u64,
    pub prompt_eval_count: u64,
    pub prompt_eval_duration: u64,
    pub eval_count: u64,
    pub eval_duration: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Step {
    pub status: String,
    pub digest: String,
    pub total: u64,
    pub completed: u64,
}

/// `/api/embed`'s answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Embedded {
    pub embeddings: Vec<Vec<f64>>,
}
