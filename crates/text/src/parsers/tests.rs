//! All parsers over recorded replies of every family, whole and damaged, beside what Ollama's parsers made of them.

use std::path::PathBuf;

use protocol::{Message, Role, Think, Tool};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::*;
use crate::random::Random;

/// A line of the recording: a case, or (first) the tools that all of them declare.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Case {
    tools: Vec<Tool>,
    parser: String,
    template: String,
    prompt: String,
    /// Without tools.
    bare: bool,
    think: Option<bool>,
    last: Option<Last>,
    kind: String,
    text: String,
    /// Around thoughts and in front of a call, of a template.
    tags: Vec<String>,
    /// At once, letter by letter, and as one last piece; equal ones are told once.
    folds: Vec<Fold>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Last {
    content: String,
    thinking: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fold {
    content: String,
    thinking: String,
    calls: Vec<Called>,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Called {
    name: String,
    id: String,
    arguments: Map<String, Value>,
}

impl Case {
    fn messages(&self) -> Vec<Message> {
        let user = Message { content: "x".to_owned(), ..Message::default() };
        let last = self.last.as_ref().map(|last| Message {
            role: Role::Assistant,
            content: last.content.clone(),
            thinking: Some(last.thinking.clone()),
            ..Message::default()
        });
        std::iter::once(user).chain(last).collect()
    }

    fn parser(&self, tools: &[Tool]) -> Parser {
        let think = match self.think {
            None => Think::Unset,
            Some(true) => Think::On,
            Some(false) => Think::Off,
        };
        let template = Some(self.template.as_str()).filter(|text| !text.is_empty());
        let parsers = Parsers::default().with_modelfile(Some(&self.parser), template);
        parsers.parser(&Asked {
            messages: &self.messages(),
            tools: if self.bare { &[] } else { tools },
            think: &think,
            prompt: &self.prompt,
            template: None,
        })
    }

    fn fold<'a>(&self, tools: &[Tool], pieces: impl IntoIterator<Item = &'a str>) -> Parsed {
        let mut parser = self.parser(tools);
        let mut whole = Parsed::default();
        pieces.into_iter().for_each(|piece| whole.append(parser.push(piece)));
        whole.append(parser.finish());
        whole
    }
}

fn recording() -> (Vec<Tool>, Vec<Case>) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/text/parsers/ollama.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let mut cases = text.lines().map(|line| serde_json::from_str::<Case>(line).unwrap());
    let tools = cases.next().unwrap().tools;
    (tools, cases.collect())
}

/// What Ollama does to a value on its way.
fn damaged(parser: &str, value: &Value) -> Value {
    match (parser, value) {
        // One byte is left of every letter.
        ("olmo3", Value::String(text)) => text
            .chars()
            .map(|c| if c.is_ascii() { c } else { '\u{fffd}' })
            .collect::<String>()
            .into(),
        ("functiongemma", Value::Array(values)) if values.is_empty() => Value::Null,
        (_, Value::Array(values)) => values.iter().map(|value| damaged(parser, value)).collect(),
        (_, Value::Object(fields)) => {
            fields.iter().map(|(name, value)| (name.clone(), damaged(parser, value))).collect()
        }
        _ => value.clone(),
    }
}

/// Ours is theirs, but for white space at the end, which Ollama drops and we do not.
fn is_same(case: &Case, ours: &Parsed, theirs: &Fold) -> bool {
    let text = |ours: &str, theirs: &str| {
        ours.strip_prefix(theirs).is_some_and(|rest| rest.trim().is_empty())
    };
    let calls = ours.calls.len() == theirs.calls.len()
        && ours
            .calls
            .iter()
            .zip(&theirs.calls)
            .all(|(ours, theirs)| is_same_call(case, ours, theirs));
    theirs.error.is_empty()
        && calls
        && text(&ours.content, &theirs.content)
        && text(&ours.thinking, &theirs.thinking)
}

fn is_same_call(case: &Case, ours: &ToolCall, theirs: &Called) -> bool {
    // Ollama keeps the order of names where it has a parser for the family.
    let in_order = case.template.is_empty();
    let names = ours.arguments.keys().eq(theirs.arguments.keys());
    let ids = ours.id.as_deref().unwrap_or_default() == theirs.id;
    let value = |name: &String| theirs.arguments.get(name).unwrap_or(&Value::Null);
    ours.name == theirs.name
        && ids
        && (names || !in_order)
        && ours.arguments.len() == theirs.arguments.len()
        && ours
            .arguments
            .iter()
            .all(|(name, ours)| is_same_value(&damaged(&case.parser, ours), value(name)))
}

