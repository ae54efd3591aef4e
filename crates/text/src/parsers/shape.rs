//! What tells one family's replies from another's: the tags around thoughts and calls, and how calls are read.

use std::borrow::Cow;

use protocol::ToolCall;

use super::buffer::Blanks;
use super::declared::Declared;

pub(super) type Tag = Cow<'static, str>;

/// The calls in the inside of a call's tags; `None`: it is no call.
pub(super) type Read = fn(&str, &Declared) -> Option<Vec<ToolCall>>;

#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub thoughts: Option<Thoughts>,
    pub start: Start,
    /// Whether white space at the very beginning counts for nothing.
    pub trims: bool,
    pub calls: Vec<Calls>,
    /// Tags that are nobody's text.
    pub noise: Vec<Noise>,
    /// Before and behind calls.
    pub blanks: (Blanks, Blanks),
}

#[derive(Clone, Debug)]
pub(super) struct Thoughts {
    pub open: Tag,
    pub close: Tag,
    /// A word that the opening tag is followed by.
    pub label: &'static str,
    /// Before the closing tag.
    pub blanks: Blanks,
    /// Whether they may begin in the middle of content, too.
    pub anywhere: bool,
    /// Whether they are left out of the reply.
    pub hidden: bool,
}

/// Where a reply begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// In thoughts that the prompt has opened. The model may open them again.
    Thoughts,
    /// In thoughts if it begins with their tag.
    Either,
    Content,
}

#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub open: Tag,
    pub close: Close,
    pub read: Read,
    /// What the inside may begin with, white space aside; nothing: with anything.
    pub begins: &'static [&'static str],
    /// Whether the opening tag belongs to what is read.
    pub open_is_read: bool,
    /// Whether it must stand at the beginning or right behind another call.
    pub first_only: bool,
    /// Tags that count for nothing right behind the call.
    pub after: Vec<Tag>,
}

#[derive(Clone, Debug)]
pub(super) enum Close {
    Tag(Tag),
    /// The end of the first JSON value.
    Json,
    /// The end of the reply.
    End,
}

#[derive(Clone, Debug)]
pub(super) struct Noise {
    pub tag: &'static str,
    pub before: Blanks,
    pub after: Blanks,
}

impl Thoughts {
    pub fn between(open: impl Into<Tag>, close: impl Into<Tag>) -> Thoughts {
        Thoughts {
            open: open.into(),
            close: close.into(),
            label: "",
            blanks: Blanks::Drop,
            anywhere: false,
            hidden: false,
        }
    }
}

impl Calls {
    pub fn between(open: impl Into<Tag>, close: impl Into<Tag>, read: Read) -> Calls {
        Calls {
            open: open.into(),
            close: Close::Tag(close.into()),
            read,
            begins: &[],
            open_is_read: false,
            first_only: false,
            after: Vec::new(),
        }
    }

    pub fn beginning(self, begins: &'static [&'static str]) -> Calls {
        Calls { begins, ..self }
    }

    pub fn followed_by(self, after: impl IntoIterator<Item = impl Into<Tag>>) -> Calls {
        Calls { after: after.into_iter().map(Into::into).collect(), ..self }
    }
}

impl Shape {
    /// Only calls, and content around them.
    pub fn of(calls: Vec<Calls>) -> Shape {
        Shape {
            thoughts: None,
            start: Start::Content,
            trims: false,
            calls,
            noise: Vec::new(),
            blanks: (Blanks::Drop, Blanks::Drop),
        }
    }

    pub fn thinking(self, thoughts: Thoughts, start: Start) -> Shape {
        Shape { thoughts: Some(thoughts), start, ..self }
    }

    /// Every tag that has to be seen.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let thoughts = self.thoughts.iter().flat_map(|thoughts| [&thoughts.open, &thoughts.close]);
        let calls = self.calls.iter().flat_map(|calls| {
            let close = match &calls.close {
                Close::Tag(tag) => Some(tag),
                Close::Json | Close::End => None,
            };
            std::iter::once(&calls.open).chain(close).chain(&calls.after)
        });
        let noise = self.noise.iter().map(|noise| noise.tag);
        thoughts.chain(calls).map(AsRef::as_ref).chain(noise)
    }
}
