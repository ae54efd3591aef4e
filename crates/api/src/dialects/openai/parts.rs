//! Pieces of OpenAI's answers.

use serde::Serialize;

use crate::dialects::ollama::parts::LogprobOut;
use crate::generation::{Metrics, ToolCallPart};
use crate::json::to_text;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ToolCallOut {
    id: String,
    index: usize,
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionOut,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct FunctionOut {
    name: String,
    /// JSON in a text.
    arguments: String,
}

impl From<ToolCallPart> for ToolCallOut {
    fn from(part: ToolCallPart) -> ToolCallOut {
        let arguments = to_text(&part.call.arguments);
        let function = FunctionOut { name: part.call.name, arguments };
        ToolCallOut { id: part.id, index: part.index, kind: "function", function }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct UsageOut {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    /// Ollama has none; where nothing was known, there is none here either.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptTokensOut>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct PromptTokensOut {
    /// Of the prompt, what needed no computing.
    cached_tokens: u64,
}

impl From<Metrics> for UsageOut {
    fn from(metrics: Metrics) -> UsageOut {
        let (prompt, completion) = (metrics.prompt_tokens.into(), metrics.generated_tokens.into());
        let cached_tokens = metrics.cached_tokens.into();
        UsageOut {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: (cached_tokens > 0).then_some(PromptTokensOut { cached_tokens }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct LogprobsOut {
    pub content: Vec<LogprobOut>,
}
