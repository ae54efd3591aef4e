//! The machine behind most families: thoughts between two tags, tool calls between two tags, content everywhere else.
//!
//! A family is a [`Shape`]: its tags, and a function that reads the inside of a call. What looks like a call and is
//! none goes back: its opening tag becomes text and the rest is looked at again, so nothing is lost and a later call
//! is found. A call inside thoughts ends them.

use std::borrow::Cow;

use super::buffer::{Blanks, Buffer, begins_with, overlap};
use super::declared::Declared;
use super::json_end::{JsonEnd, Scan};
use super::shape::{Calls, Close, Shape, Start, Tag};
use super::{Machine, Parsed, Part};

/// Larger calls are taken for text. Price: as many bytes per sequence, and each of them read once more.
const CALL_BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Debug)]
pub(super) struct Tagged {
    shape: Shape,
    declared: Declared,
    state: State,
    /// Whether nothing came so far, or nothing since a call.
    is_first: bool,
    /// Tags between thoughts and what may end them; tags in content, without and with those that must come first.
    in_thoughts: Tags,
    in_content: Tags,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing came yet that is not white space.
    Begin,
    /// Right behind the tag that opens thoughts.
    Label,
    Thoughts,
    /// White space does not count, and neither do the tags that may follow this call.
    Skip(Option<usize>),
    Content,
    Call(Box<Open>),
}

/// A call whose opening tag was there.
#[derive(Clone, Debug)]
struct Open {
    /// Which of the shape's.
    which: usize,
    /// White space before the tag, which counts if this is no call.
    blanks: String,
    in_thoughts: bool,
    scan: Scan,
}

/// Tags to look for, each with what it means.
#[derive(Clone, Debug, Default)]
struct Tags {
    tags: Vec<Tag>,
    meanings: Vec<Meaning>,
}

#[derive(Clone, Copy, Debug)]
enum Meaning {
    Opens,
    Closes,
    Call(usize),
    Noise(usize),
}

impl Tags {
    fn add(&mut self, tag: &Tag, meaning: Meaning) {
        self.tags.push(tag.clone());
        self.meanings.push(meaning);
    }
}

impl Tagged {
    pub fn new(shape: Shape, declared: Declared) -> Tagged {
        let state = match shape.start {
            Start::Thoughts | Start::Either if shape.thoughts.is_some() => State::Begin,
            _ if shape.trims => State::Skip(None),
            _ => State::Content,
        };
        let (in_thoughts, in_content) = (tags_in_thoughts(&shape), tags_in_content(&shape));
        Tagged { shape, declared, state, is_first: true, in_thoughts, in_content }
    }

    /// Whether there is something to go on with.
    fn begin(&mut self, buffer: &mut Buffer) -> bool {
        let Some(thoughts) = &self.shape.thoughts else { return false };
        match buffer.begins_with(&thoughts.open) {
            None => return false,
            Some(true) => {
                buffer.take_blanks();
                buffer.take(thoughts.open.len());
                self.state = State::Label;
            }
            Some(false) => {
                self.state = match (self.shape.start, self.shape.trims) {
                    (Start::Thoughts, true) => State::Label,
                    (Start::Thoughts, false) => State::Thoughts,
                    (_, true) => State::Skip(None),
                    (_, false) => State::Content,
                }
            }
        }
        true
    }

    fn label(&mut self, buffer: &mut Buffer) -> bool {
        let label = self.shape.thoughts.as_ref().map_or("", |thoughts| thoughts.label);
        if !label.is_empty() {
            match begins_with(buffer.text(), label) {
                None if !buffer.has_ended() => return false,
                Some(true) => drop(buffer.take(label.len())),
                _ => {}
            }
            self.state = State::Thoughts;
            return true;
        }
        buffer.take_blanks();
        if buffer.text().is_empty() {
            return false;
        }
        self.state = State::Thoughts;
        true
    }

    fn think(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        let Some(thoughts) = &self.shape.thoughts else { return false };
        let (keeps, hidden) = (thoughts.blanks == Blanks::Keep, thoughts.hidden);
        let until = buffer.until(&self.in_thoughts.tags);
        let meaning = until.tag.map(|tag| self.in_thoughts.meanings[tag]);
        if !hidden {
            out.thinking.push_str(&until.text);
        }
        match meaning {
            None => return false,
            Some(Meaning::Call(which)) => self.open(which, until.blanks, true),
            Some(_) => {
                if keeps && !hidden {
                    out.thinking.push_str(&until.blanks);
                }
                self.state = State::Skip(None);
            }
        }
        true
    }

