//! `POST /v1/chat/completions`

use axum::response::Response;
use protocol::{Failure, Input, Request, RequestId, Think, ToolChoice};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Rejection;
use super::messages::{MessageField, messages};
use super::parts::{LogprobsOut, ToolCallOut, UsageOut};
use crate::dialects::ollama::parts::{DebugInfo, each, reason};
use crate::dialects::ollama::{ToolField, tools};
use crate::generation::{self, Ask, Clock, Ending, Fold, Opened, Part, Shape, Verb};
use crate::http::{self, Call, JSON_BARE, SSE};
use crate::json::{List, quote, to_line, to_text};

pub(crate) async fn completions(call: Call) -> Result<Response, Rejection> {
    let clock = Clock::Running(call.started);
    let body: ChatBody = http::read(call.body).await?;
    let streams = body.stream && !body.debug_render_only;
    let usage = body.stream_options.include_usage;
    let reply = Reply::new(id(), body.model.clone(), clock, usage);
    let ask = request(body)?;
    let running = match generation::open(&call.server, ask).await? {
        Opened::Running(running) => running,
        // Only an empty conversation does that, and it was refused above.
        Opened::Loaded | Opened::Unloaded => {
            return Ok(generation::whole_answer(reply, Part::default()));
        }
    };
    let fold = Fold::new(clock, running.load);
    Ok(generation::answer(running, fold, reply, streams).await?)
}

/// Of one answer; clients only compare it.
fn id() -> String {
    use std::hash::{BuildHasher, RandomState};
    const IDS: u64 = 999;
    format!("chatcmpl-{}", RandomState::new().hash_one(0) % IDS)
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "openai.ChatCompletionRequest")]
pub(crate) struct ChatBody {
    model: String,
    messages: List<MessageField>,
    stream: bool,
    stream_options: StreamOptions,
    max_tokens: Option<i64>,
    seed: Option<i64>,
    stop: Value,
    temperature: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    top_p: Option<f64>,
    logit_bias: Value,
    response_format: Option<ResponseFormat>,
    tools: List<ToolField>,
    tool_choice: Value,
    reasoning: Option<Reasoning>,
    reasoning_effort: Option<String>,
    logprobs: bool,
    top_logprobs: i64,
    #[serde(rename = "_debug_render_only")]
    debug_render_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "openai.StreamOptions")]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "openai.ResponseFormat")]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: JsonSchema,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "openai.JsonSchema")]
struct JsonSchema {
    schema: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "openai.Reasoning")]
struct Reasoning {
    effort: String,
}

pub(crate) fn request(body: ChatBody) -> Result<Ask, Rejection> {
    if body.messages.0.is_empty() {
        return Err(Rejection::bad_body("[] is too short - 'messages'"));
    }
    let messages = messages(&body.messages.0).map_err(Rejection::bad_body)?;
    let effort = body.reasoning.as_ref().map(|reasoning| reasoning.effort.as_str());
    let think = think(effort.or(body.reasoning_effort.as_deref()).unwrap_or_default())?;
    let options = options(&body);
    check_bias(&body.logit_bias)?;
    let tool_choice = tool_choice(&body.tool_choice)?;
    let logprobs = crate::dialects::ollama::logprobs(body.logprobs, body.top_logprobs)?;
    Ok(Ask {
        model: body.model,
        verb: Verb::Chat,
        request: Request {
            think,
            logprobs,
            tool_choice,
            render_only: body.debug_render_only,
            ..Request::new(
                RequestId(0),
                Input::Chat { messages, tools: tools(body.tools.0), template: None },
            )
        },
        options,
        format: format(body.response_format),
        keep_alive: None,
        system: None,
        stored_messages: true,
        load_only: false,
    })
}

