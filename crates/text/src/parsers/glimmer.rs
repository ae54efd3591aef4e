//! Meta's Glimmer: messages `<|start|>assistant to=recipient<|message|>…<|eom|>`, the last one ended by `<|eot|>`.
//!
//! `self` gets thinking, `user` or nobody content, a tool a call in ATEM: `<atem:function_calls>` with
//! `<atem:invoke name="…">` and `<atem:parameter name="…">` inside. ATEM that is sent to the wrong recipient still is
//! a call if its tool is declared.

use protocol::ToolCall;
use serde_json::Map;

use super::buffer::{Buffer, begins_with};
use super::calls;
use super::declared::Declared;
use super::{Machine, Parsed, Part};

pub(super) const PRESERVED: &[&str] = &["<|start|>", MESSAGE, "<|eom|>", "<|eot|>"];

const START: &str = "<|start|>assistant";
const MESSAGE: &str = "<|message|>";
const ENDS: &[&str] = &["<|eom|>", "<|eot|>", START];
const OPEN: &str = "<atem:function_calls>";
const CLOSE: &str = "</atem:function_calls>";
const INVOKE: &str = "<atem:invoke name=\"";
const INVOKED: &str = "</atem:invoke>";
const PARAMETER: &str = "<atem:parameter name=\"";
const PARAMETER_END: &str = "</atem:parameter>";

/// Longer headers are none. Price: as many bytes per sequence.
const HEADER_BYTES_MAX: usize = 4096;

pub(super) struct Glimmer {
    declared: Declared,
    thinks: bool,
    state: State,
}

enum State {
    /// Behind the tag that starts a message, or where one may start.
    Header,
    /// In the middle of a message came what starts another one, perhaps.
    Another(To),
    /// `true`: nothing of it came yet.
    Message(To, bool),
    /// What may be a call, with its recipient.
    Call(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Thinking,
    Content,
    Tool(String),
}

impl Glimmer {
    pub fn new(declared: Declared, thinks: bool) -> Glimmer {
        Glimmer { declared, thinks, state: State::Header }
    }

    fn header(&mut self, buffer: &mut Buffer) -> bool {
        let prefix = begins_with(buffer.text(), START);
        if prefix.is_none() && !buffer.has_ended() {
            return false;
        }
        if prefix == Some(true) {
            buffer.take(START.len());
        }
        match buffer.find(&[MESSAGE]) {
            Some((at, _)) if at <= HEADER_BYTES_MAX && may_be_header(buffer.text()) => {
                let header = buffer.take(at);
                buffer.take(MESSAGE.len());
                let to = self.addressee(header.trim());
                self.state = State::Message(to, true);
            }
            _ if buffer.has_ended() || !may_be_header(buffer.text()) => {
                buffer.rewind();
                self.state = State::Message(To::Content, true);
            }
            _ => return false,
        }
        true
    }

    fn addressee(&self, header: &str) -> To {
        let recipient = header.strip_prefix("to=").unwrap_or(header).trim();
        match self.tool(recipient) {
            _ if recipient == "self" => To::Thinking,
            Some(_) => To::Tool(recipient.to_owned()),
            None => To::Content,
        }
    }

