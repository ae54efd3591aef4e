//! GLM-4.7, which keeps the thoughts of all turns, and GLM-OCR, which sees pictures: turns have a beginning and no end.

use protocol::{Message, Role};
use serde_json::Value;

use super::images::Images;
use super::values::{compact, sorted, spaced};
use super::{Asked, Out, is_tool, thinking};
use crate::Result;

const TOOLS: &str = "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n";

const CALL_FORMAT: &str = "</tools>\n\n\
For each function call, output the function name and arguments within the following XML format:\n\
<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>\
<arg_key>{arg-key-2}</arg_key><arg_value>{arg-value-2}</arg_value>...</tool_call>";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    write_tools(asked, out);
    for (index, message) in asked.messages.iter().enumerate() {
        let content = &message.content;
        match message.role {
            Role::User => out.put(["<|user|>", content]),
            Role::System => out.put(["<|system|>", content]),
            Role::Assistant => {
                out.put(["<|assistant|>"]);
                match thinking(message) {
                    "" => out.put(["</think>"]),
                    thoughts => out.put(["<think>", thoughts, "</think>"]),
                }
                out.put([content]);
                write_calls(message, "", out);
            }
            Role::Tool => {
                let is_first = !is_tool(asked.messages.get(index.wrapping_sub(1)));
                out.put([if is_first { "<|observation|>" } else { "" }]);
                out.put(["<tool_response>", content, "</tool_response>"]);
            }
            Role::Other(_) => {}
        }
    }
    let thinks = asked.thinks().unwrap_or(true);
    out.put(["<|assistant|>", if thinks { "<think>" } else { "</think>" }]);
    Ok(())
}

pub(super) fn write_ocr(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let told_not_to = asked.thinks() == Some(false);
    write_tools(asked, out);
    let mut images = Images::default();
    for (index, message) in asked.messages.iter().enumerate() {
        match message.role {
            Role::User => {
                out.put(["<|user|>\n", &images.tag(&message.content, message)]);
                let says_so = message.content.ends_with("/nothink");
                out.put([if told_not_to && !says_so { "/nothink" } else { "" }]);
            }
            Role::System => out.put(["<|system|>\n", &message.content, "\n"]),
            Role::Assistant => {
                out.put(["<|assistant|>\n<think>", thinking(message).trim(), "</think>"]);
                out.put([if message.content.is_empty() { "" } else { "\n" }]);
                out.put([message.content.trim()]);
                write_calls(message, "\n", out);
                out.put(["\n"]);
            }
            Role::Tool => {
                let is_first = !is_tool(asked.messages.get(index.wrapping_sub(1)));
                out.put([if is_first { "<|observation|>" } else { "" }]);
                let content = images.tag(&message.content, message);
                out.put(["\n<tool_response>\n", &content, "\n</tool_response>\n"]);
            }
            Role::Other(_) => {}
        }
    }
    out.put(["<|assistant|>\n", if told_not_to { "<think></think>\n" } else { "" }]);
    Ok(())
}

fn write_tools(asked: &Asked<'_>, out: &mut Out) {
    out.put(["[gMASK]<sop>"]);
    if asked.tools.is_empty() {
        return;
    }
    out.put([TOOLS]);
    for tool in &asked.tools {
        out.put([&spaced(&tool.tool()), "\n"]);
    }
    out.put([CALL_FORMAT]);
}

fn write_calls(message: &Message, before: &str, out: &mut Out) {
    for call in &message.tool_calls {
        out.put([before, "<tool_call>", &call.name]);
        out.arguments(call, ["<arg_key>", "</arg_key><arg_value>", "</arg_value>"], argument);
        out.put(["</tool_call>"]);
    }
}

fn argument(value: &Value) -> String {
    value.as_str().map_or_else(|| compact(&sorted(value)), str::to_owned)
}
