//! Which models are resident: queue, keep-alive, memory budget, eviction. One runner process per model digest.
//!
//! [`Scheduler::acquire`] is the one way to a model: it hands out a [`Lease`] when the model's runner is ready,
//! starting it, waiting for room or for a load that already runs. The scheduler counts leases and the streams made
//! from them; a model without any starts its keep-alive timer. It knows no tensor, no prompt and no HTTP: bytes are
//! numbers it was told, requests pass through it unread.

mod config;
pub mod duration;
mod keep_alive;
mod launch;
mod lease;
mod life;
mod memory;
mod pump;
mod residents;
mod scheduler;

pub use config::Config;

pub use duration::DurationError;
pub use keep_alive::KeepAlive;
pub use launch::{InProcess, Job, Launcher, OwnBinary};
pub use lease::{EventStream, Lease};
pub use memory::parse_bytes;
pub use scheduler::{Resident, Scheduler, Want};

/// A conversion runs in a child of its own; this is its stream of news.
pub use runner::{Conversion as ConvertStream, ConversionEvent as ConvertEvent};