    fn skip(&mut self, behind: Option<usize>, buffer: &mut Buffer) -> bool {
        buffer.take_blanks();
        for tag in behind.iter().flat_map(|&which| &self.shape.calls[which].after) {
            match buffer.begins_with(tag) {
                Some(true) => {
                    buffer.take(tag.len());
                    return true;
                }
                None if !buffer.text().is_empty() => return false,
                _ => {}
            }
        }
        if buffer.text().is_empty() {
            return false;
        }
        self.state = State::Content;
        true
    }

    fn content(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        if self.is_first {
            match self.first(buffer, out) {
                Some(false) => self.is_first = buffer.text().trim_start().is_empty(),
                Some(true) => return true,
                None => return false,
            }
        }
        let until = buffer.until(&self.in_content.tags);
        out.content.push_str(&until.text);
        match until.tag.map(|tag| self.in_content.meanings[tag]) {
            None => return false,
            Some(Meaning::Call(which)) => self.open_behind(until.blanks, which, out),
            Some(Meaning::Noise(which)) => {
                let noise = &self.shape.noise[which];
                if noise.before == Blanks::Keep {
                    out.content.push_str(&until.blanks);
                }
                if noise.after == Blanks::Drop {
                    self.state = State::Skip(None);
                }
            }
            Some(Meaning::Opens | Meaning::Closes) => self.state = State::Label,
        }
        true
    }

    /// Whether the text begins with a call that must come first; `None`: it is too early to tell.
    fn first(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> Option<bool> {
        let calls = self.shape.calls.iter().enumerate().filter(|(_, calls)| calls.first_only);
        let (mut found, mut wait) = (None, false);
        for (which, calls) in calls {
            match buffer.begins_with(&calls.open) {
                Some(true) => found = Some(which),
                Some(false) => {}
                None => wait = true,
            }
        }
        match found {
            Some(which) => {
                let blanks = buffer.take_blanks();
                buffer.take(self.shape.calls[which].open.len());
                self.open_behind(blanks, which, out);
                Some(true)
            }
            None if wait => None,
            None => Some(false),
        }
    }

    fn open_behind(&mut self, blanks: String, which: usize, out: &mut Parsed) {
        match self.shape.blanks.0 {
            Blanks::Drop => self.open(which, blanks, false),
            Blanks::Keep => {
                out.content.push_str(&blanks);
                self.open(which, String::new(), false);
            }
        }
    }

    fn open(&mut self, which: usize, blanks: String, in_thoughts: bool) {
        let scan = Scan::after(match self.shape.calls[which].open_is_read {
            true => &self.shape.calls[which].open,
            false => "",
        });
        self.state = State::Call(Box::new(Open { which, blanks, in_thoughts, scan }));
    }

    fn call(&mut self, mut open: Box<Open>, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        let calls = &self.shape.calls[open.which];
        let read = |inside: &str| {
            let inside = match calls.open_is_read {
                true => Cow::Owned(format!("{}{inside}", calls.open)),
                false => Cow::Borrowed(inside),
            };
            (calls.read)(&inside, &self.declared)
        };
        let found = match end(calls, &mut open.scan, buffer) {
            End::Missing => {
                self.state = State::Call(open);
                return false;
            }
            End::At { inside, after } => read(&buffer.text()[..inside]).map(|calls| (calls, after)),
            End::Never if buffer.has_ended() => {
                let calls = read(unclosed(calls, buffer.text()));
                calls
                    .filter(|calls| calls.iter().all(|call| self.declared.accepts(call)))
                    .map(|calls| (calls, buffer.text().len()))
            }
            End::Never => None,
        };
        match found {
            Some((found, after)) => {
                buffer.take(after);
                out.calls.extend(found);
                self.state = match self.shape.blanks.1 {
                    Blanks::Drop => State::Skip(Some(open.which)),
                    Blanks::Keep => State::Content,
                };
                self.is_first = true;
            }
            None => {
                buffer.rewind();
                self.no_call(*open, out);
            }
        }
        true
    }

    /// The tag was text.
    fn no_call(&mut self, open: Open, out: &mut Parsed) {
        let calls = &self.shape.calls[open.which];
        let hidden = self.shape.thoughts.as_ref().is_some_and(|thoughts| thoughts.hidden);
        let text = match open.in_thoughts {
            true => &mut out.thinking,
            false => &mut out.content,
        };
        if !(open.in_thoughts && hidden) {
            text.push_str(&open.blanks);
            text.push_str(&calls.open);
        }
        self.is_first = false;
        self.state = if open.in_thoughts { State::Thoughts } else { State::Content };
    }
}

impl Machine for Tagged {
    fn eat(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Call(open) => return self.call(open, buffer, out),
            state => self.state = state,
        }
        if buffer.text().is_empty() {
            return false;
        }
        match self.state {
            State::Begin => self.begin(buffer),
            State::Label => self.label(buffer),
            State::Thoughts => self.think(buffer, out),
            State::Skip(behind) => self.skip(behind, buffer),
            State::Content | State::Call(_) => self.content(buffer, out),
        }
    }

