//! What comes before the constrained part: thinking, which is free until its closing tag.
//!
//! The tag may be one token or many, and the token that ends it may go on behind it. Only white space may follow there:
//! anything else would belong to the constrained part without having been asked for.

use protocol::Think;

use super::{Mask, Vocabulary};
use crate::parsers::{Parser, Tags};

/// How a model thinks in this request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinking {
    /// What the model writes before it thinks, if it does; empty where the prompt has already opened the thoughts.
    pub open: String,
    /// What ends them.
    pub close: String,
    /// Special tokens that thoughts may hold, beside their tags.
    pub inside: Vec<String>,
}

impl Thinking {
    /// As the reply to this prompt is going to be read. A model that may think or not thinks if it was asked to.
    pub fn of(parser: &Parser, prompt: &str, think: &Think) -> Option<Thinking> {
        let Tags { open, close, inside } = parser.thoughts()?.clone();
        let is_asked = matches!(think, Think::On | Think::Level(_));
        let is_closed = prompt.trim_end().ends_with(&close);
        (open.is_empty() || is_asked && !is_closed).then_some(Thinking { open, close, inside })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Free {
    state: State,
    close: Vec<u8>,
    /// Special tokens that the tags are written with, and those that thoughts hold.
    specials: Vec<u32>,
    /// By the number of the tag's bytes that are written: tokens that close it and go on with something.
    overshooting: Vec<Vec<u32>>,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing is written: either this tag or the answer.
    Either(Vec<u8>),
    /// Of the opening tag, what is still to be written.
    Opening(Vec<u8>),
    /// The last bytes of the thoughts, as many as may belong to the closing tag.
    Thoughts(Vec<u8>),
}

/// What a token came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Free,
    /// The thoughts end with it.
    Closed,
    /// There are none: it belongs to the answer.
    Answer,
}

impl Free {
    pub fn new(thinking: &Thinking, vocabulary: &Vocabulary) -> Free {
        let close = thinking.close.as_bytes().to_vec();
        let state = match thinking.open.as_str() {
            "" => State::Thoughts(Vec::new()),
            open => State::Either(open.as_bytes().to_vec()),
        };
        let specials = specials(thinking, vocabulary);
        Free { state, specials, overshooting: overshooting(&close, vocabulary), close }
    }

    /// `answer` gives what an answer may begin with.
    pub fn mask(
        &self,
        vocabulary: &Vocabulary,
        answer: impl FnOnce() -> crate::Result<Mask>,
    ) -> crate::Result<Mask> {
        Ok(match &self.state {
            State::Either(tag) => {
                let mut mask = answer()?;
                self.tag_token(tag, vocabulary).into_iter().for_each(|id| mask.allow(id));
                mask
            }
            State::Opening(rest) => {
                let mut mask = Mask::none(vocabulary.len() + 1);
                self.tag_token(rest, vocabulary).into_iter().for_each(|id| mask.allow(id));
                mask
            }
            State::Thoughts(tail) => self.mask_of_thoughts(tail, vocabulary),
        })
    }

    fn mask_of_thoughts(&self, tail: &[u8], vocabulary: &Vocabulary) -> Mask {
        let mut mask = vocabulary.inner.text.clone();
        self.specials.iter().for_each(|id| mask.allow(*id));
        for (written, tokens) in self.overshooting.iter().enumerate() {
            if tail.ends_with(&self.close[..written]) {
                tokens.iter().for_each(|id| mask.forbid(*id));
            }
        }
        mask
    }

    /// The longest token that writes the tag on.
    fn tag_token(&self, rest: &[u8], vocabulary: &Vocabulary) -> Option<u32> {
        let inner = &vocabulary.inner;
        let writes = |id: &u32| rest.starts_with(inner.pieces.bytes(*id));
        let tokens = inner.text.ids().chain(self.specials.iter().copied());
        tokens.filter(writes).max_by_key(|id| inner.pieces.bytes(*id).len())
    }

