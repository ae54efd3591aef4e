//! JSON with the manners of Go's `encoding/json`, which Ollama's clients are used to.
//!
//! Reading: only the first value of a body counts, keys match whatever their case, `null` leaves a field alone, and
//! what is wrong is said in Go's words. Writing: `<`, `>` and `&` are escaped, floats look as Go prints them.
//! Everything in this folder is pure; it knows no route and no status.

mod decode;
mod encode;
mod named;
mod parse;

pub(crate) use decode::decode;
pub(crate) use encode::{to_line, to_text, to_vec};
pub(crate) use named::{List, Listed, Texts};
pub(crate) use parse::{SyntaxError, parse};
/// Text in quotes as Go's `%q` prints it; many of Ollama's messages do.
pub(crate) use text::quoted_as_go as quote;
