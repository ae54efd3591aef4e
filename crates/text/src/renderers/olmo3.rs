//! OLMo 3, which calls functions in the way of Python, and its thinking relatives, which know no functions.

use protocol::{Message, Role};
use serde_json::Value;

use super::values::{by_name, compact, sorted, spaced};
use super::{Asked, Out};
use crate::Result;

const SYSTEM: &str = "You are a helpful function-calling AI assistant. ";
const SYSTEM_3_1: &str = "You are Olmo, a helpful AI assistant built by Ai2. Your date cutoff is December 2024, and \
your model weights are available at https://huggingface.co/allenai. ";
const NO_FUNCTIONS: &str =
    "You do not currently have access to any functions. <functions></functions>";
const WITH_FUNCTIONS: &str = "You are provided with function signatures within <functions></functions> XML tags. You \
may call one or more functions to assist with the user query. Output any function calls within \
<function_calls></function_calls> XML tags. Do not make assumptions about what values to plug into functions.";
const SYSTEM_32B_THINK: &str = "You are a helpful AI assistant.";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_with(SYSTEM, asked, out)
}

pub(super) fn write_3_1(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_with(SYSTEM_3_1, asked, out)
}

pub(super) fn write_think(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_thinking_with(SYSTEM_3_1.trim_end(), asked, out)
}

pub(super) fn write_32b_think(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_thinking_with(SYSTEM_32B_THINK, asked, out)
}

fn write_with(default: &str, asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let (system, messages) = asked.split_systems();
    write_system(system, default, asked, out);
    for (index, message) in messages.iter().enumerate() {
        match message.role {
            Role::User => turn("user", &message.content, out),
            Role::Tool => turn("environment", &message.content, out),
            Role::Assistant => {
                out.put(["<|im_start|>assistant\n", &message.content]);
                write_calls(message, out);
                if index + 1 < messages.len() || !message.tool_calls.is_empty() {
                    out.put(["<|im_end|>\n"]);
                }
            }
            Role::System | Role::Other(_) => {}
        }
    }
    let goes_on = messages.last().is_some_and(|last| {
        last.role == Role::Assistant && last.tool_calls.is_empty() && !last.content.is_empty()
    });
    out.put([if goes_on { "" } else { "<|im_start|>assistant\n" }]);
    Ok(())
}

fn write_system(system: Option<&Message>, default: &str, asked: &Asked<'_>, out: &mut Out) {
    let has_tools = !asked.tools.is_empty();
    out.put(["<|im_start|>system\n"]);
    match system {
        Some(system) => out.put([&system.content]),
        None => out.put([default, if has_tools { WITH_FUNCTIONS } else { NO_FUNCTIONS }]),
    }
    if has_tools {
        let tools: Value = asked.tools.iter().map(|tool| tool.tool()).collect();
        out.put(["<functions>", &spaced(&tools), "</functions>"]);
    }
    out.put(["<|im_end|>\n"]);
}

fn turn(role: &str, content: &str, out: &mut Out) {
    out.put(["<|im_start|>", role, "\n", content, "<|im_end|>\n"]);
}

fn write_calls(message: &Message, out: &mut Out) {
    if message.tool_calls.is_empty() {
        return;
    }
    out.put(["<function_calls>"]);
    out.join(&message.tool_calls, "\n", |out, call| {
        out.put([&call.name, "("]);
        out.join(by_name(&call.arguments), ", ", |out, (name, value)| {
            out.put([name, "=", &compact(&sorted(value))]);
        });
        out.put([")"]);
    });
    out.put(["</function_calls>"]);
}

fn write_thinking_with(default: &str, asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let (system, messages) = asked.split_systems();
    match system {
        Some(system) => {
            out.put(["<|im_start|>system\n", &system.content, " ", NO_FUNCTIONS, "<|im_end|>\n"]);
        }
        None => turn("system", default, out),
    }
    for message in messages {
        if matches!(message.role, Role::User | Role::Assistant) {
            turn(message.role.as_str(), &message.content, out);
        }
    }
    out.put(["<|im_start|>assistant\n<think>"]);
    Ok(())
}