/// Unset, temperature and top_p are 1, whatever the model prefers.
fn options(body: &ChatBody) -> Map<String, Value> {
    let stop = match &body.stop {
        Value::String(_) => Value::Array(vec![body.stop.clone()]),
        Value::Array(list) => list.iter().filter(|item| item.is_string()).cloned().collect(),
        _ => Value::Null,
    };
    let entries = [
        ("stop", stop),
        ("num_predict", body.max_tokens.into()),
        ("temperature", body.temperature.unwrap_or(1.0).into()),
        ("seed", body.seed.into()),
        ("frequency_penalty", body.frequency_penalty.into()),
        ("presence_penalty", body.presence_penalty.into()),
        ("top_p", body.top_p.unwrap_or(1.0).into()),
        ("logit_bias", body.logit_bias.clone()),
    ];
    let set = entries.into_iter().filter(|(_, value)| !value.is_null());
    set.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn check_bias(given: &Value) -> Result<(), Rejection> {
    let known = protocol::Options::default().set("logit_bias", given);
    known.map_err(|_| {
        Rejection::bad_body(format!(
            "invalid logit_bias: {} (must be an object of numbers by token id)",
            to_text(given)
        ))
    })
}

fn format(given: Option<ResponseFormat>) -> Value {
    let Some(given) = given else { return Value::Null };
    match given.kind.trim().to_lowercase().as_str() {
        "json_object" => Value::from("json"),
        "json_schema" => given.json_schema.schema,
        _ => Value::Null,
    }
}

fn tool_choice(given: &Value) -> Result<ToolChoice, Rejection> {
    let named = || {
        let is_function = given.get("type")? == "function";
        given.get("function")?.get("name")?.as_str().filter(|_| is_function)
    };
    match given {
        Value::Null => Ok(ToolChoice::Auto),
        Value::String(word) if word == "auto" => Ok(ToolChoice::Auto),
        Value::String(word) if word == "none" => Ok(ToolChoice::None),
        Value::String(word) if word == "required" => Ok(ToolChoice::Required),
        _ => match named() {
            Some(name) => Ok(ToolChoice::Named(name.to_owned())),
            None => Err(Rejection::bad_body(format!(
                "invalid tool_choice: {} (must be \"none\", \"auto\", \"required\", or a function by its name)",
                to_text(given)
            ))),
        },
    }
}

/// OpenAI's scale is longer at both ends than ours.
fn think(effort: &str) -> Result<Think, Rejection> {
    let level = match effort {
        "" => return Ok(Think::Unset),
        "none" => return Ok(Think::Off),
        "minimal" => "low",
        "low" | "medium" | "high" | "max" => effort,
        "xhigh" | "ultra" => "max",
        other => {
            return Err(Rejection::bad_body(format!(
                "invalid reasoning value: {} (must be \"minimal\", \"low\", \"medium\", \"high\", \"xhigh\", \"ultra\", \"max\", or \"none\")",
                quote(other)
            )));
        }
    };
    Ok(Think::Level(level.to_owned()))
}

pub(crate) struct Reply {
    id: String,
    model: String,
    /// Seconds since 1970; all chunks tell the first one's.
    created: Option<i64>,
    clock: Clock,
    include_usage: bool,
    began: bool,
    called: bool,
}

#[derive(Debug, Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageOut>,
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    debug_info: Option<DebugInfo>,
}

#[derive(Debug, Default, Serialize)]
struct Choice {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<MessageOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<MessageOut>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<LogprobsOut>,
}

#[derive(Debug, Default, Serialize)]
struct MessageOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallOut>,
}

impl Reply {
    pub(crate) fn new(id: String, model: String, clock: Clock, include_usage: bool) -> Reply {
        Reply { id, model, created: None, clock, include_usage, began: false, called: false }
    }

    fn completion(&mut self, object: &'static str, choices: Vec<Choice>) -> Completion<'_> {
        let created = *self.created.get_or_insert_with(|| self.clock.now().as_second());
        Completion {
            id: &self.id,
            object,
            created,
            model: &self.model,
            system_fingerprint: "fp_ollama",
            choices,
            usage: None,
            debug_info: None,
        }
    }

    fn chunk(&mut self, choices: Vec<Choice>, usage: Option<UsageOut>) -> Vec<u8> {
        let completion = self.completion("chat.completion.chunk", choices);
        frame(&to_text(&Completion { usage, ..completion }))
    }

    /// Thinking and what follows it go out as two chunks.
    fn deltas(&mut self, part: Part) -> Vec<u8> {
        let mut logprobs = logprobs(part.logprobs);
        let is_mixed =
            !part.thinking.is_empty() && (!part.content.is_empty() || !part.calls.is_empty());
        self.called |= !part.calls.is_empty();
        let mut out = Vec::new();
        let mut rest = MessageOut {
            role: None,
            content: Some(part.content),
            reasoning: part.thinking,
            tool_calls: each(part.calls),
        };
        if is_mixed {
            let reasoning = std::mem::take(&mut rest.reasoning);
            let thought = MessageOut { reasoning, ..MessageOut::default() };
            out = self.delta(thought, logprobs.take());
        }
        out.extend(self.delta(rest, logprobs));
        out
    }

    fn delta(&mut self, delta: MessageOut, logprobs: Option<LogprobsOut>) -> Vec<u8> {
        let role = (!std::mem::replace(&mut self.began, true)).then_some("assistant");
        let delta = Some(MessageOut { role, ..delta });
        self.chunk(vec![Choice { delta, logprobs, ..Choice::default() }], None)
    }

    fn end(&mut self, ending: &Ending) -> Vec<u8> {
        let finish_reason = Some(finish(ending, self.called));
        let delta = Some(MessageOut::default());
        let mut out = self.chunk(vec![Choice { delta, finish_reason, ..Choice::default() }], None);
        if self.include_usage {
            out.extend(self.chunk(Vec::new(), Some(ending.metrics.into())));
        }
        out.extend(frame("[DONE]"));
        out
    }
}

fn logprobs(given: Vec<protocol::TokenLogprob>) -> Option<LogprobsOut> {
    (!given.is_empty()).then(|| LogprobsOut { content: each(given) })
}

fn finish(ending: &Ending, called: bool) -> &'static str {
    match reason(ending.reason) {
        "stop" if called => "tool_calls",
        other => other,
    }
}

