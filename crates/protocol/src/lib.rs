//! The words rooms share, and their encoding on the wire between the server and its children.
//!
//! A dialect translates into [`Request`] and folds a stream of [`Event`]; the engine answers the same words.
//! Nothing here knows HTTP, tensors, tokens' meaning or files' contents. Everything is plain data, plus the two
//! small traits an engine is served through ([`Engine`], [`Outbox`]).
//!
//! Both ends of a wire are the same binary (the handshake compares [`wire::VERSION`]), so fields need no
//! compatibility between releases; they are still named, so that a log line of a frame can be read.

mod engine;
mod event;
mod failure;
mod job;
mod options;
mod request;
pub mod wire;

pub use engine::{Engine, MemoryReport, Outbox, Work};
pub use event::{Delta, Event, FinishReason, TokenChoice, TokenLogprob, Usage};
pub use failure::{Failure, FailureKind};
pub use job::{Convert, ConvertProgress, Converted, LoadModel, LoadedModel, ModelFiles, NewLayer};
pub use options::{OPTIONS, OptionError, OptionKind, Options, Seed};
pub use request::{
    Format, Image, Input, Message, Request, RequestId, Role, Think, Tool, ToolCall, ToolChoice,
    ToolFunction,
};
