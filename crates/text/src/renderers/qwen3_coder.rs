//! Qwen3-Coder: ChatML; tools and calls in XML. The text that explains calls is that of the model's chat template, and
//! Qwen3.5 and Nemotron share it.

use protocol::{Message, Role};
use serde_json::{Map, Value};

use super::schema::{Function, type_names};
use super::values::{argument, compact, printed, sorted};
use super::{Asked, Out, is_tool};
use crate::Result;

const SYSTEM: &str =
    "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks.";

/// From the end of the list of tools on.
pub(super) const CALL_FORMAT: &str = "\n</tools>\n\n\
If you choose to call a function ONLY reply in the following format with NO suffix:\n\n\
<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n\
<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n\
</parameter>\n</function>\n</tool_call>\n\n\
<IMPORTANT>\nReminder:\n\
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within \
<tool_call></tool_call> XML tags\n\
- Required parameters MUST be specified\n\
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT \
after\n\
- If there is no function call available, answer the question like normal with your current knowledge and do not tell \
the user about function calls\n\
</IMPORTANT>";

pub(super) const TOOLS: &str = "# Tools\n\nYou have access to the following functions:\n\n<tools>";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let messages: Vec<&Message> =
        asked.messages.iter().filter(|message| message.role != Role::System).collect();
    write_system(asked, out);
    for (index, message) in messages.iter().enumerate() {
        let neighbour = |index: usize| is_tool(messages.get(index).copied());
        let is_last = index + 1 == messages.len();
        match message.role {
            Role::Assistant => write_assistant(message, is_last, out),
            Role::Tool => {
                if !neighbour(index.wrapping_sub(1)) {
                    out.put(["<|im_start|>user"]);
                }
                out.put(["\n<tool_response>\n", &message.content, "\n</tool_response>"]);
                if !neighbour(index + 1) {
                    out.put(["<|im_end|>\n"]);
                }
            }
            _ => {
                let role = message.role.as_str();
                out.put(["<|im_start|>", role, "\n", &message.content, "<|im_end|>\n"]);
            }
        }
        if is_last && message.role != Role::Assistant {
            out.put(["<|im_start|>assistant\n"]);
        }
    }
    Ok(())
}

fn write_system(asked: &Asked<'_>, out: &mut Out) {
    let systems = asked.messages.iter().filter(|message| message.role == Role::System);
    let system = systems.map(|system| system.content.as_str()).find(|text| !text.is_empty());
    if system.is_none() && asked.tools.is_empty() {
        return;
    }
    out.put(["<|im_start|>system\n", system.unwrap_or(SYSTEM)]);
    if !asked.tools.is_empty() {
        out.put(["\n\n", TOOLS]);
        for tool in &asked.tools {
            write_tool(tool, out);
        }
        out.put([CALL_FORMAT]);
    }
    out.put(["<|im_end|>\n"]);
}

fn write_tool(tool: &Function<'_>, out: &mut Out) {
    out.put(["\n<function>\n<name>", tool.name, "</name>"]);
    if !tool.description.is_empty() {
        out.put(["\n<description>", tool.description, "</description>"]);
    }
    out.put(["\n<parameters>"]);
    for (name, property) in tool.properties().into_iter().flatten() {
        out.put(["\n<parameter>\n<name>", name, "</name>"]);
        if let Some(kind) = property.get("type") {
            out.put(["\n<type>", &joined_type(kind), "</type>"]);
        }
        if let Some(description) = property["description"].as_str() {
            out.put(["\n<description>", description, "</description>"]);
        }
        if let Value::Object(property) = property {
            write_others(property, &["type", "description"], out);
        }
        out.put(["\n</parameter>"]);
    }
    write_others(&tool.parameters, &["type", "properties"], out);
    out.put(["\n</parameters>\n</function>"]);
}

fn joined_type(kind: &Value) -> String {
    match type_names(Some(kind)).as_slice() {
        [one] => (*one).to_owned(),
        _ => compact(kind),
    }
}

/// The other keywords, each in a tag of its own. Ollama writes them in random order, we in alphabetic.
fn write_others(schema: &Map<String, Value>, but: &[&str], out: &mut Out) {
    let mut others: Vec<_> =
        schema.iter().filter(|(name, _)| !but.contains(&name.as_str())).collect();
    others.sort_by_key(|(name, _)| *name);
    for (name, value) in others {
        let text = match value {
            Value::Array(_) | Value::Object(_) => compact(&sorted(value)),
            simple => printed(simple),
        };
        out.put(["\n<", name, ">", &text, "</", name, ">"]);
    }
}

fn write_assistant(message: &Message, is_last: bool, out: &mut Out) {
    out.put(["<|im_start|>assistant\n", &message.content]);
    if message.tool_calls.is_empty() {
        if !is_last {
            out.put(["<|im_end|>\n"]);
        }
        return;
    }
    if !message.content.is_empty() {
        out.put(["\n"]);
    }
    for call in &message.tool_calls {
        out.put(["\n<tool_call>\n<function=", &call.name, ">"]);
        out.arguments(call, ["\n<parameter=", ">\n", "\n</parameter>"], argument);
        out.put(["\n</function>\n</tool_call>"]);
    }
    out.put(["<|im_end|>\n"]);
}
