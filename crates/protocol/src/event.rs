//! What comes back for a request: any number of [`Delta`]s between `PromptRead` and exactly one last event
//! (`Finished` or `Failed`; `Rendered` when only that was asked for). A whole answer is the fold of the stream.

use serde::{Deserialize, Serialize};

use crate::{Failure, ToolCall};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The prompt as the tokenizer gets it. Last event of a `render_only` request.
    Rendered {
        prompt: String,
        images: u32,
    },
    /// The prompt is in the cache; generation begins.
    PromptRead {
        prompt_tokens: u32,
        cached_tokens: u32,
    },
    Delta(Delta),
    Finished(Usage),
    Failed(Failure),
}

impl Event {
    pub fn is_last(&self) -> bool {
        matches!(self, Event::Rendered { .. } | Event::Finished(_) | Event::Failed(_))
    }
}

/// New text. Never half a character; several parts may be filled, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of the tokens that this delta completes; may be there when all text is still held back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.thinking.is_empty()
            && self.content.is_empty()
            && self.tool_calls.is_empty()
            && self.logprobs.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub chosen: TokenChoice,
    /// Most probable first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenChoice>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenChoice {
    pub id: u32,
    /// The token's bytes, which need not be UTF-8 on their own.
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token, or a stop string.
    Stop,
    /// `num_predict` or the context is used up.
    Length,
}

/// What a finished request cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub reason: FinishReason,
    /// All tokens of the prompt, cached ones too.
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    /// Without the end token.
    pub generated_tokens: u32,
    pub prompt_nanos: u64,
    pub generate_nanos: u64,
    /// The stop string that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}
