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

use std::borrow::Cow;
use std::fmt;

use protocol::{Message, Role, Think, Tool, ToolCall};

use self::buffer::Buffer;
use self::declared::Declared;
pub use self::named::{FAMILIES, Family};
use self::names::Names;
use self::shape::{Shape, Start};
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

/// How the replies of one model are to be read: as its PARSER says, else as its TEMPLATE tells, else as the template
/// of its checkpoint does.
#[derive(Debug, Default)]
pub struct Parsers {
    family: Option<&'static Family>,
    own: Option<Written>,
    checkpoint: Option<Written>,
}

/// What a template in one of the two languages tells.
#[derive(Debug)]
enum Written {
    Go(go::Tags),
    Jinja(jinja::Notation),
}

/// Of one reply.
pub struct Parser {
    machine: Box<dyn Machine + Send>,
    buffer: Buffer,
    specials: Vec<String>,
    thoughts: Option<Tags>,
}

/// Around thoughts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    /// Empty where the prompt has already opened them.
    pub open: String,
    pub close: String,
    /// Special tokens that stand among them.
    pub inside: Vec<String>,
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
    /// Of a checkpoint with these (Jinja) templates.
    pub fn of_templates<'a>(sources: impl IntoIterator<Item = &'a str>) -> Parsers {
        let sources: Vec<&str> = sources.into_iter().collect();
        let notation = || Written::Jinja(jinja::Notation::of(&sources.join("\n")));
        Parsers { checkpoint: (!sources.is_empty()).then(notation), ..Parsers::default() }
    }

    /// With a Modelfile's PARSER and TEMPLATE. A parser that nobody knows counts for nothing, and so does the template
    /// of models that have none.
    pub fn with_modelfile(self, parser: Option<&str>, template: Option<&str>) -> Parsers {
        let own = template.filter(|source| !is_plain(source)).map(Written::of);
        Parsers { family: parser.and_then(Family::named), own, ..self }
    }

    /// For the text that answers this.
    pub fn parser(&self, asked: &Asked<'_>) -> Parser {
        match (self.family(), asked.template) {
            (Some(family), _) => family.parser(asked),
            (None, Some(own)) => Written::of(own).parser(asked),
            (None, None) => {
                let written = self.own.as_ref().or(self.checkpoint.as_ref());
                written.map_or_else(Parser::plain, |written| written.parser(asked))
            }
        }
    }

    /// The tools as this model is to be told of them.
    pub fn tools<'a>(&self, tools: &'a [Tool]) -> Cow<'a, [Tool]> {
        if !self.family().is_some_and(|family| family.renames_tools) {
            return Cow::Borrowed(tools);
        }
        let mut renamed = tools.to_vec();
        Names::new(tools).rename(&mut renamed);
        Cow::Owned(renamed)
    }

    fn family(&self) -> Option<&'static Family> {
        let written = self.own.as_ref().or(self.checkpoint.as_ref());
        self.family.or_else(|| Family::named(written?.family()?))
    }
}

impl Written {
    fn of(source: &str) -> Written {
        // What every Jinja template has and no Go template can.
        match source.contains("{%") {
            true => Written::Jinja(jinja::Notation::of(source)),
            false => Written::Go(go::Tags::of(source)),
        }
    }

    fn parser(&self, asked: &Asked<'_>) -> Parser {
        match self {
            Written::Go(tags) => tags.parser(asked),
            Written::Jinja(notation) => notation.parser(asked),
        }
    }

    /// A notation with a parser of its own.
    fn family(&self) -> Option<&'static str> {
        match self {
            Written::Go(tags) => tags.is_harmony.then_some("harmony"),
            Written::Jinja(notation) => notation.family,
        }
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

    /// The tags between which this reply may think before it answers; `None` where it does not, or by other signs.
    pub fn thoughts(&self) -> Option<&Tags> {
        self.thoughts.as_ref()
    }

    fn new(
        machine: impl Machine + Send + 'static,
        specials: impl IntoIterator<Item = impl Into<String>>,
    ) -> Parser {
        Parser {
            machine: Box::new(machine),
            buffer: Buffer::default(),
            specials: specials.into_iter().map(Into::into).collect(),
            thoughts: None,
        }
    }

    /// `inner` are special tokens inside of calls.
    fn shaped(shape: Shape, tools: &[Tool], inner: &[&str]) -> Parser {
        let tags = shape.tags().chain(inner.iter().copied());
        let specials: Vec<String> = tags.map(str::to_owned).collect();
        let thoughts = shape.thoughts.as_ref().and_then(|thoughts| {
            let open = match shape.start {
                Start::Content => return None,
                Start::Thoughts => String::new(),
                Start::Either => thoughts.open.to_string(),
            };
            Some(Tags { open, close: thoughts.close.to_string(), inside: Vec::new() })
        });
        let parser = Parser::new(Tagged::new(shape, Declared::new(tools)), specials);
        Parser { thoughts, ..parser }
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

/// `{{ .Prompt }}`.
fn is_plain(source: &str) -> bool {
    source.split_whitespace().collect::<String>() == "{{.Prompt}}"
}
