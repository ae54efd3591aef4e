//! Mistral's models: `[TOOL_CALLS]name[ARGS]{…}` without a closing tag, or `[TOOL_CALLS]` and a list of objects;
//! thoughts between `[THINK]` and `[/THINK]`.

use protocol::ToolCall;

use super::buffer::Blanks;
use super::calls::{self, objects, value_behind};
use super::declared::Declared;
use super::shape::{Calls, Close, Shape, Start, Thoughts};

pub(super) const PRESERVED: &[&str] =
    &["[TOOL_CALLS]", "[THINK]", "[/THINK]", "[ARGS]", "[CALL_ID]"];

pub(super) fn shape() -> Shape {
    let shape = Shape::of(vec![named_calls()]).thinking(thoughts(), Start::Content);
    Shape { blanks: (Blanks::Drop, Blanks::Keep), ..shape }
}

pub(super) fn thoughts() -> Thoughts {
    Thoughts { blanks: Blanks::Keep, anywhere: true, ..Thoughts::between("[THINK]", "[/THINK]") }
}

pub(super) fn named_calls() -> Calls {
    Calls { close: Close::Json, ..Calls::between("[TOOL_CALLS]", "", named) }
}

fn named(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    if inside.trim_start().starts_with(['[', '{']) {
        return objects(inside, declared);
    }
    let (before, value) = value_behind(inside)?;
    let name = before.split("[ARGS]").next().unwrap_or_default();
    let (name, id) = match name.split_once("[CALL_ID]") {
        Some((name, id)) => (name, Some(id.trim().to_owned())),
        None => (name, None),
    };
    let name = Some(name.trim()).filter(|name| declared.has(name))?;
    Some(vec![ToolCall { id, ..calls::call(name, calls::arguments(value)?) }])
}
