//! Replies of a given form: which tokens may come next.
//!
//! A [`Grammar`] is made of what a request asks for (JSON, a schema, a regular expression, a grammar, a call of a tool)
//! or refused with the reason; a [`Constraint`] is one reply on its way through it. What the words mean for bytes is
//! decided by the crate `llguidance`; what it may be asked, in which limits, is decided here.
//!
//! What is kept everywhere: a keyword that is not honoured is refused, never ignored; white space and numbers have an
//! end; the token masks are exact, so whatever a model draws from them is the beginning of a valid reply. Knows nothing
//! of logits.

mod calls;
mod formats;
mod free;
mod gbnf;
mod grammar;
mod mask;
mod numbers;
mod pattern;
mod reply;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use calls::CallSyntax;
pub use free::Thinking;
pub use grammar::{Grammar, Wish, check};
pub use mask::Mask;
pub use reply::Constraint;
pub use vocabulary::{Vocabulary, VocabularyParts};
