//! Meta's Muse Glimmer: every message names its recipient, the system's states the date, the strength of reasoning and
//! whom the model may talk to; calls are XML of the namespace `atem`.

use std::collections::{HashMap, HashSet};

use protocol::{Message, Role, Think, ToolCall};
use serde_json::Value;

use super::images::Images;
use super::schema::Function;
use super::values::{printed, sorted, spaced_plain};
use super::{Asked, LEVELS, Out, lfm2, thinking};
use crate::Result;

const SYSTEM: &str =
    "You are a helpful AI assistant.\nKnowledge cutoff: 2026-01-04.\nCurrent date: ";

const TOOLS: &str = "In this environment you have access to a set of tools you can use to answer the user's question.\n\n\
You can invoke a function by writing a \"<atem:function_calls>\" block like the following:\n\
<atem:function_calls>\n<atem:invoke name=\"$FUNCTION_NAME\">\n\
<atem:parameter name=\"$PARAMETER_NAME\">$PARAMETER_VALUE</atem:parameter>\n...\n</atem:invoke>\n\
</atem:function_calls>\n\n\
String and scalar parameters should be specified as is, while lists and objects should use JSON format. Note that \
spaces for string values are not stripped. The output is not expected to be valid XML and is parsed with regular \
expressions.\nHere are the functions available in JSONSchema format:\n// Tool metadata\n";

const CALL_FORMAT: &str = "\n\nHere's an example of how to call a function in the tool set:\n\
(If the tool namespace is not specified, invoke the function directly as `example_function_name` rather than \
`example_tool_name.example_function_name`)\n\n\
to=example_tool_name.example_function_name\n\n\
<atem:function_calls>\n<atem:invoke name=\"example_tool_name.example_function_name\">\n\
<atem:parameter name=\"example_parameter_1\">value_1</atem:parameter>\n\
<atem:parameter name=\"example_parameter_2\">This is the value for the second parameter\nthat can span\n\
\"multiple\" lines\n</atem:parameter>\n</atem:invoke>\n</atem:function_calls>";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let messages = asked.messages;
    // Every system message has it.
    let recipients = recipients(&asked.tools)?;
    out.put(["<|begin_of_text|>"]);
    if !messages.iter().any(|message| message.role == Role::System) {
        write_default_system(asked, out);
        out.put([&recipients]);
    }
    let called = names_by_id(messages);
    let mut images = Images::default();
    for (index, message) in messages.iter().enumerate() {
        let content = images.tag(&message.content, message);
        match message.role {
            Role::System => {
                write_system(&content, asked.think, out);
                out.put([&recipients]);
            }
            Role::User => put("user", &content, "<|eot|>", out),
            Role::Tool => write_result(result_name(message, &called), &content, out),
            Role::Assistant => {
                let next = messages.get(index + 1);
                let goes_on = next.is_some_and(|next| next.role == message.role);
                let end = if goes_on { "<|eom|>" } else { "<|eot|>" };
                write_assistant(message, &content, end, out);
            }
            Role::Other(_) => {}
        }
    }
    out.put(["<|start|>assistant"]);
    Ok(())
}

fn put(header: &str, text: &str, end: &str, out: &mut Out) {
    out.put(["<|start|>", header, "<|message|>", text, end]);
}

fn write_default_system(asked: &Asked<'_>, out: &mut Out) {
    out.put(["<|start|>system<|message|>", SYSTEM, &asked.today.to_string(), "."]);
    out.put(["\n\nReasoning strength: ", strength(asked.think), "."]);
}

fn write_system(content: &str, think: &Think, out: &mut Out) {
    let content = in_our_words(content);
    out.put(["<|start|>system<|message|>", &content]);
    if !content.to_lowercase().contains("reasoning strength") {
        out.put(["\n\nReasoning strength: ", strength(think), "."]);
    }
}

