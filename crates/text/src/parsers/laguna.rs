//! Poolside's Laguna: thoughts in `<think>`, which the prompt opens or closes; calls in `<tool_call>` as a name with
//! `<arg_key>` and `<arg_value>`, or as JSON. With tools declared, calls also come in `<user>` or as bare JSON.

use protocol::ToolCall;

use super::buffer::Blanks;
use super::calls::{self, arguments_of, objects};
use super::declared::Declared;
use super::glm::pairs;
use super::qwen::thoughts;
use super::shape::{Calls, Close, Noise, Shape, Start, Thoughts};

pub(super) const PRESERVED: &[&str] = &[
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<user>",
    "</user>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
];

/// Names that the model was trained on, and what they are called where those are not declared.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("read_file", "read"),
    ("write_file", "write"),
    ("edit_file", "edit"),
    ("web_fetch", "webfetch"),
];

pub(super) fn shape(start: Start, thinks: bool, declared: &Declared) -> Shape {
    let mut calls = vec![Calls::between("<tool_call>", "</tool_call>", either)];
    if !declared.is_empty() {
        calls.push(Calls::between("<user>", "</user>", either_declared));
        calls.push(bare());
    }
    let thoughts = Thoughts { anywhere: true, hidden: !thinks, ..thoughts() };
    let closes = Noise { tag: "</think>", before: Blanks::Drop, after: Blanks::Drop };
    Shape { noise: vec![closes], trims: true, ..Shape::of(calls).thinking(thoughts, start) }
}

fn bare() -> Calls {
    Calls { close: Close::Json, open_is_read: true, ..Calls::between("{", "", json_declared) }
}

fn either(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    // A call that is opened twice is one.
    let mut inside = inside.trim();
    while let Some(behind) = inside.strip_prefix("<tool_call>") {
        inside = behind.trim();
    }
    let calls = match (inside.find('{'), inside.find("<arg_key>")) {
        (Some(0), _) => objects(inside, declared)?,
        (Some(at), None) => {
            vec![calls::call(inside[..at].trim(), arguments_of(&inside[at..])?)]
        }
        _ => {
            // Values are typed by the name that is declared.
            let (name, rest) = inside.split_at(inside.find('<').unwrap_or(inside.len()));
            pairs(&format!("{}{rest}", known(name.trim(), declared)), declared)?
        }
    };
    Some(
        calls
            .into_iter()
            .map(|call| ToolCall { name: known(&call.name, declared).to_owned(), ..call })
            .collect(),
    )
}

fn known<'a>(name: &'a str, declared: &Declared) -> &'a str {
    let other = OTHER_NAMES.iter().find(|(trained, _)| *trained == name).map(|(_, other)| *other);
    match other {
        Some(other) if !declared.has(name) && declared.has(other) => other,
        _ => name,
    }
}

fn either_declared(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    either(inside, declared).filter(|calls| calls.iter().all(|call| declared.has(&call.name)))
}

fn json_declared(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    objects(inside, declared).and_then(|_| either_declared(inside, declared))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{told, tools};
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let mut tools = tools();
        tools[2].function.name = "read".to_owned();
        let calls = either(inside, &Declared::new(&tools));
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn calls_in_every_notation() {
        let oslo = Some(r#"get_weather{"city":"Oslo","days":2}"#);
        check(
            "get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key><arg_value>2</arg_value>\n",
            oslo,
        );
        check(r#"{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}"#, oslo);
        check("\n<tool_call>get_weather\n{\"city\": \"Oslo\", \"days\": 2}", oslo);
        check("read_file", Some("read{}"));
        check("{}", None);
        check("", None);
    }
}
