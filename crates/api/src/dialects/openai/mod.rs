//! OpenAI's API, as Ollama speaks it: the same models and the same words for what goes wrong, in other envelopes.

pub(crate) mod chat;
mod errors;
mod messages;
mod models;
mod parts;

use crate::http::Route;
pub(crate) use errors::Rejection;

pub(crate) const ROUTES: &[Route] = super::table![
    "POST" "/v1/chat/completions" => chat::completions,
    "GET" "/v1/models" => models::list,
    "GET" "/v1/models/:model" => models::retrieve,
];
