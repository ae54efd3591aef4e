//! What a prompt asks the scripted engine to do.

use std::time::Duration;

use indexmap::IndexMap;
use protocol::{Input, Message, Request, Role, Think, ToolCall};

use super::WORDS;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Script {
    pub prompt_tokens: u32,
    /// Thinking comes first and counts as tokens too.
    pub think_tokens: u32,
    pub answer: Answer,
    pub tool: Option<ToolCall>,
    pub sleep: Duration,
    pub fail: bool,
    pub crash: bool,
    pub panic: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Words(u32),
    Text(Vec<String>),
}

impl Default for Answer {
    fn default() -> Answer {
        Answer::Words(WORDS.len() as u32)
    }
}

impl Script {
    /// The token at this place; the first of the thinking and the first of the answer have no space before them.
    pub fn word(&self, index: u32) -> Option<String> {
        let (place, word) = match index.checked_sub(self.think_tokens) {
            None => (index, WORDS[index as usize % WORDS.len()].to_owned()),
            Some(place) => (place, self.answer.word(place)?),
        };
        Some(if place == 0 { word } else { format!(" {word}") })
    }
}

impl Answer {
    fn word(&self, place: u32) -> Option<String> {
        match self {
            Answer::Words(count) if place >= *count => None,
            Answer::Words(_) => Some(WORDS[place as usize % WORDS.len()].to_owned()),
            Answer::Text(words) => words.get(place as usize).cloned(),
        }
    }
}

pub(super) struct Prompt {
    pub rendered: String,
    pub images: u32,
    pub script: Script,
}

pub(super) fn read(request: &Request) -> Prompt {
    let (rendered, steering) = match &request.input {
        Input::Raw { prompt } => (prompt.clone(), prompt.clone()),
        Input::Infill { prompt, suffix } => (format!("{prompt}<fill>{suffix}"), prompt.clone()),
        Input::Chat { messages, .. } => (render(messages), last_words(messages)),
    };
    let images = request.input.images() as u32;
    let mut script = parse(&steering);
    script.prompt_tokens = rendered.split_whitespace().count() as u32;
    if request.think == Think::Off {
        script.think_tokens = 0;
    }
    Prompt { rendered, images, script }
}

fn render(messages: &[Message]) -> String {
    let line = |message: &Message| format!("{}: {}\n", message.role.as_str(), message.content);
    messages.iter().map(line).collect()
}

fn last_words(messages: &[Message]) -> String {
    let last = messages.iter().rev().find(|message| message.role == Role::User);
    last.map(|message| message.content.clone()).unwrap_or_default()
}

fn parse(text: &str) -> Script {
    let mut script = Script::default();
    text.lines().for_each(|line| parse_line(line, &mut script));
    script
}

fn parse_line(line: &str, script: &mut Script) {
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        match word {
            "!long" => script.answer = Answer::Words(number()),
            "!think" => script.think_tokens = number(),
            "!sleep" => script.sleep = Duration::from_millis(number().into()),
            "!fail" => script.fail = true,
            "!crash" => script.crash = true,
            "!panic" => script.panic = true,
            "!hang" => script.sleep = Duration::from_secs(60),
            "!say" => script.answer = Answer::Text(words.by_ref().map(str::to_owned).collect()),
            "!tool" => script.tool = tool_call(words.by_ref()),
            _ => {}
        }
    }
}

fn tool_call<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<ToolCall> {
    let name = words.next()?.to_owned();
    let arguments = words.collect::<Vec<_>>().join(" ");
    let arguments: IndexMap<_, _> = serde_json::from_str(&arguments).unwrap_or_default();
    Some(ToolCall { id: None, name, arguments })
}
