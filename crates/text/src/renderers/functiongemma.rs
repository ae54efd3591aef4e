//! FunctionGemma: a developer's turn declares the functions; results stand between the turns, without one.

use protocol::{Message, Role};
use serde_json::Value;

use super::schema::{Function, type_names};
use super::values::{by_name, names, printed, upper, whole_or_printed};
use super::{Asked, Out, is_tool};
use crate::Result;

const SYSTEM: &str = "You can do function calling with the following functions:";

pub(super) fn write(asked: &Asked<'_>, out: &mut Out) -> Result<()> {
    out.put(["<bos>"]);
    let (system, messages) = asked.split_first(&["system", "developer"]);
    write_system(system.map_or("", |system| &system.content), &asked.tools, out);
    let mut called = Called::default();
    let mut ended = End::Turn;
    for (index, message) in messages.iter().enumerate() {
        let goes_on = ended == End::Result;
        let content = message.content.trim();
        match &message.role {
            Role::Assistant => {
                out.put([if goes_on { "" } else { "<start_of_turn>model\n" }, content]);
                called = called.after(message);
                let answered = is_tool(messages.get(index + 1));
                ended = write_calls(message, answered, out);
            }
            Role::User => {
                out.put([if goes_on { "" } else { "<start_of_turn>user\n" }]);
                out.put([content, "<end_of_turn>\n"]);
                ended = End::Turn;
            }
            Role::Tool => {
                out.put([if ended == End::Call { "" } else { "<start_function_response>" }]);
                out.put([
                    "response:",
                    called.next(),
                    "{",
                    &argument(&message.content.as_str().into()),
                ]);
                out.put(["}<end_function_response>"]);
                ended = End::Result;
            }
            role => out.put(["<start_of_turn>", role.as_str(), "\n", content, "<end_of_turn>\n"]),
        }
    }
    out.put([if ended == End::Result { "" } else { "<start_of_turn>model\n" }]);
    Ok(())
}

/// What the last message ended with. One of an unknown role changes nothing.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Turn,
    Call,
    Result,
}

/// The functions that were called last, in the order in which results come.
#[derive(Default)]
struct Called<'a> {
    message: Option<&'a Message>,
    answered: usize,
}

impl<'a> Called<'a> {
    fn after(self, message: &'a Message) -> Called<'a> {
        if message.tool_calls.is_empty() {
            return self;
        }
        Called { message: Some(message), answered: 0 }
    }

    fn next(&mut self) -> &'a str {
        let call = self.message.and_then(|message| message.tool_calls.get(self.answered));
        self.answered += 1;
        call.map_or("", |call| &call.name)
    }
}

fn write_system(system: &str, tools: &[Function<'_>], out: &mut Out) {
    if system.is_empty() && tools.is_empty() {
        return;
    }
    out.put(["<start_of_turn>developer\n", system.trim()]);
    if !tools.is_empty() {
        out.put([if system.is_empty() { "" } else { "\n" }]);
        out.put([if system.trim() == SYSTEM { "" } else { SYSTEM }]);
    }
    for tool in tools {
        out.put(["<start_function_declaration>declaration:", tool.name, "{", &declaration(tool)]);
        out.put(["}<end_function_declaration>"]);
    }
    out.put(["<end_of_turn>\n"]);
}

fn declaration(tool: &Function<'_>) -> String {
    let mut parts = vec![format!("description:{}", quote(tool.description))];
    if tool.properties().is_some() || !tool.parameters_type().is_empty() {
        parts.push(format!("parameters:{{{}}}", parameters(tool)));
    }
    parts.join(",")
}

fn parameters(tool: &Function<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(properties) = tool.properties().filter(|properties| !properties.is_empty()) {
        let properties: Vec<String> =
            names(properties).into_iter().map(|(name, value)| property(name, value)).collect();
        parts.push(format!("properties:{{{}}}", properties.join(",")));
    }
    let required: Vec<String> = tool.required().map(quote).collect();
    if !required.is_empty() {
        parts.push(format!("required:[{}]", required.join(",")));
    }
    if !tool.parameters_type().is_empty() {
        parts.push(format!("type:{}", quote(&upper(tool.parameters_type()))));
    }
    parts.join(",")
}

/// Of several types the first.
fn property(name: &str, schema: &Value) -> String {
    let description = quote(schema["description"].as_str().unwrap_or_default());
    let types = type_names(schema.get("type"));
    let kind = types.first().map(|first| format!(",type:{}", quote(&upper(first))));
    format!("{name}:{{description:{description}{}}}", kind.unwrap_or_default())
}

fn write_calls(message: &Message, answered: bool, out: &mut Out) -> End {
    for call in &message.tool_calls {
        let arguments = fields(by_name(&call.arguments));
        out.put(["<start_function_call>call:", &call.name, &arguments, "<end_function_call>"]);
    }
    if answered && !message.tool_calls.is_empty() {
        out.put(["<start_function_response>"]);
        return End::Call;
    }
    out.put(["<end_of_turn>\n"]);
    End::Turn
}

fn quote(text: &str) -> String {
    format!("<escape>{text}<escape>")
}

fn fields(fields: Vec<(&str, &Value)>) -> String {
    let fields: Vec<String> =
        fields.into_iter().map(|(name, value)| format!("{name}:{}", argument(value))).collect();
    format!("{{{}}}", fields.join(","))
}

fn argument(value: &Value) -> String {
    match value {
        Value::Number(number) => whole_or_printed(number.as_f64().unwrap_or_default()),
        Value::String(text) => quote(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(argument).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(object) => fields(names(object)),
        Value::Null | Value::Bool(_) => printed(value),
    }
}
