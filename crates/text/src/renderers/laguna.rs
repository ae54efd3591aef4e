//! Poolside's Laguna XS, and the eighth version of the same template under the name of poolside-v1, which puts no line
//! breaks within turns and explains no calls.

use protocol::{Message, Role, ToolCall};
use serde_json::Value;

use super::values::{sorted, spaced};
use super::{Asked, Out, thinking};
use crate::Result;

const BOS: &str = "〈|EOS|〉";
const SYSTEM: &str = "You are a helpful, conversationally-fluent assistant made by Poolside. You are here to be helpful \
to users through natural language conversations.";
const TOOLS: &str = "### Tools\n\nYou may call functions to assist with the user query.\n\
All available function signatures are listed below:\n<available_tools>\n";
const WITH_THOUGHTS: &str =
    "Wrap your thinking in '<think>', '</think>' tags, followed by a function call. ";
const CALL_FORMAT: &str = "For each function call, return an unescaped XML-like object with function name and arguments \
within '<tool_call>' and '</tool_call>' tags, like here:\n";
const THOUGHTS_EXAMPLE: &str = "<think> your thoughts here </think>\n";
const CALL_EXAMPLE: &str = "<tool_call>function-name\n<arg_key>argument-key</arg_key>\n\
<arg_value>value-of-argument-key</arg_value>\n</tool_call>";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let thinks = asked.thinks().unwrap_or(false);
    let (system, messages) = asked.split_first(&["system"]);
    let system = system.map_or(SYSTEM, |system| &system.content).trim_end();
    out.put([BOS]);
    if !system.is_empty() || !asked.tools.is_empty() {
        out.put(["<system>\n", if system.is_empty() { "" } else { "\n" }, system]);
        write_tools_explained(asked, thinks, out);
        out.put(["\n</system>\n"]);
    }
    for (index, message) in messages.iter().enumerate() {
        let content = &message.content;
        match message.role {
            Role::User => out.put(["<user>\n", content, "\n</user>\n"]),
            Role::System => out.put(["<system>\n", content, "\n</system>\n"]),
            Role::Tool => out.put(["<tool_response>\n", content, "\n</tool_response>\n"]),
            Role::Assistant => {
                let is_empty = write_assistant(message, out);
                let goes_on = index + 1 == messages.len() && !is_empty;
                out.put([if goes_on { "" } else { "</assistant>\n" }]);
            }
            Role::Other(_) => {}
        }
    }
    if asked.messages.last().is_none_or(|last| last.role != Role::Assistant) {
        out.put(["<assistant>\n", if thinks { "<think>" } else { "</think>" }]);
    }
    Ok(())
}

fn write_tools_explained(asked: &Asked<'_>, thinks: bool, out: &mut Out) {
    if asked.tools.is_empty() {
        return;
    }
    out.put(["\n\n"]);
    write_tools(asked, out);
    out.put(["\n\n"]);
    match thinks {
        true => out.put([WITH_THOUGHTS, CALL_FORMAT, THOUGHTS_EXAMPLE, CALL_EXAMPLE]),
        false => out.put([CALL_FORMAT, CALL_EXAMPLE]),
    }
}

fn write_tools(asked: &Asked<'_>, out: &mut Out) {
    out.put([TOOLS]);
    for tool in &asked.tools {
        out.put([&spaced(&tool.tool()), "\n"]);
    }
    out.put(["</available_tools>"]);
}

/// All but the end of the turn. True if there is nothing in it.
fn write_assistant(message: &Message, out: &mut Out) -> bool {
    let (content, reasoning) = split(&message.content, thinking(message));
    let (content, reasoning) = (content.trim(), reasoning.trim());
    out.put(["<assistant>\n"]);
    match reasoning {
        "" => out.put(["</think>\n"]),
        reasoning => out.put(["<think>\n", reasoning, "\n</think>\n"]),
    }
    out.put([content, if content.is_empty() { "" } else { "\n" }]);
    for call in &message.tool_calls {
        out.put(["<tool_call>", &call.name, "\n"]);
        write_arguments(call, "\n", out);
        out.put(["</tool_call>\n"]);
    }
    content.is_empty() && reasoning.is_empty() && message.tool_calls.is_empty()
}

/// Content and thoughts; the latter may stand at the front of the former.
fn split<'a>(content: &'a str, thoughts: &'a str) -> (&'a str, &'a str) {
    let (Some((before, _)), Some((_, answer))) =
        (content.split_once("</think>"), content.rsplit_once("</think>"))
    else {
        return (content, thoughts);
    };
    let own = before.rsplit_once("<think>").map_or(before, |(_, inner)| inner);
    (answer, if thoughts.is_empty() { own } else { thoughts })
}

fn write_arguments(call: &ToolCall, end: &str, out: &mut Out) {
    for (name, value) in &call.arguments {
        out.put(["<arg_key>", name, "</arg_key>", end]);
        out.put(["<arg_value>", &argument(value), "</arg_value>", end]);
    }
}

fn argument(value: &Value) -> String {
    value.as_str().map_or_else(|| spaced(&sorted(value)), str::to_owned)
}

pub(super) fn write_v1(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let thinks = asked.thinks().unwrap_or(false);
    let (system, messages) = asked.split_first(&["system"]);
    let system = system.map_or(SYSTEM, |system| &system.content).trim_end();
    out.put([BOS]);
    if !system.is_empty() || !asked.tools.is_empty() || thinks {
        out.put(["<system>", system]);
        if !asked.tools.is_empty() {
            out.put([if system.is_empty() { "" } else { "\n\n" }]);
            write_tools(asked, out);
        }
        out.put(["</system>\n"]);
    }
    for message in messages {
        let content = &message.content;
        match message.role {
            Role::User => out.put(["<user>", content, "</user>\n"]),
            Role::System => out.put(["<system>", content, "</system>\n"]),
            Role::Tool => out.put(["<tool_response>", content, "</tool_response>\n"]),
            Role::Assistant => write_assistant_v1(message, thinks, out),
            Role::Other(_) => {}
        }
    }
    out.put(["<assistant>", if thinks { "<think>" } else { "</think>" }]);
    Ok(())
}

fn write_assistant_v1(message: &Message, thinks: bool, out: &mut Out) {
    let (before, thoughts) = if thinks { ("<think>", thinking(message)) } else { ("", "") };
    out.put(["<assistant>", before, thoughts, "</think>", &message.content]);
    for call in &message.tool_calls {
        out.put(["<tool_call>", &call.name]);
        write_arguments(call, "", out);
        out.put(["</tool_call>"]);
    }
    out.put(["</assistant>\n"]);
}
