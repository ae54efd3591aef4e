//! `GET /v1/models` and `GET /v1/models/:model`

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use store::{Model, Name};

use super::Rejection;
use crate::dialects::ollama;
use crate::generation::Reference;
use crate::http::{self, Call, JSON_BARE};
use crate::json::to_line;

#[derive(Debug, Serialize)]
struct ModelOut {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
}

#[derive(Debug, Serialize)]
struct List {
    object: &'static str,
    /// `null` when there is none.
    data: Option<Vec<ModelOut>>,
}

impl ModelOut {
    /// `id` as the client wrote it.
    fn of(model: &Model, id: String) -> ModelOut {
        let owner = Name::parse(&id).map(|name| name.namespace().to_owned());
        ModelOut {
            id,
            object: "model",
            created: model.modified.as_second(),
            owned_by: owner.unwrap_or_default(),
        }
    }
}

pub(super) async fn list(call: Call) -> Result<Response, Rejection> {
    let models =
        call.server.blocking(|store| store.models()).await.map_err(ollama::Rejection::from)?;
    let data: Vec<ModelOut> =
        models.iter().map(|model| ModelOut::of(model, model.name.to_string())).collect();
    let list = List { object: "list", data: Some(data).filter(|data| !data.is_empty()) };
    Ok(http::json(StatusCode::OK, JSON_BARE, to_line(&list)))
}

pub(super) async fn retrieve(call: Call) -> Result<Response, Rejection> {
    let reference = Reference::parse(&call.param).map_err(ollama::Rejection::from)?;
    let found = call.server.blocking(move |store| store.model(&reference.name)).await;
    let model = found.map_err(|error| match error {
        store::Error::NotFound(name) => {
            ollama::Rejection::missing(ollama::texts::not_found(&name.to_string()))
        }
        other => other.into(),
    })?;
    Ok(http::json(StatusCode::OK, JSON_BARE, to_line(&ModelOut::of(&model, call.param))))
}
