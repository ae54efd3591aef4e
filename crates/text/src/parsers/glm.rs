//! GLM 4.5 and later: thoughts in `<think>`, calls as a name and pairs of `<arg_key>` and `<arg_value>`.
//!
//! The models leave tags out now and then. A missing tag is understood where only one reading is possible.

use protocol::ToolCall;
use serde_json::Map;

use super::calls;
use super::declared::Declared;
use super::qwen::{one_line_less, thoughts};
use super::shape::{Calls, Shape, Start};

pub(super) const PRESERVED: &[&str] = &[
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
];

pub(super) fn shape(start: Start) -> Shape {
    Shape::of(vec![pair_calls()]).thinking(thoughts(), start)
}

pub(super) fn pair_calls() -> Calls {
    Calls::between("<tool_call>", "</tool_call>", pairs)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    KeyOpens,
    KeyCloses,
    ValueOpens,
    ValueCloses,
}

const MARKS: [(&str, Mark); 4] = [
    ("<arg_key>", Mark::KeyOpens),
    ("</arg_key>", Mark::KeyCloses),
    ("<arg_value>", Mark::ValueOpens),
    ("</arg_value>", Mark::ValueCloses),
];

#[derive(Debug, PartialEq)]
enum Part<'a> {
    Key(&'a str),
    Value(&'a str),
}

pub(super) fn pairs(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    let (name, parts) = split(inside);
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    let mut arguments = Map::new();
    let mut parts = parts.into_iter().peekable();
    while let Some(part) = parts.next() {
        let Part::Key(key) = part else { return None };
        let value = match parts.next_if(|part| matches!(part, Part::Value(_))) {
            Some(Part::Value(value)) => value,
            _ => "",
        };
        let key = key.trim();
        if key.is_empty() {
            return None;
        }
        arguments.insert(key.to_owned(), declared.typed(name, key, one_line_less(value)));
    }
    Some(vec![calls::call(name, arguments)])
}

/// The function's name, and the texts between marks with what they are.
fn split(inside: &str) -> (&str, Vec<Part<'_>>) {
    let Some((at, length, mut last)) = next_mark(inside) else {
        return (inside.trim(), Vec::new());
    };
    let (mut name, mut parts) = (inside[..at].trim(), Vec::new());
    // A first key whose opening mark is missing stands behind the name.
    if last != Mark::KeyOpens
        && let Some((before, key)) = name.split_once(char::is_whitespace)
    {
        (name, parts) = (before, vec![Part::Key(key)]);
    }
    let mut rest = &inside[at + length..];
    while let Some((at, length, mark)) = next_mark(rest) {
        parts.extend(part(last, &rest[..at], Some(mark)));
        rest = &rest[at + length..];
        last = mark;
    }
    parts.extend(part(last, rest, None));
    (name, parts)
}

fn next_mark(text: &str) -> Option<(usize, usize, Mark)> {
    let found = MARKS.iter().filter_map(|(tag, mark)| Some((text.find(tag)?, tag.len(), *mark)));
    found.min_by_key(|(at, ..)| *at)
}

/// What the text between two marks is: told by the one before it, else by the one behind it.
fn part<'a>(before: Mark, text: &'a str, behind: Option<Mark>) -> Option<Part<'a>> {
    match (before, behind) {
        (Mark::KeyOpens, _) => Some(Part::Key(text)),
        (Mark::ValueOpens, _) => Some(Part::Value(text)),
        _ if text.trim().is_empty() => None,
        (_, Some(Mark::KeyCloses)) => Some(Part::Key(text)),
        (_, Some(Mark::ValueCloses)) => Some(Part::Value(text)),
        (Mark::KeyCloses, _) => Some(Part::Value(text)),
        (Mark::ValueCloses, Some(_)) => Some(Part::Key(text)),
        (Mark::ValueCloses, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{told, tools};
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let calls = pairs(inside, &Declared::new(&tools()));
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn pairs_of_keys_and_values() {
        let expected = Some(r#"get_weather{"city":"New York","days":2}"#);
        for inside in [
            "get_weather\n<arg_key>city</arg_key>\n<arg_value>New York</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n",
            "get_weather<arg_key>city</arg_key><arg_value>New York</arg_value><arg_key>days</arg_key><arg_value>2</arg_value>",
            // With marks missing.
            "get_weather<arg_key>city<arg_value>New York<arg_key>days<arg_value>2",
            "get_weather city</arg_key><arg_value>New York</arg_value>days</arg_key>2</arg_value>",
            "get_weather<arg_key>city</arg_key>New York</arg_value><arg_key>days</arg_key><arg_value>2</arg_value>",
        ] {
            check(inside, expected);
        }
        check("now", Some("now{}"));
        check("f<arg_key>a</arg_key><arg_value></arg_value>", Some(r#"f{"a":""}"#));
        check("f<arg_key>a</arg_key>", Some(r#"f{"a":""}"#));
        check(
            "f<arg_key>a</arg_key><arg_value>x < y & z</arg_value>",
            Some(r#"f{"a":"x < y & z"}"#),
        );
        for none in [
            "",
            "  ",
            "two words",
            "f<arg_key> </arg_key><arg_value>1</arg_value>",
            "f<arg_value>1</arg_value>",
        ] {
            check(none, None);
        }
    }
}
