//! What a client asks of a model, before and after the model's own settings are added. Pure.

use std::sync::Once;

use indexmap::IndexMap;
use protocol::{Format, Image, Input, Message, OptionError, Options, Request, Role, Think};
use scheduler::KeepAlive;
use serde_json::{Map, Value};
use store::{Capability, Model, StoredMessage};

use super::Refusal;
use crate::json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Chat,
    Generate,
}

/// A dialect's question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    /// As the client wrote it.
    pub model: String,
    pub verb: Verb,
    /// Without options, format and what the model adds.
    pub request: Request,
    /// As the client wrote them.
    pub options: Map<String, Value>,
    pub format: Value,
    pub keep_alive: Option<KeepAlive>,
    /// A system text in place of the model's own.
    pub system: Option<String>,
    /// Whether the model's stored messages come before the client's.
    pub stored_messages: bool,
    /// No prompt at all: the model is only to be loaded (or, with a keep-alive of nothing, unloaded).
    pub load_only: bool,
}

/// What the answer to a question depends on, of the model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// All four parts of its name.
    pub full_name: String,
    pub capabilities: Vec<Capability>,
    pub params: IndexMap<String, Value>,
    pub system: Option<String>,
    pub messages: Vec<StoredMessage>,
    /// Whether thoughts are taken out of what it said before the last question.
    pub forgets_thoughts: bool,
}

impl Facts {
    pub(crate) fn of(model: &Model) -> Facts {
        Facts {
            full_name: model.name.full(),
            capabilities: model.capabilities(),
            params: model.params.clone(),
            system: model.system.clone().filter(|text| !text.is_empty()),
            messages: model.messages.clone(),
            forgets_thoughts: model.config.model_family == "qwen3"
                || model.name.model() == "deepseek-r1",
        }
    }

    fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

impl Ask {
    pub(crate) fn unloads(&self) -> bool {
        self.load_only && self.keep_alive == Some(KeepAlive::NONE)
    }

    /// The request that goes to the engine, or why there is none.
    pub(crate) fn complete(self, facts: &Facts) -> Result<Request, Refusal> {
        let think = self.check_think(facts)?;
        self.check_capabilities(facts)?;
        let mut request = self.request;
        request.options = merged(&self.options, &facts.params).map_err(Refusal::Option)?;
        request.think = think;
        if self.load_only {
            return Ok(request);
        }
        request.format = format(self.format)?;
        if request.input.images() > 0
            && !facts.can(Capability::Vision)
            && !facts.can(Capability::Audio)
        {
            return Err(Refusal::Images);
        }
        if let Input::Chat { messages, .. } = &mut request.input {
            add_stored(
                messages,
                self.system.or(facts.system.clone()),
                match self.stored_messages {
                    true => &facts.messages,
                    false => &[],
                },
            );
            if self.verb == Verb::Chat && facts.forgets_thoughts {
                forget_thoughts(messages);
            }
        }
        Ok(request)
    }

    fn check_think(&self, facts: &Facts) -> Result<Think, Refusal> {
        match (facts.can(Capability::Thinking), &self.request.think) {
            (true, Think::Unset) => Ok(Think::On),
            (false, Think::On | Think::Level(_)) => {
                Err(Refusal::NoThinking { asked: self.model.clone() })
            }
            (_, asked) => Ok(asked.clone()),
        }
    }

    fn check_capabilities(&self, facts: &Facts) -> Result<(), Refusal> {
        if !facts.can(Capability::Completion) {
            return Err(Refusal::NoCompletion { asked: self.model.clone(), verb: self.verb });
        }
        let needed = match &self.request.input {
            Input::Chat { tools, .. } if !tools.is_empty() => Some(Capability::Tools),
            Input::Infill { .. } => Some(Capability::Insert),
            _ => None,
        };
        match needed.filter(|&capability| !facts.can(capability)) {
            None => Ok(()),
            Some(missing) => Err(Refusal::NoCapability {
                full_name: facts.full_name.clone(),
                missing: vec![missing.as_str()],
            }),
        }
    }
}

/// The request's options over the model's. Names that nobody knows are logged and left out.
fn merged(
    asked: &Map<String, Value>,
    params: &IndexMap<String, Value>,
) -> Result<Options, OptionError> {
    let params = options(params.iter())?;
    Ok(options(asked.iter())?.or(params))
}

fn options<'a>(
    entries: impl Iterator<Item = (&'a String, &'a Value)>,
) -> Result<Options, OptionError> {
    let mut options = Options::default();
    for (name, value) in entries {
        match options.set(name, value) {
            Err(OptionError::Unknown(name)) if name.starts_with("mirostat") => tell_of_mirostat(),
            Err(OptionError::Unknown(name)) => {
                tracing::warn!(option = name, "invalid option provided")
            }
            other => other?,
        }
    }
    Ok(options)
}

/// Many a client sends it with every request.
fn tell_of_mirostat() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!("mirostat is not there: tokens are drawn by the other options alone");
    });
}

