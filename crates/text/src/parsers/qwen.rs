//! Qwen 3 and its relatives: thoughts in `<think>`, calls in `<tool_call>`, written as JSON by the older ones and as
//! `<function=name>` with `<parameter=name>` inside by Qwen3-Coder, Qwen 3.5 and Nemotron.

use protocol::ToolCall;
use serde_json::Map;

use super::calls;
use super::declared::Declared;
use super::shape::{Calls, Shape, Start, Thoughts};

pub(super) const PRESERVED: &[&str] = &["<think>", "</think>", "<tool_call>", "</tool_call>"];

pub(super) fn thoughts() -> Thoughts {
    Thoughts::between("<think>", "</think>")
}

pub(super) fn json_calls() -> Calls {
    Calls::between("<tool_call>", "</tool_call>", calls::objects).beginning(&["{", "["])
}

pub(super) fn function_calls() -> Calls {
    Calls::between("<tool_call>", "</tool_call>", functions).beginning(&["<function="])
}

pub(super) fn json(start: Start) -> Shape {
    Shape::of(vec![json_calls()]).thinking(thoughts(), start)
}

pub(super) fn xml(start: Start) -> Shape {
    Shape::of(vec![function_calls()]).thinking(thoughts(), start)
}

/// One or several `<function=name>…</function>`.
pub(super) fn functions(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = inside;
    while let Some((_, behind)) = rest.split_once("<function=") {
        let (call, behind) = function(behind, declared)?;
        calls.push(call);
        rest = behind;
    }
    (!calls.is_empty()).then_some(calls)
}

/// What stands behind `<function=`; the rest behind the function's end.
fn function<'a>(text: &'a str, declared: &Declared) -> Option<(ToolCall, &'a str)> {
    let (name, mut rest) = text.split_once('>').filter(|(name, _)| !name.is_empty())?;
    let mut arguments = Map::new();
    loop {
        let body = rest.trim_start();
        if let Some(parameter) = body.strip_prefix("<parameter=") {
            let (key, value) = parameter.split_once('>').filter(|(key, _)| !key.is_empty())?;
            let (value, behind) = value.split_once("</parameter>")?;
            arguments.insert(key.to_owned(), declared.typed(name, key, one_line_less(value)));
            rest = behind;
        } else if let Some(behind) = body.strip_prefix("</function>") {
            return Some((calls::call(name, arguments), behind));
        } else if body.is_empty() {
            return Some((calls::call(name, arguments), body));
        } else {
            return None;
        }
    }
}

/// Without the line ends that the tags stand beside.
pub(super) fn one_line_less(value: &str) -> &str {
    let value = value.strip_prefix('\n').unwrap_or(value);
    value.strip_suffix('\n').unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{told, tools};
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let calls = functions(inside, &Declared::new(&tools()));
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn functions_in_tags() {
        check(
            "\n<function=get_weather>\n<parameter=city>\nSan Francisco\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n",
            Some(r#"get_weather{"city":"San Francisco","days":3}"#),
        );
        check("<function=now></function>", Some("now{}"));
        check("<function=now>\n<function=now>", None);
        check(
            "<function=f><parameter=a>1 < 2 && <b>\"x\"</b>\n\n</parameter>",
            Some("f{\"a\":\"1 < 2 && <b>\\\"x\\\"</b>\\n\"}"),
        );
        check("<function=now></function>\n<function=f></function>", Some("now{} f{}"));
        for none in [
            "",
            "now",
            "<function=>",
            "<function=f",
            "<function=f><parameter=a>1",
            "<function=f>x</function>",
        ] {
            check(none, None);
        }
    }
}
