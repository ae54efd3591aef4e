//! Built-in renderers: families of models whose prompts are written by code, chosen by the name in a model's RENDERER.
//!
//! What comes out is what Ollama's renderer of that name gives, byte for byte: what a tool's schema keeps (in
//! `schema`), how values are written (in `values`), where pictures stand (in `images`), when thinking shows. One file
//! is one family. Instructions and default system texts are part of the format its models were trained on, so they
//! stand there word for word. A renderer knows no tokenizer: a begin token that it writes is text like any other.

mod cogito;
mod cohere;
mod deepseek3;
mod functiongemma;
mod gemma4;
mod glimmer;
mod glm;
mod images;
mod laguna;
mod lfm2;
mod nemotron;
mod olmo3;
mod out;
mod qwen3_5;
mod qwen3_coder;
mod qwen3_vl;
mod schema;
mod values;

use jiff::civil::Date;
use protocol::{Message, Role, Think};

use self::out::Out;
use self::schema::Function;
use crate::{Conversation, Result};

type Write = fn(&Asked<'_>, &mut Out) -> Result<()>;

const RENDERERS: &[(&str, Write)] = &[
    ("cogito", cogito::write),
    ("cohere", cohere::write),
    ("deepseek3.1", deepseek3::write),
    ("functiongemma", functiongemma::write),
    ("gemma4", gemma4::write),
    ("gemma4-large", gemma4::write_large),
    ("gemma4-small", gemma4::write),
    ("glimmer", glimmer::write),
    ("glm-4.7", glm::write),
    ("glm-ocr", glm::write_ocr),
    ("laguna", laguna::write),
    ("lfm2", lfm2::write),
    ("lfm2-thinking", lfm2::write_thinking),
    ("nemotron-3-nano", nemotron::write),
    ("nemotron-3.5-nano", nemotron::write_3_5),
    ("olmo3", olmo3::write),
    ("olmo3-32b-think", olmo3::write_32b_think),
    ("olmo3-think", olmo3::write_think),
    ("olmo3.1", olmo3::write_3_1),
    ("ornith", qwen3_5::write_ornith),
    ("poolside-v1", laguna::write_v1),
    ("qwen3-coder", qwen3_coder::write),
    ("qwen3-vl-instruct", qwen3_vl::write_instruct),
    ("qwen3-vl-thinking", qwen3_vl::write_thinking),
    ("qwen3.5", qwen3_5::write),
    ("qwen3.8", qwen3_5::write_3_8),
];

/// How the prompts of one family of models are written.
#[derive(Clone, Copy)]
pub struct Renderer {
    name: &'static str,
    write: Write,
}

impl Renderer {
    pub fn named(name: &str) -> Option<Renderer> {
        let (name, write) = RENDERERS.iter().find(|(known, _)| *known == name)?;
        Some(Renderer { name, write: *write })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The prompt. If the last message is the assistant's, most families let the model go on where it ends.
    pub fn render(&self, conversation: Conversation<'_>) -> Result<String> {
        self.render_on(jiff::Zoned::now().date(), conversation)
    }

    fn render_on(&self, today: Date, conversation: Conversation<'_>) -> Result<String> {
        let Conversation { messages, tools, think } = conversation;
        let tools = tools.iter().map(Function::of).collect();
        let mut out = Out::default();
        (self.write)(&Asked { messages, tools, think, today }, &mut out)?;
        out.finish()
    }
}

impl std::fmt::Debug for Renderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Renderer").field(&self.name).finish()
    }
}

/// What a family's file gets to see.
struct Asked<'a> {
    messages: &'a [Message],
    tools: Vec<Function<'a>>,
    think: &'a Think,
    today: Date,
}

impl<'a> Asked<'a> {
    /// A first message with one of these roles, and the other messages.
    fn split_first(&self, roles: &[&str]) -> (Option<&'a Message>, &'a [Message]) {
        match self.messages.split_first() {
            Some((first, rest)) if roles.contains(&first.role.as_str()) => (Some(first), rest),
            _ => (None, self.messages),
        }
    }

    /// The messages that are not the system's, and the first of those that are.
    fn split_systems(&self) -> (Option<&'a Message>, Vec<&'a Message>) {
        let (systems, rest): (Vec<_>, Vec<_>) =
            self.messages.iter().partition(|message| message.role == Role::System);
        (systems.first().copied(), rest)
    }

    /// `None`: the request leaves it to the model.
    fn thinks(&self) -> Option<bool> {
        match self.think {
            Think::Unset => None,
            Think::Off => Some(false),
            Think::On => Some(true),
            Think::Level(level) => Some(LEVELS.contains(&level.as_str())),
        }
    }
}

const LEVELS: &[&str] = &["low", "medium", "high", "max"];

/// Empty if the message has none.
fn thinking(message: &Message) -> &str {
    message.thinking.as_deref().unwrap_or_default()
}

fn is_tool(message: Option<&Message>) -> bool {
    message.is_some_and(|message| message.role == Role::Tool)
}

#[cfg(test)]
mod tests;
