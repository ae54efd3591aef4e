//! The real binary: processes, signals, terminals, exit codes and what is written where.
//!
//! Each test has its own home, store and (where it needs one) server on a free port, whose runner answers with fixed
//! words. No process outlives its test.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod background;
mod capabilities;
mod checkpoints;
mod conversation;
mod creating;
mod doctor;
mod drafts;
mod goldens;
mod http;
mod mistakes;
mod outliving;
mod pocket;
mod processes;
mod refusals;
mod renderers;
mod running;
mod skills;
mod support;
mod terminal;
mod thinking;
mod threads;
