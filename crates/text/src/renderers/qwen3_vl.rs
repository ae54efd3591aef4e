//! Qwen3-VL, which answers at once or thinks first: ChatML with pictures; tools and calls in JSON.

use protocol::{Message, Role};

use super::images::Images;
use super::values::{object, spaced};
use super::{Asked, Out, is_tool, thinking};
use crate::Result;

const TOOLS: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
You are provided with function signatures within <tools></tools> XML tags:\n<tools>";

const CALL_FORMAT: &str = "\n</tools>\n\n\
For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML \
tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

pub(super) fn write_instruct(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write(asked, asked.thinks().unwrap_or(false), out)
}

pub(super) fn write_thinking(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write(asked, asked.thinks().unwrap_or(true), out)
}

fn write(asked: &Asked<'_>, thinks: bool, out: &mut Out) -> Result<()> {
    let messages = asked.messages;
    write_system(asked, out);
    let query = last_query(messages);
    let mut images = Images::default();
    for (index, message) in messages.iter().enumerate() {
        let content = images.tag(&message.content, message);
        let is_last = index + 1 == messages.len();
        match message.role {
            Role::System if index == 0 => {}
            Role::User | Role::System => {
                let role = message.role.as_str();
                out.put(["<|im_start|>", role, "\n", &content, "<|im_end|>\n"]);
            }
            Role::Assistant => {
                let reasoning = if thinks { thinking(message) } else { "" };
                let shown = thinks && index > query && (is_last || !reasoning.is_empty());
                let turn = Turn { content: &content, reasoning: shown.then_some(reasoning) };
                write_assistant(message, &turn, is_last, out);
            }
            Role::Tool => write_result(messages, index, &content, out),
            Role::Other(_) => {}
        }
        if is_last && message.role != Role::Assistant {
            out.put(["<|im_start|>assistant\n", if thinks { "<think>\n" } else { "" }]);
        }
    }
    Ok(())
}

fn write_system(asked: &Asked<'_>, out: &mut Out) {
    let (system, _) = asked.split_first(&["system"]);
    if system.is_none() && asked.tools.is_empty() {
        return;
    }
    out.put(["<|im_start|>system\n"]);
    out.put([system.map_or("", |system| &system.content)]);
    if !asked.tools.is_empty() {
        out.put([if system.is_some() { "\n\n" } else { "" }, TOOLS]);
        for tool in &asked.tools {
            out.put(["\n", &spaced(&tool.tool())]);
        }
        out.put([CALL_FORMAT]);
    }
    out.put(["<|im_end|>\n"]);
}

/// Where the last message of the user is that is no tool's result in disguise; without one, the last message.
fn last_query(messages: &[Message]) -> usize {
    let is_query = |message: &Message| {
        let content = Images::default().tag(&message.content, message);
        let is_result =
            content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
        message.role == Role::User && !is_result
    };
    messages.iter().rposition(is_query).unwrap_or(messages.len().saturating_sub(1))
}

struct Turn<'a> {
    content: &'a str,
    /// `None`: no thoughts are shown, not even none.
    reasoning: Option<&'a str>,
}

fn write_assistant(message: &Message, turn: &Turn<'_>, is_last: bool, out: &mut Out) {
    out.put(["<|im_start|>assistant\n"]);
    match turn.reasoning {
        None => out.put([turn.content]),
        Some(reasoning) => {
            out.put(["<think>\n", reasoning.trim_matches('\n')]);
            if !turn.content.is_empty() {
                out.put(["\n</think>\n\n", turn.content.trim_start_matches('\n')]);
            }
        }
    }
    for (index, call) in message.tool_calls.iter().enumerate() {
        out.put([if index > 0 || !turn.content.is_empty() { "\n" } else { "" }]);
        out.put(["<tool_call>\n{\"name\": \"", &call.name, "\", \"arguments\": "]);
        out.put([&spaced(&object(&call.arguments)), "}\n</tool_call>"]);
    }
    if !is_last {
        out.put(["<|im_end|>\n"]);
    }
}

/// Results that follow each other share a turn of the user.
pub(super) fn write_result(messages: &[Message], index: usize, content: &str, out: &mut Out) {
    if !is_tool(messages.get(index.wrapping_sub(1))) {
        out.put(["<|im_start|>user"]);
    }
    out.put(["\n<tool_response>\n", content, "\n</tool_response>"]);
    if !is_tool(messages.get(index + 1)) {
        out.put(["<|im_end|>\n"]);
    }
}
