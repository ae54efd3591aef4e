//! Cogito v2: the marks of DeepSeek, a fixed system text, tools as blocks of indented JSON.

use protocol::{Message, Role};

use super::values::{compact, indented, object};
use super::{Asked, Out, is_tool};
use crate::Result;

const SYSTEM: &str = "You are Cogito, an AI assistant created by Deep Cogito, which is an AI research lab based in San \
Francisco.";
const THINK: &str = "Enable deep thinking subroutine.\n\n";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let thinks = asked.thinks().unwrap_or(false);
    let (system, messages) = asked.split_first(&["system"]);
    out.put(["<｜begin▁of▁sentence｜>", if thinks { THINK } else { "" }, SYSTEM]);
    if let Some(system) = system.filter(|system| !system.content.is_empty()) {
        out.put(["\n\n", &system.content, if thinks { "\n\n" } else { "" }]);
    }
    if !asked.tools.is_empty() {
        out.put(["\nYou have the following functions available:\n"]);
        for tool in &asked.tools {
            out.put(["```json\n", &indented(&tool.tool()), "\n```\n"]);
        }
    }
    let mut is_open = false;
    for (index, message) in messages.iter().enumerate() {
        match message.role {
            Role::User => out.put(["<｜User｜>", &message.content, "<｜Assistant｜>"]),
            Role::Assistant => write_assistant(message, out),
            Role::Tool => {
                out.put([if is_open { "" } else { "<｜tool▁outputs▁begin｜>" }]);
                out.put(["<｜tool▁output▁begin｜>", &message.content, "<｜tool▁output▁end｜>"]);
                is_open = is_tool(messages.get(index + 1));
                out.put([if is_open { "\n" } else { "<｜tool▁outputs▁end｜>" }]);
            }
            Role::System | Role::Other(_) => {}
        }
    }
    if !ends_with_question(messages) {
        out.put(["<｜Assistant｜>"]);
    }
    out.put([if thinks { "<think>\n" } else { "" }]);
    Ok(())
}

/// Messages of other roles are not written, hence do not count.
fn ends_with_question(messages: &[Message]) -> bool {
    let written =
        |message: &&Message| matches!(message.role, Role::User | Role::Assistant | Role::Tool);
    messages.iter().rfind(written).is_some_and(|last| last.role == Role::User)
}

fn write_assistant(message: &Message, out: &mut Out) {
    out.put([&message.content]);
    if !message.tool_calls.is_empty() {
        out.put(["<｜tool▁calls▁begin｜>"]);
        out.join(&message.tool_calls, "\n", |out, call| {
            out.put(["<｜tool▁call▁begin｜>function<｜tool▁sep｜>", &call.name, "\n```json\n"]);
            out.put([&compact(&object(&call.arguments)), "\n```<｜tool▁call▁end｜>"]);
        });
        out.put(["<｜tool▁calls▁end｜>"]);
    }
    out.put(["<｜end▁of▁sentence｜>"]);
}