/// What others call effort is strength here.
fn in_our_words(system: &str) -> String {
    let words = [
        ("Reasoning effort", "Reasoning strength"),
        ("Reasoning Effort", "Reasoning Strength"),
        ("reasoning effort", "reasoning strength"),
        ("REASONING EFFORT", "REASONING STRENGTH"),
    ];
    words.iter().fold(system.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn strength(think: &Think) -> &str {
    match think {
        Think::Unset | Think::On => "high",
        Think::Level(level) if LEVELS.contains(&level.as_str()) => level,
        Think::Off | Think::Level(_) => "none",
    }
}

/// The tools and whom the model may talk to, to the end of the turn.
fn recipients(tools: &[Function<'_>]) -> Result<String> {
    let mut out = Out::default();
    let namespaces = namespaces(tools);
    if !tools.is_empty() {
        out.put(["\n\n"]);
        write_tools(tools, &namespaces, &mut out);
    }
    out.put(["\n\n# Valid recipients: \"self\""]);
    for namespace in namespaces {
        out.put([", \"", namespace, ".*\""]);
    }
    out.put([", \"user\".<|eot|>"]);
    out.finish()
}

/// Each once, in the order of the tools.
fn namespaces<'a>(tools: &[Function<'a>]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let namespace = |name: &'a str| name.split_once('.').map_or(name, |(namespace, _)| namespace);
    let namespaces = tools.iter().map(|tool| namespace(tool.name));
    namespaces.filter(|namespace| seen.insert(*namespace)).collect()
}

fn write_tools(tools: &[Function<'_>], namespaces: &[&str], out: &mut Out) {
    out.put([TOOLS]);
    for namespace in namespaces {
        out.put(["{\"name\": ", &spaced_plain(&(*namespace).into()), ", \"description\": \"\"}\n"]);
    }
    out.put(["// Function schemas"]);
    for tool in tools {
        let name = spaced_plain(&tool.name.into());
        let description = spaced_plain(&tool.description.into());
        out.put(["\n{\"name\": ", &name, ", \"description\": ", &description]);
        out.put([", \"parameters\": ", &lfm2::partly_plain(&tool.parameters), "}"]);
    }
    out.put([CALL_FORMAT]);
}

/// Of several calls with one id the last.
fn names_by_id(messages: &[Message]) -> HashMap<&str, &str> {
    let calls = messages.iter().flat_map(|message| &message.tool_calls);
    calls.filter_map(|call| Some((call.id.as_deref()?, call.name.as_str()))).collect()
}

fn result_name<'a>(message: &'a Message, called: &HashMap<&str, &'a str>) -> &'a str {
    let own = message.tool_name.as_deref().filter(|name| !name.is_empty());
    let id = message.tool_call_id.as_deref().unwrap_or_default();
    own.or(called.get(id).copied().filter(|_| !id.is_empty())).unwrap_or(id)
}

fn write_result(name: &str, content: &str, out: &mut Out) {
    out.put(["<|start|>tool ", name, "<|message|><tool_output name=\"", name, "\">\n"]);
    out.put([content, "\n</tool_output><|eot|>"]);
}

/// The last of its calls ends with `end`.
fn write_assistant(message: &Message, content: &str, end: &str, out: &mut Out) {
    let thoughts = thinking(message);
    if !thoughts.is_empty() {
        put("assistant to=self", thoughts, "<|eom|>", out);
    }
    if message.tool_calls.is_empty() && (!content.is_empty() || thoughts.is_empty()) {
        put("assistant to=user", content, "<|eot|>", out);
    }
    for (index, call) in message.tool_calls.iter().enumerate() {
        out.put(["<|start|>assistant to=", &call.name, "<|message|>"]);
        write_call(call, out);
        out.put([if index + 1 == message.tool_calls.len() { end } else { "<|eom|>" }]);
    }
}

fn write_call(call: &ToolCall, out: &mut Out) {
    out.put(["<atem:function_calls>\n<atem:invoke name=\"", &call.name, "\">\n"]);
    out.arguments(call, ["<atem:parameter name=\"", "\">", "</atem:parameter>\n"], argument);
    out.put(["</atem:invoke>\n</atem:function_calls>"]);
}

fn argument(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(_) | Value::Object(_) => spaced_plain(&sorted(value)),
        simple => printed(simple),
    }
}
