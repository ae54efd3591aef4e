//! OLMo 3: calls in `<function_calls>` as Python writes them, or (in its thinking kind, which calls nothing) thoughts
//! that the prompt has opened.

use super::buffer::Blanks;
use super::python::python;
use super::qwen::thoughts;
use super::shape::{Calls, Shape, Start};

pub(super) const PRESERVED: &[&str] = &["<function_calls>", "</function_calls>"];
pub(super) const PRESERVED_THINKING: &[&str] = &["</think>"];

pub(super) fn shape() -> Shape {
    Shape { blanks: (Blanks::Keep, Blanks::Keep), ..Shape::of(vec![calls()]) }
}

pub(super) fn calls() -> Calls {
    Calls::between("<function_calls>", "</function_calls>", python)
}

pub(super) fn thinking(start: Start) -> Shape {
    Shape::of(Vec::new()).thinking(thoughts(), start)
}
