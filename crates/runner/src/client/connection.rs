//! Frames to and from a child, before and after its handshake, and the words for its end.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use protocol::wire::{self, FromChild, ToChild};
use protocol::{Failure, FailureKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::Child;
use super::child::{Ended, Process};
use super::stderr::Stderr;

/// From start to the first frame: our own binary's start, from a slow disk at worst.
const HELLO_WAIT: Duration = Duration::from_secs(30);

/// How long a child whose socket is closed may take to be gone before it is killed.
const EXIT_WAIT: Duration = Duration::from_secs(5);

/// Read at once.
const READ_BYTES: usize = 16 << 10;

const SIGKILL: i32 = 9;

pub(super) struct Connection {
    pub frames: Frames,
    pub to: OwnedWriteHalf,
    pub life: Life,
}

pub(super) struct Frames {
    from: OwnedReadHalf,
    bytes: BytesMut,
}

/// What is left of a child when its socket is in other hands.
pub(super) struct Life {
    /// Of the model, for messages.
    pub name: String,
    pub process: Process,
    stderr: Stderr,
}

impl Connection {
    /// The handshake.
    pub async fn open(child: Child, name: String) -> Result<Connection, Failure> {
        let life = Life { name, process: child.process, stderr: child.stderr };
        let stream =
            child.socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(child.socket));
        let stream =
            stream.map_err(|error| Failure::internal(format!("a runner's socket: {error}")))?;
        let (from, to) = stream.into_split();
        let mut connection = Connection { frames: Frames::new(from), to, life };
        match timeout(HELLO_WAIT, connection.frames.next()).await {
            Ok(Ok(Some(FromChild::Hello { version }))) if version == wire::VERSION => {}
            Ok(Ok(Some(FromChild::Hello { version }))) => return Err(other_version(&version)),
            Ok(news) => return Err(connection.life.lost_after(news).await),
            Err(_) => {
                let message = format!("a runner did not say hello within {HELLO_WAIT:?}");
                return Err(connection.life.kill_with(message));
            }
        }
        connection.tell(&ToChild::Hello { version: wire::VERSION.to_owned() }).await?;
        Ok(connection)
    }

    pub async fn tell(&mut self, command: &ToChild) -> Result<(), Failure> {
        let frame = wire::encode(command).map_err(|error| Failure::invalid(error.to_string()))?;
        match self.to.write_all(&frame).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.life.lost().await),
        }
    }
}

impl Frames {
    fn new(from: OwnedReadHalf) -> Frames {
        Frames { from, bytes: BytesMut::new() }
    }

    /// The next frame, or `None` when the child closed between two. Dropping the future loses nothing.
    pub async fn next(&mut self) -> io::Result<Option<FromChild>> {
        loop {
            if let Some(frame) = self.whole_frame()? {
                return Ok(Some(frame));
            }
            // Grown as bytes arrive, so that a lying prefix costs nothing.
            self.bytes.reserve(READ_BYTES);
            if self.from.read_buf(&mut self.bytes).await? == 0 {
                let torn = !self.bytes.is_empty();
                return if torn { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
        }
    }

    fn whole_frame(&mut self) -> io::Result<Option<FromChild>> {
        let Some(&prefix) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = wire::frame_length(prefix)?;
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let frame = self.bytes.split_to(4 + length);
        wire::decode(&frame[4..]).map(Some)
    }
}

impl Life {
    /// The failure that the last thing read from a child amounts to.
    pub async fn lost_after(&mut self, news: io::Result<Option<FromChild>>) -> Failure {
        match news {
            Ok(None) => self.lost().await,
            Err(error) if broken_off(&error) => self.lost().await,
            Err(error) => self.kill_with(format!("the runner sent garbage: {error}")),
            Ok(Some(frame)) => {
                let mut text = format!("{frame:?}");
                text.truncate(text.floor_char_boundary(100));
                self.kill_with(format!("the runner sent something out of turn: {text}"))
            }
        }
    }

    /// Its socket is closed or its process gone: waits for the end, which is near, and says what is known.
    pub async fn lost(&mut self) -> Failure {
        let ended = match timeout(EXIT_WAIT, self.process.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                self.process.kill();
                let how = format!("closed its connection and was killed after {EXIT_WAIT:?}");
                Ended { how, signal: None }
            }
        };
        let lines = self.stderr.last_lines().await;
        lost_failure(&self.name, &ended, &lines)
    }

    pub fn kill_with(&mut self, message: String) -> Failure {
        self.process.kill();
        Failure::new(FailureKind::RunnerLost, message).hint(ANEW)
    }
}

const ANEW: &str = "the next request starts the model anew; the server's log has more";

/// A reset is how a socket with unread bytes closes; a torn frame is a death while writing.
fn broken_off(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
}

fn lost_failure(name: &str, ended: &Ended, lines: &[String]) -> Failure {
    let mut message = format!("the runner of `{name}` {}", ended.how);
    if !lines.is_empty() {
        message.push_str(": ");
        message.push_str(&lines.join("; "));
    }
    let hint = match ended.signal {
        Some(SIGKILL) => {
            "the system does this when memory runs out: try a smaller model, a smaller context or a quantisation"
        }
        _ => ANEW,
    };
    Failure::new(FailureKind::RunnerLost, message).hint(hint)
}

fn other_version(version: &str) -> Failure {
    let message = format!("the runner is version {version} and the server is {}", wire::VERSION);
    Failure::new(FailureKind::Environment, message)
        .hint("the program was replaced while the server runs: restart the server")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(signal: Option<i32>, lines: &[&str], message: &str, hint: &str) {
        let how = signal
            .map_or("ended with exit status 3".to_owned(), |n| format!("was killed by signal {n}"));
        let lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
        let failure = lost_failure("tiny", &Ended { how, signal }, &lines);
        assert_eq!(failure.message, message);
        assert!(failure.hint.unwrap().contains(hint));
        assert_eq!(failure.kind, FailureKind::RunnerLost);
    }

    #[test]
    fn the_end_in_words() {
        check(None, &[], "the runner of `tiny` ended with exit status 3", "anew");
        check(None, &["a", "b"], "the runner of `tiny` ended with exit status 3: a; b", "anew");
        check(Some(9), &[], "the runner of `tiny` was killed by signal 9", "memory");
        check(Some(6), &[], "the runner of `tiny` was killed by signal 6", "anew");
    }
}
