//! What real Ollama answered, asked again of us: the recorded requests, in their order, byte for byte.
//!
//! Errors must be equal to the byte. Answers that depend on a model are compared without what depends on it; that the
//! recorded text itself comes out right is the business of the playback test inside the crate. The recorded models
//! were GGUF files: models of safetensors files stand in for them under the same names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use store::{Capability, Config, Recipe};

use crate::harness::{Answer, PLAIN_TEMPLATE, Scene, goldens, make_model, params, tiny};
use crate::normal;

/// Routes that are not there yet; asking them gives the 404 of an unknown path.
const NO_ROUTE_YET: &[&str] = &[
    "/api/embed",
    "/api/embeddings",
    "/api/pull",
    "/api/push",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
];

/// Recorded answers that ours differ from, each with the reason. One that is equal may not stand here.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "blob-post-text",
        "Ollama keeps the bytes of an upload with a wrong digest, we do not: 201 instead of 200",
    ),
    ("create-from-files", "makes a model of a GGUF file; the stand-in is made instead"),
    ("create-from-files-again", "makes a model of a GGUF file"),
    ("create-nostream", "makes a model of a GGUF file; the stand-in is made instead"),
    ("create-embed", "makes a model of a GGUF file; the stand-in is made instead"),
    ("create-quantize-q8_0", "makes a model of a GGUF file; the stand-in is made instead"),
    ("create-quantize-bad-type", "quantises a GGUF file"),
    ("create-unknown-from", "asks a registry; models cannot be pulled yet"),
    ("generate-context", "the deprecated `context` is refused"),
    ("generate-num_predict-0", "both generate without end; Ollama drops the last chunk"),
    ("generate-format-empty", "the recorded model had nothing to say"),
    ("generate-too-long", "a prompt that does not fit is refused, as Ollama does for MLX models"),
    ("chat-too-long", "a prompt that does not fit is refused, as Ollama does for MLX models"),
    (
        "generate-too-long-no-truncate",
        "the words are those of another engine; the scripted one counts other tokens",
    ),
    (
        "chat-too-long-no-truncate",
        "the words are those of another engine; the scripted one counts other tokens",
    ),
];

/// What the scripted engine is told, in the last line of a question, so that it answers as the recorded model did.
const TOLD: &[(&str, &str)] = &[
    ("generate-think", THINK),
    ("chat-think", THINK),
    ("chat-think-stream", THINK),
    ("chat-think-default", THINK),
    ("chat-think-level", THINK),
    ("v1-chat-think", THINK),
    ("v1-chat-think-stream", THINK),
    ("chat-tools-forced-call", CALL),
    ("chat-tools-forced-call-stream", CALL),
    ("v1-chat-tools-forced-call", CALL),
    ("v1-chat-tools-forced-call-stream", CALL),
];

/// For longer than the request allows.
const THINK: &str = "!think 100";
/// And nothing else.
const CALL: &str = "!say\n!tool get_weather {\"city\":\"Rome\"}";

#[derive(Deserialize)]
struct Transcript {
    name: String,
    seq: u32,
    request: Recorded,
    response: Expected,
}

#[derive(Deserialize)]
struct Recorded {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Value,
}

