//! Walks `golden/<dialect>/<case>/`. A case begins with the name of its route (`chat-…`, `generate-…`).
//!
//! - `request.json`: the body a client sends; `model.json`, if there, what the model brings;
//! - `internal.json`: the request that goes to the engine, or the refusal's status and body;
//! - `events.jsonl`: what the engine answers (none for a refusal);
//! - `response.txt`: the streamed answer, then the whole one.
//!
//! `OLLMLX_GOLDEN=write` rewrites `internal.json` and `response.txt`; the diff is the review.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::response::IntoResponse;
use protocol::{Event, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Capability, StoredMessage};

use super::{ollama, openai};
use crate::generation::{Ask, Clock, Facts, Fold, Part, Refusal, Shape};
use crate::http::decode;

/// Cases that there are at least, so that a folder that is not found cannot pass.
const CASES_MIN: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Chat,
    Generate,
    OpenaiChat,
}

/// A body's question and how its answer is written.
pub(super) struct Prepared {
    /// `Err`: the refusal as `internal.json` shows it.
    pub ask: Result<Ask, Value>,
    pub shape: Box<dyn AnyShape>,
}

/// [`Shape`] without its constants.
pub(super) trait AnyShape {
    fn part(&mut self, part: Part) -> Vec<u8>;
    fn whole(&mut self, part: Part) -> Vec<u8>;
    fn failure(&mut self, failure: &protocol::Failure) -> Vec<u8>;
}

impl<S: Shape> AnyShape for S {
    fn part(&mut self, part: Part) -> Vec<u8> {
        Shape::part(self, part)
    }

    fn whole(&mut self, part: Part) -> Vec<u8> {
        Shape::whole(self, part)
    }

    fn failure(&mut self, failure: &protocol::Failure) -> Vec<u8> {
        Shape::failure(self, failure)
    }
}

pub(super) fn prepare(route: Route, body: &[u8]) -> Prepared {
    let text = |key: &str| {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        value[key].as_str().unwrap_or_default().to_owned()
    };
    let clock = Clock::Still;
    match route {
        Route::Chat => Prepared {
            ask: decode(body)
                .map_err(ollama::Rejection::from)
                .and_then(|body| Ok(ollama::chat::request(body)?))
                .map_err(refusal),
            shape: Box::new(ollama::chat::Reply { model: text("model"), clock }),
        },
        Route::Generate => Prepared {
            ask: decode(body)
                .map_err(ollama::Rejection::from)
                .and_then(|body| Ok(ollama::generate::request(body)?))
                .map_err(refusal),
            shape: Box::new(ollama::generate::Reply {
                model: text("model"),
                clock,
                calls: Vec::new(),
            }),
        },
        Route::OpenaiChat => {
            let value: Value = serde_json::from_slice(body).unwrap_or_default();
            let usage = value["stream_options"]["include_usage"] == true;
            Prepared {
                ask: decode(body)
                    .map_err(openai::Rejection::from)
                    .and_then(openai::chat::request)
                    .map_err(refusal),
                shape: Box::new(openai::chat::Reply::new(
                    "chatcmpl-1".into(),
                    text("model"),
                    clock,
                    usage,
                )),
            }
        }
    }
}

fn refused(route: Route, why: Refusal) -> Value {
    match route {
        Route::OpenaiChat => refusal(openai::Rejection::from(why)),
        _ => refusal(ollama::Rejection::from(why)),
    }
}

pub(super) fn fold() -> Fold {
    Fold::new(Clock::Still, Duration::ZERO).with_seed(7)
}

pub(super) fn streamed(shape: &mut dyn AnyShape, events: &[Event]) -> Vec<u8> {
    let mut fold = fold();
    let mut out = Vec::new();
    for event in events {
        match fold.event(event.clone()) {
            Ok(part) => out.extend(part.map(|part| shape.part(part)).unwrap_or_default()),
            Err(failure) => out.extend(shape.failure(&failure)),
        }
    }
    out
}

/// `Err` is the failure.
pub(super) fn whole(
    shape: &mut dyn AnyShape,
    events: &[Event],
) -> Result<Vec<u8>, protocol::Failure> {
    let mut fold = fold();
    let mut whole = Part::default();
    for event in events {
        whole.merge(fold.event(event.clone())?.unwrap_or_default());
    }
    Ok(shape.whole(whole))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ModelFile {
    capabilities: Vec<String>,
    params: indexmap::IndexMap<String, Value>,
    system: Option<String>,
    messages: Vec<StoredMessage>,
}

fn facts(path: &Path) -> Facts {
    let model: ModelFile = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => ModelFile { capabilities: vec!["completion".into()], ..ModelFile::default() },
    };
    let known = |text: &String| Capability::parse(text).unwrap();
    Facts {
        full_name: "registry.ollama.ai/library/tiny:latest".into(),
        capabilities: model.capabilities.iter().map(known).collect(),
        params: model.params,
        system: model.system,
        messages: model.messages,
        ..Facts::default()
    }
}

#[test]
fn cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut cases = 0;
    for (dialect, of_dialect) in folders(&root).iter().map(|path| (name(path), folders(path))) {
        for case in of_dialect {
            let route = match (dialect.as_str(), name(&case).split('-').next()) {
                ("ollama", Some("chat")) => Route::Chat,
                ("ollama", Some("generate")) => Route::Generate,
                ("openai", Some("chat")) => Route::OpenaiChat,
                _ => panic!("{} belongs to no route", case.display()),
            };
            check(route, &case);
            cases += 1;
        }
    }
    assert!(cases >= CASES_MIN, "only {cases} cases in {}", root.display());
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn check(route: Route, case: &Path) {
    let body = std::fs::read(case.join("request.json")).unwrap();
    let prepared = prepare(route, &body);
    let completed = prepared.ask.and_then(|ask| {
        ask.complete(&facts(&case.join("model.json"))).map_err(|refusal| refused(route, refusal))
    });
    let request = match completed {
        Ok(request) => request,
        Err(refusal) => {
            same(&case.join("internal.json"), &pretty(&refusal));
            return;
        }
    };
    same(&case.join("internal.json"), &pretty(&internal(&request)));
    let events = std::fs::read_to_string(case.join("events.jsonl")).unwrap();
    let events: Vec<Event> = events
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}", case.display()))
        })
        .collect();
    let mut shape = prepared.shape;
    let streamed = streamed(shape.as_mut(), &events);
    let whole = match whole(prepare(route, &body).shape.as_mut(), &events) {
        Ok(whole) => String::from_utf8(whole).unwrap(),
        Err(failure) => pretty(&refused(route, Refusal::Failure(failure))),
    };
    let text = format!("{}\n=== whole ===\n{whole}", String::from_utf8(streamed).unwrap());
    same(&case.join("response.txt"), &text);
}

fn refusal(rejection: impl IntoResponse) -> Value {
    let response = rejection.into_response();
    let status = response.status().as_u16();
    let body = blocking(axum::body::to_bytes(response.into_body(), usize::MAX)).unwrap();
    json!({ "refused": status, "body": String::from_utf8(body.to_vec()).unwrap() })
}

/// Without options that say nothing.
fn internal(request: &Request) -> Value {
    let mut value = serde_json::to_value(request).unwrap();
    if let Some(options) = value["options"].as_object_mut() {
        options.retain(|_, option| !option.is_null());
    }
    value
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

fn same(path: &Path, ours: &str) {
    if std::env::var("OLLMLX_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(path, ours).unwrap();
        return;
    }
    let recorded =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(recorded, ours, "{}", path.display());
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
