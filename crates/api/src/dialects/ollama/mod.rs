//! Ollama's own API. Keys, their order, what is left out and every text are part of it.

mod blobs;
pub(crate) mod chat;
mod copy;
mod create;
mod delete;
mod details;
pub(crate) mod fields;
pub(crate) mod generate;
mod message;
pub(crate) mod parts;
mod progress;
mod ps;
mod recipe;
mod root;
mod show;
mod tags;
pub(crate) mod texts;
mod time;

use crate::http::Route;
pub(crate) use generate::logprobs;
pub(crate) use message::{MessageField, ToolField, Tools, tools};
pub(crate) use texts::Rejection;

pub(crate) const ROUTES: &[Route] = super::table![
    "HEAD" "/" => root::liveness,
    "GET" "/" => root::liveness,
    "HEAD" "/api/version" => root::version,
    "GET" "/api/version" => root::version,
    "GET" "/api/status" => root::status,
    "HEAD" "/api/tags" => tags::tags,
    "GET" "/api/tags" => tags::tags,
    "POST" "/api/show" => show::show,
    "DELETE" "/api/delete" => delete::delete,
    "POST" "/api/copy" => copy::copy,
    "POST" "/api/create" => create::create,
    "HEAD" "/api/blobs/:digest" => blobs::exists,
    "POST" "/api/blobs/:digest" => blobs::upload,
    "GET" "/api/ps" => ps::ps,
    "POST" "/api/generate" => generate::generate,
    "POST" "/api/chat" => chat::chat,
];
