//! The child's half: handshake, then the job. The engine's thread is the one that calls; commands reach it between
//! steps, and when the server is gone it ends.

mod desk;
mod link;

use std::any::Any;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use protocol::wire::{self, FromChild, ToChild};
use protocol::{
    Convert, ConvertProgress, Converted, Engine, Event, Failure, FailureKind, LoadModel,
    LoadedModel, Request, Work,
};

use crate::Error;
use crate::commands::REQUESTS_MAX;
use desk::Desk;
use link::{Closed, Link};

/// What loading gives.
pub type Ready = (LoadedModel, Box<dyn Engine>);

/// How long a step, a load or a conversion may go on in a process whose server is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Serves one model over `stream` until the server says so or goes away. `load` and the engine run on this thread.
pub fn serve(
    stream: UnixStream,
    load: impl FnOnce(LoadModel, &mut dyn FnMut(u64, u64)) -> Result<Ready, Failure>,
) -> Result<(), Error> {
    over(stream, || {}, |link| serve_model(link, load))
}

/// The same for a process whose standard input is the socket; a server that goes away ends the process.
pub fn serve_stdin(
    load: impl FnOnce(LoadModel, &mut dyn FnMut(u64, u64)) -> Result<Ready, Failure>,
) -> Result<(), Error> {
    over(stdin_socket()?, end_orphan, |link| serve_model(link, load))
}

/// Serves one conversion, which runs on this thread.
pub fn serve_convert(
    stream: UnixStream,
    convert: impl FnOnce(Convert, &mut dyn FnMut(ConvertProgress)) -> Result<Converted, Failure>,
) -> Result<(), Error> {
    over(stream, || {}, |link| serve_conversion(link, convert))
}

/// The same for a process whose standard input is the socket; a server that goes away ends the process.
pub fn serve_convert_stdin(
    convert: impl FnOnce(Convert, &mut dyn FnMut(ConvertProgress)) -> Result<Converted, Failure>,
) -> Result<(), Error> {
    over(stdin_socket()?, end_orphan, |link| serve_conversion(link, convert))
}

fn stdin_socket() -> Result<UnixStream, Error> {
    let socket = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let socket = socket.map_err(Error::NotAChild)?;
    socket.peer_addr().map_err(Error::NotAChild)?;
    Ok(socket)
}

/// The engine's thread may be deep in a step; it gets a moment to end in order.
fn end_orphan() {
    std::thread::sleep(ORPHAN_GRACE);
    std::process::exit(1);
}

fn over(
    stream: UnixStream,
    gone: fn(),
    job: impl FnOnce(&Link) -> Result<(), Error>,
) -> Result<(), Error> {
    let link = Link::open(stream, gone)?;
    let result = job(&link);
    link.close();
    result
}

/// Says who we are and hears who they are; gives the command that follows.
fn first_command(link: &Link) -> Result<ToChild, Stop> {
    tell(link, FromChild::Hello { version: wire::VERSION.to_owned() });
    match link.inbox.wait()? {
        ToChild::Hello { version } if version == wire::VERSION => Ok(link.inbox.wait()?),
        ToChild::Hello { version } => {
            Err(Error::Version { server: version, runner: wire::VERSION.to_owned() }.into())
        }
        other => Err(unexpected(&other)),
    }
}

fn serve_model(
    link: &Link,
    load: impl FnOnce(LoadModel, &mut dyn FnMut(u64, u64)) -> Result<Ready, Failure>,
) -> Result<(), Error> {
    let run = || -> Result<(), Stop> {
        let job = match first_command(link)? {
            ToChild::Load(job) => *job,
            ToChild::Shutdown => return Ok(()),
            other => return Err(unexpected(&other)),
        };
        let mut progress = |completed_bytes, total_bytes| {
            tell(link, FromChild::Loading { completed_bytes, total_bytes });
        };
        let (info, engine) = guarded(link, || load(job, &mut progress))?;
        tell(link, FromChild::Loaded(info));
        run_engine(link, engine)
    };
    run().or_else(Stop::outcome)
}

fn serve_conversion(
    link: &Link,
    convert: impl FnOnce(Convert, &mut dyn FnMut(ConvertProgress)) -> Result<Converted, Failure>,
) -> Result<(), Error> {
    let run = || -> Result<(), Stop> {
        let job = match first_command(link)? {
            ToChild::Convert(job) => *job,
            ToChild::Shutdown => return Ok(()),
            other => return Err(unexpected(&other)),
        };
        let mut progress = |news| tell(link, FromChild::Progress(news));
        let converted = guarded(link, || convert(job, &mut progress))?;
        tell(link, FromChild::Converted(converted));
        Ok(())
    };
    run().or_else(Stop::outcome)
}

