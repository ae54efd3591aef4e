//! Calls of tools as a grammar: the syntax a family writes them in, with arguments that fit the tool's schema.

use protocol::Tool;
use serde_json::{Value, json};

use super::schema;
use crate::{Error, Result};

/// Calls in one reply.
const CALLS_MAX: usize = 16;

/// How a family writes calls: `open`, then calls with `between` in the middle, then `close`. Each is `begin`, an object
/// with the name and the arguments, `end`. Where nothing stands between two calls there is only one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallSyntax {
    pub open: String,
    pub begin: String,
    pub name_key: String,
    pub arguments_key: String,
    pub end: String,
    pub between: String,
    pub close: String,
}

impl CallSyntax {
    /// A template writes past calls in the model's own notation. None where it does not tell.
    pub fn of_template(source: &str) -> Option<CallSyntax> {
        let has = |tag: &str| source.contains(tag);
        let named = |arguments: &str| CallSyntax {
            name_key: "name".to_owned(),
            arguments_key: arguments.to_owned(),
            ..CallSyntax::default()
        };
        if has("<tool_call>") && !has("<function=") && !has("<arg_key>") && has("arguments") {
            return Some(CallSyntax::hermes());
        }
        if has("[TOOL_CALLS]") && !has("[ARGS]") && !has("[CALL_ID]") {
            return Some(CallSyntax {
                open: "[TOOL_CALLS] [".to_owned(),
                between: ", ".to_owned(),
                close: "]".to_owned(),
                ..named("arguments")
            });
        }
        // Llama 3's: a reply that is nothing but one object.
        let is_bare = has("\"parameters\": ") && !has("<function=") && !has("_call");
        is_bare.then(|| named("parameters"))
    }

    /// Special tokens among these are text.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let tags = [&self.open, &self.begin, &self.end];
        tags.into_iter().map(|tag| tag.trim()).filter(|tag| !tag.is_empty())
    }

    /// `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`, one after the other.
    pub fn hermes() -> CallSyntax {
        CallSyntax {
            open: String::new(),
            begin: "<tool_call>\n".to_owned(),
            name_key: "name".to_owned(),
            arguments_key: "arguments".to_owned(),
            end: "\n</tool_call>".to_owned(),
            between: "\n".to_owned(),
            close: String::new(),
        }
    }

    /// Rules of a Lark grammar whose first is `calls`. `many`: further calls may follow the first.
    pub(super) fn lark(&self, tools: &[&Tool], many: bool) -> Result<String> {
        let more = match many && !self.between.is_empty() {
            true => format!("({} call){{0,{}}}", quoted(&self.between), CALLS_MAX - 1),
            false => String::new(),
        };
        let calls = rule(&[&quoted(&self.open), "call", &more, &quoted(&self.close)]);
        let names: Vec<String> = (0..tools.len()).map(|index| format!("call_{index}")).collect();
        let mut grammar = format!("calls: {calls}\ncall: {}\n", names.join(" | "));
        for (name, tool) in names.iter().zip(tools) {
            grammar.push_str(&format!("{name}: {}\n", self.call(tool)?));
        }
        Ok(grammar)
    }

    fn call(&self, tool: &Tool) -> Result<String> {
        let text = |value: &str| Value::from(value).to_string();
        let head = format!(
            "{}{{{}: {}, {}: ",
            self.begin,
            text(&self.name_key),
            text(&tool.function.name),
            text(&self.arguments_key)
        );
        let tail = format!("}}{}", self.end);
        let arguments = schema::lark(&parameters(tool)?);
        Ok(format!("{} {arguments} {}", quoted(&head), quoted(&tail)))
    }
}

/// What a tool's arguments must be: an object, whatever else is said.
fn parameters(tool: &Tool) -> Result<Value> {
    let given = &tool.function.parameters;
    if given.as_object().is_none_or(|object| object.is_empty()) {
        return Ok(json!({"type": "object"}));
    }
    let mut read = schema::read(given).map_err(|error| match error {
        Error::Format { why } => {
            Error::Format { why: format!("tool `{}`: {why}", tool.function.name) }
        }
        other => other,
    })?;
    if let Some(fields) = read.as_object_mut() {
        fields.entry("type").or_insert_with(|| "object".into());
    }
    Ok(read)
}

/// A literal of Lark; nothing for nothing.
pub(super) fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { Value::from(text).to_string() }
}

fn rule(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_off_the_template() {
        let of = CallSyntax::of_template;
        assert_eq!(of("<tool_call>\n{\"name\": …, \"arguments\": …}"), Some(CallSyntax::hermes()));
        assert_eq!(of("<tool_call>\n<function=…>arguments"), None);
        let mistral = of("[TOOL_CALLS] [{\"name\"").unwrap();
        assert_eq!((mistral.close.as_str(), mistral.between.as_str()), ("]", ", "));
        assert_eq!(of("[TOOL_CALLS]name[ARGS]{}"), None);
        let llama = of("{'{\"name\": \"' … '\", ' '\"parameters\": '}").unwrap();
        assert_eq!((llama.begin.as_str(), llama.arguments_key.as_str()), ("", "parameters"));
        assert_eq!(of("{{ messages }}"), None);
    }
}
