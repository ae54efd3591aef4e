//! Thinking and tool calls from the model's tokens to every door. The model is made to say what is to be split: the form
//! of its reply is given, and what a form demands is not drawn by chance.

use serde_json::{Value, json};

use crate::http::post;
use crate::support::{Home, Server};

const REPLY: &str = "<think>\nLet me see.\n</think>\n\nIt is blue.";

/// A form that only this text has.
fn only(text: &str) -> Value {
    let escaped = |c: char| match c {
        '.' | '{' | '}' | '[' | ']' | '(' | ')' | '?' => format!("\\{c}"),
        _ => c.to_string(),
    };
    json!({"regex": text.chars().map(escaped).collect::<String>()})
}

fn texts(parts: &[Value], pointer: &str) -> String {
    parts.iter().filter_map(|part| part.pointer(pointer)?.as_str()).collect()
}

fn ask(server: &Server, path: &str, mut body: Value, stream: bool) -> Vec<Value> {
    body["model"] = "pocket".into();
    body["stream"] = stream.into();
    let answer = post(server, path, &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    if stream { answer.lines() } else { vec![answer.json()] }
}

#[test]
fn thoughts_are_told_apart_at_every_door() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let messages = json!([{"role": "user", "content": "Which colour?"}]);
    let chat = json!({"messages": messages, "think": false, "format": only(REPLY)});
    let generate = json!({"prompt": "Which colour?", "think": false, "format": only(REPLY)});
    let openai = json!({"messages": messages, "reasoning_effort": "none",
        "response_format": {"type": "json_schema", "json_schema": {"schema": only(REPLY)}}});
    let doors = [
        ("/api/chat", chat, ["/message/thinking", "/message/content"]),
        ("/api/generate", generate, ["/thinking", "/response"]),
    ];
    for (path, body, [thinking, content]) in doors {
        for stream in [false, true] {
            let parts = ask(&server, path, body.clone(), stream);
            assert_eq!(texts(&parts, thinking), "Let me see.", "{path} {stream}");
            assert_eq!(texts(&parts, content), "It is blue.", "{path} {stream}");
            assert_eq!(parts.len() > 2, stream, "{parts:?}");
        }
    }
    let whole = ask(&server, "/v1/chat/completions", openai.clone(), false);
    assert_eq!(texts(&whole, "/choices/0/message/reasoning"), "Let me see.");
    assert_eq!(texts(&whole, "/choices/0/message/content"), "It is blue.");
    let parts = ask(&server, "/v1/chat/completions", openai, true);
    assert_eq!(texts(&parts, "/choices/0/delta/reasoning"), "Let me see.");
    assert_eq!(texts(&parts, "/choices/0/delta/content"), "It is blue.");

    // What is sent as it is comes back as it is.
    let raw = json!({"prompt": "Which colour?", "raw": true, "format": only(REPLY)});
    assert_eq!(texts(&ask(&server, "/api/generate", raw, false), "/response"), REPLY);
}

#[test]
fn calls_are_told_apart_at_every_door() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let schema = json!({"type": "object", "required": ["city"],
        "properties": {"city": {"type": "string", "enum": ["Oslo"]}}});
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": schema}});
    let call =
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    let asked = |form: Value| {
        let mut body =
            json!({"messages": [{"role": "user", "content": "Weather?"}], "tools": [tool]});
        body.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
        body
    };
    for (form, count) in [(call.to_owned(), 1), (format!("Well.\n{call}\n{call}"), 2)] {
        let body = asked(json!({"think": false, "format": only(&form)}));
        for stream in [false, true] {
            let parts = ask(&server, "/api/chat", body.clone(), stream);
            let calls: Vec<&Value> = parts
                .iter()
                .filter_map(|part| part.pointer("/message/tool_calls")?.as_array())
                .flatten()
                .collect();
            assert_eq!(calls.len(), count, "{parts:?}");
            for (index, call) in calls.iter().enumerate() {
                assert_eq!(call["function"]["index"], index);
                assert_eq!(call["function"]["name"], "weather");
                assert_eq!(call["function"]["arguments"], json!({"city": "Oslo"}));
                assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{call}");
            }
            let content = if count == 1 { "" } else { "Well." };
            assert_eq!(texts(&parts, "/message/content"), content);
            assert_eq!(parts.last().unwrap()["done_reason"], "stop");
        }
    }
    let body = asked(json!({"reasoning_effort": "none", "tool_choice": "required"}));
    let whole = ask(&server, "/v1/chat/completions", body.clone(), false).remove(0);
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\":\"Oslo\"}");
    let parts = ask(&server, "/v1/chat/completions", body, true);
    let told = |part: &Value| part.pointer("/choices/0/delta/tool_calls/0/function/name").cloned();
    assert!(parts.iter().filter_map(told).any(|name| name == "weather"), "{parts:?}");

    // Without tools nothing is a call.
    let body = json!({"messages": [{"role": "user", "content": "Weather?"}], "think": false, "format": only(call)});
    assert_eq!(texts(&ask(&server, "/api/chat", body, false), "/message/content"), call);
}

#[test]
fn thoughts_on_the_terminal() {
    let mut home = Home::real();
    let server = Server::start(&mut home);
    let form = only(REPLY).to_string();
    let run = |more: &[&str]| {
        let words = ["run", "pocket", "--think=false", "--format", &form, "Which colour?"];
        let done = home.run(&[&words[..], more].concat());
        assert_eq!(done.code, Some(0), "{done}");
        done.stdout.trim_end().to_owned()
    };
    assert_eq!(run(&[]), "Thinking...\nLet me see.\n...done thinking.\n\nIt is blue.");
    assert_eq!(run(&["--hidethinking"]), "It is blue.");
    let show = post(&server, "/api/show", &json!({"model": "pocket"})).json();
    for capability in ["tools", "thinking"] {
        assert!(show["capabilities"].as_array().unwrap().contains(&capability.into()), "{show}");
    }
}
