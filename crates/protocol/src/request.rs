//! One request, whatever dialect it came in.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Options;

/// Unique within one server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub id: RequestId,
    pub input: Input,
    /// Already merged: request over model over defaults.
    pub options: Options,
    #[serde(default)]
    pub format: Format,
    #[serde(default)]
    pub think: Think,
    #[serde(default)]
    pub tool_choice: ToolChoice,
    /// `Some(n)`: the log-probability of each token, with `n` alternatives (0 to 20).
    #[serde(default)]
    pub logprobs: Option<u8>,
    /// Answer with the rendered prompt instead of running the model.
    #[serde(default)]
    pub render_only: bool,
}

impl Request {
    /// With nothing said beyond the input.
    pub fn new(id: RequestId, input: Input) -> Request {
        Request {
            id,
            input,
            options: Options::default(),
            format: Format::default(),
            think: Think::default(),
            tool_choice: ToolChoice::default(),
            logprobs: None,
            render_only: false,
        }
    }

    /// A prompt as the tokenizer gets it, and nothing else said.
    pub fn raw(id: RequestId, prompt: impl Into<String>) -> Request {
        Request::new(id, Input::Raw { prompt: prompt.into() })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The prompt goes to the tokenizer as it is; special tokens in it are understood.
    Raw { prompt: String },
    /// Rendered through the model's chat template.
    Chat {
        messages: Vec<Message>,
        #[serde(default)]
        tools: Vec<Tool>,
        /// A template that replaces the model's own for this request.
        #[serde(default)]
        template: Option<String>,
    },
    /// Fill in the middle.
    Infill { prompt: String, suffix: String },
}

impl Input {
    /// A conversation without tools, in the model's own template.
    pub fn chat(messages: Vec<Message>) -> Input {
        Input::Chat { messages, tools: Vec::new(), template: None }
    }

    /// Pictures in all messages.
    pub fn images(&self) -> usize {
        match self {
            Input::Chat { messages, .. } => {
                messages.iter().map(|message| message.images.len()).sum()
            }
            Input::Raw { .. } | Input::Infill { .. } => 0,
        }
    }

    /// What the model may call.
    pub fn tools(&self) -> &[Tool] {
        match self {
            Input::Chat { tools, .. } => tools,
            Input::Raw { .. } | Input::Infill { .. } => &[],
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// Lower case on the wire. Clients send any word here, and templates decide what they make of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    System,
    #[default]
    User,
    Assistant,
    Tool,
    Other(String),
}

impl Role {
    pub fn parse(text: &str) -> Role {
        match text.to_lowercase().as_str() {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            other => Role::Other(other.to_owned()),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
            Role::Other(text) => text,
        }
    }
}

/// A picture (or a sound) as the client sent it, still encoded as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub base64: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    /// Key order is the model's.
    pub arguments: IndexMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    #[serde(rename = "type")]
    pub kind: String,
    pub function: ToolFunction,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolFunction {
    pub name: String,
    #[serde(default)]
    pub description: String,
    /// A JSON schema; key order is the client's.
    #[serde(default)]
    pub parameters: Value,
}

/// What the answer's text must look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Free,
    /// Any JSON object.
    Json,
    Schema(Value),
    /// The whole answer matches it.
    Regex(String),
    /// A grammar in the syntax of Lark.
    Lark(String),
    /// A grammar in llama.cpp's syntax.
    Gbnf(String),
}

/// Whether the answer must be a call of one of the request's tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No call, although tools are declared.
    None,
    /// At least one call.
    Required,
    /// A call of this tool.
    Named(String),
}

/// Whether the model may think before it answers, where it can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Think {
    /// The model's own default.
    #[default]
    Unset,
    Off,
    On,
    /// `low`, `medium`, `high` or `max`.
    Level(String),
}
