//! Serving itself: clients that leave, read slowly, send too much; models that fail; uploads; the end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use store::{Capability, Config, Digest, Name, media};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{PATIENCE, Scene, make_model, tiny};

async fn scene() -> Scene {
    let scene = Scene::new().await;
    make_model(
        &scene.store,
        "tiny",
        &[Capability::Completion, Capability::Tools, Capability::Thinking],
        tiny(),
    );
    scene
}

fn chat(prompt: &str, options: Value) -> String {
    let messages = json!([{"role": "user", "content": prompt}]);
    json!({"model": "tiny", "messages": messages, "options": options, "think": false}).to_string()
}

fn in_flight(scene: &Scene) -> usize {
    scene.scheduler.loaded().iter().map(|resident| resident.in_flight_requests).sum()
}

/// Waits until this is so; the reason is told if it never is.
async fn until(why: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "{why}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read_some(connection: &mut TcpStream) -> usize {
    let mut buffer = vec![0; 4096];
    tokio::time::timeout(PATIENCE, connection.read(&mut buffer)).await.expect("bytes").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_cancels_its_request() {
    let scene = scene().await;
    for stream in [true, false] {
        let mut body: Value =
            serde_json::from_str(&chat("!long 2000 !sleep 20", json!({"num_predict": 2000})))
                .unwrap();
        body["stream"] = json!(stream);
        let mut connection =
            scene.send("POST", "/api/chat", &[], body.to_string().as_bytes()).await;
        if stream {
            assert!(read_some(&mut connection).await > 0);
        }
        until("the request runs", || in_flight(&scene) == 1).await;
        let left = Instant::now();
        drop(connection);
        until("the request is cancelled", || in_flight(&scene) == 0).await;
        assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
    }
    scene.stop().await.unwrap();
}

/// Some 6 MB of answer: more than the kernel's buffers of a connection hold, so a server that did not wait would
/// have to keep the rest itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_waited_for_and_gets_everything() {
    let scene = scene().await;
    let mut body: Value =
        serde_json::from_str(&chat("!long 4000", json!({"num_predict": 4000, "stop": []})))
            .unwrap();
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(20);
    let body = body.to_string();
    let started = Instant::now();
    let bytes = scene.post("/api/chat", &body).await.body.len();
    assert!(bytes > 6_000_000, "{bytes} bytes could fit between us");
    let time_of_all = started.elapsed();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut connection = socket.connect(scene.address).await.unwrap();
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all((head + &body).as_bytes()).await.unwrap();
    assert!(read_some(&mut connection).await > 0);
    // Nobody reads; others are served meanwhile, and the request stays where it is.
    for _ in 0..3 {
        let answer = scene.post("/api/chat", &chat("!say hello", json!({}))).await;
        assert_eq!(answer.lines().last().unwrap()["done"], true);
    }
    tokio::time::sleep(2 * time_of_all + Duration::from_millis(500)).await;
    assert_eq!(in_flight(&scene), 1, "the engine ran ahead of its reader");
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&rest);
    assert!(text.contains("\"eval_count\":4000"), "{}", &text[text.len().saturating_sub(300)..]);
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_and_each_gets_its_own() {
    let scene = std::sync::Arc::new(scene().await);
    let asked = (0..16).map(|n| {
        let scene = scene.clone();
        tokio::spawn(async move {
            let answer = scene
                .post("/api/chat", &chat(&format!("!say number {n} !sleep 1"), json!({})))
                .await;
            let text: String = answer
                .lines()
                .iter()
                .map(|line| line["message"]["content"].as_str().unwrap().to_owned())
                .collect();
            assert!(text.starts_with(&format!("number {n}")), "{text}");
        })
    });
    for one in asked.collect::<Vec<_>>() {
        one.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_have_a_status_before_the_first_byte_and_a_line_after() {
    let scene = scene().await;
    let answer = scene.post("/api/chat", &chat("!fail", json!({}))).await;
    assert_eq!(
        (answer.status, answer.json()["error"].as_str().unwrap()),
        (400, "the prompt asked for a failure")
    );
    let openai = json!({"model": "tiny", "messages": [{"role": "user", "content": "!fail"}], "stream": true});
    let answer = scene.post("/v1/chat/completions", &openai.to_string()).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["type"].as_str().unwrap()),
        (400, "invalid_request_error")
    );
    for what in ["!crash", "!panic"] {
        let answer = scene.post("/api/chat", &chat(what, json!({}))).await;
        let last = answer.lines().pop().unwrap();
        assert!(last["error"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {last}");
        until("the lost runner is noticed", || scene.scheduler.loaded().is_empty()).await;
        let answer = scene.post("/api/chat", &chat("!say well again", json!({}))).await;
        assert_eq!(answer.status, 200, "after {what}: {}", answer.text());
    }
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_cannot_be_loaded_says_why() {
    let scene = scene().await;
    make_model(&scene.store, "badload", &[Capability::Completion], tiny());
    let answer = scene.post("/api/generate", r#"{"model":"badload","prompt":"x"}"#).await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["error"], "`badload:latest` was told to be a bad model");
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_so() {
    let config = scheduler::Config {
        queue_max: 1,
        memory_bytes_max: 1 << 40,
        ..scheduler::Config::from_env()
    };
    let scene = std::sync::Arc::new(Scene::with(config).await);
    make_model(&scene.store, "slowload", &[Capability::Completion], tiny());
    let asked = (0..6).map(|_| {
        let scene = scene.clone();
        tokio::spawn(async move {
            scene.post("/api/generate", r#"{"model":"slowload","prompt":"x"}"#).await
        })
    });
    let mut served = 0;
    for one in asked.collect::<Vec<_>>() {
        let answer = one.await.unwrap();
        match answer.status {
            200 => served += 1,
            status => assert_eq!(
                (status, answer.text().as_str()),
                (
                    503,
                    r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#
                )
            ),
        }
    }
    assert!((1..6).contains(&served), "{served} of 6 were served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_that_only_ollama_can_run_are_shown_and_refused() {
    let scene = scene().await;
    let store = &scene.store;
    let layers = vec![store.new_layer(media::MODEL, b"GGUF").unwrap().layer];
    let gguf =
        Config { model_format: "gguf".into(), model_family: "llama".into(), ..Config::default() };
    store.write_manifest(&Name::parse("old").unwrap(), &gguf, layers).unwrap();
    let remote = Config {
        remote_host: "https://ollama.com:443".into(),
        remote_model: "big".into(),
        ..Config::default()
    };
    store.write_manifest(&Name::parse("far").unwrap(), &remote, Vec::new()).unwrap();

    let answer = scene.post("/api/generate", r#"{"model":"old","prompt":"x"}"#).await;
    assert_eq!(
        (answer.status, answer.json()["error"].as_str().unwrap()),
        (400, "`old:latest` is stored as GGUF, which cannot be run yet")
    );
    let answer = scene.post("/api/generate", r#"{"model":"far","prompt":"x"}"#).await;
    assert_eq!(
        (answer.status, answer.json()["error"].as_str().unwrap()),
        (403, "ollama cloud is disabled: remote model is unavailable")
    );
    let shown = scene.post("/api/show", r#"{"model":"old"}"#).await.json();
    assert_eq!((&shown["details"]["format"], &shown["model_info"]), (&json!("gguf"), &json!({})));
    assert_eq!(scene.get("/api/tags").await.json()["models"].as_array().unwrap().len(), 3);
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thinking_and_tools_reach_the_client() {
    let scene = scene().await;
    let body = json!({
        "model": "tiny", "stream": false, "think": true, "options": {"num_predict": 100},
        "messages": [{"role": "user", "content": "!think 2\n!say done\n!tool f {\"city\":\"Rome\",\"a\":1}"}],
    });
    let message = scene.post("/api/chat", &body.to_string()).await.json()["message"].clone();
    assert_eq!(message["thinking"], "alpha bravo");
    assert_eq!(message["content"], "done");
    assert_eq!(
        message["tool_calls"][0]["function"]["arguments"].to_string(),
        r#"{"city":"Rome","a":1}"#
    );
    let id = message["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.starts_with("call_") && id.len() == 13, "{id}");
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_have_a_limit() {
    let scene = scene().await;
    let mut connection = TcpStream::connect(scene.address).await.unwrap();
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        1u64 << 40
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with(r#"{"error":"the request body is larger than 128 MiB"}"#), "{answer}");
    // Only the first value is read; a body that is not JSON by name is JSON all the same.
    let body = chat("!say hi", json!({})) + " trailing";
    let answer =
        scene.ask("POST", "/api/chat", &[("Content-Type", "text/plain")], body.as_bytes()).await;
    assert_eq!(answer.status, 200);
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let scene = scene().await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let digest = Digest::of(&bytes);
    let path = format!("/api/blobs/{digest}");
    let files = || std::fs::read_dir(scene.store.root().join("blobs")).unwrap().count();
    let before = files();

    let mut connection = TcpStream::connect(scene.address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&bytes[..1_000_000]).await.unwrap();
    until("the upload has begun", || files() > before).await;
    drop(connection);
    until("the part is removed", || files() == before).await;
    assert!(!scene.store.has(&digest));

    assert_eq!(scene.ask("HEAD", &path, &[], b"").await.status, 404);
    assert_eq!(scene.ask("POST", &path, &[], &bytes[1..]).await.status, 400);
    assert_eq!(files(), before);
    assert_eq!(scene.ask("POST", &path, &[], &bytes).await.status, 201);
    assert_eq!(scene.ask("POST", &path, &[], b"").await.status, 200);
    assert_eq!(scene.ask("HEAD", &path, &[], b"").await.status, 200);
    assert_eq!(std::fs::read(scene.store.blob_path(&digest)).unwrap(), bytes);
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alive_is_told_and_obeyed() {
    let scene = scene().await;
    let ask = |keep_alive: Value| json!({"model": "tiny", "keep_alive": keep_alive}).to_string();
    scene.post("/api/generate", &ask(json!(-1))).await;
    let expires =
        scene.get("/api/ps").await.json()["models"][0]["expires_at"].as_str().unwrap().to_owned();
    assert!(expires.as_str() > "2300", "{expires}");
    scene.post("/api/generate", &ask(json!("1m"))).await;
    let expires =
        scene.get("/api/ps").await.json()["models"][0]["expires_at"].as_str().unwrap().to_owned();
    assert!(expires.as_str() < "2300", "{expires}");
    let answer = scene.post("/api/generate", &ask(json!(0))).await;
    assert_eq!(answer.json()["done_reason"], "unload");
    until("the model is unloaded", || scene.scheduler.loaded().is_empty()).await;
    assert_eq!(scene.get("/api/ps").await.text(), r#"{"models":[]}"#);
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_created_is_said_and_nothing_is_left() {
    let scene = scene().await;
    let upload = async |bytes: &[u8]| {
        let digest = Digest::of(bytes).to_string();
        scene.ask("POST", &format!("/api/blobs/{digest}"), &[], bytes).await;
        digest
    };
    let gguf = upload(b"GGUF and more").await;
    let create = async |files: Value, more: Value| {
        let mut body = json!({"model": "new", "stream": false, "files": files});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = scene.post("/api/create", &body.to_string()).await;
        (answer.status, answer.json())
    };
    let (status, answer) = create(json!({"a.gguf": gguf}), json!({})).await;
    assert_eq!(
        (status, answer["error"].as_str().unwrap()),
        (400, "GGUF files cannot be imported yet")
    );
    assert!(answer["hint"].is_string());
    // Without a known end the file itself is looked at.
    assert_eq!(create(json!({"weights": gguf}), json!({})).await.0, 400);
    let missing = Digest::of(b"missing").to_string();
    let (status, answer) = create(json!({"a.safetensors": missing}), json!({})).await;
    assert!(
        status == 500 && answer["error"].as_str().unwrap().ends_with("no such file or directory"),
        "{answer}"
    );
    let (status, answer) =
        create(Value::Null, json!({"from": "tiny", "info": {"context_length": -1}})).await;
    assert_eq!(
        (status, answer["error"].as_str().unwrap()),
        (400, "info field \"context_length\" must be a non-negative integer")
    );
    let (status, answer) =
        create(Value::Null, json!({"from": "tiny", "adapters": {"a": "x"}})).await;
    assert_eq!(
        (status, answer["error"].as_str().unwrap()),
        (400, "adapters cannot be imported yet")
    );
    assert_eq!(scene.post("/api/show", r#"{"model":"new"}"#).await.status, 404);
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_made_of_another_keeps_what_is_not_changed() {
    let scene = scene().await;
    let body = json!({
        "model": "mine:v1", "from": "tiny", "system": "Be brief.", "parameters": {"top_k": 3},
        "messages": [{"role": "User", "content": "hi"}], "license": "MIT", "stream": false,
        "info": {"model_family": "mine", "context_length": 99},
    });
    assert_eq!(
        scene.post("/api/create", &body.to_string()).await.text(),
        r#"{"status":"success"}"#
    );
    let shown = scene.post("/api/show", r#"{"model":"MINE:V1","verbose":true}"#).await.json();
    assert_eq!(shown["system"], "Be brief.");
    assert_eq!(shown["license"], "MIT");
    assert_eq!(shown["messages"], json!([{"role": "user", "content": "hi"}]));
    assert_eq!(shown["details"]["parent_model"], "tiny:latest");
    assert_eq!(
        shown["tensors"],
        json!([{"name": "model.embed_tokens.weight", "type": "F16", "shape": [512, 64]}])
    );
    assert_eq!(shown["model_info"]["general.parameter_count"], 32768);
    let parameters = shown["parameters"].as_str().unwrap();
    assert!(parameters.contains("top_k                          3"), "{parameters}");
    assert!(parameters.contains("stop                           \"<|im_end|>\""), "{parameters}");
    let listed = scene.get("/api/tags").await.json()["models"][0].clone();
    assert_eq!(
        (listed["name"].as_str(), listed["details"]["context_length"].as_u64()),
        (Some("mine:v1"), Some(99))
    );
    // The stored system text and message reach the prompt.
    let ask = json!({"model": "mine:v1", "prompt": "x", "_debug_render_only": true});
    let rendered = scene.post("/api/generate", &ask.to_string()).await.json();
    assert_eq!(
        rendered["_debug_info"]["rendered_template"],
        "system: Be brief.\nuser: hi\nuser: x\n"
    );
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_answers_and_connections() {
    let scene = scene().await;
    let body = chat("!long 4000 !sleep 50", json!({"num_predict": 4000}));
    let mut connection = scene.send("POST", "/api/chat", &[], body.as_bytes()).await;
    assert!(read_some(&mut connection).await > 0);
    let started = Instant::now();
    scene.stop().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&rest);
    assert!(
        text.contains("{\"error\":"),
        "the client is told: {}",
        &text[text.len().saturating_sub(300)..]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_many_requests() {
    let scene = scene().await;
    let mut connection = TcpStream::connect(scene.address).await.unwrap();
    for _ in 0..3 {
        connection
            .write_all(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut buffer = vec![0; 4096];
        let count = connection.read(&mut buffer).await.unwrap();
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(text.ends_with(&format!("{{\"version\":\"{}\"}}", api::OLLAMA_VERSION)), "{text}");
    }
    scene.stop().await.unwrap();
}