fn frame(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

impl Shape for Reply {
    const STREAM_TYPE: &'static str = SSE;
    const WHOLE_TYPE: &'static str = JSON_BARE;

    fn part(&mut self, mut part: Part) -> Vec<u8> {
        let ending = part.ending.take();
        let is_empty = part == Part::default();
        let mut out = Vec::new();
        // An answer without any text still opens with a chunk that tells the role.
        if !is_empty || !self.began {
            out = self.deltas(part);
        }
        if let Some(ending) = ending {
            out.extend(self.end(&ending));
        }
        out
    }

    fn whole(&mut self, part: Part) -> Vec<u8> {
        let finish_reason =
            part.ending.as_ref().map(|ending| finish(ending, !part.calls.is_empty()));
        let usage = part.ending.map(|ending| ending.metrics.into()).unwrap_or_default();
        let message = MessageOut {
            role: Some(if part.rendered.is_some() { "" } else { "assistant" }),
            content: Some(part.content),
            reasoning: part.thinking,
            tool_calls: each(part.calls),
        };
        let logprobs = logprobs(part.logprobs);
        let choice =
            Choice { message: Some(message), finish_reason, logprobs, ..Choice::default() };
        let completion = self.completion("chat.completion", vec![choice]);
        let debug_info = part.rendered.map(DebugInfo::from);
        to_line(&Completion { usage: Some(usage), debug_info, ..completion })
    }

    fn failure(&mut self, failure: &Failure) -> Vec<u8> {
        let rejection = Rejection::from(generation::Refusal::from(failure.clone()));
        frame(&String::from_utf8_lossy(&rejection.body()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(given: Value, expected: Option<ToolChoice>) {
        assert_eq!(tool_choice(&given).ok(), expected, "{given}");
    }

    #[test]
    fn tool_choices() {
        check(Value::Null, Some(ToolChoice::Auto));
        check(json!("auto"), Some(ToolChoice::Auto));
        check(json!("none"), Some(ToolChoice::None));
        check(json!("required"), Some(ToolChoice::Required));
        let named = json!({"type": "function", "function": {"name": "now"}});
        check(named, Some(ToolChoice::Named("now".to_owned())));
        check(json!("any"), None);
        check(json!({"type": "allowed_tools"}), None);
    }

    #[test]
    fn biases_are_numbers_by_token_id() {
        let check = |given: Value, is_fine: bool| {
            assert_eq!(check_bias(&given).is_ok(), is_fine, "{given}");
            let body = ChatBody { logit_bias: given.clone(), ..ChatBody::default() };
            assert_eq!(options(&body).get("logit_bias"), Some(&given).filter(|v| !v.is_null()));
        };
        check(Value::Null, true);
        check(json!({}), true);
        check(json!({"50256": -100, "7": 0.5}), true);
        check(json!({"fifty": -100}), false);
        check(json!({"7": "x"}), false);
        check(json!([7]), false);
    }

    #[test]
    fn response_formats() {
        let of = |given: Value| format(serde_json::from_value(given).unwrap());
        let schema = json!({"type": "object"});
        let asked = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
        assert_eq!(of(asked), schema);
        assert_eq!(of(json!({"type": "json_object"})), json!("json"));
        assert_eq!(of(json!({"type": "text"})), Value::Null);
        assert_eq!(of(Value::Null), Value::Null);
    }
}
