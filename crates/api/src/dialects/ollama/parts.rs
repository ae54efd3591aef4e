//! Pieces that the answers of several routes have.

use indexmap::IndexMap;
use protocol::{FinishReason, TokenChoice, TokenLogprob, ToolCall};
use serde::Serialize;
use serde_json::Value;

use crate::generation::{Metrics, ToolCallPart};

/// Durations in nanoseconds; zeros are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct MetricsOut {
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<Metrics> for MetricsOut {
    fn from(metrics: Metrics) -> MetricsOut {
        MetricsOut {
            total_duration: metrics.total,
            load_duration: metrics.load,
            prompt_eval_count: metrics.prompt_tokens.into(),
            prompt_eval_duration: metrics.prompt,
            eval_count: metrics.generated_tokens.into(),
            eval_duration: metrics.generate,
        }
    }
}

pub(crate) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DebugInfo {
    pub rendered_template: String,
    #[serde(skip_serializing_if = "is_none")]
    pub image_count: u32,
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

impl From<(String, u32)> for DebugInfo {
    fn from((rendered_template, image_count): (String, u32)) -> DebugInfo {
        DebugInfo { rendered_template, image_count }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ToolCallOut {
    id: String,
    function: FunctionOut,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct FunctionOut {
    index: usize,
    name: String,
    arguments: IndexMap<String, Value>,
}

impl From<ToolCallPart> for ToolCallOut {
    fn from(part: ToolCallPart) -> ToolCallOut {
        let ToolCall { name, arguments, .. } = part.call;
        ToolCallOut { id: part.id, function: FunctionOut { index: part.index, name, arguments } }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LogprobOut {
    #[serde(flatten)]
    chosen: ChoiceOut,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<ChoiceOut>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ChoiceOut {
    token: String,
    logprob: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bytes: Vec<u8>,
}

impl From<TokenChoice> for ChoiceOut {
    fn from(choice: TokenChoice) -> ChoiceOut {
        ChoiceOut {
            token: String::from_utf8_lossy(&choice.bytes).into_owned(),
            // JSON has no infinity; this is as improbable.
            logprob: f64::from(choice.logprob.max(f32::MIN)),
            bytes: choice.bytes,
        }
    }
}

impl From<TokenLogprob> for LogprobOut {
    fn from(logprob: TokenLogprob) -> LogprobOut {
        LogprobOut {
            chosen: logprob.chosen.into(),
            top_logprobs: logprob.top.into_iter().map(ChoiceOut::from).collect(),
        }
    }
}

/// Changes every item's type.
pub(crate) fn each<A: Into<B>, B>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(Into::into).collect()
}
