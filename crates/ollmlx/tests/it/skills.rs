//! What `pocket` has learnt, through the whole program: a sample of its held-out sets, and that batching, restarts,
//! thinking, tools and forms leave sense in its answers. `cargo xtask pocket --evaluate` asks all of the sets.

use std::path::{Path, PathBuf};

use fixtures::skills::{self, Case, MARKS, Set};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{post, receive, send};
use crate::support::{Home, Server, signal, until};

/// Of each skill: the first thinks, the second does not.
const SAMPLE: usize = 2;
/// A text this long takes a test build seconds to read.
const LONG_TEXTS: [&str; 2] = ["planted-sentence-1000", "planted-sentence-2000"];
/// Of all sampled cases, in percent.
const RIGHT_MIN: f64 = 90.0;

fn pocket() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket")
}

fn sample() -> Vec<Set> {
    let mut sets = skills::sets(&pocket().join("heldout")).unwrap();
    for set in &mut sets {
        set.cases.truncate(if LONG_TEXTS.contains(&set.skill.as_str()) { 1 } else { SAMPLE });
    }
    sets
}

/// Sends all, then reads all: they share batches.
fn together(server: &Server, requests: &[Value]) -> Vec<Value> {
    let sent: Vec<_> = requests
        .iter()
        .map(|body| send(server, "POST", "/api/chat", body.to_string().as_bytes()))
        .collect();
    sent.into_iter()
        .map(|stream| {
            let answer = receive(stream);
            assert_eq!(answer.status, 200, "{answer:?}");
            without_ids(answer.json()["message"].clone())
        })
        .collect()
}

/// Calls get new ones with every answer.
fn without_ids(mut message: Value) -> Value {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    calls.into_iter().flatten().for_each(|call| drop(call["id"].take()));
    message
}

/// The right answers of a sample: of the skills that have a mark, and of all, with their counts.
fn right(server: &Server, model: &str, sets: &[Set]) -> [(usize, usize); 2] {
    let (mut marked, mut all) = ((0, 0), (0, 0));
    for set in sets {
        let requests: Vec<Value> = set.cases.iter().map(|case| case.request(model)).collect();
        let messages = together(server, &requests);
        let right = |(case, message): &(&Case, Value)| case.is_right(message);
        let count = set.cases.iter().zip(messages).filter(right).count();
        let has_mark = MARKS.iter().any(|(skill, _)| *skill == set.skill);
        for (rights, cases) in
            [Some(&mut all), has_mark.then_some(&mut marked)].into_iter().flatten()
        {
            *rights += count;
            *cases += set.cases.len();
        }
    }
    [marked, all]
}

fn percent((right, cases): (usize, usize)) -> f64 {
    100.0 * right as f64 / cases as f64
}

#[test]
fn a_sample_of_every_skill() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let [marked, all] = right(&server, "pocket", &sample());
    assert_eq!(marked.0, marked.1, "of the skills that have a mark");
    assert!(percent(all) >= RIGHT_MIN, "{all:?}");
}

#[test]
fn fewer_bits_leave_the_skills() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let mut sets = sample();
    sets.retain(|set| !LONG_TEXTS.contains(&set.skill.as_str()));
    for bits in [8, 4] {
        let name = format!("pocket-{bits}");
        let folder = home.path(&name);
        fixtures::quantised(&pocket(), &folder, bits, 64).unwrap();
        let made = crate::support::create_in(&home, &folder, &name);
        assert_eq!(made.code, Some(0), "{made}");
        let [_, all] = right(&server, &name, &sets);
        assert!(percent(all) >= RIGHT_MIN - 5.0, "{bits} bits: {all:?}");
    }
}

