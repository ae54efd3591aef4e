//! Cohere's models: thoughts, text and actions each between their own tags. Text may come without.

use protocol::ToolCall;
use serde_json::Value;

use super::buffer::Blanks;
use super::calls::{self, arguments};
use super::declared::Declared;
use super::json_end::{JsonEnd, Scan};
use super::shape::{Calls, Noise, Shape, Start, Thoughts};

pub(super) const PRESERVED: &[&str] = &[
    "<|START_THINKING|>",
    "<|END_THINKING|>",
    "<|START_TEXT|>",
    "<|END_TEXT|>",
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
];

pub(super) fn shape(start: Start, trims: bool) -> Shape {
    let opens = ["<|START_TEXT|>", "<|START_RESPONSE|>"];
    let opens = opens.map(|tag| Noise { tag, before: Blanks::Drop, after: Blanks::Keep });
    let closes = ["<|END_TEXT|>", "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>"];
    let closes = closes.map(|tag| Noise { tag, before: Blanks::Keep, after: Blanks::Drop });
    let noise = opens.into_iter().chain(closes).collect();
    let thoughts = Thoughts::between("<|START_THINKING|>", "<|END_THINKING|>");
    Shape { noise, trims, ..Shape::of(vec![actions_calls()]).thinking(thoughts, start) }
}

pub(super) fn actions_calls() -> Calls {
    Calls::between("<|START_ACTION|>", "<|END_ACTION|>", actions)
}

/// A list of actions. If it is not JSON as a whole, those of its objects count that are.
fn actions(inside: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    let whole: Option<Vec<Value>> = serde_json::from_str(inside).ok();
    let calls: Vec<_> = match whole {
        Some(values) => values.into_iter().filter_map(action).collect(),
        None => objects(inside).filter_map(action).collect(),
    };
    (!calls.is_empty()).then_some(calls)
}

fn action(value: Value) -> Option<ToolCall> {
    let name = value["tool_name"].as_str().filter(|name| !name.is_empty())?;
    let id = value["tool_call_id"].as_str().filter(|id| !id.is_empty());
    let arguments = arguments(value["parameters"].clone())?;
    Some(ToolCall { id: id.map(str::to_owned), ..calls::call(name, arguments) })
}

fn objects(text: &str) -> impl Iterator<Item = Value> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find('{')?..];
            let end = match Scan::default().end(rest) {
                JsonEnd::At(end) => end,
                JsonEnd::Missing | JsonEnd::Never => 1,
            };
            let (object, behind) = rest.split_at(end);
            rest = behind;
            if let Ok(value) = serde_json::from_str(object) {
                return Some(value);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::told;
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let calls = actions(inside, &Declared::default());
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn actions_in_a_list() {
        check(
            r#"[ {"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}, {"tool_name": "g"} ]"#,
            Some(r#"f{"a":1} g{}"#),
        );
        // A comma is missing, and one object is none.
        check(r#"[{"tool_name": "f"} {"tool_name": x} {"tool_name": "g"}]"#, Some("f{} g{}"));
        check("[]", None);
        check("no actions", None);
    }
}
