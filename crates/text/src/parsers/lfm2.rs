//! LFM2: calls as Python writes them or as JSON, between `<|tool_call_start|>` and `<|tool_call_end|>`. Some replies
//! are such calls without the tags; they count if the tools are declared.

use protocol::ToolCall;

use super::calls::objects;
use super::declared::Declared;
use super::python::python;
use super::qwen::thoughts;
use super::shape::{Calls, Close, Shape, Start};

pub(super) const PRESERVED: &[&str] =
    &["<think>", "</think>", "<|tool_call_start|>", "<|tool_call_end|>"];

pub(super) fn shape(start: Start, declared: &Declared) -> Shape {
    let mut calls = vec![tagged_calls()];
    calls.extend(
        declared.names().flat_map(|name| [bare(format!("{name}(")), bare(format!("[{name}("))]),
    );
    Shape { trims: start == Start::Either, ..Shape::of(calls).thinking(thoughts(), start) }
}

pub(super) fn tagged_calls() -> Calls {
    Calls::between("<|tool_call_start|>", "<|tool_call_end|>", either)
}

fn either(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    objects(inside, declared).or_else(|| python(inside, declared))
}

/// The whole reply.
fn bare(open: String) -> Calls {
    Calls {
        close: Close::End,
        open_is_read: true,
        first_only: true,
        ..Calls::between(open, "", python)
    }
}
