//! Real Ollama's recorded answers become events again, and our dialects must write them as Ollama did, to the byte
//! (but for times, made-up ids, and the `context` that we do not tell).

use std::path::Path;

use protocol::{Delta, Event, FinishReason, TokenChoice, TokenLogprob, ToolCall, Usage};
use serde_json::Value;
use store::Capability;

use super::golden::{self, Route, prepare};
use crate::generation::Facts;

/// Recorded answers with generated text: so many there are.
const PLAYED: usize = 56;

#[test]
fn recorded_answers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/goldens/ollama");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut played = 0;
    for file in files {
        let transcript: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        if let Some((route, lines)) = generated(&transcript) {
            let body = transcript["request"]["body"].as_str().unwrap();
            check(transcript["name"].as_str().unwrap(), route, body, &lines);
            played += 1;
        }
    }
    assert_eq!(played, PLAYED);
}

/// The JSON lines of an answer with generated text; whole answers have one.
fn generated(transcript: &Value) -> Option<(Route, Vec<String>)> {
    let route = match transcript["request"]["path"].as_str()? {
        "/api/chat" => Route::Chat,
        "/api/generate" => Route::Generate,
        "/v1/chat/completions" => Route::OpenaiChat,
        _ => return None,
    };
    // Ours refuses the deprecated `context`; the answer would be the same.
    if transcript["name"] == "generate-context" {
        return None;
    }
    let response = &transcript["response"];
    let texts = match response.get("lines") {
        Some(lines) => {
            lines.as_array()?.iter().map(|line| line.as_str().unwrap().to_owned()).collect()
        }
        None => vec![response["body"].as_str()?.trim_end().to_owned()],
    };
    let has_text = texts.iter().any(|text: &String| {
        text.contains("\"eval_count\"") || text.contains("\"finish_reason\":\"")
    });
    (response["status"] == 200 && has_text).then_some((route, texts))
}

fn check(name: &str, route: Route, body: &str, lines: &[String]) {
    let body = body.replace("<<'word ' * 1500>>", "word");
    let mut prepared = prepare(route, body.as_bytes());
    let ask = prepared.ask.unwrap_or_else(|_| panic!("{name} is refused"));
    let facts = Facts { capabilities: Capability::ALL.to_vec(), ..Facts::default() };
    ask.complete(&facts).unwrap_or_else(|refusal| panic!("{name} is refused: {refusal:?}"));
    let events = events(route, lines);
    let is_stream = lines.len() > 1;
    let ours = match is_stream {
        true => golden::streamed(prepared.shape.as_mut(), &events),
        false => golden::whole(prepared.shape.as_mut(), &events).unwrap(),
    };
    let recorded: String = lines.iter().map(|line| blanked(line) + "\n").collect();
    let ours: String =
        String::from_utf8(ours).unwrap().lines().map(|line| blanked(line) + "\n").collect();
    assert_eq!(recorded, ours, "{name}");
}

/// Without what is different each time.
fn blanked(line: &str) -> String {
    let mut line = line.to_owned();
    for key in ["created_at", "created", "total_duration", "load_duration", "id", "context"] {
        line = without(&line, key);
    }
    line
}

/// Removes all members of this name (numbers, texts, lists of numbers).
fn without(line: &str, key: &str) -> String {
    let Some(at) = line.find(&format!("\"{key}\":")) else { return line.to_owned() };
    let rest = &line[at + key.len() + 3..];
    let length = match rest.as_bytes()[0] {
        b'[' => rest.find(']').unwrap() + 1,
        b'"' => rest[1..].find('"').unwrap() + 2,
        _ => rest.find([',', '}']).unwrap(),
    };
    let rest = rest[length..].strip_prefix(',').unwrap_or(&rest[length..]);
    format!("{}{}", &line[..at], without(rest, key))
}

fn events(route: Route, lines: &[String]) -> Vec<Event> {
    let values = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).ok());
    let values: Vec<Value> = values.collect();
    match route {
        Route::OpenaiChat => openai_events(&values),
        _ => values.iter().flat_map(ollama_events).collect(),
    }
}

fn ollama_events(line: &Value) -> Vec<Event> {
    let message = line.get("message").unwrap_or(line);
    let content = message.get("content").or(message.get("response"));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let delta = Delta {
        thinking: text(message.get("thinking")),
        content: text(content),
        tool_calls: list(message.get("tool_calls"))
            .iter()
            .map(|call| ToolCall {
                id: None,
                name: text(call["function"].get("name")),
                arguments: call["function"]["arguments"]
                    .as_object()
                    .unwrap()
                    .clone()
                    .into_iter()
                    .collect(),
            })
            .collect(),
        logprobs: list(line.get("logprobs")).iter().map(logprob).collect(),
    };
    let mut events = Vec::new();
    let is_last = line["done"] == true;
    // A chunk of no text is a token that completes none; ours are not told.
    if !delta.is_empty() || !is_last {
        events.push(Event::Delta(delta));
    }
    if is_last {
        let number = |key: &str| line.get(key).and_then(Value::as_u64).unwrap_or_default();
        events.push(finished(
            &text(line.get("done_reason")),
            [number("prompt_eval_count"), number("eval_count")],
            [number("prompt_eval_duration"), number("eval_duration")],
        ));
    }
    events
}

fn openai_events(values: &[Value]) -> Vec<Event> {
    let mut events = Vec::new();
    let usage = values.iter().find_map(|value| value.get("usage")).cloned().unwrap_or_default();
    for choice in values.iter().flat_map(|value| list(value.get("choices"))) {
        let message = choice.get("delta").or(choice.get("message")).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let delta = Delta {
            thinking: text(&message["reasoning"]),
            content: text(&message["content"]),
            tool_calls: list(message.get("tool_calls"))
                .iter()
                .map(|call| ToolCall {
                    id: None,
                    name: text(&call["function"]["name"]),
                    arguments: serde_json::from_str(
                        call["function"]["arguments"].as_str().unwrap(),
                    )
                    .unwrap(),
                })
                .collect(),
            logprobs: list(choice.get("logprobs").and_then(|all| all.get("content")))
                .iter()
                .map(logprob)
                .collect(),
        };
        if !delta.is_empty() {
            events.push(Event::Delta(delta));
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            let number = |key: &str| usage[key].as_u64().unwrap_or_default();
            events.push(finished(
                reason,
                [number("prompt_tokens"), number("completion_tokens")],
                [1, 1],
            ));
        }
    }
    events
}

fn list(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

fn finished(reason: &str, tokens: [u64; 2], nanos: [u64; 2]) -> Event {
    Event::Finished(Usage {
        reason: match reason {
            "length" => FinishReason::Length,
            _ => FinishReason::Stop,
        },
        prompt_tokens: tokens[0] as u32,
        cached_tokens: 0,
        generated_tokens: tokens[1] as u32,
        prompt_nanos: nanos[0],
        generate_nanos: nanos[1],
        stop: None,
    })
}

fn logprob(value: &Value) -> TokenLogprob {
    TokenLogprob {
        chosen: choice(value),
        top: list(value.get("top_logprobs")).iter().map(choice).collect(),
    }
}

fn choice(value: &Value) -> TokenChoice {
    TokenChoice {
        id: 0,
        bytes: list(value.get("bytes")).iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
        logprob: value["logprob"].as_f64().unwrap() as f32,
    }
}
