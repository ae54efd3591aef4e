//! `GET /api/tags`: all models, newest first.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use store::Model;

use super::details::Details;
use super::{Rejection, time};
use crate::http::{self, Call, JSON};
use crate::json::to_vec;

pub(super) async fn tags(call: Call) -> Result<Response, Rejection> {
    let models = call
        .server
        .blocking(|store| store.models().map(|models| models.iter().map(Item::of).collect()));
    let list = List { models: models.await? };
    Ok(http::json(StatusCode::OK, JSON, to_vec(&list)))
}

#[derive(Debug, Serialize)]
struct List {
    models: Vec<Item>,
}

#[derive(Debug, Serialize)]
struct Item {
    name: String,
    model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remote_model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remote_host: String,
    modified_at: String,
    size: u64,
    digest: String,
    details: Details,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    capabilities: Vec<&'static str>,
}

impl Item {
    fn of(model: &Model) -> Item {
        Item {
            name: model.name.to_string(),
            model: model.name.to_string(),
            remote_model: model.config.remote_model.clone(),
            remote_host: model.config.remote_host.clone(),
            modified_at: time::local(model.modified),
            size: model.size_bytes,
            digest: model.digest.hex(),
            details: Details::of(&model.config).with_parent(model).with_lengths(&model.config),
            capabilities: model
                .capabilities()
                .into_iter()
                .map(|capability| capability.as_str())
                .collect(),
        }
    }
}
