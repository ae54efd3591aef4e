//! DeepSeek V3.1 and Cogito: calls one by one in `<｜tool▁call▁begin｜>`, all of them in an outer pair of tags.

use protocol::ToolCall;

use super::buffer::Blanks;
use super::calls::{self, arguments_of};
use super::declared::Declared;
use super::qwen::thoughts;
use super::shape::{Calls, Noise, Shape, Start};

pub(super) const PRESERVED_COGITO: &[&str] = &[
    "</think>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
];

/// All but the pair around several outputs.
pub(super) const PRESERVED: &[&str] = PRESERVED_COGITO.split_at(PRESERVED_COGITO.len() - 2).0;

const SEPARATOR: &str = "<｜tool▁sep｜>";

pub(super) fn shape(start: Start) -> Shape {
    // A tool's output that the model makes up is kept, its tags are not.
    let output = ["<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"];
    let output = output.map(|tag| Noise { tag, before: Blanks::Keep, after: Blanks::Keep });
    let noise = outer().into_iter().chain(output).collect();
    Shape { noise, ..Shape::of(vec![one_calls()]).thinking(thoughts(), start) }
}

pub(super) fn cogito(start: Start) -> Shape {
    let outputs = Calls::between("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", nothing);
    let noise = outer().into_iter().collect();
    Shape { noise, ..Shape::of(vec![one_calls(), outputs]).thinking(thoughts(), start) }
}

pub(super) fn outer() -> [Noise; 2] {
    ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"].map(|tag| Noise {
        tag,
        before: Blanks::Drop,
        after: Blanks::Drop,
    })
}

pub(super) fn one_calls() -> Calls {
    Calls::between("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", one)
}

/// Either a name and its arguments, or the word `function`, then a name and its arguments in a code fence.
fn one(inside: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    let (before, behind) = inside.split_once(SEPARATOR)?;
    let (name, arguments) = match behind.split_once("```json") {
        Some((name, fenced)) if !behind.trim_start().starts_with('{') => {
            (name, fenced.trim_end().strip_suffix("```")?)
        }
        _ => (before, behind),
    };
    let name = Some(name.trim()).filter(|name| !name.is_empty())?;
    Some(vec![calls::call(name, arguments_of(arguments.trim())?)])
}

/// What is left out of the reply.
fn nothing(_: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    Some(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::super::testing::told;
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let calls = one(inside, &Declared::default());
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn both_ways_to_write_a_call() {
        check("f<｜tool▁sep｜>{\"a\": 1}", Some(r#"f{"a":1}"#));
        check("function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```", Some(r#"f{"a":1}"#));
        check("f<｜tool▁sep｜>{\"a\": \"```json\"}", Some("f{\"a\":\"```json\"}"));
        for none in [
            "f",
            "<｜tool▁sep｜>{}",
            "f<｜tool▁sep｜>{",
            "function<｜tool▁sep｜>f\n```json\n{}",
            "f<｜tool▁sep｜>[1]",
        ] {
            check(none, None);
        }
    }
}
