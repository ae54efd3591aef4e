//! Nemotron 3 Nano, which a user may tell to think or not within the text, and 3.5, where only the request tells.

use std::borrow::Cow;

use protocol::{Message, Role, Think};
use serde_json::{Map, Value};

use super::images::Images;
use super::qwen3_coder::{CALL_FORMAT, TOOLS};
use super::schema::{Function, type_names};
use super::values::{compact, printed, quoted, sorted};
use super::{Asked, Out, is_tool, thinking};
use crate::Result;

const MEDIUM_EFFORT: &str = "\n\n{reasoning effort: efficient}";

#[derive(Clone, Copy, PartialEq)]
enum Version {
    V3,
    V3_5,
}

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let thinks = told_to_think(asked.messages, asked.thinks().unwrap_or(true));
    write_version(Version::V3, asked, thinks, out);
    Ok(())
}

pub(super) fn write_3_5(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_version(Version::V3_5, asked, asked.thinks().unwrap_or(true), out);
    Ok(())
}

fn write_version(version: Version, asked: &Asked<'_>, thinks: bool, out: &mut Out) {
    let (system, messages) = asked.split_first(&["system"]);
    let system = system.map_or("", |system| &system.content);
    let system =
        if version == Version::V3 { without_switches(system) } else { Cow::Borrowed(system) };
    out.put(["<|im_start|>system\n", &system]);
    if !asked.tools.is_empty() {
        out.put([if system.is_empty() { "" } else { "\n\n" }]);
        write_tools(&asked.tools, out);
    }
    out.put(["<|im_end|>\n"]);
    write_messages(messages, version, asked.think, out);
    let begin = if thinks { "<think>\n" } else { "<think></think>" };
    out.put(["<|im_start|>assistant\n", begin]);
}

fn write_messages(messages: &[Message], version: Version, think: &Think, out: &mut Out) {
    let query = messages.iter().rposition(|message| message.role == Role::User);
    let is_efficient =
        version == Version::V3_5 && matches!(think, Think::Level(level) if level == "medium");
    let mut images = Images::default();
    for (index, message) in messages.iter().enumerate() {
        let role = message.role.as_str();
        match message.role {
            Role::Assistant => {
                out.put(["<|im_start|>assistant\n"]);
                write_assistant(message, version, query.is_some_and(|query| index < query), out);
                out.put(["<|im_end|>\n"]);
            }
            Role::User | Role::System => {
                let content = images.tag(&message.content, message);
                let content = told(&content, version);
                let effort = if is_efficient && query == Some(index) { MEDIUM_EFFORT } else { "" };
                out.put(["<|im_start|>", role, "\n", &content, effort, "<|im_end|>\n"]);
            }
            Role::Tool => {
                let content = images.tag(&message.content, message);
                write_result(messages, index, &content, out);
            }
            Role::Other(_) => {
                out.put(["<|im_start|>", role, "\n", &message.content, "<|im_end|>\n"]);
            }
        }
    }
}

fn told(content: &str, version: Version) -> Cow<'_, str> {
    match version {
        Version::V3 => Cow::Owned(without_switches(content).trim().to_owned()),
        Version::V3_5 => Cow::Borrowed(content),
    }
}

/// Results that follow each other share a turn, which nothing opens at the very beginning.
fn write_result(messages: &[Message], index: usize, content: &str, out: &mut Out) {
    if index > 0 && !is_tool(messages.get(index - 1)) {
        out.put(["<|im_start|>user\n"]);
    }
    out.put(["<tool_response>\n", content, "\n</tool_response>\n"]);
    if !is_tool(messages.get(index + 1)) {
        out.put(["<|im_end|>\n"]);
    }
}

/// The last switch of a system's or a user's text wins.
fn told_to_think(messages: &[Message], otherwise: bool) -> bool {
    let told =
        messages.iter().rev().filter(|message| matches!(message.role, Role::User | Role::System));
    let told = told.filter_map(|message| {
        let text = &message.content;
        match () {
            () if text.replace("</think>", "").contains("/think") => Some(true),
            () if text.contains("/no_think") => Some(false),
            () => None,
        }
    });
    told.into_iter().next().unwrap_or(otherwise)
}

