//! The process boundary, both ends: starting a child, the handshake, framing, flow control, exit.
//!
//! The client half ([`Child`], [`Runner`], [`EventStream`], [`Conversion`]) is asynchronous and lives in the server;
//! the serving half ([`serve`], [`serve_convert`]) is plain threads and serves any `protocol::Engine`. Neither knows
//! what an engine computes. Invariants: a child ends when the other end of its socket closes; every event stream
//! ends with exactly one last event, whatever happens to the child; a slow reader pauses its own request only.

mod client;
mod commands;
mod error;
pub mod scripted;
mod serve;

pub use client::{Child, Conversion, ConversionEvent, EventStream, Launch, Runner};
pub use error::Error;
pub use serve::{Ready, serve, serve_convert, serve_convert_stdin, serve_stdin};
