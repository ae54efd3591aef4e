//! The foreign side: mlx-c's types and the table of its functions.

mod table;
mod types;

pub use table::*;
pub use types::*;

#[cfg(test)]
mod headers;
