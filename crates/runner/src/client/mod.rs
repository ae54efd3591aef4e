//! The server's half, asynchronous. A supervisor task per child reads its frames and notices its end; readers of
//! streams never wait for each other.

mod child;
mod connection;
mod conversion;
mod events;
mod remote;
mod stderr;

pub use child::{Child, Launch};
pub use conversion::{Conversion, ConversionEvent};
pub use events::EventStream;
pub use remote::Runner;
