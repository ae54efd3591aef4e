//! `GET /api/ps`: loaded models, the one that expires last first.

use std::time::SystemTime;

use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use scheduler::Resident;
use serde::Serialize;
use store::{Config, Name, Store};

use super::details::Details;
use super::{Rejection, time};
use crate::http::{self, Call, JSON};
use crate::json::to_vec;

/// What "never" looks like: as far away as a Go duration reaches, some 292 years.
const FOREVER_SECS: i64 = i64::MAX / 1_000_000_000;

pub(super) async fn ps(call: Call) -> Result<Response, Rejection> {
    let loaded = call.server.scheduler().loaded();
    let models = call.server.blocking(move |store| {
        loaded.iter().map(|resident| Item::of(resident, &config(store, resident))).collect()
    });
    let list = List { models: models.await };
    Ok(http::json(StatusCode::OK, JSON, to_vec(&list)))
}

/// Of the files that are loaded; a model that was removed or replaced meanwhile has none.
fn config(store: &Store, resident: &Resident) -> Config {
    let model = Name::parse(&resident.name).ok().and_then(|name| store.model(&name).ok());
    let model = model.filter(|model| model.digest.to_string() == resident.digest);
    model.map(|model| model.config).unwrap_or_default()
}

#[derive(Debug, Serialize)]
struct List {
    models: Vec<Item>,
}

#[derive(Debug, Serialize)]
struct Item {
    name: String,
    model: String,
    size: u64,
    digest: String,
    details: Details,
    expires_at: String,
    size_vram: u64,
    context_length: u32,
}

impl Item {
    fn of(resident: &Resident, config: &Config) -> Item {
        let size = resident.memory_bytes;
        Item {
            name: resident.name.clone(),
            model: resident.name.clone(),
            size,
            digest: resident.digest.trim_start_matches("sha256:").to_owned(),
            details: Details::of(config),
            expires_at: time::local(expiry(resident.expires_at)),
            size_vram: match resident.info.device.as_str() {
                "cpu" => 0,
                _ => size,
            },
            context_length: resident.context_tokens,
        }
    }
}

fn expiry(at: Option<SystemTime>) -> Timestamp {
    let known = at.and_then(|at| Timestamp::try_from(at).ok());
    known.unwrap_or_else(|| {
        let far = Timestamp::now().as_second().saturating_add(FOREVER_SECS);
        Timestamp::from_second(far).unwrap_or(Timestamp::MAX)
    })
}
