//! Architectures against the reference's answers, and the properties every one of them keeps.
//!
//! The weights are those of the fixtures (`testdata/arch`), whole files; MLX must be there (`cargo xtask mlx`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod bad_checkpoints;
mod experts;
mod files;
mod invariance;
mod properties;
mod quantised;
mod reference;
mod spellings;
mod support;
