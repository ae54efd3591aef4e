//! What a model said, split into content, thinking and tool calls, while it is still saying it.
//!
//! A [`Parser`] eats the text of one reply; the fold of what it gives does not depend on how the text was cut. Nothing
//! is lost: what was held back comes out at the end, and what looked like a call and is none is content. Which parser a
//! model gets, [`Parsers`] knows: the one its PARSER names, else what its template tells (`go`, `jinja`).

mod buffer;
mod calls;
mod cohere;
mod declared;
mod deepseek;
mod function_gemma;
mod gemma;
mod glimmer;
mod glm;
mod go;
mod harmony;
mod jinja;
mod json_end;
mod laguna;
mod lfm2;
mod ministral;
mod named;
mod names;
mod olmo;
mod python;
mod qwen;
mod shape;
mod tagged;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;

use protocol::{Message, Role, Think, Tool, ToolCall};

use self::buffer::Buffer;
pub use self::named::{FAMILIES, Family};
pub use self::names::Names;
use self::shape::Shape;
use self::tagged::Tagged;

/// What a piece of text came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    pub thinking: String,
    pub content: String,
    pub calls: Vec<ToolCall>,
}

/// What a reply is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// More text will tell.
    Undecided,
    Thinking,
    Content,
    Call,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub messages: &'a [Message],
    pub tools: &'a [Tool],
    pub think: &'a Think,
    /// As the model gets it.
    pub prompt: &'a str,
    /// A template that the request brings, instead of the model's own.
    pub template: Option<&'a str>,
}

/// How the replies of one model are to be read.
#[derive(Debug, Default)]
pub struct Parsers {
    family: Option<&'static Family>,
    go: Option<go::Tags>,
    jinja: Option<jinja::Notation>,
}

/// Of one reply.
pub struct Parser {
    machine: Box<dyn Machine + Send>,
    buffer: Buffer,
    specials: Vec<String>,
}

/// The part of a parser that knows a notation.
trait Machine {
    /// Understands some of the text, or does without any more of it. Whether to call again at once.
    fn eat(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool;

    fn part(&self) -> Part;
}

impl Parsed {
    pub fn is_empty(&self) -> bool {
        self.thinking.is_empty() && self.content.is_empty() && self.calls.is_empty()
    }

    /// What came after this.
    pub fn append(&mut self, next: Parsed) {
        self.thinking.push_str(&next.thinking);
        self.content.push_str(&next.content);
        self.calls.extend(next.calls);
    }
}

impl<'a> Asked<'a> {
    fn last(&self) -> Option<&'a Message> {
        self.messages.last()
    }

    /// Whether the reply goes on with a text of the assistant's.
    fn goes_on(&self) -> bool {
        self.last().is_some_and(|last| last.role == Role::Assistant && !last.content.is_empty())
    }

    fn thinks_if_asked(&self) -> bool {
        matches!(self.think, Think::On | Think::Level(_))
    }

    fn thinks_unless_told(&self) -> bool {
        *self.think != Think::Off
    }
}

impl Parsers {
    /// `parser` is a Modelfile's PARSER, `template` its TEMPLATE, `jinja` the templates of the checkpoint. A parser
    /// that nobody knows counts for nothing.
    pub fn for_model<'a>(
        parser: Option<&str>,
        template: Option<&'a str>,
        jinja: impl IntoIterator<Item = &'a str>,
    ) -> Parsers {
        let go = template.filter(|source| is_go(source)).map(go::Tags::of);
        let jinja: Vec<&str> =
            jinja.into_iter().chain(template.filter(|source| !is_go(source))).collect();
        Parsers {
            family: parser.and_then(Family::named),
            go,
            jinja: (!jinja.is_empty()).then(|| jinja::Notation::of(&jinja.join("\n"))),
        }
    }

    /// For the text that answers this.
    pub fn parser(&self, asked: &Asked<'_>) -> Parser {
        if let Some(family) = self.family() {
            return family.parser(asked);
        }
        match asked.template {
            Some(own) if is_go(own) => go::Tags::of(own).parser(asked),
            Some(own) => jinja::Notation::of(own).parser(asked),
            None => match (&self.go, &self.jinja) {
                (Some(tags), _) => tags.parser(asked),
                (None, Some(notation)) => notation.parser(asked),
                (None, None) => Parser::plain(),
            },
        }
    }

    /// The tools as this model is to be told of them.
    pub fn tools(&self, tools: &mut [Tool]) {
        if self.family().is_some_and(|family| family.renames_tools) {
            Names::new(tools).rename(tools);
        }
    }

    fn family(&self) -> Option<&'static Family> {
        self.family.or_else(|| {
            self.go.as_ref().filter(|tags| tags.is_harmony).and(Family::named("harmony"))
        })
    }
}

impl Parser {
    /// Everything is content.
    pub fn plain() -> Parser {
        Parser::shaped(Shape::of(Vec::new()), &[], &[])
    }

    /// Push in pieces of any size.
    pub fn push(&mut self, text: &str) -> Parsed {
        self.buffer.push(text);
        self.eat()
    }

    /// What was held back, at the end of the reply.
    pub fn finish(&mut self) -> Parsed {
        self.buffer.end();
        self.eat()
    }

    pub fn part(&self) -> Part {
        self.machine.part()
    }

    /// Special tokens that this parser has to see.
    pub fn specials(&self) -> &[String] {
        &self.specials
    }

    fn new(
        machine: impl Machine + Send + 'static,
        specials: impl IntoIterator<Item = impl Into<String>>,
    ) -> Parser {
        Parser {
            machine: Box::new(machine),
            buffer: Buffer::default(),
            specials: specials.into_iter().map(Into::into).collect(),
        }
    }

    /// `inner` are tags inside of calls.
    fn shaped(shape: Shape, tools: &[Tool], inner: &[&str]) -> Parser {
        let specials: Vec<String> =
            shape.tags().chain(inner.iter().copied()).map(str::to_owned).collect();
        Parser::new(Tagged::new(shape, declared::Declared::new(tools)), specials)
    }

    fn eat(&mut self) -> Parsed {
        let mut out = Parsed::default();
        while self.machine.eat(&mut self.buffer, &mut out) {}
        if self.buffer.has_ended() {
            // A tag's white space at most.
            self.buffer.take_all();
        }
        out
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser").field("part", &self.part()).field("buffer", &self.buffer).finish()
    }
}

/// Whether a template is in the syntax of Modelfiles, not in Jinja's.
fn is_go(source: &str) -> bool {
    !source.contains("{%")
}