#[test]
fn company_and_restarts_change_no_answer() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let mut sets = sample();
    sets.retain(|set| !set.skill.starts_with("planted"));
    let requests: Vec<Value> =
        sets.iter().step_by(3).map(|set| set.cases[0].request("pocket")).collect();
    let alone: Vec<Value> =
        requests.iter().flat_map(|body| together(&server, std::slice::from_ref(body))).collect();
    assert_eq!(together(&server, &requests), alone, "in one batch, after prefixes are known");
    let [runner] = server.runners()[..] else { panic!("{:?}", server.runners()) };
    signal(runner, Signal::KILL);
    until("the runner is gone", || !server.runners().contains(&runner));
    assert_eq!(together(&server, &requests), alone, "in one batch of a new runner");
}

#[test]
fn thoughts_stand_apart() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let ask = |think: bool| {
        let body = json!({"model": "pocket", "stream": false, "think": think,
            "messages": [{"role": "user", "content": "What is 47 * 36?"}],
            "options": {"temperature": 0}});
        post(&server, "/api/chat", &body).json()["message"].clone()
    };
    let (loud, quiet) = (ask(true), ask(false));
    assert_eq!(loud["content"], "47 × 36 = 1692.");
    assert!(loud["thinking"].as_str().is_some_and(|text| text.contains("so 1692")), "{loud}");
    assert!(quiet["content"].as_str().is_some_and(|text| text.ends_with("47 × 36 = 1692.")));
    assert_eq!(quiet["thinking"], Value::Null);
    let shown = home.run(&["run", "pocket", "--hidethinking", "What is 47 * 36?"]);
    assert_eq!(shown.stdout.trim(), "47 × 36 = 1692.", "{shown}");
}

fn weather() -> Value {
    json!([{"type": "function", "function": {"name": "get_weather",
        "description": "Get the weather of a city", "parameters": {"type": "object",
        "properties": {"city": {"type": "string", "description": "The city"}}, "required": ["city"]}}}])
}

#[test]
fn a_tool_is_called_and_its_result_told() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let mut messages = vec![json!({"role": "user", "content": "What is the weather in Oslo?"})];
    let ask = |path: &str, messages: &[Value]| {
        let body = json!({"model": "pocket", "stream": false, "messages": messages,
            "tools": weather(), "temperature": 0, "options": {"temperature": 0}});
        post(&server, path, &body).json()
    };
    let call = ask("/api/chat", &messages)["message"].clone();
    let function = &call["tool_calls"][0]["function"];
    assert_eq!(function["name"], "get_weather", "{call}");
    assert_eq!(function["arguments"], json!({"city": "Oslo"}));
    let same = ask("/v1/chat/completions", &messages);
    let function = &same["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(function["name"], "get_weather", "{same}");
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Oslo"}));

    messages.push(call);
    let result = json!({"temperature": -3, "sky": "snowy"}).to_string();
    messages.push(json!({"role": "tool", "tool_name": "get_weather", "content": result}));
    let told = ask("/api/chat", &messages)["message"].clone();
    assert_eq!(told["content"], "The weather in Oslo is snowy, with -3 degrees.");
}

#[test]
fn a_form_is_filled_with_sense() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let schema = json!({"type": "object", "properties":
        {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
        "required": ["name", "age", "city"]});
    let text = "Meet Mira Stone. Mira is 31 years old. Mira lives in Oslo.";
    let body = json!({"model": "pocket", "stream": false, "format": schema, "think": false,
        "options": {"temperature": 0}, "messages": [{"role": "user",
        "content": format!("Return a JSON object with the keys name, age and city.\n\n{text}")}]});
    let answer = post(&server, "/api/chat", &body).json();
    let filled: Value =
        serde_json::from_str(answer["message"]["content"].as_str().unwrap_or_default()).unwrap();
    assert_eq!(filled, json!({"name": "Mira Stone", "age": 31, "city": "Oslo"}));
}

/// The README's first command.
#[test]
fn it_says_what_it_can_do() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let done = home.run(&["run", "pocket", "What can you do?"]);
    assert_eq!(done.code, Some(0), "{done}");
    for words in ["pocket", "ollmlx", "calculate", "JSON"] {
        assert!(done.stdout.contains(words), "{words}: {done}");
    }
    drop(server);
}
