//! `POST /api/generate`

use axum::http::StatusCode;
use axum::response::Response;
use protocol::{Failure, Image, Input, Message, Request, RequestId, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{ImageField, KeepAliveField, ThinkField};
use super::parts::{DebugInfo, LogprobOut, MetricsOut, ToolCallOut, each, reason};
use super::{Rejection, time};
use crate::generation::{self, Ask, Clock, Fold, Opened, Part, Refusal, Shape, ToolCallPart, Verb};
use crate::http::{self, Call, JSON, NDJSON};
use crate::json::{List, to_line, to_vec};

/// Alternatives per token that a client may ask for.
const TOP_LOGPROBS_MAX: i64 = 20;

pub(crate) async fn generate(call: Call) -> Result<Response, Rejection> {
    let clock = Clock::Running(call.started);
    let body: GenerateBody = http::read(call.body).await?;
    let (model, streams) =
        (body.model.clone(), body.stream.unwrap_or(true) && !body.debug_render_only);
    let reply = Reply { model, clock, calls: Vec::new() };
    let running = match generation::open(&call.server, request(body)?).await? {
        Opened::Running(running) => running,
        Opened::Loaded => return Ok(reply.nothing("load")),
        Opened::Unloaded => return Ok(reply.nothing("unload")),
    };
    let fold = Fold::new(clock, running.load);
    Ok(generation::answer(running, fold, reply, streams).await?)
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.GenerateRequest")]
pub(crate) struct GenerateBody {
    model: String,
    prompt: String,
    suffix: String,
    system: String,
    template: String,
    context: Option<List<i64>>,
    stream: Option<bool>,
    raw: bool,
    format: Value,
    keep_alive: KeepAliveField,
    images: List<ImageField>,
    options: Map<String, Value>,
    think: ThinkField,
    truncate: Option<bool>,
    shift: Option<bool>,
    #[serde(rename = "_debug_render_only")]
    debug_render_only: bool,
    logprobs: bool,
    top_logprobs: i64,
}

pub(crate) fn request(body: GenerateBody) -> Result<Ask, Refusal> {
    let logprobs = logprobs(body.logprobs, body.top_logprobs)?;
    let context = body.context.as_ref().map_or(0, |tokens| tokens.0.len());
    if body.raw && (!body.template.is_empty() || !body.system.is_empty() || context > 0) {
        return Err(Refusal::RawMode);
    }
    if context > 0 {
        return Err(Refusal::Failure(
            Failure::new(
                protocol::FailureKind::Unsupported,
                "the deprecated field `context` is not supported",
            )
            .hint("send the conversation's messages to `/api/chat`"),
        ));
    }
    let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let (system, load_only) = (filled(&body.system), body.prompt.is_empty());
    let (think, stored_messages) = (body.think.0.clone(), body.context.is_none());
    let render_only = body.debug_render_only;
    let options = with_shift(body.options.clone(), body.shift);
    let (format, keep_alive) = (body.format.clone(), body.keep_alive.0);
    Ok(Ask {
        model: body.model.clone(),
        verb: Verb::Generate,
        request: Request {
            think,
            logprobs,
            render_only,
            ..Request::new(RequestId(0), input(body)?)
        },
        options,
        format,
        keep_alive,
        system,
        stored_messages,
        load_only,
    })
}

fn input(body: GenerateBody) -> Result<Input, Refusal> {
    if body.raw && !body.images.0.is_empty() {
        return Err(Refusal::Said("raw mode does not support images".to_owned()));
    }
    if body.raw {
        return Ok(Input::Raw { prompt: body.prompt });
    }
    if !body.suffix.is_empty() {
        return Ok(Input::Infill { prompt: body.prompt, suffix: body.suffix });
    }
    let message = Message {
        role: Role::User,
        content: body.prompt,
        images: body.images.0.into_iter().map(|image| Image { base64: image.0 }).collect(),
        ..Message::default()
    };
    let template = Some(body.template).filter(|text| !text.is_empty());
    if let Some(source) = &template {
        text::check_template(source).map_err(|why| Refusal::Template { why })?;
    }
    Ok(Input::Chat { messages: vec![message], tools: Vec::new(), template })
}

/// A field of its own here, an option everywhere else.
pub(crate) fn with_shift(
    mut options: Map<String, Value>,
    shift: Option<bool>,
) -> Map<String, Value> {
    options.extend(shift.map(|shift| ("shift".to_owned(), Value::Bool(shift))));
    options
}

/// Of the two fields that ask for log-probabilities.
pub(crate) fn logprobs(wanted: bool, top: i64) -> Result<Option<u8>, Refusal> {
    match u8::try_from(top) {
        Ok(count) if top <= TOP_LOGPROBS_MAX => Ok(wanted.then_some(count)),
        _ => Err(Refusal::TopLogprobs),
    }
}

pub(crate) struct Reply {
    pub model: String,
    pub clock: Clock,
    /// Told in the last chunk only.
    pub calls: Vec<ToolCallPart>,
}

#[derive(Debug, Serialize)]
struct Chunk<'a> {
    model: &'a str,
    created_at: String,
    response: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    metrics: MetricsOut,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallOut>,
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    debug_info: Option<DebugInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<LogprobOut>,
}

impl Reply {
    /// Of a part, or of the whole answer.
    fn chunk(&mut self, part: Part) -> Chunk<'_> {
        self.calls.extend(part.calls);
        let calls = match part.ending {
            Some(_) => std::mem::take(&mut self.calls),
            None => Vec::new(),
        };
        Chunk {
            model: &self.model,
            created_at: time::utc(self.clock.now()),
            response: part.content,
            thinking: part.thinking,
            done: part.ending.is_some(),
            done_reason: part.ending.as_ref().map(|ending| reason(ending.reason)),
            metrics: part.ending.map(|ending| ending.metrics.into()).unwrap_or_default(),
            tool_calls: each(calls),
            debug_info: part.rendered.map(DebugInfo::from),
            logprobs: each(part.logprobs),
        }
    }

    /// The answer to no prompt.
    fn nothing(mut self, done_reason: &'static str) -> Response {
        let chunk = self.chunk(Part::default());
        let chunk = Chunk { done: true, done_reason: Some(done_reason), ..chunk };
        http::json(StatusCode::OK, JSON, to_vec(&chunk))
    }
}

impl Shape for Reply {
    const STREAM_TYPE: &'static str = NDJSON;
    const WHOLE_TYPE: &'static str = JSON;

    fn part(&mut self, mut part: Part) -> Vec<u8> {
        self.calls.append(&mut part.calls);
        if part == Part::default() {
            return Vec::new();
        }
        to_line(&self.chunk(part))
    }

    fn whole(&mut self, part: Part) -> Vec<u8> {
        to_vec(&self.chunk(part))
    }

    fn failure(&mut self, failure: &Failure) -> Vec<u8> {
        let mut line = Rejection::from(failure.clone()).body();
        line.push(b'\n');
        line
    }
}
