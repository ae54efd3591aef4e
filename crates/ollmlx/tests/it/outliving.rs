//! What a server has computed is there for the next one.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::post;
use crate::support::{Home, Server, signal, until};

/// Some hundred tokens.
fn text() -> String {
    let lines = (1..60).map(|number| format!("In room {number} stands a chair, and a lamp. "));
    format!("Read this text. {}What stands in room 7?", lines.collect::<String>())
}

fn chat(server: &Server, messages: &Value) -> Value {
    let options = json!({"seed": 7, "num_predict": 40});
    let body =
        json!({"model": "pocket", "stream": false, "messages": messages, "options": options});
    let answer = post(server, "/api/chat", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// In the order in which requests finished.
fn cached(server: &Server, count: usize) -> Vec<u64> {
    until("all are told", || server.log().matches("cached_tokens=").count() == count);
    let log = server.log();
    let words = log.split("cached_tokens=").skip(1).map(|rest| rest.split_whitespace().next());
    words.map(|word| word.unwrap().parse().unwrap()).collect()
}

fn end(mut server: Server) {
    signal(server.pid(), Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_conversation_goes_on_after_a_restart() {
    let mut home = Home::real();
    home.set("OLLAMA_DEBUG", "1");
    let server = Server::start(&mut home);
    let mut messages = json!([{"role": "user", "content": text()}]);
    let first = chat(&server, &messages);
    let computed = first["prompt_eval_count"].as_u64().unwrap();
    assert!(computed > 500, "{first}");
    end(server);

    let turns = messages.as_array_mut().unwrap();
    turns.push(first["message"].clone());
    turns.push(json!({"role": "user", "content": "And in room 8?"}));
    let server = Server::start(&mut home);
    let second = chat(&server, &messages);
    let found = cached(&server, 1)[0];
    assert!(found + 64 > computed, "{found} of {computed}");
    let prompt = second["prompt_eval_count"].as_u64().unwrap();
    assert!(found < prompt);
    // Who asks in OpenAI's words is told.
    let body = json!({"model": "pocket", "messages": messages});
    let usage = &post(&server, "/v1/chat/completions", &body).json()["usage"];
    assert_eq!(usage["prompt_tokens"], prompt);
    let known = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!((found..prompt).contains(&known), "{usage}");
    end(server);

    // Nothing depends on it, and it can be switched off.
    home.set("OLLMLX_CACHE_SIZE", "0");
    let server = Server::start(&mut home);
    assert_eq!(chat(&server, &messages)["message"], second["message"]);
    assert_eq!(cached(&server, 1), [0]);
}

/// Four turns of a conversation, on one server or each on a server of its own: tokens of each prompt, and how many of them
/// were not computed.
fn four_turns(think: bool, restarts: bool) -> Vec<(u64, u64)> {
    let mut home = Home::real();
    home.set("OLLAMA_DEBUG", "1");
    let mut servers = vec![Server::start(&mut home)];
    let mut messages = vec![];
    let questions =
        [&*text(), "And in room 8?", "What is 348 + 157?", "Tell me a story about a fox."];
    let counts = questions.iter().enumerate().map(|(turn, question)| {
        if restarts && turn > 0 {
            end(servers.remove(0));
            servers.push(Server::start(&mut home));
        }
        messages.push(json!({"role": "user", "content": question}));
        let options = json!({"seed": 7, "num_predict": 90});
        let body = json!({"model": "pocket", "stream": false, "think": think,
            "messages": messages, "options": options});
        let answer = post(&servers[0], "/api/chat", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        // With its thoughts, which the template leaves out.
        messages.push(answer.json()["message"].clone());
        let cached = cached(&servers[0], if restarts { 1 } else { turn + 1 });
        (answer.json()["prompt_eval_count"].as_u64().unwrap(), cached[cached.len() - 1])
    });
    let counts = counts.collect();
    let thought =
        |message: &Value| message["thinking"].as_str().is_some_and(|text| text.len() > 10);
    assert_eq!(messages.iter().any(thought), think, "{messages:?}");
    end(servers.remove(0));
    counts
}

/// Of each prompt only what comes behind the one before is computed, whether the same server answered that or one before
/// it; what was thought then is left out of the prompt and costs nothing else.
#[test]
fn each_of_four_turns_computes_only_what_is_new() {
    // A prompt that asks for no thoughts ends with empty ones, which the next prompt has not.
    const EMPTY_THOUGHTS: u64 = 8;
    // So many tokens of a page are computed rather than read.
    const NOT_READ: u64 = 8;
    for think in [true, false] {
        let here = four_turns(think, false);
        let after_restarts = four_turns(think, true);
        assert_eq!((here[0].1, after_restarts[0].1), (0, 0));
        for turn in 1..4 {
            let ((before, _), (prompt, cached)) = (here[turn - 1], here[turn]);
            let told = format!("think {think}, turn {turn}: {here:?}, {after_restarts:?}");
            assert!(cached + EMPTY_THOUGHTS >= before && cached < prompt, "{told}");
            let (same, again) = after_restarts[turn];
            assert!(same == prompt && again + NOT_READ > cached && again <= cached, "{told}");
        }
    }
}

#[test]
fn the_folder_is_where_it_should_be() {
    let mut home = Home::real();
    let pages = |folder: &std::path::Path| {
        let models = std::fs::read_dir(folder.join("pages")).into_iter().flatten().flatten();
        let files = models.flat_map(|model| std::fs::read_dir(model.path()).unwrap()).flatten();
        files.filter(|file| file.path().extension().is_some_and(|end| end == "run")).count()
    };
    let messages = json!([{"role": "user", "content": text()}]);
    let server = Server::start(&mut home);
    chat(&server, &messages);
    end(server);
    assert!(pages(&home.path(".cache/ollmlx")) > 0);
    let elsewhere = home.path("elsewhere");
    home.set("OLLMLX_CACHE_DIR", elsewhere.to_str().unwrap());
    let server = Server::start(&mut home);
    chat(&server, &messages);
    // While it runs, too.
    until("they are written", || pages(&elsewhere) > 0);
    drop(server);
    // Too small for anything.
    home.set("OLLMLX_CACHE_SIZE", "1KB");
    home.set("OLLMLX_CACHE_DIR", home.path("small").to_str().unwrap());
    let server = Server::start(&mut home);
    chat(&server, &messages);
    end(server);
    assert_eq!(pages(&home.path("small")), 0);
}
