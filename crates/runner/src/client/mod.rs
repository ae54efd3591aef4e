//! The server's half.
mod child;
mod conversion;
mod events;
mod remote;

pub use child::{Child, Launch};
pub use conversion::{Conversion, ConversionEvent};
pub use events::EventStream;
pub use remote::Runner;
