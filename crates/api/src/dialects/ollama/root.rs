//! `/`, `/api/version` and `/api/status`: what clients ask before all else.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::Rejection;
use crate::http::{self, Call, JSON};
use crate::json::to_vec;

pub(super) async fn liveness(_call: Call) -> Result<Response, Rejection> {
    Ok(http::text(StatusCode::OK, "text/plain; charset=utf-8", "Ollama is running"))
}

pub(super) async fn version(_call: Call) -> Result<Response, Rejection> {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
    }
    let version = Version { version: crate::OLLAMA_VERSION };
    Ok(http::json(StatusCode::OK, JSON, to_vec(&version)))
}

pub(super) async fn status(call: Call) -> Result<Response, Rejection> {
    #[derive(Serialize)]
    struct Status {
        cloud: Cloud,
    }
    #[derive(Serialize)]
    struct Cloud {
        disabled: bool,
        source: &'static str,
    }
    // Nothing is ever sent to a cloud; a client may still want to know whether the user said so too.
    let source = match call.server.config().no_cloud {
        true => "env",
        false => "config",
    };
    let status = Status { cloud: Cloud { disabled: true, source } };
    Ok(http::json(StatusCode::OK, JSON, to_vec(&status)))
}
