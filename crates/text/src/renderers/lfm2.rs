//! LFM2 and its thinking relative: ChatML; tools as a list in the system turn, calls in the way of Python.

use protocol::{Message, Role};
use serde_json::{Map, Value};

use super::images::Images;
use super::schema::Function;
use super::values::{by_name, sorted, spaced, spaced_plain};
use super::{Asked, Out, thinking};
use crate::Result;

const CALLS: &str = "<|tool_call_start|>";
const RESULT: &str = "<|tool_response_start|>";
const THOUGHT_END: &str = "</think>";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_kind(asked, false, out)
}

pub(super) fn write_thinking(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_kind(asked, true, out)
}

fn write_kind(asked: &Asked<'_>, can_think: bool, out: &mut Out) -> Result<()> {
    let (system, messages) = asked.split_first(&["system"]);
    out.put(["<|startoftext|>"]);
    write_system(system.map_or("", |system| &system.content), &asked.tools, out);
    let keeps_thoughts = can_think && asked.thinks() == Some(true);
    let last_answer = messages.iter().rposition(|message| message.role == Role::Assistant);
    let mut images = Images::default();
    if let Some(system) = system {
        images.tag("", system);
    }
    for (index, message) in messages.iter().enumerate() {
        let mut content = images.tag(&message.content, message).into_owned();
        match message.role {
            Role::Assistant => {
                content = with_calls(content, message);
                content = if can_think { with_thoughts(content, message) } else { content };
                if !keeps_thoughts && last_answer != Some(index) {
                    content = without_thoughts(content);
                }
            }
            Role::Tool if !content.contains(RESULT) => {
                content = format!("{RESULT}{content}<|tool_response_end|>");
            }
            _ => {}
        }
        let goes_on = index + 1 == messages.len() && message.role == Role::Assistant;
        out.put(["<|im_start|>", message.role.as_str(), "\n", &content]);
        out.put([if goes_on { "" } else { "<|im_end|>\n" }]);
    }
    let goes_on = messages.last().is_some_and(|last| last.role == Role::Assistant);
    out.put([if goes_on { "" } else { "<|im_start|>assistant\n" }]);
    Ok(())
}

fn write_system(system: &str, tools: &[Function<'_>], out: &mut Out) {
    if system.is_empty() && tools.is_empty() {
        return;
    }
    out.put(["<|im_start|>system\n", system]);
    if !tools.is_empty() {
        out.put([if system.is_empty() { "" } else { "\n" }]);
        out.put(["List of tools: <|tool_list_start|>["]);
        out.join(tools, ", ", |out, tool| out.put([&declaration(tool)]));
        out.put(["]<|tool_list_end|>"]);
    }
    out.put(["<|im_end|>\n"]);
}

/// The function without what is around it; one without a name as it came.
fn declaration(tool: &Function<'_>) -> String {
    let function = partly_plain(&tool.object());
    if tool.name.is_empty() {
        return format!("{{\"type\": {}, \"function\": {function}}}", plain(&tool.kind.into()));
    }
    function
}

/// `<` and the like stay as they are, but within properties, which Go writes on their own.
pub(super) fn partly_plain(fields: &Map<String, Value>) -> String {
    let fields = fields.iter().map(|(name, value)| {
        let value = match (name.as_str(), value) {
            ("parameters", Value::Object(parameters)) => partly_plain(parameters),
            ("properties", value) => spaced(value),
            (_, value) => spaced_plain(value),
        };
        format!("\"{name}\": {value}")
    });
    let fields: Vec<String> = fields.collect();
    format!("{{{}}}", fields.join(", "))
}

fn plain(value: &Value) -> String {
    spaced_plain(&sorted(value))
}

/// Calls stand before the text, if the text has none.
fn with_calls(content: String, message: &Message) -> String {
    if message.tool_calls.is_empty() || content.contains(CALLS) {
        return content;
    }
    let calls = message.tool_calls.iter().map(|call| {
        let arguments = by_name(&call.arguments).into_iter();
        let arguments: Vec<String> =
            arguments.map(|(name, value)| format!("{name}={}", plain(value))).collect();
        format!("{}({})", call.name, arguments.join(","))
    });
    let calls: Vec<String> = calls.collect();
    let between = if content.trim().is_empty() { "" } else { "\n" };
    format!("{CALLS}[{}]<|tool_call_end|>{between}{content}", calls.join(","))
}

fn with_thoughts(content: String, message: &Message) -> String {
    match thinking(message) {
        "" => content,
        _ if content.contains(THOUGHT_END) => content,
        thoughts => format!("<think>{thoughts}{THOUGHT_END}{content}"),
    }
}

fn without_thoughts(content: String) -> String {
    match content.rsplit_once(THOUGHT_END) {
        Some((_, answer)) => answer.trim().to_owned(),
        None => content,
    }
}
