//! `DELETE /api/delete`: removes a model. Where it is loaded, requests under way go on to their end.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::{Rejection, texts};
use crate::generation::{Reference, ReferenceError};
use crate::http::{self, Call};
use crate::json::quote;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "api.DeleteRequest")]
struct DeleteBody {
    model: String,
    name: String,
}

pub(super) async fn delete(call: Call) -> Result<Response, Rejection> {
    let body: DeleteBody = http::read(call.body).await?;
    let asked = if body.model.is_empty() { body.name } else { body.model };
    let reference = Reference::parse(&asked).map_err(|error| match error {
        ReferenceError::Invalid => Rejection::bad(format!("name {} is invalid", quote(&asked))),
        ReferenceError::Cloud => Rejection::missing(texts::not_found(&asked)),
        other => other.into(),
    })?;
    let deleted = call.server.blocking(move |store| {
        let digest = store.model(&reference.name).map(|model| model.digest.to_string());
        store.delete(&reference.name).map(|()| digest.ok())
    });
    let digest = deleted.await.map_err(|error| match error {
        store::Error::NotFound(_) => Rejection::missing(texts::not_found(&asked)),
        other => other.into(),
    })?;
    if let Some(digest) = digest {
        call.server.scheduler().unload(&digest);
    }
    Ok(http::empty(StatusCode::OK))
}