#[derive(Deserialize)]
struct Expected {
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    lines: Option<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ollama_answered() {
    // As it was recorded: one model at a time, with the context of the recorded model.
    let scene = Scene::with(scheduler::Config {
        keep_alive: scheduler::KeepAlive::DEFAULT,
        loaded_models_max: 1,
        context_tokens: Some(512),
        memory_bytes_max: 1 << 40,
        ..scheduler::Config::from_env()
    })
    .await;
    let mut wrong = Vec::new();
    let (mut replayed, mut absent) = (0, 0);
    for transcript in transcripts() {
        make_stand_in(&scene, &transcript);
        let answer = transcript.ask(&scene).await;
        let path = transcript.request.path.as_str();
        let listed = DIFFERENT.iter().any(|(name, _)| *name == transcript.name);
        let verdict = match NO_ROUTE_YET.contains(&path) {
            true => {
                absent += 1;
                transcript.check_absent(&answer)
            }
            false => {
                replayed += 1;
                transcript.check(&answer, &scene)
            }
        };
        match (verdict, listed) {
            (Ok(()), true) => {
                wrong.push(format!("{}: listed as different, but it is equal", transcript.name))
            }
            (Err(difference), false) => wrong.push(format!("{}:\n{difference}", transcript.name)),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((replayed, absent), (REPLAYED, ABSENT), "all transcripts were there");
    scene.stop().await.unwrap();
}

/// So that a folder that is not found cannot pass.
const REPLAYED: usize = 223;
const ABSENT: usize = 75;

fn transcripts() -> Vec<Transcript> {
    let files = std::fs::read_dir(goldens().join("ollama")).unwrap();
    let paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut all: Vec<Transcript> = paths.iter().map(read).collect();
    all.sort_by_key(|transcript| transcript.seq);
    all
}

/// Before the request that made the recorded model.
fn make_stand_in(scene: &Scene, transcript: &Transcript) {
    let plain = || Recipe {
        template: Some(PLAIN_TEMPLATE.to_owned()),
        params: params(json!({"stop": ["<|im_start|>", "<|im_end|>"]})),
        ..Recipe::default()
    };
    let store = &scene.store;
    let quantised = Config { file_type: "Q8_0".into(), ..Config::default() };
    match transcript.name.as_str() {
        "create-from-files" => make_model(store, "tiny", &[Capability::Completion], tiny()),
        "create-nostream" => make_model(store, "tinyplain", &[Capability::Completion], plain()),
        "create-embed" => make_model(store, "tinyembed", &[Capability::Embedding], plain()),
        "create-quantize-q8_0" => make_model(
            store,
            "tinyq8",
            &[Capability::Completion],
            Recipe { config: quantised, ..plain() },
        ),
        _ => {}
    }
}

impl Transcript {
    async fn ask(&self, scene: &Scene) -> Answer {
        let own = ["content-length"];
        let headers: Vec<(&str, &str)> = self
            .request
            .headers
            .iter()
            .filter(|(name, _)| !own.contains(&name.to_lowercase().as_str()))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let told = TOLD.iter().find(|(name, _)| *name == self.name);
        let body = match told {
            Some((_, told)) => told_in(&self.request.body(), told),
            None => self.request.body(),
        };
        scene.ask(&self.request.method, &self.request.path, &headers, &body).await
    }

    fn check(&self, answer: &Answer, scene: &Scene) -> Result<(), String> {
        let expected = &self.response;
        same("status", expected.status, answer.status)?;
        same("headers", expected.headers(), headers(&answer.headers))?;
        let store = scene.store.root().display().to_string();
        let recorded = expected.text().replace("$STORE", &store);
        if expected.status >= 400 {
            return same("error", recorded, answer.text());
        }
        same("body", normal::text(&recorded), normal::text(&answer.text()))
    }

    fn check_absent(&self, answer: &Answer) -> Result<(), String> {
        same("status", 404, answer.status)?;
        same("text", "404 page not found".to_owned(), answer.text())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, recorded: T, ours: T) -> Result<(), String> {
    match recorded == ours {
        true => Ok(()),
        false => Err(difference(what, &format!("{recorded:?}"), &format!("{ours:?}"))),
    }
}

/// Both from shortly before the first byte that differs.
fn difference(what: &str, recorded: &str, ours: &str) -> String {
    let equal = recorded.chars().zip(ours.chars()).take_while(|(a, b)| a == b).count();
    let excerpt =
        |text: &str| text.chars().skip(equal.saturating_sub(60)).take(400).collect::<String>();
    format!("  {what} of Ollama: …{}\n  {what} of ours:   …{}", excerpt(recorded), excerpt(ours))
}

/// The request with one more line in its prompt or last message.
fn told_in(body: &[u8], told: &str) -> Vec<u8> {
    let mut body: Value = serde_json::from_slice(body).unwrap();
    let question = match body.get("messages").and_then(Value::as_array).map(Vec::len) {
        Some(messages) => &mut body["messages"][messages - 1]["content"],
        None => &mut body["prompt"],
    };
    *question = format!("{}\n{told}", question.as_str().unwrap()).into();
    body.to_string().into_bytes()
}

/// Names in lower case, sorted, without what every connection decides anew.
fn headers(all: &[(String, String)]) -> Vec<(String, String)> {
    let varying = ["date", "content-length", "transfer-encoding", "connection"];
    let mut kept: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in all {
        let name = name.to_lowercase();
        if !varying.contains(&name.as_str()) {
            kept.entry(name).or_default().push(value.clone());
        }
    }
    kept.into_iter()
        .flat_map(|(name, mut values)| {
            values.sort();
            values.into_iter().map(move |value| (name.clone(), value))
        })
        .collect()
}

impl Expected {
    fn headers(&self) -> Vec<(String, String)> {
        headers(&self.headers)
    }

    fn text(&self) -> String {
        match (&self.body, &self.lines) {
            (Some(body), _) => body.clone(),
            (None, Some(lines)) => lines.iter().map(|line| format!("{line}\n")).collect(),
            (None, None) => String::new(),
        }
    }
}

impl Recorded {
    /// As it was sent: a text, a file of the fixtures, or a text with a long prompt written short.
    fn body(&self) -> Vec<u8> {
        match &self.body {
            Value::Null => Vec::new(),
            Value::String(text) => {
                text.replace("<<'word ' * 1500>>", &"word ".repeat(1500)).into_bytes()
            }
            other => {
                let file = other["file"].as_str().expect("a file");
                std::fs::read(goldens().join("fixtures").join(file)).unwrap()
            }
        }
    }
}