fn format(given: Value) -> Result<Format, Refusal> {
    match given {
        Value::Null => Ok(Format::Free),
        Value::String(text) if text.is_empty() => Ok(Format::Free),
        Value::String(text) if text == "json" => Ok(Format::Json),
        Value::Object(fields) => Ok(grammar(&fields).unwrap_or(Format::Schema(fields.into()))),
        _ => Err(Refusal::Format { given: json::to_text(&given) }),
    }
}

/// Ours: an object with one of these keys and nothing else. As a schema it would say nothing.
fn grammar(fields: &Map<String, Value>) -> Option<Format> {
    let (name, value) = fields.iter().next().filter(|_| fields.len() == 1)?;
    let source = value.as_str()?.to_owned();
    match name.as_str() {
        "regex" => Some(Format::Regex(source)),
        "lark" => Some(Format::Lark(source)),
        "gbnf" => Some(Format::Gbnf(source)),
        _ => None,
    }
}

/// Stored messages come first; the system text before all, unless the client begins with one of its own.
fn add_stored(messages: &mut Vec<Message>, system: Option<String>, stored: &[StoredMessage]) {
    let begins_with_system = messages.first().is_some_and(|message| message.role == Role::System);
    let system = system.filter(|_| !begins_with_system);
    let system =
        system.map(|content| Message { role: Role::System, content, ..Message::default() });
    let before: Vec<Message> = system.into_iter().chain(stored.iter().map(message)).collect();
    messages.splice(0..0, before);
}

/// Clients send back what they got, with the thoughts in it where the model was asked by one that knows of none.
fn forget_thoughts(messages: &mut [Message]) {
    let last = messages.iter().rposition(|message| message.role == Role::User).unwrap_or(0);
    let said = messages[..last].iter_mut().filter(|message| message.role == Role::Assistant);
    said.for_each(|message| message.content = without_thoughts(&message.content).to_owned());
}

/// What stands behind the thoughts that a text begins with.
fn without_thoughts(text: &str) -> &str {
    const OPEN: &str = "<think>";
    let start = text.trim_start();
    match start.strip_prefix(OPEN) {
        Some(inside) => inside.split_once("</think>").map_or("", |(_, rest)| rest.trim_start()),
        // The beginning of a tag that was cut off.
        None if OPEN.starts_with(start) => "",
        None => text,
    }
}

fn message(stored: &StoredMessage) -> Message {
    Message {
        role: Role::parse(&stored.role),
        content: stored.content.clone(),
        thinking: Some(stored.thinking.clone()).filter(|text| !text.is_empty()),
        images: stored.images.iter().map(|base64| Image { base64: base64.clone() }).collect(),
        ..Message::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(given: Value, expected: Option<Format>) {
        assert_eq!(format(given.clone()).ok(), expected, "{given}");
    }

    #[test]
    fn thoughts_of_earlier_answers_go() {
        let said = |role: Role, content: &str| Message {
            role,
            content: content.to_owned(),
            ..Message::default()
        };
        let answers = [
            (" <think>\na</think>\n\nb ", "b "),
            ("b <think>a</think>", "b <think>a</think>"),
            ("<think>a", ""),
            (" <thi", ""),
            ("b", "b"),
        ];
        for (content, expected) in answers {
            let mut messages = [
                said(Role::User, "<think>x</think>y"),
                said(Role::Assistant, content),
                said(Role::User, "y"),
                said(Role::Assistant, content),
            ];
            forget_thoughts(&mut messages);
            let contents: Vec<&str> = messages.iter().map(|message| &*message.content).collect();
            assert_eq!(contents, ["<think>x</think>y", expected, "y", content]);
        }
        forget_thoughts(&mut []);
        forget_thoughts(&mut [said(Role::Assistant, "<think>a</think>b")]);
    }

    #[test]
    fn what_has_no_effect_is_no_error() {
        let given = json!({"mirostat": 2, "mirostat_tau": 5.0, "num_keep": 4, "sideways": true});
        let options = options(given.as_object().unwrap().iter()).unwrap();
        assert_eq!(options, Options { num_keep: Some(4), ..Options::default() });
    }

    #[test]
    fn formats() {
        check(json!(null), Some(Format::Free));
        check(json!(""), Some(Format::Free));
        check(json!("json"), Some(Format::Json));
        check(json!({"type": "object"}), Some(Format::Schema(json!({"type": "object"}))));
        check(json!({"regex": "a+"}), Some(Format::Regex("a+".to_owned())));
        check(json!({"lark": "start: \"a\""}), Some(Format::Lark("start: \"a\"".to_owned())));
        check(json!({"gbnf": "root ::= \"a\""}), Some(Format::Gbnf("root ::= \"a\"".to_owned())));
        // With anything beside it, it is a schema.
        let schema = json!({"regex": "a+", "type": "string"});
        check(schema.clone(), Some(Format::Schema(schema)));
        check(json!({"regex": 1}), Some(Format::Schema(json!({"regex": 1}))));
        check(json!("yaml"), None);
        check(json!(7), None);
    }
}