    /// The declared tool of this name, which may have its own first part before it as a name space.
    fn tool<'a>(&self, name: &'a str) -> Option<&'a str> {
        if self.declared.has(name) {
            return Some(name);
        }
        let (space, own) = name.split_once('.')?;
        (own.split('.').next() == Some(space) && self.declared.has(own)).then_some(own)
    }

    /// A message only ends in front of a whole header that names somebody known.
    fn another(&mut self, to: To, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        let text = buffer.text();
        let starts = match (begins_with(text, MESSAGE), begins_with(text, " to=")) {
            (Some(true), _) => Some(true),
            (_, Some(true)) => match text[4..].find(['<', ' ', '\t', '\r', '\n']) {
                Some(end) => {
                    let recipient = &text[4..4 + end];
                    let known =
                        ["self", "user"].contains(&recipient) || self.declared.has(recipient);
                    begins_with(&text[4 + end..], MESSAGE).map(|message| message && known)
                }
                None => None,
            },
            (None, _) | (_, None) => None,
            _ => Some(false),
        };
        match starts {
            None if !buffer.has_ended() && text.len() <= HEADER_BYTES_MAX => {
                self.state = State::Another(to);
                return false;
            }
            Some(true) => self.state = State::Header,
            _ => {
                self.say(&to, START, out);
                self.state = State::Message(to, false);
            }
        }
        true
    }

    fn message(&mut self, to: To, is_first: bool, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        if let To::Tool(name) = to {
            self.state = State::Call(name);
            return true;
        }
        if is_first && to == To::Content && !self.declared.is_empty() {
            match buffer.begins_with(OPEN) {
                Some(true) => {
                    self.state = State::Call(String::new());
                    return true;
                }
                None => {
                    self.state = State::Message(to, true);
                    return false;
                }
                Some(false) => {}
            }
        }
        let until = buffer.until(ENDS);
        let said = until.text + &until.blanks;
        self.say(&to, &said, out);
        let is_first = is_first && said.is_empty();
        self.state = match until.tag {
            None => State::Message(to, is_first),
            Some(end) if ENDS[end] == START => State::Another(to),
            Some(_) => State::Header,
        };
        until.tag.is_some()
    }

    fn say(&self, to: &To, text: &str, out: &mut Parsed) {
        match to {
            To::Thinking if self.thinks => out.thinking.push_str(text),
            To::Thinking => {}
            _ => out.content.push_str(text),
        }
    }

    /// The whole block, then whatever is left of the message.
    fn call(&mut self, recipient: String, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        let end = match buffer.find(&[CLOSE]) {
            Some((at, _)) => at + CLOSE.len(),
            None if buffer.has_ended() || buffer.begins_with(OPEN) == Some(false) => {
                buffer.text().len()
            }
            None => {
                self.state = State::Call(recipient);
                return false;
            }
        };
        match self.block(&recipient, &buffer.text()[..end]) {
            Some(calls) => {
                buffer.take(end);
                out.calls.extend(calls);
                buffer.take_blanks();
                self.state = State::Message(To::Content, false);
            }
            // It is text, and it may end before what was taken for the end of the block.
            None => {
                buffer.rewind();
                self.state = State::Message(To::Content, false);
            }
        }
        true
    }

    fn block(&self, recipient: &str, text: &str) -> Option<Vec<ToolCall>> {
        let mut rest = text.trim().strip_prefix(OPEN)?.strip_suffix(CLOSE)?.trim();
        let mut calls = Vec::new();
        while !rest.is_empty() {
            let (call, behind) = self.invoke(rest.strip_prefix(INVOKE)?)?;
            if !recipient.is_empty() && self.tool(recipient) != Some(call.name.as_str()) {
                return None;
            }
            calls.push(call);
            rest = behind.trim_start();
        }
        (!calls.is_empty()).then_some(calls)
    }

    fn invoke<'a>(&self, text: &'a str) -> Option<(ToolCall, &'a str)> {
        let (name, mut rest) = cut_name(text)?;
        let name = self.tool(&name)?;
        let mut arguments = Map::new();
        loop {
            rest = rest.strip_prefix('\n').unwrap_or(rest);
            if let Some(behind) = rest.strip_prefix(INVOKED) {
                return Some((calls::call(name, arguments), behind));
            }
            let (key, behind) = rest.strip_prefix(PARAMETER)?.split_once("\">")?;
            let (value, behind) = behind.split_once(PARAMETER_END)?;
            arguments.insert(key.to_owned(), self.declared.typed(name, key, value));
            rest = behind;
        }
    }
}

/// The name in an invocation, and what stands behind it. A tag that belongs into a header may have strayed into it.
fn cut_name(text: &str) -> Option<(String, &str)> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let end = rest.find("\">");
        match rest.find(MESSAGE) {
            Some(at) if end.is_none_or(|end| at < end) => {
                name.push_str(&rest[..at]);
                rest = &rest[at + MESSAGE.len()..];
                if rest.starts_with(PARAMETER) {
                    return Some((name, rest));
                }
            }
            _ => {
                name.push_str(&rest[..end?]);
                return Some((name, &rest[end? + 2..]));
            }
        }
    }
}

fn may_be_header(text: &str) -> bool {
    let text = text.trim_start();
    begins_with(text, MESSAGE).unwrap_or(true) || begins_with(text, "to=").unwrap_or(true)
}

impl Machine for Glimmer {
    fn eat(&mut self, buffer: &mut Buffer, out: &mut Parsed) -> bool {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Another(to) => self.another(to, buffer, out),
            State::Call(name) => self.call(name, buffer, out),
            State::Message(to, is_first) if !buffer.text().is_empty() => {
                self.message(to, is_first, buffer, out)
            }
            State::Message(to, is_first) => {
                self.state = State::Message(to, is_first);
                false
            }
            State::Header => !buffer.text().is_empty() && self.header(buffer),
        }
    }

    fn part(&self) -> Part {
        match &self.state {
            State::Header => Part::Undecided,
            State::Another(To::Thinking) | State::Message(To::Thinking, _) => Part::Thinking,
            State::Another(_) | State::Message(..) => Part::Content,
            State::Call(_) => Part::Call,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{told, tools};
    use super::*;

    #[track_caller]
    fn check(recipient: &str, text: &str, expected: Option<&str>) {
        let calls = Glimmer::new(Declared::new(&tools()), true).block(recipient, text);
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{text}");
    }

    #[test]
    fn blocks_of_calls() {
        let block =
            |inside: &str| format!("<atem:function_calls>\n{inside}\n</atem:function_calls>");
        let now = "<atem:invoke name=\"now\">\n</atem:invoke>";
        let oslo = "<atem:invoke name=\"get_weather\">\n<atem:parameter name=\"city\">Oslo</atem:parameter>\n<atem:parameter name=\"days\">2</atem:parameter>\n</atem:invoke>";
        check("now", &block(now), Some("now{}"));
        check("now.now", &block(now), Some("now{}"));
        check(
            "",
            &block(&format!("{now}\n{oslo}")),
            Some(r#"now{} get_weather{"city":"Oslo","days":2}"#),
        );
        check("", &block("<atem:invoke name=\"now<|message|>\"></atem:invoke>"), Some("now{}"));
        let strayed = oslo
            .replace("\">\n<atem:parameter name=\"city", "<|message|><atem:parameter name=\"city");
        check("", &block(&strayed), Some(r#"get_weather{"city":"Oslo","days":2}"#));
        check("get_weather", &block(now), None);
        check("", &block("<atem:invoke name=\"other\"></atem:invoke>"), None);
        check("", &block(""), None);
        check("", now, None);
    }
}
