//! The step loop of one loaded model: batcher, prefix cache, sampler, text out.
//!
//! A request becomes a sequence; the batcher decides which sequences are in a step, the executor computes it, the output
//! side turns drawn tokens into text. Knows no HTTP and no architecture by name; everything runs on one thread, and
//! commands come between steps.

mod batcher;
#[cfg(test)]
mod crowd;
mod drawing;
mod executor;
mod forms;
mod forward;
mod load;
pub mod measure;
mod output;
mod pace;
mod persist;
#[cfg(test)]
mod pocket;
mod prefix;
mod room;
mod sampler;
mod sampling;
#[cfg(test)]
mod scenes;
#[cfg(test)]
mod scripted;
mod sequence;
#[cfg(test)]
mod simulation;
mod speculation;
mod steps;

pub use load::{Surroundings, load};
pub use persist::DiskCache;
