//! OpenAI's messages become ours. A list of parts becomes one message per part.

use indexmap::IndexMap;
use protocol::{Image, Message, Role, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::dialects::ollama::fields::corrupt_at;
use crate::json::{List, Listed, parse};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "openai.Message")]
pub(super) struct MessageField {
    pub role: String,
    pub content: Value,
    pub reasoning: String,
    pub tool_calls: Option<List<ToolCallField>>,
    pub name: String,
    pub tool_call_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "openai.ToolCall")]
pub(super) struct ToolCallField {
    id: String,
    index: i64,
    #[serde(rename = "type")]
    kind: String,
    function: FunctionField,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "")]
struct FunctionField {
    name: String,
    arguments: String,
}

impl Listed for MessageField {
    const LIST: &'static str = "[]openai.Message";
}

impl Listed for ToolCallField {
    const LIST: &'static str = "[]openai.ToolCall";
}

const BAD_FORMAT: &str = "invalid message format";
const BAD_IMAGE: &str = "invalid image input";
const IMAGE_ADDRESS: &str =
    "image URLs are not currently supported, please use base64 encoded data instead";
const IMAGE_PREFIXES: [&str; 5] = [
    "data:;base64,",
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
];

/// Errors are texts for a 400.
pub(super) fn messages(given: &[MessageField]) -> Result<Vec<Message>, String> {
    let mut messages = Vec::with_capacity(given.len());
    for field in given {
        let tool_name = tool_name(field, given);
        match &field.content {
            Value::String(content) => {
                messages.push(Message { content: content.clone(), ..whole(field, tool_name)? });
            }
            Value::Array(parts) => {
                for part in parts {
                    messages.push(Message { role: Role::parse(&field.role), ..message(part)? });
                }
                attach_calls(messages.last_mut(), field, tool_name)?;
            }
            // Only a message that calls tools may do without content.
            _ if field.tool_calls.is_some() => messages.push(whole(field, None)?),
            other => return Err(format!("invalid message content type: {}", go_type(other))),
        }
    }
    Ok(messages)
}

fn whole(field: &MessageField, tool_name: Option<String>) -> Result<Message, String> {
    Ok(Message {
        role: Role::parse(&field.role),
        content: String::new(),
        thinking: filled(&field.reasoning),
        images: Vec::new(),
        tool_calls: calls(field)?,
        tool_name,
        tool_call_id: filled(&field.tool_call_id),
    })
}

/// Tool calls of a message in parts belong to its last part.
fn attach_calls(
    last: Option<&mut Message>,
    field: &MessageField,
    tool_name: Option<String>,
) -> Result<(), String> {
    let calls = calls(field)?;
    if let Some(last) = last.filter(|_| !calls.is_empty()) {
        last.tool_calls = calls;
        last.tool_name = tool_name;
        last.tool_call_id = filled(&field.tool_call_id);
        last.thinking = filled(&field.reasoning);
    }
    Ok(())
}

fn filled(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Which tool answered: said, or found by the id of the (latest) call.
fn tool_name(field: &MessageField, all: &[MessageField]) -> Option<String> {
    if !field.role.eq_ignore_ascii_case("tool") {
        return None;
    }
    if !field.name.is_empty() || field.tool_call_id.is_empty() {
        return filled(&field.name);
    }
    let mut calls =
        all.iter().rev().flat_map(|message| message.tool_calls.iter().flat_map(|calls| &calls.0));
    let call = calls.find(|call| call.id == field.tool_call_id);
    call.and_then(|call| filled(&call.function.name))
}

fn calls(field: &MessageField) -> Result<Vec<ToolCall>, String> {
    field.tool_calls.iter().flat_map(|calls| &calls.0).map(call).collect()
}

fn call(field: &ToolCallField) -> Result<ToolCall, String> {
    let arguments = parse(field.function.arguments.as_bytes()).ok();
    let arguments: IndexMap<String, Value> = match arguments {
        Some(Value::Object(map)) => map.into_iter().collect(),
        Some(Value::Null) => IndexMap::new(),
        _ => return Err("invalid tool call arguments".to_owned()),
    };
    Ok(ToolCall { id: filled(&field.id), name: field.function.name.clone(), arguments })
}

fn message(part: &Value) -> Result<Message, String> {
    let part = part.as_object().ok_or(BAD_FORMAT)?;
    match part.get("type").and_then(Value::as_str) {
        Some("text") => {
            let text = part.get("text").and_then(Value::as_str).ok_or(BAD_FORMAT)?;
            Ok(Message { content: text.to_owned(), ..Message::default() })
        }
        Some("image_url") => Ok(with_image(image(part)?)),
        Some("input_audio") => Ok(with_image(audio(part)?)),
        _ => Err(BAD_FORMAT.to_owned()),
    }
}

fn with_image(base64: String) -> Message {
    Message { images: vec![Image { base64 }], ..Message::default() }
}

fn image(part: &Map<String, Value>) -> Result<String, String> {
    let url = match part.get("image_url") {
        Some(Value::Object(inner)) => inner.get("url"),
        other => other,
    };
    let url = url.and_then(Value::as_str).ok_or(BAD_FORMAT)?;
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(IMAGE_ADDRESS.to_owned());
    }
    let data =
        IMAGE_PREFIXES.iter().find_map(|prefix| url.strip_prefix(prefix)).ok_or(BAD_IMAGE)?;
    match corrupt_at(data.as_bytes()) {
        None => Ok(data.replace(['\r', '\n'], "")),
        Some(_) => Err(BAD_IMAGE.to_owned()),
    }
}

fn audio(part: &Map<String, Value>) -> Result<String, String> {
    let audio =
        part.get("input_audio").and_then(Value::as_object).ok_or("invalid input_audio format")?;
    let data = audio.get("data").and_then(Value::as_str);
    let data = data.ok_or("invalid input_audio format: missing data")?;
    match corrupt_at(data.as_bytes()) {
        None => Ok(data.replace(['\r', '\n'], "")),
        Some(at) => {
            Err(format!("invalid input_audio base64 data: illegal base64 data at input byte {at}"))
        }
    }
}

/// How Go calls the type of a decoded value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
