//! Gemma 4, whose large sizes are told with an empty thought not to think. Turns between `<|turn>` and `<turn|>`, texts
//! within calls and declarations between `<|"|>`, results of tools within the turn that called them.

mod declaration;

use std::collections::HashMap;

use protocol::{Message, Role, ToolCall};
use serde_json::Value;

use super::images::Images;
use super::values::{by_name, printed, whole_or_printed};
use super::{Asked, Out, is_tool, thinking};
use crate::Result;

/// Stands around a text.
const QUOTE: &str = "<|\"|>";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let ended = write_conversation(asked, out);
    write_beginning(ended, "", asked, out);
    Ok(())
}

pub(super) fn write_large(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    let ended = write_conversation(asked, out);
    write_beginning(ended, "<|channel>thought\n<channel|>", asked, out);
    Ok(())
}

/// What the last written message ended with.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Text,
    Call,
    Result,
}

fn write_beginning(ended: End, no_thought: &str, asked: &Asked<'_>, out: &mut Out) {
    let thinks = asked.thinks().unwrap_or(false);
    match ended {
        End::Text => out.put(["<|turn>model\n", if thinks { "" } else { no_thought }]),
        End::Result if thinks => out.put(["<|channel>thought\n"]),
        End::Result | End::Call => {}
    }
}

fn write_conversation(asked: &Asked<'_>, out: &mut Out) -> End {
    out.put(["<bos>"]);
    let (system, messages) = asked.split_first(&["system", "developer"]);
    write_system(system, asked, out);
    let query = messages.iter().rposition(|message| message.role == Role::User);
    let mut writer = Writer { messages, images: Images::default(), out };
    let mut ended = End::Text;
    let mut before = None;
    for (index, message) in
        messages.iter().enumerate().filter(|(_, message)| !is_tool(Some(message)))
    {
        let is_model = message.role == Role::Assistant;
        let goes_on = is_model && before == Some(&Role::Assistant);
        if !goes_on {
            let role = if is_model { "model" } else { message.role.as_str() };
            writer.out.put(["<|turn>", role, "\n"]);
        }
        if is_model && query.is_none_or(|query| index > query) {
            writer.thoughts(message);
        }
        ended = writer.message(index);
        before = Some(&message.role);
    }
    ended
}

fn write_system(system: Option<&Message>, asked: &Asked<'_>, out: &mut Out) {
    let thinks = asked.thinks().unwrap_or(false);
    if system.is_none() && asked.tools.is_empty() && !thinks {
        return;
    }
    out.put(["<|turn>system\n", if thinks { "<|think|>\n" } else { "" }]);
    out.put([system.map_or("", |system| system.content.trim())]);
    for tool in &asked.tools {
        out.put([&declaration::declare(tool)]);
    }
    out.put(["<turn|>\n"]);
}

struct Writer<'a, 'o> {
    messages: &'a [Message],
    images: Images,
    out: &'o mut Out,
}

impl Writer<'_, '_> {
    fn thoughts(&mut self, message: &Message) {
        let thoughts = thinking(message);
        if !thoughts.is_empty() {
            self.out.put(["<|channel>thought\n", thoughts, "\n<channel|>"]);
        }
    }

    /// Everything from its calls to the end of its turn, if the turn ends.
    fn message(&mut self, index: usize) -> End {
        let message = &self.messages[index];
        for call in &message.tool_calls {
            self.out.put([
                "<|tool_call>call:",
                &call.name,
                &braced(&call.arguments),
                "<tool_call|>",
            ]);
        }
        let results = self.results(index);
        let is_model = message.role == Role::Assistant;
        let has_content = self.content(message);
        let next = self.messages[index + 1..].iter().find(|next| next.role != Role::Tool);
        let calls = !message.tool_calls.is_empty();
        let goes_on = is_model
            && next.is_some_and(|next| next.role == Role::Assistant)
            && (!calls || results);
        let waits = results && !has_content && next.is_none();
        self.out.put([match () {
            () if calls && !results => "<|tool_response>",
            () if goes_on || waits => "",
            () => "<turn|>\n",
        }]);
        match (calls, results) {
            (_, true) => End::Result,
            (true, false) => End::Call,
            (false, false) => End::Text,
        }
    }

    /// The results that follow a message with calls; false if there are none.
    fn results(&mut self, index: usize) -> bool {
        let calls = &self.messages[index].tool_calls;
        let following =
            self.messages[index + 1..].iter().take_while(|message| is_tool(Some(message)));
        let following = following.take(if calls.is_empty() { 0 } else { usize::MAX });
        let names = names_by_id(calls);
        let mut any = false;
        for result in following {
            let by_id = result.tool_call_id.as_deref().and_then(|id| names.get(id).copied());
            let own = result.tool_name.as_deref().filter(|name| !name.is_empty());
            let name = by_id.or(own).unwrap_or("unknown");
            let text = self.images.tag(&result.content, result);
            self.out.put(["<|tool_response>response:", name, "{value:", QUOTE, &text, QUOTE]);
            self.out.put(["}<tool_response|>"]);
            any = true;
        }
        any
    }

    /// Whether there is any.
    fn content(&mut self, message: &Message) -> bool {
        let content = match message.role {
            Role::Assistant => without_thoughts(&message.content),
            _ => message.content.trim().to_owned(),
        };
        self.out.put([&self.images.tag(&content, message)]);
        !content.trim().is_empty() || !message.images.is_empty()
    }
}

/// The first call with an id has it.
fn names_by_id(calls: &[ToolCall]) -> HashMap<&str, &str> {
    let calls = calls.iter().rev();
    let named = calls.filter_map(|call| Some((call.id.as_deref()?, call.name.as_str())));
    named.filter(|(id, _)| !id.is_empty()).collect()
}

fn without_thoughts(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, thought)) = rest.split_once("<|channel>") {
        kept.push_str(before);
        rest = thought.split_once("<channel|>").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept.trim().to_owned()
}

fn braced(arguments: &indexmap::IndexMap<String, Value>) -> String {
    fields(by_name(arguments))
}

fn fields(fields: Vec<(&str, &Value)>) -> String {
    let fields: Vec<String> =
        fields.into_iter().map(|(name, value)| format!("{name}:{}", argument(value))).collect();
    format!("{{{}}}", fields.join(","))
}

fn argument(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Number(number) => whole_or_printed(number.as_f64().unwrap_or_default()),
        Value::String(text) => format!("{QUOTE}{text}{QUOTE}"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(argument).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(object) => fields(super::values::names(object)),
        Value::Bool(_) => printed(value),
    }
}
