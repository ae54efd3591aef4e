//! FunctionGemma: `<start_function_call>call:name{key:value}<end_function_call>`, texts between two `<escape>`.

use protocol::ToolCall;
use serde_json::{Map, Value};

use super::buffer::Blanks;
use super::calls;
use super::declared::Declared;
use super::shape::{Calls, Shape};

pub(super) const PRESERVED: &[&str] = &["<start_function_call>", "<end_function_call>", ESCAPE];

const ESCAPE: &str = "<escape>";

/// Deeper values are texts. Price: a stack frame each.
const DEPTH_MAX: usize = 64;

pub(super) fn shape() -> Shape {
    Shape { blanks: (Blanks::Keep, Blanks::Keep), ..Shape::of(vec![calls_in_tags()]) }
}

pub(super) fn calls_in_tags() -> Calls {
    Calls::between("<start_function_call>", "<end_function_call>", call).beginning(&["call:"])
}

fn call(inside: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    let inside = inside.trim().strip_prefix("call:")?.strip_suffix('}')?;
    let (name, arguments) = inside.split_once('{')?;
    let name = Some(name.trim()).filter(|name| !name.is_empty())?;
    Some(vec![calls::call(name, fields(arguments, DEPTH_MAX))])
}

fn fields(text: &str, depth: usize) -> Map<String, Value> {
    let parts = parts(text).into_iter().filter_map(|part| part.split_once(':'));
    parts.map(|(key, text)| (key.to_owned(), value(text, depth))).collect()
}

/// What commas part that are in no text and in no brackets.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut in_text, mut at) = (Vec::new(), 0, 0_usize, false, 0);
    while let Some(next) = text[at..].chars().next() {
        if text[at..].starts_with(ESCAPE) {
            in_text = !in_text;
            at += ESCAPE.len();
            continue;
        }
        match next {
            _ if in_text => {}
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += next.len_utf8();
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

fn value(text: &str, depth: usize) -> Value {
    let between = |open: &str, close: &str| text.strip_prefix(open)?.strip_suffix(close);
    if let Some(inside) = between(ESCAPE, ESCAPE) {
        return Value::from(inside);
    }
    let Some(depth) = depth.checked_sub(1) else { return Value::from(text) };
    if let Some(inside) = between("[", "]") {
        return parts(inside).into_iter().map(|part| value(part, depth)).collect();
    }
    if let Some(inside) = between("{", "}") {
        return Value::Object(fields(inside, depth));
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ => serde_json::from_str::<serde_json::Number>(text)
            .map_or(Value::from(text), Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::told;
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let calls = call(inside, &Declared::default());
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn the_notation() {
        check(
            "call:f{city:<escape>Oslo, {x}<escape>,days:3,share:2.5,metric:true}",
            Some(r#"f{"city":"Oslo, {x}","days":3,"share":2.5,"metric":true}"#),
        );
        check("call:now{}", Some("now{}"));
        check(
            "call:f{a:[1,<escape>x<escape>],b:{c:<escape>d<escape>,e:f}}",
            Some(r#"f{"a":[1,"x"],"b":{"c":"d","e":"f"}}"#),
        );
        check("call:f{a:12 Main St}", Some(r#"f{"a":"12 Main St"}"#));
        for none in ["", "call:f", "call:{}", "f{}"] {
            check(none, None);
        }
        assert_eq!(
            call(
                &format!("call:f{{a:{}{}}}", "[".repeat(9_999), "]".repeat(9_999)),
                &Declared::default()
            )
            .unwrap()
            .len(),
            1
        );
    }
}
