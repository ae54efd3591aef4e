//! A model's chat template (Jinja, as Hugging Face publishes it): a conversation becomes its prompt.
//!
//! What comes out is what `transformers.apply_chat_template` gives, byte for byte: the same Jinja settings, variables,
//! filters and Python methods (in `python`, `json`), the same choice between named templates. A template is somebody
//! else's program: its steps and its output are limited, and it sees nothing but the conversation and the time.

mod conversation;
pub(crate) mod go;
mod json;
mod modelfile;
mod named;
mod python;
mod scientific;
mod source;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{Environment, ErrorKind, Value};
use protocol::{Message, Role, Think, ToolCall};

pub use self::conversation::Conversation;
use self::conversation::Parts;
pub use self::modelfile::ModelfileTemplate;
pub use self::named::NamedTemplate;
use self::python::{Clock, Raised};
use crate::specials::named_tokens;
use crate::tokenizer::TEXT_BYTES_MAX;
use crate::{Error, Files, Result};

/// Real templates need some hundred for a message. Price: half a second.
const STEPS_MAX: u64 = 10_000_000;

/// Stands for "go on here" at the end of a last message. The blank tells whether the template trims its messages.
const HERE: &str = "<|ollmlx:goes-on-here|> ";

/// A word that no template says by itself.
const PROBE: &str = "ollmlx-probe";

const DEFAULT: &str = "default";
const WITH_TOOLS: &str = "tool_use";

#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and the like.
    named: BTreeMap<String, String>,
    parts: Parts,
    /// The sources as they came.
    written: String,
}

impl ChatTemplate {
    /// `None`: the model has no template.
    pub fn load(files: &Files) -> Result<Option<ChatTemplate>> {
        let sources = sources(files)?;
        if sources.is_empty() {
            return Ok(None);
        }
        ChatTemplate::new(sources, named_tokens(files)?, jiff::Zoned::now).map(Some)
    }

    /// A template by itself, for a request that brings one.
    pub fn from_source(source: &str, named: BTreeMap<String, String>) -> Result<ChatTemplate> {
        let sources = BTreeMap::from([(DEFAULT.to_owned(), source.to_owned())]);
        ChatTemplate::new(sources, named, jiff::Zoned::now)
    }

    fn new(
        sources: BTreeMap<String, String>,
        named: BTreeMap<String, String>,
        clock: Clock,
    ) -> Result<ChatTemplate> {
        let mut environment = python::environment(clock);
        environment.set_fuel(Some(STEPS_MAX));
        let written = sources.values().map(String::as_str).collect::<Vec<_>>().join("\n");
        for (name, source) in sources {
            let source = source::prepare(&source)?;
            roomy(|| environment.add_template_owned(name, source))?;
        }
        let parts = if names_images(&written) { Parts::WithImages } else { Parts::Never };
        let mut template = ChatTemplate { environment, named, parts, written };
        template.parts = template.probed();
        Ok(template)
    }

    /// Whether the template shows a content that is one text; if not, whether it shows one in parts.
    fn probed(&self) -> Parts {
        let message = Message { content: PROBE.to_owned(), ..Message::default() };
        let conversation = Conversation { messages: &[message], tools: &[], think: &Think::Unset };
        let shows = |parts: Parts| {
            let text = self.run_with(&conversation, None, parts);
            text.is_ok_and(|text| text.contains(PROBE))
        };
        match shows(self.parts) || !shows(Parts::Always) {
            true => self.parts,
            false => Parts::Always,
        }
    }

    /// The prompt. If the last message is the assistant's, the prompt ends where that message is to go on.
    pub fn render(&self, conversation: Conversation<'_>) -> Result<String> {
        if goes_on(&conversation) {
            let text = self.run(&conversation, Some(HERE))?;
            cut_here(text)
        } else {
            self.run(&conversation, None)
        }
    }

    /// What this template amounts to, if that has a name. Several templates are more than one.
    pub fn named(&self) -> Option<&'static NamedTemplate> {
        let is_one = self.environment.templates().count() == 1;
        if is_one { NamedTemplate::of_jinja(&self.written, &self.named) } else { None }
    }

    /// All that is written in the model's templates.
    pub fn source(&self) -> String {
        self.written.clone()
    }

    fn run(&self, conversation: &Conversation<'_>, here: Option<&str>) -> Result<String> {
        self.run_with(conversation, here, self.parts)
    }

    fn run_with(
        &self,
        conversation: &Conversation<'_>,
        here: Option<&str>,
        parts: Parts,
    ) -> Result<String> {
        let name = self.choose(!conversation.tools.is_empty());
        let template = self.environment.get_template(name).map_err(error)?;
        let variables = conversation.variables(&self.named, here, parts);
        let mut out = Output::default();
        let done = fenced(|| template.render_captured_to(variables, &mut out).map(|_| ()));
        if let Some(size) = out.refused {
            let what = "a rendered prompt in bytes";
            return Err(Error::TooLarge { what, size, limit: TEXT_BYTES_MAX });
        }
        done?;
        String::from_utf8(out.bytes).map_err(|why| Error::bad_file("chat template", why))
    }

    fn choose(&self, tools: bool) -> &str {
        let has = |name: &str| self.environment.templates().any(|(known, _)| known == name);
        match () {
            () if tools && has(WITH_TOOLS) => WITH_TOOLS,
            () if has(DEFAULT) => DEFAULT,
            () => self.environment.templates().next().map_or(DEFAULT, |(name, _)| name),
        }
    }
}

