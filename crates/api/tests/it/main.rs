//! The server as its clients see it: real connections, raw bytes, real files, an engine without a model.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod harness;
mod normal;
mod replay;
mod serving;
