//! Frames between the server and a child: a little-endian `u32` length, then that many bytes of JSON.
//!
//! JSON because a frame then reads as a log line and carries tool schemas in their own order; encoding a token's
//! event costs about a microsecond, far below the 100 µs that a step may cost us.
//! Flow control: each request starts with [`CREDIT_EVENTS`]; every event costs one, the client grants more as its
//! reader consumes. An engine whose request has none left pauses that sequence alone.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{
    Convert, ConvertProgress, Converted, Event, Failure, LoadModel, LoadedModel, MemoryReport,
    Request, RequestId,
};

/// Both ends are one binary; a replaced binary under a running server is noticed here.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+wire1");

/// Largest frame: a request with several pictures. Price: this much memory for a hostile length prefix.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

/// Events a request may be ahead of its reader. Price: about 100 bytes each.
pub const CREDIT_EVENTS: u32 = 256;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToChild {
    Hello { version: String },
    Load(Box<LoadModel>),
    Convert(Box<Convert>),
    Submit(Box<Request>),
    Cancel(RequestId),
    Credit { id: RequestId, events: u32 },
    Memory,
    Shutdown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromChild {
    Hello {
        version: String,
    },
    Loading {
        completed_bytes: u64,
        total_bytes: u64,
    },
    Loaded(LoadedModel),
    Progress(ConvertProgress),
    Converted(Converted),
    /// The job cannot be done; the child ends after this.
    Refused(Failure),
    Event {
        id: RequestId,
        event: Event,
    },
    Memory(MemoryReport),
}

/// A frame's bytes, length included.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!(
            "a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}"
        )));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Checks a length prefix before anything is allocated for it.
pub fn frame_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!(
            "a frame claims {length} bytes, the limit is {FRAME_BYTES_MAX}"
        )));
    }
    Ok(length)
}

pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(io::Error::other)
}

pub fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(message)?)
}

/// The next message, or `None` when the other end closed between frames.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    let mut got = 0;
    while got < prefix.len() {
        match from.read(&mut prefix[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut body = Vec::new();
    let length = frame_length(prefix)?;
    // Grown as bytes arrive, so that a lying prefix costs nothing.
    from.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&body).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let messages =
            [ToChild::Hello { version: VERSION.to_owned() }, ToChild::Cancel(RequestId(7))];
        let mut bytes = Vec::new();
        for message in &messages {
            write(&mut bytes, message).unwrap();
        }
        let mut from = bytes.as_slice();
        for message in &messages {
            assert_eq!(read::<ToChild>(&mut from).unwrap().as_ref(), Some(message));
        }
        assert_eq!(read::<ToChild>(&mut from).unwrap(), None);
    }

    #[test]
    fn broken_frames_are_errors() {
        let lying = u32::MAX.to_le_bytes();
        assert!(read::<ToChild>(&mut lying.as_slice()).is_err());
        let whole = encode(&ToChild::Memory).unwrap();
        for cut in 1..whole.len() {
            assert!(read::<ToChild>(&mut &whole[..cut]).is_err(), "cut at {cut}");
        }
        let garbage = [3, 0, 0, 0, b'x', b'y', b'z'];
        assert!(read::<ToChild>(&mut garbage.as_slice()).is_err());
    }
}
