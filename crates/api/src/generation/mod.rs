//! From a dialect's question to a stream of events, the same for all dialects.
//!
//! A dialect makes an [`Ask`] of its body; [`Ask::complete`] adds what the model itself brings (system text, stored
//! messages, parameters) and refuses what it cannot do; [`open`] gets the model and starts the request; [`Fold`]
//! turns events into [`Part`]s, which a dialect writes in its own way, one by one or all together.

mod ask;
mod clock;
mod fold;
mod open;
mod reference;
mod refusal;
mod renderer;
mod run;

pub(crate) use ask::{Ask, Facts, Verb};
pub(crate) use clock::Clock;
pub(crate) use fold::{Call as ToolCallPart, Ending, Fold, Metrics, Part};
pub(crate) use open::{Opened, Running, open};
pub(crate) use reference::{Reference, ReferenceError};
pub(crate) use refusal::Refusal;
pub(crate) use run::{Shape, answer, whole_answer};
