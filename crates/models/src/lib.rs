//! Model architectures, and what they are made of: layers, caches, weights.
//!
//! A model turns a flat batch of tokens ([`Batch`]) and what it remembers of their sequences ([`Memory`]) into hidden
//! states and logits. It knows no request, no text and no sampling, and it does not decide what is in a batch.
//! Graph operations return `Array` and unwind when they fail; [`load`] catches that once, the engine once per step.

pub mod arch;
mod batch;
pub mod cache;
mod config;
mod error;
mod model;
pub mod nn;
mod weights;

pub use arch::ARCHITECTURES;
pub use batch::{Batch, Pass, Segment, Shape};
pub use cache::{Cache, KvShape, KvType, Memory, Page, Slot, State, StateShape};
pub use config::Section;
pub use error::{Error, Result};
pub use model::{Model, architecture, load};
pub use weights::Weights;
