//! Cohere's Command A and North of 2026: the blanks and empty lines are those of the model's template, which trims none.

use std::collections::HashMap;

use protocol::Message;
use serde_json::Value;

use super::schema::Function;
use super::values::{object, spaced};
use super::{Asked, Out, is_tool, thinking};
use crate::Result;

const TURN: &str = "<|START_OF_TURN_TOKEN|>";
const END: &str = "<|END_TEXT|><|END_OF_TURN_TOKEN|>";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let (system, messages) = asked.split_first(&["system"]);
    out.put([TURN, "<|SYSTEM_TOKEN|><|START_TEXT|>"]);
    if let Some(system) = system.filter(|system| !system.content.is_empty()) {
        out.put([&system.content, "\n\n\n\n"]);
    }
    write_tools(&asked.tools, out);
    out.put([END]);
    write_messages(messages, out);
    if !goes_on(messages) {
        out.put([TURN, "<|CHATBOT_TOKEN|><|START_THINKING|>"]);
        out.put([if asked.thinks().unwrap_or(true) { "" } else { "<|END_THINKING|>" }]);
    }
    Ok(())
}

fn write_messages(messages: &[Message], out: &mut Out) {
    let mut calls = Calls::default();
    for (index, message) in messages.iter().enumerate() {
        match message.role.as_str() {
            "system" => write_text("<|SYSTEM_TOKEN|>", &message.content, out),
            "user" => write_text("<|USER_TOKEN|>", &message.content, out),
            "assistant" | "chatbot" if message.tool_calls.is_empty() => {
                out.put([TURN, "<|CHATBOT_TOKEN|>"]);
                write_thoughts(message, out);
                out.put(["<|START_TEXT|>", &message.content]);
                out.put([if index + 1 == messages.len() { "" } else { END }]);
            }
            "assistant" | "chatbot" => calls.write(message, out),
            "tool" => {
                let is_first = !is_tool(messages.get(index.wrapping_sub(1)));
                let is_last = !is_tool(messages.get(index + 1));
                out.put([if is_first { TURN } else { "," }]);
                out.put([if is_first { "<|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[" } else { "" }]);
                calls.write_result(message, out);
                let end = "\n\n]<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>";
                out.put([if is_last { end } else { "" }]);
            }
            _ => {}
        }
    }
}

fn goes_on(messages: &[Message]) -> bool {
    messages.last().is_some_and(|last| {
        matches!(last.role.as_str(), "assistant" | "chatbot") && last.tool_calls.is_empty()
    })
}

fn write_tools(tools: &[Function<'_>], out: &mut Out) {
    out.put(["# Available Tools\n```json\n[\n", if tools.is_empty() { "\n\n" } else { "" }]);
    for (index, tool) in tools.iter().enumerate() {
        let name = spaced(&tool.name.into());
        let description = spaced(&tool.description.into());
        let parameters = spaced(&Value::Object(tool.parameters.clone()));
        out.put(["\n    {\"name\": ", &name, ", \"description\": ", &description]);
        out.put([", \"parameters\": ", &parameters, ", \"responses\": null}"]);
        out.put([if index + 1 < tools.len() { "," } else { "" }, "\n\n"]);
    }
    out.put(["\n]\n```"]);
}

fn write_text(who: &str, text: &str, out: &mut Out) {
    out.put([TURN, who, "<|START_TEXT|>", text, END]);
}

fn write_thoughts(message: &Message, out: &mut Out) {
    let thoughts = thinking(message);
    if !thoughts.is_empty() {
        out.put(["<|START_THINKING|>", thoughts, "<|END_THINKING|>"]);
    }
}

/// Calls are numbered over the whole conversation; a result names its call by that number.
#[derive(Default)]
struct Calls<'a> {
    count: usize,
    numbers: HashMap<&'a str, String>,
}

impl<'a> Calls<'a> {
    fn write(&mut self, message: &'a Message, out: &mut Out) {
        out.put([TURN, "<|CHATBOT_TOKEN|>\n            \n                "]);
        write_thoughts(message, out);
        out.put(["<|START_ACTION|>["]);
        out.join(&message.tool_calls, ",", |out, call| {
            let number = self.count.to_string();
            self.count += 1;
            out.put([
                "\n\n    {\"tool_call_id\": \"",
                &number,
                "\", \"tool_name\": \"",
                &call.name,
            ]);
            out.put(["\", \"parameters\": ", &spaced(&object(&call.arguments)), "}"]);
            if let Some(id) = call.id.as_deref().filter(|id| !id.is_empty()) {
                self.numbers.entry(id).or_insert(number);
            }
        });
        out.put(["\n\n]<|END_ACTION|><|END_OF_TURN_TOKEN|>"]);
    }

    /// One of an unknown call keeps the id that it came with.
    fn write_result(&self, message: &Message, out: &mut Out) {
        let id = message.tool_call_id.as_deref().unwrap_or_default();
        let number = self.numbers.get(id).map_or(id, String::as_str);
        let content = spaced(&serde_json::json!({ "content": message.content }));
        out.put(["\n    {\n        \"tool_call_id\": \"", number]);
        out.put(["\",\n        \"results\": {\n\n            \n            \"0\": ", &content]);
        out.put(["\n\n        },\n        \"is_error\": null\n    }"]);
    }
}
