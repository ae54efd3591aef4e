//! `POST /api/copy`: a second name for a model.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::Name;

use super::Rejection;
use crate::http::{self, Call};
use crate::json::quote;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "api.CopyRequest")]
struct CopyBody {
    source: String,
    destination: String,
}

pub(super) async fn copy(call: Call) -> Result<Response, Rejection> {
    let body: CopyBody = http::read(call.body).await?;
    let source = name("source", &body.source)?;
    let destination = name("destination", &body.destination)?;
    let copied = call.server.blocking(move |store| store.copy(&source, &destination)).await;
    copied.map_err(|error| match error {
        store::Error::NotFound(_) => {
            Rejection::missing(format!("model {} not found", quote(&body.source)))
        }
        other => other.into(),
    })?;
    Ok(http::empty(StatusCode::OK))
}

fn name(field: &str, text: &str) -> Result<Name, Rejection> {
    Name::parse(text).map_err(|_| Rejection::bad(format!("{field} {} is invalid", quote(text))))
}
