//! The child's end of the socket: one thread reads commands, one writes frames, the engine's thread does neither.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use protocol::wire::{self, FromChild, ToChild};

use crate::Error;
use crate::commands::Commands;

/// Frames that wait for the socket. Price: about 150 bytes each. Credit keeps a healthy runner far below; when the
/// server's process stands still, the engine waits here with it.
const FRAMES_MAX: usize = 8192;

/// Bytes that the writer gathers for one system call.
const WRITE_BYTES: usize = 64 << 10;

pub(super) struct Link {
    pub inbox: Arc<Inbox>,
    pub frames: SyncSender<FromChild>,
    socket: UnixStream,
    writer: JoinHandle<()>,
}

impl Link {
    /// `gone` runs on the reading thread when the server closed, broke off or sent garbage.
    pub fn open(stream: UnixStream, gone: fn()) -> io::Result<Link> {
        let inbox = Arc::new(Inbox::default());
        let (frames, waiting) = sync_channel(FRAMES_MAX);
        let (from, to) = (stream.try_clone()?, stream.try_clone()?);
        let reader_inbox = Arc::clone(&inbox);
        thread::Builder::new().name("frames in".to_owned()).spawn(move || {
            reader_inbox.close(read_all(from, &reader_inbox));
            if !reader_inbox.hung_up.load(Ordering::Acquire) {
                gone();
            }
        })?;
        let writer = thread::Builder::new()
            .name("frames out".to_owned())
            .spawn(move || write_all(to, &waiting))?;
        Ok(Link { inbox, frames, socket: stream, writer })
    }

    /// Writes what still waits, then hangs up.
    pub fn close(self) {
        drop(self.frames);
        let _ = self.writer.join();
        self.inbox.hung_up.store(true, Ordering::Release);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Commands that nobody has taken yet, and whether more can come.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
    /// We closed, not the server.
    hung_up: AtomicBool,
}

#[derive(Default)]
struct State {
    commands: Commands,
    closed: Option<Result<(), Error>>,
}

/// The server is gone; the rest of the commands does not matter any more.
pub(super) struct Closed(pub Result<(), Error>);

impl Inbox {
    /// The next command, if there is one now.
    pub fn take(&self) -> Result<Option<ToChild>, Closed> {
        self.lock().take()
    }

    /// Waits for the next command.
    pub fn wait(&self) -> Result<ToChild, Closed> {
        let mut state = self.lock();
        loop {
            if let Some(command) = state.take()? {
                return Ok(command);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn push(&self, command: ToChild) {
        self.lock().commands.push(command);
        self.changed.notify_one();
    }

    fn close(&self, how: Result<(), Error>) {
        self.lock().closed = Some(how);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Result<Option<ToChild>, Closed> {
        match self.closed.take() {
            Some(how) => {
                self.closed = Some(Ok(()));
                Err(Closed(how))
            }
            None => Ok(self.commands.pop()),
        }
    }
}

fn read_all(stream: UnixStream, inbox: &Inbox) -> Result<(), Error> {
    let mut stream = BufReader::new(stream);
    loop {
        match wire::read(&mut stream) {
            Ok(Some(command)) => inbox.push(command),
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(Error::Protocol(error.to_string())),
        }
    }
}

fn write_all(mut stream: UnixStream, waiting: &Receiver<FromChild>) {
    let mut bytes = Vec::with_capacity(WRITE_BYTES);
    while let Ok(frame) = waiting.recv() {
        append(&mut bytes, &frame);
        while bytes.len() < WRITE_BYTES
            && let Ok(frame) = waiting.try_recv()
        {
            append(&mut bytes, &frame);
        }
        // A server that is gone is noticed by the reader.
        if stream.write_all(&bytes).is_err() {
            return;
        }
        bytes.clear();
    }
}

fn append(bytes: &mut Vec<u8>, frame: &FromChild) {
    match wire::encode(frame) {
        Ok(encoded) => bytes.extend_from_slice(&encoded),
        Err(error) => tracing::error!(%error, "a frame to the server cannot be encoded"),
    }
}
