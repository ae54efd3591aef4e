//! Tool calls written as JSON, in the ways that models have of it.

use protocol::ToolCall;
use serde_json::{Map, Value};

use super::declared::Declared;

const NAMES: &[&str] = &["name", "function", "tool_name"];
const ARGUMENTS: &[&str] = &["arguments", "parameters", "args", "input"];

/// What else a call may have beside it.
const BESIDE: &[&str] = &["type", "id", "index", "tool_call_id", "call_id", "description"];

/// Objects in objects that are searched for a call.
const DEPTH_MAX: usize = 8;

pub(super) fn call(name: &str, arguments: Map<String, Value>) -> ToolCall {
    ToolCall { id: None, name: name.to_owned(), arguments: arguments.into_iter().collect() }
}

/// Objects with a name and arguments, one after the other or in a list.
pub(super) fn objects(inside: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    for value in serde_json::Deserializer::from_str(inside).into_iter::<Value>() {
        match value.ok()? {
            Value::Array(values) => {
                calls.extend(values.into_iter().map(object).collect::<Option<Vec<_>>>()?);
            }
            value => calls.push(object(value)?),
        }
    }
    (!calls.is_empty()).then_some(calls)
}

/// `{"name": "f", "arguments": {…}}`; without arguments there are none.
fn object(value: Value) -> Option<ToolCall> {
    let Value::Object(mut fields) = value else { return None };
    if let Some(inner) = fields.get_mut("function").filter(|inner| inner.is_object()) {
        return object(inner.take());
    }
    let name = NAMES.iter().find_map(|key| fields.get(*key)?.as_str().map(str::to_owned));
    let name = name.filter(|name| !name.is_empty())?;
    match ARGUMENTS.iter().find_map(|key| fields.get_mut(*key).map(Value::take)) {
        Some(given) => Some(call(&name, arguments(given)?)),
        // Arguments under another name are not to be lost.
        None if fields
            .keys()
            .any(|key| !NAMES.contains(&key.as_str()) && !BESIDE.contains(&key.as_str())) =>
        {
            None
        }
        None => Some(call(&name, Map::new())),
    }
}

/// An object, or its JSON as a text.
pub(super) fn arguments(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Null => Some(Map::new()),
        Value::Object(fields) => Some(fields),
        Value::String(text) if text.trim().is_empty() => Some(Map::new()),
        Value::String(text) => serde_json::from_str(&text).ok(),
        _ => None,
    }
}

pub(super) fn arguments_of(text: &str) -> Option<Map<String, Value>> {
    arguments(serde_json::from_str(text).ok()?)
}

/// Calls of declared tools, however they are wrapped: the name in the object, as its key, or in the text before it.
pub(super) fn declared(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    let (before, value) = value_behind(inside)?;
    let mut calls = Vec::new();
    gather(&value, declared, DEPTH_MAX, &mut calls);
    if calls.is_empty()
        && let Some(name) = name_in(before, declared)
        && let Value::Object(fields) = value
    {
        calls.push(call(&name, fields));
    }
    (!calls.is_empty()).then_some(calls)
}

/// The text before the first value in braces (or in brackets, if there is no text), and that value.
pub(super) fn value_behind(inside: &str) -> Option<(&str, Value)> {
    // A bracket in the text before the value, as of a tag, is none of its own.
    let at = match inside.trim_start().starts_with('[') {
        true => inside.find('[')?,
        false => inside.find('{')?,
    };
    let mut values = serde_json::Deserializer::from_str(&inside[at..]).into_iter::<Value>();
    Some((&inside[..at], values.next()?.ok()?))
}

fn gather(value: &Value, declared: &Declared, depth: usize, calls: &mut Vec<ToolCall>) {
    match value {
        Value::Array(values) if depth > 0 => {
            values.iter().for_each(|value| gather(value, declared, depth - 1, calls));
        }
        Value::Object(fields) if depth > 0 => match object(value.clone()) {
            Some(call) => calls.extend(declared.has(&call.name).then_some(call)),
            None => by_key(fields, declared, depth, calls),
        },
        _ => {}
    }
}

fn by_key(
    fields: &Map<String, Value>,
    declared: &Declared,
    depth: usize,
    calls: &mut Vec<ToolCall>,
) {
    for (key, value) in fields {
        match arguments(value.clone()).filter(|_| declared.has(key)) {
            Some(arguments) => calls.push(call(key, arguments)),
            None => gather(value, declared, depth - 1, calls),
        }
    }
}

/// The declared name that comes first, the longest of those that begin together.
fn name_in(text: &str, declared: &Declared) -> Option<String> {
    let places = declared.names().filter_map(|name| Some((text.find(name)?, name)));
    let first = places.min_by_key(|&(at, name)| (at, std::cmp::Reverse(name.len())));
    first.map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{told, tools};
    use super::*;

    #[track_caller]
    fn check(read: super::super::shape::Read, inside: &str, expected: Option<&str>) {
        let declared = Declared::new(&tools());
        assert_eq!(
            read(inside, &declared).map(|calls| told(&calls)).as_deref(),
            expected,
            "{inside}"
        );
    }

    #[test]
    fn names_and_arguments() {
        let f = r#"f{"b":1,"a":[2]}"#;
        check(objects, r#" {"name": "f", "arguments": {"b": 1, "a": [2]}} "#, Some(f));
        check(objects, r#"{"name": "f", "parameters": {"b": 1, "a": [2]}}"#, Some(f));
        check(objects, r#"{"name": "f", "arguments": "{\"b\": 1, \"a\": [2]}"}"#, Some(f));
        check(
            objects,
            r#"{"type": "function", "function": {"name": "f", "arguments": null}}"#,
            Some("f{}"),
        );
        check(
            objects,
            r#"[{"name": "f"}, {"name": "g", "arguments": {"x": 1}}]"#,
            Some(r#"f{} g{"x":1}"#),
        );
        check(objects, "{\"name\": \"f\"}\n{\"name\": \"g\"}", Some("f{} g{}"));
        for none in [
            "",
            "{",
            "[]",
            "{}",
            "1",
            r#"{"name": ""}"#,
            r#"{"name": "f", "arguments": [1]}"#,
            r#"{"name": "f"} x"#,
            r#"{"name": "f", "argumnts": {}}"#,
        ] {
            check(objects, none, None);
        }
    }

    #[test]
    fn declared_names_wherever_they_stand() {
        let call = Some(r#"get_weather{"city":"Oslo"}"#);
        check(declared, r#"{"name": "get_weather", "arguments": {"city": "Oslo"}}"#, call);
        check(declared, r#"{"get_weather": {"city": "Oslo"}}"#, call);
        check(
            declared,
            r#"{"tool_calls": [{"function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}]}"#,
            call,
        );
        check(declared, r#"functions.get_weather:0[ARGS]{"city": "Oslo"}"#, call);
        check(declared, r#"{"name": "get_time", "arguments": {}}"#, None);
        check(declared, r#"{"city": "Oslo"}"#, None);
        check(declared, "get_weather", None);
    }
}