/// Runs a job; its failure or panic is told to the server.
fn guarded<T>(link: &Link, job: impl FnOnce() -> Result<T, Failure>) -> Result<T, Stop> {
    let (failure, stop) = match catch_unwind(AssertUnwindSafe(job)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(failure)) => (failure, Stop::Done),
        Err(payload) => {
            let words = panic_words(payload.as_ref());
            (panic_failure(&words), Error::Panicked(words).into())
        }
    };
    tell(link, FromChild::Refused(failure));
    Err(stop)
}

fn run_engine(link: &Link, mut engine: Box<dyn Engine>) -> Result<(), Stop> {
    let mut desk = Desk::new(link.frames.clone());
    match catch_unwind(AssertUnwindSafe(|| engine_loop(link, engine.as_mut(), &mut desk))) {
        Ok(stop) => Err(stop),
        Err(payload) => {
            let words = panic_words(payload.as_ref());
            // One frame fails all: whoever hears of it finds nobody here to ask again.
            desk.tell(FromChild::Refused(panic_failure(&words)));
            // Its state is unknown: dropping it could panic again, and the process ends anyway.
            std::mem::forget(engine);
            Err(Error::Panicked(words).into())
        }
    }
}

fn engine_loop(link: &Link, engine: &mut dyn Engine, desk: &mut Desk) -> Stop {
    let mut work = Work::Idle;
    loop {
        match next_command(link, work) {
            Ok(Some(command)) => match apply(command, engine, desk) {
                // The engine decides anew whether there is work, after all commands that are there.
                Ok(()) => work = Work::More,
                Err(stop) => return stop,
            },
            Ok(None) => work = engine.step(desk),
            Err(Closed(how)) => return Stop::from(Closed(how)),
        }
    }
}

/// `None`: time for a step.
fn next_command(link: &Link, work: Work) -> Result<Option<ToChild>, Closed> {
    match work {
        Work::More => link.inbox.take(),
        Work::Idle => link.inbox.wait().map(Some),
    }
}

fn apply(command: ToChild, engine: &mut dyn Engine, desk: &mut Desk) -> Result<(), Stop> {
    match command {
        ToChild::Submit(request) => submit(*request, engine, desk),
        ToChild::Cancel(id) => {
            if desk.dismiss(id) {
                engine.cancel(id);
            }
        }
        ToChild::Credit { id, events } => desk.grant(id, events),
        ToChild::Memory => desk.tell(FromChild::Memory(engine.memory())),
        ToChild::Shutdown => return Err(Stop::Done),
        other => return Err(unexpected(&other)),
    }
    Ok(())
}

fn submit(request: Request, engine: &mut dyn Engine, desk: &mut Desk) {
    let id = request.id;
    if desk.live() >= REQUESTS_MAX {
        let message = format!("the model has {REQUESTS_MAX} requests already");
        let failure = Failure::new(FailureKind::Busy, message);
        desk.tell(FromChild::Event { id, event: Event::Failed(failure) });
        return;
    }
    desk.admit(id);
    engine.submit(request, desk);
}

fn tell(link: &Link, frame: FromChild) {
    // A server that is gone is noticed by the inbox.
    let _ = link.frames.send(frame);
}

fn unexpected(command: &ToChild) -> Stop {
    let mut text = format!("{command:?}");
    text.truncate(text.floor_char_boundary(100));
    Error::Protocol(format!("out of turn: {text}")).into()
}

fn panic_words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

fn panic_failure(words: &str) -> Failure {
    Failure::internal(format!("the runner panicked: {words}"))
        .hint("this is a fault of the program; the next request starts the model anew")
}

/// Why the engine's thread stops serving.
enum Stop {
    /// All is said.
    Done,
    Failed(Error),
}

impl Stop {
    fn outcome(self) -> Result<(), Error> {
        match self {
            Stop::Done => Ok(()),
            Stop::Failed(error) => Err(error),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl From<Closed> for Stop {
    fn from(Closed(how): Closed) -> Stop {
        how.map_or_else(Stop::Failed, |()| Stop::Done)
    }
}
