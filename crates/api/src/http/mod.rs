//! What all dialects share of HTTP: the table of routes, who may come in, reading bodies, sending answers.
//!
//! Knows no route by name and no model.

mod answer;
mod body;
mod guard;
mod origins;
mod route;

pub(crate) use answer::{Frames, empty, json, stream, text};
#[cfg(test)]
pub(crate) use body::decode;
pub(crate) use body::{BodyError, read};
pub(crate) use guard::{Guard, Verdict};
pub(crate) use route::{Found, Route, find};

use std::time::Instant;

use axum::body::Body;
use axum::http::HeaderMap;

use crate::Server;

/// One request on its way to its route.
pub(crate) struct Call {
    pub server: Server,
    pub headers: HeaderMap,
    /// What stood for `:name` in the route's path.
    pub param: String,
    pub body: Body,
    pub started: Instant,
}

/// Content types, as Ollama spells them.
pub(crate) const JSON: &str = "application/json; charset=utf-8";
pub(crate) const JSON_BARE: &str = "application/json";
pub(crate) const NDJSON: &str = "application/x-ndjson";
pub(crate) const SSE: &str = "text/event-stream";
