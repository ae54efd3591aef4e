//! The child's half.
use std::os::unix::net::UnixStream;

use protocol::{Convert, ConvertProgress, Converted, Engine, Failure, LoadModel, LoadedModel};

use crate::Error;

/// What loading gives.
pub type Ready = (LoadedModel, Box<dyn Engine>);

/// Serves one model over `stream` until the server says so or goes away. `load` and the engine run on this thread.
pub fn serve(
    _stream: UnixStream,
    _load: impl FnOnce(LoadModel, &mut dyn FnMut(u64, u64)) -> Result<Ready, Failure>,
) -> Result<(), Error> {
    todo!()
}

/// The same for a process whose standard input is the socket; the process ends when the server goes away.
pub fn serve_stdin(
    _load: impl FnOnce(LoadModel, &mut dyn FnMut(u64, u64)) -> Result<Ready, Failure>,
) -> Result<(), Error> {
    todo!()
}

/// Serves one conversion.
pub fn serve_convert(
    _stream: UnixStream,
    _convert: impl FnOnce(Convert, &mut dyn FnMut(ConvertProgress)) -> Result<Converted, Failure>,
) -> Result<(), Error> {
    todo!()
}

pub fn serve_convert_stdin(
    _convert: impl FnOnce(Convert, &mut dyn FnMut(ConvertProgress)) -> Result<Converted, Failure>,
) -> Result<(), Error> {
    todo!()
}
