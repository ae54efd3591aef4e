//! JSON with the manners of Go's `encoding/json`, which Ollama's clients are used to.
//!
//! Reading: only the first value of a body counts, keys match whatever their case, `null` leaves a field alone, and
//! what is wrong is said in Go's words. Writing: `<`, `>` and `&` are escaped, floats look as Go prints them.
//! Everything in this folder is pure; it knows no route and no status.

mod decode;
mod encode;
mod named;
mod parse;
mod quote;

pub(crate) use decode::decode;
pub(crate) use encode::{to_line, to_text, to_vec};
pub(crate) use named::{List, Listed, Texts};
pub(crate) use parse::{SyntaxError, parse};
pub(crate) use quote::quote;
