//! A conversation as templates expect it: the variables and message fields of Hugging Face's convention.

use std::collections::BTreeMap;

use minijinja::Value;
use protocol::{Message, Think, Tool, ToolCall};

use super::{IMAGE_MARK, tagged, value_of};

/// What a template may look at.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    pub messages: &'a [Message],
    pub tools: &'a [Tool],
    pub think: &'a Think,
}

/// When a message's content is a list of its parts (texts and pictures) instead of one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// The template knows no pictures: their tags stand in the text.
    Never,
    WithImages,
    /// The template does not show contents that are one text.
    Always,
}

impl Conversation<'_> {
    /// `here` is put behind the last message's content, where the model is to go on.
    pub(super) fn variables(
        &self,
        named: &BTreeMap<String, String>,
        here: Option<&str>,
        parts: Parts,
    ) -> Value {
        let last = self.messages.len().saturating_sub(1);
        let mut images = 0;
        let messages = self.messages.iter().enumerate().map(|(index, message)| {
            let here = here.filter(|_| index == last).unwrap_or_default();
            let content = match (parts, message.images.is_empty()) {
                (Parts::Always, _) | (Parts::WithImages, false) => in_parts(message, here),
                _ => Value::from(tagged(message, &mut images) + here),
            };
            message_value(message, content)
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

/// Pictures stand where the text has an `[img]`; those without one come first.
fn in_parts(message: &Message, here: &str) -> Value {
    let content = format!("{}{here}", message.content);
    let image = || Value::from_pairs([("type", Value::from("image"))]);
    let text = |text: &str| {
        Value::from_pairs([("type", Value::from("text")), ("text", Value::from(text))])
    };
    let marked = content.matches(IMAGE_MARK).count().min(message.images.len());
    let mut parts: Vec<Value> = (marked..message.images.len()).map(|_| image()).collect();
    for (index, piece) in content.splitn(marked + 1, IMAGE_MARK).enumerate() {
        if index > 0 {
            parts.push(image());
        }
        if !piece.is_empty() || marked == 0 {
            parts.push(text(piece));
        }
    }
    parts.into_iter().collect()
}

fn message_value(message: &Message, content: Value) -> Value {
    let mut fields = vec![("role", Value::from(message.role.as_str())), ("content", content)];
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
