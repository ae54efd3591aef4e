//! The engine itself behind every door, with the model that comes with the program.

use std::io::Read;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{post, receive, send};
use crate::support::{Home, Server, signal, until};

const PROMPT: &str = "What can you do?";

fn options() -> Value {
    json!({"seed": 7, "num_predict": 40})
}

fn texts(parts: &[Value], pointer: &str) -> String {
    parts.iter().filter_map(|part| part.pointer(pointer)?.as_str()).collect()
}

#[test]
fn every_door_leads_to_the_same_text() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let messages = json!([{"role": "user", "content": PROMPT}]);
    let ask = |path: &str, body: &Value, stream: bool| {
        let mut body = body.clone();
        body["model"] = "pocket".into();
        body["stream"] = stream.into();
        let answer = post(&server, path, &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    };

    let generate = json!({"prompt": PROMPT, "options": options()});
    let whole = ask("/api/generate", &generate, false).json();
    let text = whole["response"].as_str().unwrap().to_owned();
    assert!(text.split_whitespace().count() > 10, "{text}");
    assert!(whole["prompt_eval_count"].as_u64().unwrap() > 5, "{whole}");
    let count = whole["eval_count"].as_u64().unwrap();
    assert!((10..=40).contains(&count), "{whole}");

    let parts = ask("/api/generate", &generate, true).lines();
    assert_eq!(texts(&parts, "/response"), text);
    let last = parts.last().unwrap();
    for key in ["eval_count", "prompt_eval_count", "done_reason"] {
        assert_eq!(last[key], whole[key], "{key}");
    }

    let chat = json!({"messages": messages, "options": options()});
    assert_eq!(ask("/api/chat", &chat, false).json()["message"]["content"], text);
    assert_eq!(texts(&ask("/api/chat", &chat, true).lines(), "/message/content"), text);

    // What the other doors take for granted is told here, where Ollama has other defaults.
    let openai = json!({"messages": messages, "seed": 7, "max_tokens": 40,
        "temperature": 0.8, "top_p": 0.9,
        "stream_options": {"include_usage": true}});
    let one = ask("/v1/chat/completions", &openai, false).json();
    assert_eq!(one["choices"][0]["message"]["content"], text);
    assert_eq!(one["usage"]["completion_tokens"], count);
    assert_eq!(one["usage"]["prompt_tokens"], whole["prompt_eval_count"]);
    let parts = ask("/v1/chat/completions", &openai, true).lines();
    assert_eq!(texts(&parts, "/choices/0/delta/content"), text);
    assert_eq!(parts.last().unwrap()["usage"], one["usage"]);

    // What it knows well it says whatever the seed; what it makes up it does not.
    let story = |seed: u64| {
        let options = json!({"seed": seed, "num_predict": 40});
        let body = json!({"prompt": "Tell me a story about a fox.", "options": options});
        ask("/api/generate", &body, false).json()["response"].clone()
    };
    assert_ne!(story(8), story(9));
    // Nought is no limit.
    let all = |limit: i64| {
        let body = json!({"prompt": PROMPT, "options": {"seed": 7, "num_predict": limit}});
        ask("/api/generate", &body, false).json()
    };
    assert_eq!(
        (&all(0)["response"], &all(0)["done_reason"]),
        (&all(-1)["response"], &"stop".into())
    );
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let mut home = Home::real();
    home.set("OLLAMA_DEBUG", "1");
    let server = Server::start(&mut home);
    let mut messages = vec![json!({"role": "user", "content": PROMPT})];
    let mut turn = |content: &str| {
        messages.push(json!({"role": "user", "content": content}));
        let body =
            json!({"model": "pocket", "stream": false, "messages": messages, "options": options()});
        let answer = post(&server, "/api/chat", &body).json();
        messages.push(answer["message"].clone());
        answer["prompt_eval_count"].as_u64().unwrap()
    };
    let counts = [turn("And you?"), turn("Why?")];
    until("both are told", || server.log().matches("cached_tokens=").count() == 2);
    let log = server.log();
    let cached: Vec<u64> = log
        .split("cached_tokens=")
        .skip(1)
        .map(|rest| rest.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(cached[0], 0, "{log}");
    assert!(cached[1] >= counts[0] && cached[1] < counts[1], "{cached:?} of {counts:?}");
}

/// An end with `length`, unless the request may go on without what came first.
#[test]
fn a_full_context_is_an_end_or_shifts() {
    let mut home = Home::real();
    home.set("OLLAMA_CONTEXT_LENGTH", "64");
    let server = Server::start(&mut home);
    // It never stops by itself.
    let (ends, messages) = (json!({"4087": -100}), json!([{"role": "user", "content": PROMPT}]));
    let native = |path: &str, fields: Value| {
        let mut body = json!({"model": "pocket", "prompt": PROMPT, "messages": messages, "stream": false,
            "options": {"seed": 1, "num_predict": 150, "temperature": 2, "logit_bias": ends}});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let told = post(&server, path, &body).json();
        let count = |key: &str| told[key].as_u64().unwrap();
        assert_eq!(told["done_reason"], "length", "{told}");
        (count("prompt_eval_count"), count("eval_count"))
    };
    for path in ["/api/generate", "/api/chat"] {
        for fields in [json!({}), json!({"shift": false})] {
            let (prompt, reply) = native(path, fields);
            assert_eq!(prompt + reply, 64, "{path}");
        }
        assert_eq!(native(path, json!({"shift": true})).1, 150, "{path}");
    }
    let body = json!({"model": "pocket", "messages": messages, "max_tokens": 150, "seed": 1,
        "temperature": 2, "logit_bias": ends});
    let told = post(&server, "/v1/chat/completions", &body).json();
    assert_eq!(told["choices"][0]["finish_reason"], "length", "{told}");
    assert_eq!(told["usage"]["total_tokens"], 64, "{told}");
}

#[test]
fn on_the_command_line() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let done = home.run(&["run", "pocket", PROMPT]);
    assert_eq!((done.code, done.plain_stderr().as_str()), (Some(0), ""), "{done}");
    assert!(done.stdout.split_whitespace().count() > 3, "{done}");
    let loaded = home.run(&["ps"]).stdout;
    assert!(loaded.contains("pocket:latest") && loaded.contains("100% "), "{loaded}");
    let show = home.run(&["show", "pocket"]).stdout;
    for words in ["architecture        qwen3", "quantization        BF16", "completion"] {
        assert!(show.contains(words), "{words}: {show}");
    }
    assert_eq!(home.run(&["cp", "pocket", "mine"]).code, Some(0));
    assert_eq!(home.run(&["run", "mine", PROMPT]).code, Some(0));
    assert_eq!(home.run(&["stop", "mine"]).code, Some(0));
    assert_eq!(home.run(&["rm", "mine"]).stdout, "deleted 'mine'\n");
    assert_eq!(home.run(&["stop", "pocket"]).code, Some(0));
    until("its runner has ended", || server.runners().is_empty());
}

