//! DeepSeek V3.1: all system texts first, then tools, then turns without line breaks.

use protocol::{Message, Role};
use serde_json::Value;

use super::values::{compact, object};
use super::{Asked, Out, thinking};
use crate::Result;

const CALL_FORMAT: &str = "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n\
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>\
{{additional_tool_calls}}<｜tool▁calls▁end｜>\n\n\
Where:\n\n\
- `tool_call_name` must be an exact match to one of the available tools\n\
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n\
- For multiple tool calls, chain them directly without separators or spaces\n";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let thinks = asked.thinks().unwrap_or(false);
    out.put(["<｜begin▁of▁sentence｜>"]);
    let systems = asked.messages.iter().filter(|message| message.role == Role::System);
    out.join(systems, "\n\n", |out, system| out.put([&system.content]));
    write_tools(asked, out);
    let query = asked.messages.iter().rposition(|message| message.role == Role::User);
    let mut before = Before::Else;
    for (index, message) in asked.messages.iter().enumerate() {
        match message.role {
            Role::User => {
                out.put(["<｜User｜>", &message.content]);
                before = Before::User;
            }
            Role::Assistant => {
                let is_current = query.is_none_or(|query| index > query);
                let opens = thinks && is_current && !thinking(message).is_empty();
                write_assistant(message, before, opens, out);
                before = Before::Else;
            }
            Role::Tool => {
                out.put(["<｜tool▁output▁begin｜>", &message.content, "<｜tool▁output▁end｜>"]);
                before = Before::Tool;
            }
            Role::System | Role::Other(_) => {}
        }
    }
    if before == Before::User {
        out.put(["<｜Assistant｜>", if thinks { "<think>" } else { "</think>" }]);
    }
    Ok(())
}

/// Whose the last written message was.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    User,
    Tool,
    Else,
}

fn write_tools(asked: &Asked<'_>, out: &mut Out) {
    if asked.tools.is_empty() {
        return;
    }
    out.put(["\n\n## Tools\nYou have access to the following tools:\n"]);
    for tool in &asked.tools {
        let parameters = compact(&Value::Object(tool.parameters.clone()));
        out.put(["\n### ", tool.name, "\nDescription: ", tool.description]);
        out.put(["\n\nParameters: ", &parameters, "\n"]);
    }
    out.put([CALL_FORMAT]);
}

fn write_assistant(message: &Message, before: Before, opens: bool, out: &mut Out) {
    let calls = &message.tool_calls;
    if before == Before::User {
        let opens = opens && calls.is_empty();
        out.put(["<｜Assistant｜>", if opens { "<think>" } else { "</think>" }]);
    }
    if calls.is_empty() {
        let content = message.content.as_str();
        let answer = content.split_once("</think>").map_or(content, |(_, answer)| answer);
        let text = if before == Before::Tool { content } else { answer };
        out.put([text, "<｜end▁of▁sentence｜>"]);
        return;
    }
    out.put([&message.content, "<｜tool▁calls▁begin｜>"]);
    for call in calls {
        out.put(["<｜tool▁call▁begin｜>", &call.name, "<｜tool▁sep｜>"]);
        out.put([&compact(&object(&call.arguments)), "<｜tool▁call▁end｜>"]);
    }
    out.put(["<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"]);
}
