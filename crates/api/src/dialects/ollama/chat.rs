//! `POST /api/chat`

use axum::http::StatusCode;
use axum::response::Response;
use protocol::{Failure, Input, Request, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{KeepAliveField, ThinkField};
use super::parts::{DebugInfo, LogprobOut, MetricsOut, ToolCallOut, each, reason};
use super::{MessageField, Rejection, Tools, time, tools};
use crate::generation::{self, Ask, Clock, Fold, Opened, Part, Refusal, Shape, Verb};
use crate::http::{self, Call, JSON, NDJSON};
use crate::json::{List, to_line, to_vec};

pub(crate) async fn chat(call: Call) -> Result<Response, Rejection> {
    let clock = Clock::Running(call.started);
    let body: ChatBody = http::read(call.body).await?;
    let (model, streams) =
        (body.model.clone(), body.stream.unwrap_or(true) && !body.debug_render_only);
    let reply = Reply { model, clock };
    let running = match generation::open(&call.server, request(body)?).await? {
        Opened::Running(running) => running,
        Opened::Loaded => return Ok(reply.nothing("load")),
        Opened::Unloaded => return Ok(reply.nothing("unload")),
    };
    let fold = Fold::new(clock, running.load);
    Ok(generation::answer(running, fold, reply, streams).await?)
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.ChatRequest")]
pub(crate) struct ChatBody {
    model: String,
    messages: List<MessageField>,
    stream: Option<bool>,
    format: Value,
    keep_alive: KeepAliveField,
    tools: Tools,
    options: Map<String, Value>,
    think: ThinkField,
    truncate: Option<bool>,
    shift: Option<bool>,
    #[serde(rename = "_debug_render_only")]
    debug_render_only: bool,
    logprobs: bool,
    top_logprobs: i64,
}

pub(crate) fn request(body: ChatBody) -> Result<Ask, Refusal> {
    let logprobs = super::generate::logprobs(body.logprobs, body.top_logprobs)?;
    let load_only = body.messages.0.is_empty();
    let input = Input::Chat {
        messages: body.messages.0.into_iter().map(MessageField::into_message).collect(),
        tools: tools(body.tools.0),
        template: None,
    };
    Ok(Ask {
        model: body.model,
        verb: Verb::Chat,
        request: Request {
            think: body.think.0,
            logprobs,
            render_only: body.debug_render_only,
            ..Request::new(RequestId(0), input)
        },
        options: super::generate::with_shift(body.options, body.shift),
        format: body.format,
        keep_alive: body.keep_alive.0,
        system: None,
        stored_messages: true,
        load_only,
    })
}

pub(crate) struct Reply {
    pub model: String,
    pub clock: Clock,
}

#[derive(Debug, Serialize)]
struct Chunk<'a> {
    model: &'a str,
    created_at: String,
    message: MessageOut,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    debug_info: Option<DebugInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<LogprobOut>,
    #[serde(flatten)]
    metrics: MetricsOut,
}

#[derive(Debug, Default, Serialize)]
struct MessageOut {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallOut>,
}

impl Reply {
    /// Of a part, or of the whole answer.
    fn chunk(&self, part: Part) -> Chunk<'_> {
        let role = match part.rendered {
            Some(_) => "",
            None => "assistant",
        };
        Chunk {
            model: &self.model,
            created_at: time::utc(self.clock.now()),
            message: MessageOut {
                role,
                content: part.content,
                thinking: part.thinking,
                tool_calls: each(part.calls),
            },
            done: part.ending.is_some(),
            done_reason: part.ending.as_ref().map(|ending| reason(ending.reason)),
            debug_info: part.rendered.map(DebugInfo::from),
            logprobs: each(part.logprobs),
            metrics: part.ending.map(|ending| ending.metrics.into()).unwrap_or_default(),
        }
    }

    /// The answer to no messages.
    fn nothing(self, done_reason: &'static str) -> Response {
        let chunk = self.chunk(Part::default());
        let chunk = Chunk { done: true, done_reason: Some(done_reason), ..chunk };
        http::json(StatusCode::OK, JSON, to_vec(&chunk))
    }
}

impl Shape for Reply {
    const STREAM_TYPE: &'static str = NDJSON;
    const WHOLE_TYPE: &'static str = JSON;

    fn part(&mut self, part: Part) -> Vec<u8> {
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