    /// `answers` tells whether the token may begin an answer, which it does rather than open thoughts.
    pub fn accept(&mut self, bytes: &[u8], answers: impl FnOnce() -> bool) -> Step {
        match &mut self.state {
            State::Either(_) if answers() => Step::Answer,
            State::Either(rest) | State::Opening(rest) => {
                rest.drain(..bytes.len().min(rest.len()));
                let rest = std::mem::take(rest);
                self.state = match rest.is_empty() {
                    true => State::Thoughts(Vec::new()),
                    false => State::Opening(rest),
                };
                Step::Free
            }
            State::Thoughts(tail) => {
                tail.extend_from_slice(bytes);
                let ends = ends_with_tag(tail, &self.close);
                tail.drain(..tail.len().saturating_sub(self.close.len()));
                if ends { Step::Closed } else { Step::Free }
            }
        }
    }
}

fn ends_with_tag(tail: &[u8], tag: &[u8]) -> bool {
    tail.ends_with(tag) || tail.trim_ascii_end().ends_with(tag)
}

/// Those that the tags hold (a tag may be one of them, or begin with one) and those inside.
fn specials(thinking: &Thinking, vocabulary: &Vocabulary) -> Vec<u32> {
    let pieces = &vocabulary.inner.pieces;
    let Thinking { open, close, inside } = thinking;
    let is_part = |id: &u32| {
        let token = std::str::from_utf8(pieces.bytes(*id)).unwrap_or_default();
        let is_named = open.contains(token)
            || close.contains(token)
            || inside.iter().any(|name| name == token);
        pieces.is_special(*id) && !token.is_empty() && is_named
    };
    (0..pieces.len() as u32).filter(is_part).collect()
}

/// By the number of the tag's bytes that are written: tokens that begin with the rest of it (or hold all of it, when
/// nothing is written), and then more than white space.
fn overshooting(tag: &[u8], vocabulary: &Vocabulary) -> Vec<Vec<u32>> {
    let inner = &vocabulary.inner;
    let mut found = vec![Vec::new(); tag.len()];
    for id in inner.text.ids() {
        let bytes = inner.pieces.bytes(id);
        for (written, tokens) in found.iter_mut().enumerate() {
            if goes_on(bytes, &tag[written..]) || (written == 0 && holds(bytes, tag)) {
                tokens.push(id);
            }
        }
    }
    found
}

fn goes_on(bytes: &[u8], rest: &[u8]) -> bool {
    bytes.starts_with(rest) && !bytes[rest.len()..].trim_ascii().is_empty()
}

/// The whole tag in the middle of a token.
fn holds(bytes: &[u8], tag: &[u8]) -> bool {
    let last = bytes.windows(tag.len().max(1)).rposition(|window| window == tag);
    last.is_some_and(|at| goes_on(&bytes[at..], tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parsers::{Asked, Parsers};

    #[track_caller]
    fn check(prompt: &str, think: Think, expected: Option<(&str, &str)>) {
        let parsers = Parsers::of_templates(["{% if … %}<think>{{ … }}</think>{% endif %}"]);
        let (messages, tools) = (&[], &[]);
        let parser =
            parsers.parser(&Asked { messages, tools, think: &think, prompt, template: None });
        let thinking = Thinking::of(&parser, prompt, &think);
        let thinking = thinking.as_ref().map(|t| (t.open.as_str(), t.close.as_str()));
        assert_eq!(thinking, expected, "{prompt:?} {think:?}");
    }

    #[test]
    fn the_prompt_tells_where_thoughts_begin() {
        let both = Some(("<think>", "</think>"));
        check("<|assistant|>\n", Think::On, both);
        check("<|assistant|>\n", Think::Level("high".to_owned()), both);
        check("<|assistant|>\n", Think::Off, None);
        check("<|assistant|>\n", Think::Unset, None);
        check("<|assistant|>\n<think>\n", Think::On, Some(("", "</think>")));
        check("<|assistant|>\n<think>\n", Think::Unset, Some(("", "</think>")));
        check("<|assistant|>\n<think>\n\n</think>\n\n", Think::On, None);
    }
}