    fn part(&self) -> Part {
        match &self.state {
            State::Begin => match self.shape.start {
                Start::Thoughts => Part::Thinking,
                _ => Part::Undecided,
            },
            State::Label | State::Thoughts => Part::Thinking,
            State::Skip(_) | State::Content => Part::Content,
            State::Call(open) if open.in_thoughts => Part::Thinking,
            State::Call(_) => Part::Call,
        }
    }
}

fn tags_in_thoughts(shape: &Shape) -> Tags {
    let mut tags = Tags::default();
    if let Some(thoughts) = &shape.thoughts {
        tags.add(&thoughts.close, Meaning::Closes);
    }
    let calls = shape.calls.iter().enumerate().filter(|(_, calls)| !calls.open_is_read);
    calls.for_each(|(which, calls)| tags.add(&calls.open, Meaning::Call(which)));
    tags
}

fn tags_in_content(shape: &Shape) -> Tags {
    let mut tags = Tags::default();
    if let Some(thoughts) = shape.thoughts.as_ref().filter(|thoughts| thoughts.anywhere) {
        tags.add(&thoughts.open, Meaning::Opens);
    }
    let calls = shape.calls.iter().enumerate().filter(|(_, calls)| !calls.first_only);
    calls.for_each(|(which, calls)| tags.add(&calls.open, Meaning::Call(which)));
    for (which, noise) in shape.noise.iter().enumerate() {
        tags.add(&Tag::from(noise.tag), Meaning::Noise(which));
    }
    tags
}

/// Where a call's inside ends.
enum End {
    /// The length of the inside, and of that with its closing tag.
    At {
        inside: usize,
        after: usize,
    },
    Missing,
    /// It is no call, or it is not closed.
    Never,
}

fn end(calls: &Calls, scan: &mut Scan, buffer: &mut Buffer) -> End {
    if !may_begin(calls.begins, buffer.text()) || buffer.text().len() > CALL_BYTES_MAX {
        return End::Never;
    }
    let found = match &calls.close {
        Close::Tag(tag) => buffer
            .find(std::slice::from_ref(tag))
            .map(|(inside, _)| End::At { inside, after: inside + tag.len() }),
        Close::Json => match scan.end(buffer.text()) {
            JsonEnd::At(after) => Some(End::At { inside: after, after }),
            JsonEnd::Missing => None,
            JsonEnd::Never => Some(End::Never),
        },
        Close::End => None,
    };
    match found {
        Some(end) => end,
        None if buffer.has_ended() => End::Never,
        None => End::Missing,
    }
}

fn may_begin(begins: &[&str], text: &str) -> bool {
    let text = text.trim_start();
    begins.is_empty() || begins.iter().any(|tag| begins_with(text, tag).unwrap_or(true))
}

/// Without the beginning of a closing tag.
fn unclosed<'a>(calls: &Calls, text: &'a str) -> &'a str {
    let partial = match &calls.close {
        Close::Tag(tag) => overlap(text, tag),
        _ => 0,
    };
    &text[..text.len() - partial]
}