#[test]
fn a_model_of_another_with_words_of_its_own() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let file = home.write(
        "Modelfile",
        "FROM pocket\nPARAMETER num_predict 5\nPARAMETER seed 3\nSYSTEM You are terse.\n",
    );
    let done = home.run(&["create", "terse", "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{done}");
    let ask = |model: &str, options: Value| {
        let body = json!({"model": model, "prompt": PROMPT, "stream": false, "options": options});
        post(&server, "/api/generate", &body).json()
    };
    let (own, base) =
        (ask("terse", json!({})), ask("pocket", json!({"seed": 3, "num_predict": 5})));
    assert_eq!((&own["eval_count"], &own["done_reason"]), (&5.into(), &"length".into()));
    assert_eq!(ask("terse", json!({}))["response"], own["response"], "its seed");
    let prompt = |answer: &Value| answer["prompt_eval_count"].as_u64().unwrap();
    assert!(prompt(&own) > prompt(&base), "its system text is read: {own} {base}");
    assert_eq!(home.run(&["show", "--system", "terse"]).stdout, "You are terse.");
    assert_eq!(home.run(&["rm", "terse"]).code, Some(0));
    assert_eq!(ask("pocket", json!({"num_predict": 2}))["eval_count"], 2, "its parent stays whole");
}

#[test]
fn a_killed_runner_is_told_and_replaced() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    // A reply that cannot end before.
    let form = json!({"type": "array", "items": {"type": "integer"}, "minItems": 500});
    let body = json!({"model": "pocket", "prompt": "x", "raw": true, "format": form,
        "options": {"num_predict": 4000, "num_ctx": 4096}});
    let mut stream = send(&server, "POST", "/api/generate", body.to_string().as_bytes());
    stream.read_exact(&mut [0; 300]).unwrap();
    signal(server.runners()[0], Signal::KILL);
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest);
    assert!(
        rest.contains(r#"{"error":"the runner of `pocket:latest` was killed by signal 9"#),
        "{}",
        &rest[rest.len().saturating_sub(500)..]
    );
    let done = home.run(&["run", "pocket", PROMPT]);
    assert_eq!((done.code, done.plain_stderr().as_str()), (Some(0), ""), "{done}");
}

#[test]
fn two_models_and_room_for_one() {
    let mut home = Home::real();
    home.set("OLLAMA_MAX_LOADED_MODELS", "1");
    let server = Server::start(&mut home);
    assert_eq!(home.run(&["cp", "pocket", "base"]).code, Some(0));
    let file = home.write("Modelfile", "FROM pocket\nSYSTEM Be kind.\n");
    assert_eq!(home.run(&["create", "kind", "-f", file.to_str().unwrap()]).code, Some(0));
    let sent: Vec<_> = (0..6)
        .map(|number| {
            let model = ["base", "kind"][number % 2];
            let body = json!({"model": model, "prompt": PROMPT, "stream": false,
                "options": {"num_predict": 10}});
            (model, send(&server, "POST", "/api/generate", body.to_string().as_bytes()))
        })
        .collect();
    for (model, stream) in sent {
        let answer = receive(stream);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["model"], model);
    }
    assert_eq!(server.runners().len(), 1);
    assert_eq!(home.run(&["ps"]).stdout.lines().count(), 2);
    let loaded = receive(send(&server, "GET", "/api/ps", b"")).json();
    let bytes = loaded["models"][0]["size"].as_u64().unwrap();
    assert!(bytes > 20_000_000, "its weights are counted, wherever they lie: {loaded}");
}
