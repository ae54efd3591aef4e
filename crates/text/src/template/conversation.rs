//! A conversation as templates expect it: the variables and message fields of Hugging Face's convention.

use std::collections::BTreeMap;

use minijinja::Value;
use protocol::{Message, Think, Tool, ToolCall};

use super::value_of;

/// What a template may look at.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    pub messages: &'a [Message],
    pub tools: &'a [Tool],
    pub think: &'a Think,
}

impl Conversation<'_> {
    /// `here` is put behind the last message's content, where the model is to go on.
    pub(super) fn variables(&self, named: &BTreeMap<String, String>, here: Option<&str>) -> Value {
        let last = self.messages.len().saturating_sub(1);
        let messages = self.messages.iter().enumerate();
        let messages = messages.map(|(index, message)| {
            message_value(message, here.filter(|_| index == last).unwrap_or_default())
        });
        let mut variables = vec![
            ("messages", messages.collect::<Value>()),
            ("tools", tools_value(self.tools)),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(here.is_none())),
        ];
        variables.extend(thinking(self.think));
        variables.extend(named.iter().map(|(name, text)| (name.as_str(), Value::from(text))));
        Value::from_pairs(variables)
    }
}

/// Templates ask in one of several words. Unset, the model's own default holds.
fn thinking(think: &Think) -> Vec<(&'static str, Value)> {
    let flag = |on: bool| vec![("enable_thinking", on.into()), ("thinking", on.into())];
    match think {
        Think::Unset => Vec::new(),
        Think::Off => flag(false),
        Think::On => flag(true),
        Think::Level(level) => {
            let mut variables = flag(true);
            variables.push(("reasoning_effort", Value::from(level.as_str())));
            variables
        }
    }
}

fn message_value(message: &Message, here: &str) -> Value {
    let content = format!("{}{here}", message.content);
    let mut fields =
        vec![("role", Value::from(message.role.as_str())), ("content", Value::from(content))];
    if let Some(thinking) = &message.thinking {
        fields.push(("thinking", Value::from(thinking.as_str())));
        fields.push(("reasoning_content", Value::from(thinking.as_str())));
    }
    if !message.tool_calls.is_empty() {
        fields.push(("tool_calls", message.tool_calls.iter().map(call_value).collect()));
    }
    if let Some(name) = &message.tool_name {
        fields.push(("name", Value::from(name.as_str())));
    }
    if let Some(id) = &message.tool_call_id {
        fields.push(("tool_call_id", Value::from(id.as_str())));
    }
    Value::from_pairs(fields)
}

fn call_value(call: &ToolCall) -> Value {
    let arguments = call.arguments.iter().map(|(name, value)| (name.as_str(), value_of(value)));
    let function = Value::from_pairs([
        ("name", Value::from(call.name.as_str())),
        ("arguments", Value::from_pairs(arguments)),
    ]);
    let id = call.id.as_deref().map(|id| ("id", Value::from(id)));
    let rest = [("type", Value::from("function")), ("function", function)];
    Value::from_pairs(id.into_iter().chain(rest))
}

/// None at all is `none`, as a template may ask `tools is not none`.
fn tools_value(tools: &[Tool]) -> Value {
    if tools.is_empty() { Value::from(()) } else { tools.iter().map(tool_value).collect() }
}

fn tool_value(tool: &Tool) -> Value {
    let function = &tool.function;
    let mut fields = vec![("name", Value::from(function.name.as_str()))];
    if !function.description.is_empty() {
        fields.push(("description", Value::from(function.description.as_str())));
    }
    if !function.parameters.is_null() {
        fields.push(("parameters", value_of(&function.parameters)));
    }
    Value::from_pairs([
        ("type", Value::from(tool.kind.as_str())),
        ("function", Value::from_pairs(fields)),
    ])
}