fn without_switches(text: &str) -> Cow<'_, str> {
    if !text.contains("/think") && !text.contains("/no_think") {
        return Cow::Borrowed(text);
    }
    let text = text.replace("</think>", "<_end_think>").replace("/think", "");
    Cow::Owned(text.replace("/no_think", "").replace("<_end_think>", "</think>"))
}

fn write_assistant(message: &Message, version: Version, is_past: bool, out: &mut Out) {
    let text = &message.content;
    let content = match (version, thinking(message)) {
        (_, "") if text.contains("<think>") || text.contains("</think>") => text.clone(),
        (_, "") => format!("<think></think>{text}"),
        (Version::V3, thoughts) => format!("<think>\n{thoughts}\n</think>\n{text}"),
        (Version::V3_5, thoughts) => format!("<think>\n{thoughts}</think>{text}"),
    };
    if message.tool_calls.is_empty() {
        out.put([answer(&content, is_past).trim()]);
        return;
    }
    match is_past {
        true => out.put(["<think></think>", spoken(&content).trim(), "\n"]),
        false => out.put([content.trim(), "\n"]),
    }
    for call in &message.tool_calls {
        out.put(["<tool_call>\n<function=", &call.name, ">\n"]);
        out.arguments(call, ["<parameter=", ">\n", "\n</parameter>\n"], in_python);
        out.put(["</function>\n</tool_call>\n"]);
    }
}

/// Thoughts of the past are forgotten, if they are whole.
fn answer(content: &str, is_past: bool) -> Cow<'_, str> {
    match content.rsplit_once("</think>") {
        Some((_, answer)) if is_past && content.contains("<think>") => {
            Cow::Owned(format!("<think></think>{answer}"))
        }
        _ => Cow::Borrowed(content),
    }
}

/// What comes after the thoughts, or before those without an end.
fn spoken(content: &str) -> &str {
    match (content.rsplit_once("</think>"), content.split_once("<think>")) {
        (Some((_, after)), _) => after,
        (None, Some((before, _))) => before,
        (None, None) => content,
    }
}

fn write_tools(tools: &[Function<'_>], out: &mut Out) {
    out.put([TOOLS]);
    for tool in tools {
        out.put(["\n<function>\n<name>", tool.name, "</name>"]);
        if !tool.description.is_empty() {
            out.put(["\n<description>", tool.description.trim(), "</description>"]);
        }
        out.put(["\n<parameters>"]);
        for (name, property) in tool.properties().into_iter().flatten() {
            out.put(["\n<parameter>\n<name>", name, "</name>"]);
            if let Value::Object(property) = property {
                write_property(property, out);
            }
            out.put(["\n</parameter>"]);
        }
        for name in ["$defs", "items"] {
            write_keyword(name, &tool.parameters, in_python, out);
        }
        write_keyword("required", &tool.parameters, json, out);
        out.put(["\n</parameters>\n</function>"]);
    }
    out.put([CALL_FORMAT]);
}

fn write_property(property: &Map<String, Value>, out: &mut Out) {
    write_keyword("type", property, joined_type, out);
    write_keyword("description", property, |text| printed(text).trim().to_owned(), out);
    for name in ["enum", "anyOf", "items", "properties", "required"] {
        write_keyword(name, property, json, out);
    }
}

fn write_keyword(
    name: &str,
    schema: &Map<String, Value>,
    write: fn(&Value) -> String,
    out: &mut Out,
) {
    if let Some(value) = schema.get(name) {
        out.put(["\n<", name, ">", &write(value), "</", name, ">"]);
    }
}

fn joined_type(kind: &Value) -> String {
    match type_names(Some(kind)).as_slice() {
        [one] => (*one).to_owned(),
        several => {
            let several: Vec<String> = several.iter().map(|name| format!("'{name}'")).collect();
            format!("[{}]", several.join(", "))
        }
    }
}

/// As Python prints simple values; lists and objects as JSON.
fn in_python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Array(_) | Value::Object(_) => json(&sorted(value)),
        simple => printed(simple),
    }
}

/// JSON with blanks, but texts quoted as Go quotes them.
fn json(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(json).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(name, value)| format!("{}: {}", quoted(name), json(value)));
            let fields: Vec<String> = fields.collect();
            format!("{{{}}}", fields.join(", "))
        }
        simple => compact(simple),
    }
}
