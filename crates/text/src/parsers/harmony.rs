//! Harmony, the format of gpt-oss: messages with a header that names a channel and perhaps a recipient.
//!
//! `<|start|>role to=recipient<|channel|>channel <|constrain|>json<|message|>…<|end|>`; the prompt has written the first
//! `<|start|>assistant`. What a recipient gets is a call, else `analysis` is thinking, and the rest is content.

use protocol::Message;

use super::buffer::{Buffer, begins_with};
use super::calls::{self, arguments_of};
use super::names::Names;
use super::{Machine, Parsed, Part, Tags};

pub(super) const PRESERVED: &[&str] =
    &["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"];

const START: &str = "<|start|>";
const MESSAGE: &str = "<|message|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const ENDS: &[&str] = &["<|end|>", START, "<|call|>", "<|return|>"];
const BEHIND_HEADER: &[&str] = &[MESSAGE, ENDS[0], ENDS[1], ENDS[2], ENDS[3]];

/// Longer headers are none. Price: as many bytes per sequence.
const HEADER_BYTES_MAX: usize = 4096;

pub(super) struct Harmony {
    state: State,
    names: Names,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Between messages.
    Outside,
    Header,
    Message(To),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Thinking,
    Content,
    Tool(String),
}

impl Harmony {
    /// `last` is the conversation's last message; if it is the assistant's, it goes on.
    pub fn new(last: Option<&Message>, names: Names) -> Harmony {
        let last = last.filter(|last| last.role == protocol::Role::Assistant);
        let state = match last {
            Some(last) if !last.content.is_empty() => State::Message(To::Content),
            Some(last) if last.thinking.as_deref().is_some_and(|text| !text.is_empty()) => {
                State::Message(To::Thinking)
            }
            _ => State::Header,
        };
        Harmony { state, names }
    }

    /// Whatever comes before the answer's text, until its header is written; in words that name no kind of text.
    pub fn thoughts(&self) -> Option<Tags> {
        let close = format!("{CHANNEL}final{MESSAGE}");
        let inside = [START, ENDS[0], CHANNEL, MESSAGE].map(str::to_owned).to_vec();
        let answers = self.state == State::Message(To::Content);
        (!answers).then_some(Tags { open: String::new(), close, inside })
    }

    fn outside(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        let until = buffer.until(&[START, MESSAGE]);
        // What no message holds would be lost.
        out.content.push_str(&until.text);
        match until.tag {
            None => return false,
            Some(0) => self.state = State::Header,
            Some(_) => self.state = State::Message(To::Content),
        }
        true
    }

    fn header(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        let is_header = buffer.text().len() <= HEADER_BYTES_MAX && may_be_header(buffer.text());
        match buffer.find(BEHIND_HEADER).filter(|_| is_header) {
            Some((at, which)) => {
                let header = buffer.take(at);
                buffer.take(BEHIND_HEADER[which].len());
                match which.checked_sub(1) {
                    None => self.state = State::Message(addressee(&header)),
                    // A message that ends without having begun.
                    Some(end) => {
                        out.content.push_str(&header);
                        self.end(end);
                    }
                }
            }
            None if is_header && !buffer.has_ended() => return false,
            None => {
                buffer.rewind();
                self.state = State::Message(To::Content);
            }
        }
        true
    }

    fn message(&mut self, to: To, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        if let To::Tool(name) = to {
            return self.call(name, buffer, out);
        }
        let until = buffer.until(ENDS);
        let text = until.text + &until.blanks;
        match to {
            To::Thinking => out.thinking.push_str(&text),
            _ => out.content.push_str(&text),
        }
        match until.tag {
            Some(end) => self.end(end),
            None => self.state = State::Message(to),
        }
        until.tag.is_some()
    }

    fn call(&mut self, name: String, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        let (inside, end) = match buffer.find(ENDS) {
            Some((at, end)) => (buffer.take(at), Some(end)),
            None if buffer.has_ended() => (buffer.take_all(), None),
            None => {
                self.state = State::Message(To::Tool(name));
                return false;
            }
        };
        match arguments_of(&inside) {
            Some(arguments) => {
                let name = name.strip_prefix("functions.").unwrap_or(&name);
                out.calls.push(calls::call(self.names.original(name), arguments));
            }
            None => out.content.push_str(&inside),
        }
        match end {
            Some(end) => {
                buffer.take(ENDS[end].len());
                self.end(end);
            }
            None => self.state = State::Outside,
        }
        true
    }

    fn end(&mut self, end: usize) {
        self.state = if ENDS[end] == START { State::Header } else { State::Outside };
    }
}

impl Machine for Harmony {
    fn eat(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        match std::mem::replace(&mut self.state, State::Outside) {
            State::Message(to) => return self.message(to, buffer, out),
            state => self.state = state,
        }
        if buffer.text().is_empty() {
            return false;
        }
        match self.state {
            State::Header => self.header(buffer, out),
            _ => self.outside(buffer, out),
        }
    }

    fn part(&self) -> Part {
        match &self.state {
            State::Outside | State::Header => Part::Undecided,
            State::Message(To::Thinking) => Part::Thinking,
            State::Message(To::Content) => Part::Content,
            State::Message(To::Tool(_)) => Part::Call,
        }
    }
}

/// Whether `text` may be what stands in front of `<|message|>`, a role or not.
fn may_be_header(text: &str) -> bool {
    let text = text.trim_start();
    // A channel's name may have lost its tag.
    let words = ["assistant", "analysis", "commentary", "final"];
    let text = words.iter().find_map(|word| text.strip_prefix(word)).unwrap_or(text).trim_start();
    [CHANNEL, CONSTRAIN, MESSAGE, "to=", "assistant"]
        .iter()
        .any(|tag| begins_with(text, tag).unwrap_or(true))
}

fn addressee(header: &str) -> To {
    let header = header.replace(CONSTRAIN, " <|constrain|>");
    let (before, behind) = header.split_once(CHANNEL).unwrap_or((&header, ""));
    let channel = behind.split_whitespace().next().unwrap_or_default();
    // A channel's name stands right behind its tag.
    let rest = behind.strip_prefix(channel).unwrap_or(behind);
    let mut words = before.split_whitespace().chain(rest.split_whitespace());
    let recipient = words.find_map(|word| word.strip_prefix("to="));
    match recipient {
        Some(name) if matches!(channel, "analysis" | "commentary") && !name.is_empty() => {
            To::Tool(name.to_owned())
        }
        _ if channel == "analysis" => To::Thinking,
        _ => To::Content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: To) {
        assert_eq!(addressee(header), expected, "{header}");
    }

    #[test]
    fn headers_name_who_gets_the_message() {
        let tool = || To::Tool("functions.f".to_owned());
        check("<|channel|>analysis", To::Thinking);
        check("assistant<|channel|>final", To::Content);
        check("<|channel|>commentary", To::Content);
        check("", To::Content);
        check(" to=functions.f<|channel|>commentary <|constrain|>json", tool());
        check("<|channel|>commentary to=functions.f <|constrain|>json", tool());
        check("<|channel|>commentary to=functions.f<|constrain|>json", tool());
        check("<|channel|>analysis to=functions.f code", tool());
    }

    #[test]
    fn what_can_be_a_header() {
        for header in [
            "",
            "assis",
            "assistant",
            "<|chan",
            " to=f<|channel|>x",
            "assistant to=",
            "<|constrain|>json",
        ] {
            assert!(may_be_header(header), "{header}");
        }
        for text in ["Hello", "assistance", "finally", "final answer", "tomorrow", "<b>"] {
            assert!(!may_be_header(text), "{text}");
        }
    }
}