/// Go knows one kind of number.
fn is_same_value(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(ours), Value::Number(theirs)) => ours.as_f64() == theirs.as_f64(),
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| is_same_value(a, b))
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .all(|(name, a)| theirs.get(name).is_some_and(|b| is_same_value(a, b)))
        }
        _ => ours == theirs,
    }
}

#[test]
fn whole_replies_are_read_as_ollama_reads_them() {
    let (tools, cases) = recording();
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| case.kind == "whole") {
        let ours = case.fold(&tools, [case.text.as_str()]);
        let is_refused =
            case.folds.iter().all(|theirs| !theirs.error.is_empty()) && ours.calls.is_empty();
        if !is_refused && !case.folds.iter().any(|theirs| is_same(case, &ours, theirs)) {
            wrong.push(format!(
                "{} think {:?} bare {}\n{:?}\nours   {ours:?}\ntheirs {:?}\n",
                case.parser, case.think, case.bare, case.text, case.folds
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_cut_does_not_matter() {
    let (tools, cases) = recording();
    let mut random = Random(4);
    for case in &cases {
        let whole = case.fold(&tools, [case.text.as_str()]);
        let letters: Vec<&str> = case.text.split("").collect();
        assert_eq!(
            case.fold(&tools, letters.iter().copied()),
            whole,
            "{} {:?}",
            case.parser,
            case.text
        );
        for _ in 0..4 {
            let mut rest = case.text.as_str();
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                let mut at = 1 + random.below(rest.len().min(24));
                while !rest.is_char_boundary(at) {
                    at += 1;
                }
                let (piece, behind) = rest.split_at(at);
                pieces.push(piece);
                rest = behind;
            }
            assert_eq!(
                case.fold(&tools, pieces.iter().copied()),
                whole,
                "{} {pieces:?}",
                case.parser
            );
        }
    }
}

/// What the replies are made of, besides tags.
const WORDS: &[&str] = &[
    "日本",
    "😀",
    "naïve",
    "is 4.",
    "Let me",
    "sum",
    "fine",
    "item",
    "bold",
    "quoted",
    "braces",
    "Oslo",
    "York",
    "東京",
    "Paulo",
    "apples",
    "two words",
    "ünï",
];

fn count(text: &str) -> usize {
    WORDS.iter().map(|word| text.matches(word).count()).sum()
}

fn words(fold: &Parsed) -> usize {
    count(&fold.content) + count(&fold.thinking) + count(&testing::told(&fold.calls))
}

/// Thoughts that nobody asked for are left out by these.
fn hides(case: &Case) -> bool {
    let hiding = ["gemma4", "gemma4-no-thinking", "laguna", "poolside-v1", "glimmer"];
    hiding.contains(&case.parser.as_str()) && case.think != Some(true)
}

#[test]
fn nothing_is_lost() {
    let (tools, cases) = recording();
    for case in cases.iter().filter(|case| !hides(case)) {
        let ours = case.fold(&tools, [case.text.as_str()]);
        assert_eq!(words(&ours), count(&case.text), "{} {:?}\n{ours:?}", case.parser, case.text);
    }
}

/// Family, damaged place, and what we make of it.
const KNOWN: &[(&str, &str, &str)] = &[
    (
        "deepseek3",
        "<｜toollls▁begin｜>",
        "a closing tag of several calls is no text, even if the opening one is damaged",
    ),
    ("poolside-v1", "<arg_value>3></tool_call>", "a value whose closing tag is missing counts"),
];

/// Where a reply is damaged, ours may differ from Ollama's for one of these reasons.
fn reason(case: &Case, ours: &Parsed) -> Option<&'static str> {
    let told = |theirs: &Fold| {
        let calls: String =
            theirs.calls.iter().map(|call| format!("{}{:?}", call.name, call.arguments)).collect();
        count(&theirs.content) + count(&theirs.thinking) + count(&calls)
    };
    if case.folds.iter().all(|theirs| !theirs.error.is_empty()) {
        return Some("Ollama gives the whole reply up");
    }
    if case.folds.iter().any(|theirs| is_same(case, ours, theirs)) {
        return Some("equal");
    }
    if case.folds.iter().any(|theirs| theirs.calls.len() < ours.calls.len()) {
        return Some("a call that is whole but not closed, or behind a damaged one, is a call");
    }
    if case.folds.iter().any(|theirs| told(theirs) < words(ours)) {
        return Some("Ollama drops text");
    }
    if KNOWN.iter().any(|(parser, place, _)| case.parser == *parser && case.text.contains(place)) {
        return Some("known");
    }
    let size = |content: &str, thinking: &str| content.len() + thinking.len();
    let is_longer = |theirs: &Fold| {
        size(&ours.content, &ours.thinking) > size(&theirs.content, &theirs.thinking)
    };
    case.folds.iter().any(is_longer).then_some("a damaged call is text")
}

#[test]
fn damaged_replies_differ_for_a_reason() {
    let (tools, cases) = recording();
    let mut reasons = std::collections::BTreeMap::<_, usize>::new();
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| case.kind == "damaged") {
        let ours = case.fold(&tools, [case.text.as_str()]);
        match reason(case, &ours) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None => wrong.push(format!(
                "{} {:?}\nours   {ours:?}\ntheirs {:?}\n",
                case.parser, case.text, case.folds
            )),
        }
    }
    println!("{reasons:#?}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn templates_tell_the_tags_that_ollama_reads() {
    let (_, cases) = recording();
    for case in cases.iter().filter(|case| !case.template.is_empty()) {
        assert_eq!(go::Tags::of(&case.template).as_told(), case.tags, "{}", case.template);
    }
}

#[test]
fn the_tags_of_thoughts_are_told() {
    let tags = |name: &str, think| {
        let case = Case { parser: name.to_owned(), think, ..Case::default() };
        let parser = case.parser(&[]);
        parser.thoughts().map(|tags| (tags.open.clone(), tags.close.clone()))
    };
    let pair = |open: &str, close: &str| Some((open.to_owned(), close.to_owned()));
    assert_eq!(tags("qwen3.5", None), pair("", "</think>"));
    assert_eq!(tags("qwen3.5", Some(false)), None);
    assert_eq!(tags("lfm2-thinking", Some(true)), pair("<think>", "</think>"));
    assert_eq!(tags("qwen3-coder", None), None);
    assert_eq!(tags("nobody", None), None);
    assert_eq!(tags("harmony", None), pair("", "<|channel|>final<|message|>"));
}

/// The tag that a reply goes on with must not hold back what stands before it, and a whole call is told at once.
#[test]
fn nothing_waits_longer_than_it_must() {
    let family = |name: &str| Case { parser: name.to_owned(), ..Case::default() };
    let tools = testing::tools();
    for name in ["qwen3-thinking", "qwen3-coder", "ministral", "glm-ocr", "gemma4", "lfm2", "olmo3"]
    {
        let mut parser = Case { think: Some(false), ..family(name) }.parser(&tools);
        let mut told = String::new();
        for word in ["One", " <", "b> two", " {three", "\n"] {
            told += &parser.push(word).content;
        }
        assert_eq!(told.trim_end(), "One <b> two {three", "{name}");
    }
    let mut parser = family("qwen3").parser(&tools);
    assert_eq!(parser.push("<tool_call>{\"name\": \"now\"}</tool_call").calls, []);
    assert_eq!(parser.part(), Part::Call);
    assert_eq!(parser.push(">").calls.len(), 1);
    assert_eq!(parser.part(), Part::Content);
    // Nothing that can be a call holds the rest of the reply back.
    assert_eq!(parser.push("a <tool_call> of course").content, "a <tool_call> of course");
}

/// A reply of a megabyte in small pieces takes as many steps as it has bytes.
#[test]
fn long_replies_take_linear_time() {
    let tools = testing::tools();
    let text = "x < ".repeat(1 << 16);
    let call = format!(
        "<tool_call>{{\"name\": \"now\", \"arguments\": {{\"a\": \"{text}\"}}}}</tool_call>"
    );
    for reply in [text.clone(), call, "<tool_call>".repeat(1 << 12)] {
        let mut parser =
            Case { parser: "qwen3-thinking".to_owned(), ..Case::default() }.parser(&tools);
        let started = crate::clock::processor_time();
        for piece in reply.as_bytes().chunks(4) {
            parser.push(std::str::from_utf8(piece).unwrap());
        }
        parser.finish();
        let took = crate::clock::processor_time() - started;
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }
}