/// Files of their own come before what the tokenizer's configuration holds.
fn sources(files: &Files) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    for file in ["chat_template.json", "tokenizer_config.json"] {
        collect(&files.json(file)?["chat_template"], file, &mut sources)?;
    }
    let own = files.text("chat_template.jinja").map(|source| (DEFAULT, source));
    for (name, source) in own.into_iter().chain(files.more_templates()) {
        sources.insert(name.to_owned(), source.to_owned());
    }
    Ok(sources)
}

/// A template, or a list of them with their names.
fn collect(
    value: &serde_json::Value,
    file: &str,
    sources: &mut BTreeMap<String, String>,
) -> Result<()> {
    use serde_json::Value;
    match value {
        Value::Null => {}
        Value::String(source) => {
            sources.insert(DEFAULT.to_owned(), source.clone());
        }
        Value::Array(list) => {
            for entry in list {
                let (Some(name), Some(source)) =
                    (entry["name"].as_str(), entry["template"].as_str())
                else {
                    return Err(Error::bad_file(file, "a chat template has no name or no text"));
                };
                sources.insert(name.to_owned(), source.to_owned());
            }
        }
        _ => return Err(Error::bad_file(file, "`chat_template` is neither a text nor a list")),
    }
    Ok(())
}

/// Whether a template asks for the type of a content's part.
fn names_images(source: &str) -> bool {
    ["'image'", "\"image\"", "'image_url'", "\"image_url\""]
        .iter()
        .any(|word| source.contains(word))
}

fn goes_on(conversation: &Conversation<'_>) -> bool {
    let last = conversation.messages.last();
    last.is_some_and(|last| last.role == Role::Assistant && last.tool_calls == [] as [ToolCall; 0])
}

fn cut_here(mut text: String) -> Result<String> {
    let Some(at) = text.rfind(HERE.trim_end()) else {
        let why = "it leaves the last assistant message out, which hence cannot be continued";
        return Err(Error::Refused { why: why.to_owned() });
    };
    let trims = !text[at..].starts_with(HERE);
    text.truncate(at);
    if trims {
        text.truncate(text.trim_end_matches(python::is_space).len());
    }
    Ok(text)
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// The size that was too much.
    refused: Option<usize>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.bytes.len() + bytes.len();
        if size > TEXT_BYTES_MAX {
            self.refused = Some(size);
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// On a stack that is large enough for every source that is not too large.
fn roomy<T: Send>(
    work: impl FnOnce() -> std::result::Result<T, minijinja::Error> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(source::STACK_BYTES);
        let thread = builder.spawn_scoped(scope, || fenced(work));
        let thread = thread.map_err(|why| Error::Template { line: 1, why: why.to_string() })?;
        thread.join().unwrap_or_else(|_| Err(gave_up()))
    })
}

/// A panic of the template engine is the template's failure, not our end.
fn fenced<T>(work: impl FnOnce() -> std::result::Result<T, minijinja::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(error),
        Err(_) => Err(gave_up()),
    }
}

fn gave_up() -> Error {
    Error::Template { line: 1, why: "the template engine gave up on it".to_owned() }
}

fn error(error: minijinja::Error) -> Error {
    if let Some(Raised(why)) = python::raised(&error) {
        return Error::Refused { why: why.clone() };
    }
    let why = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it does not end within {STEPS_MAX} steps"),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    Error::Template { line: error.line().unwrap_or(1), why }
}

/// Where a picture stands in a text, if its writer says so.
const IMAGE_MARK: &str = "[img]";

/// Each picture's tag takes the place of an `[img]`, or stands before the text.
fn tagged(message: &Message, images: &mut usize) -> String {
    let mut content = message.content.clone();
    let mut before = String::new();
    for _ in &message.images {
        let tag = format!("[img-{images}]");
        *images += 1;
        match content.contains(IMAGE_MARK) {
            true => content = content.replacen(IMAGE_MARK, &tag, 1),
            false => before.push_str(&tag),
        }
    }
    before + &content
}

/// Our JSON as a template's value, in its own order.
fn value_of(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => scientific::number(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => values.iter().map(value_of).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), value_of(value))))
        }
    }
}

#[cfg(test)]
mod tests;
