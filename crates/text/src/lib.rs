//! Text on its way to a model and back: tokens, chat templates, stop strings. Pure: no MLX, no network, and of the
//! file system only the few JSON files a model brings.
//!
//! [`Text`] is the door the engine uses: a request's input becomes a prompt ([`Text::render`]), the prompt becomes
//! tokens ([`Text::encode_prompt`]), generated tokens become characters again ([`Text::decoder`]). Each part also
//! stands alone: [`Tokenizer`], [`Stream`], [`StopStrings`], [`ChatTemplate`].
//!
//! What is kept everywhere: a [`Stream`] never emits half a character and never loses a byte; work grows linearly
//! with the text; whatever a model's files hold, the answer is a value or an [`Error`], never a panic.

#[cfg(test)]
mod clock;
pub mod constraint;
mod error;
mod facade;
mod files;
pub mod parsers;
mod pieces;
#[cfg(test)]
mod random;
mod renderers;
mod specials;
mod stop;
mod stream;
mod template;
mod tokenizer;

pub use error::{Error, Result};
pub use facade::{PromptKind, Text, check_template, quoted_as_go};
pub use files::{Files, reads};
pub use renderers::Renderer;
pub use stop::{StopStrings, Stopped};
pub use stream::{Specials, Stream};
pub use template::{ChatTemplate, Conversation, ModelfileTemplate, NamedTemplate};
pub use tokenizer::{GgufTokenizer, Tokenizer};
