//! Takes out of a recorded answer and of ours what may differ: times, generated text, what a GGUF file says of itself.

use serde_json::{Map, Value};

/// What a model of safetensors files tells about itself; a GGUF file tells more.
const MODEL_INFO: [&str; 9] = [
    "general.architecture",
    "general.parameter_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.feed_forward_length",
    "llama.vocab_size",
];

/// Lines, each with its JSON made comparable; equal neighbours (chunks of text) count once.
pub fn text(body: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        let (prefix, rest) = match line.strip_prefix("data: ") {
            Some(rest) => ("data: ", rest),
            None => ("", line),
        };
        let line = match serde_json::from_str::<Value>(rest) {
            Ok(value) => format!("{prefix}{}", json(value)),
            Err(_) => line.to_owned(),
        };
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn json(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter_map(|(key, value)| entry(key, value)).collect())
        }
        Value::Array(list) => {
            let mut list: Vec<Value> = list.into_iter().map(json).collect();
            let name = |value: &Value| {
                let name = value.get("name").or(value.get("id")).and_then(Value::as_str);
                name.unwrap_or_default().to_owned()
            };
            list.sort_by_key(name);
            list.dedup();
            Value::Array(list)
        }
        other => other,
    }
}

fn entry(key: String, value: Value) -> Option<(String, Value)> {
    let placeholder = match key.as_str() {
        // An encoding of the conversation that only the runner knows; deprecated, and never told by us.
        "context" => return None,
        // GGUF files tell their tensors always, ours only when asked.
        "tensors" => return None,
        "created_at" | "modified_at" | "expires_at" | "created" => "<time>",
        "total_duration" | "load_duration" | "prompt_eval_duration" | "eval_duration" => {
            "<duration>"
        }
        "prompt_eval_count" | "eval_count" => "<count>",
        "prompt_tokens" | "completion_tokens" | "total_tokens" => "<count>",
        "digest" | "size" | "size_vram" | "general.parameter_count" | "parameter_size" => {
            "<of the files>"
        }
        "logprob" | "token" | "bytes" => "<token>",
        "rendered_template" => "<prompt>",
        "version" => "<version>",
        "id" if value.as_str().is_some_and(|id| id.starts_with("chatcmpl-")) => "<id>",
        "format" if value == "gguf" || value == "safetensors" => "<format>",
        "id" if value.as_str().is_some_and(|id| id.starts_with("call_")) => "<id>",
        "response" | "content" | "thinking" | "reasoning"
            if value.as_str().is_some_and(|text| !text.is_empty()) =>
        {
            "<text>"
        }
        "done_reason" | "finish_reason" if value == "stop" || value == "length" => "<reason>",
        "status" => return Some((key, status(value))),
        "modelfile" => return Some((key, modelfile(&value))),
        "parameters" => return Some((key, sorted_lines(&value))),
        "model_info" => return Some((key, Value::Object(model_info(value)))),
        _ => return Some((key, json(value))),
    };
    Some((key, Value::from(placeholder)))
}

/// The weights' own layer has another digest with us.
fn status(value: Value) -> Value {
    match value.as_str() {
        Some(text) if text.starts_with("using existing layer") => {
            Value::from("using existing layer <digest>")
        }
        _ => value,
    }
}

/// In any order, without the comments and the line that names the file.
fn modelfile(value: &Value) -> Value {
    let text = value.as_str().unwrap_or_default();
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| {
            !line.is_empty() && !line.starts_with("FROM ") && !line.starts_with("# To build")
        })
        .filter(|line| !line.starts_with("# FROM "))
        .collect();
    lines.sort_unstable();
    Value::from(lines)
}

fn sorted_lines(value: &Value) -> Value {
    match value.as_str() {
        Some(text) => {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            Value::from(lines)
        }
        None => value.clone(),
    }
}

fn model_info(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { return Map::new() };
    map.into_iter()
        .filter(|(key, _)| MODEL_INFO.contains(&key.as_str()))
        .filter_map(|(key, value)| entry(key, value))
        .collect()
}
