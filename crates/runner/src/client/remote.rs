//! A child with a loaded model: requests in, events out, one supervisor task until its end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::wire::{self, FromChild, ToChild};
use protocol::{
    Event, Failure, FailureKind, LoadModel, LoadedModel, MemoryReport, Request, RequestId,
};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

use super::connection::{Connection, Frames, Life};
use super::events::WAITING_EVENTS_MAX;
use super::{Child, EventStream};
use crate::commands::{Commands, REQUESTS_MAX};

/// From the wish to end to a kill: a step may be long.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// An engine in a long step answers late; then the last figures do.
const MEMORY_WAIT: Duration = Duration::from_millis(50);

/// A dead child's frames may still be in the socket; a grandchild may keep that open.
const DRAIN_WAIT: Duration = Duration::from_millis(300);

/// Bytes of commands gathered for one system call.
const WRITE_BYTES: usize = 64 << 10;

/// A child with a loaded model. Dropping it ends the child.
pub struct Runner {
    info: LoadedModel,
    pid: Option<u32>,
    shared: Arc<Shared>,
}

impl Runner {
    /// `stall_max`: how long loading may go without progress; `None` waits for ever. Dropping the future ends the
    /// child.
    pub async fn load(
        child: Child,
        model: LoadModel,
        stall_max: Option<Duration>,
        mut progress: impl FnMut(u64, u64) + Send,
    ) -> Result<Runner, Failure> {
        let mut connection = Connection::open(child, model.model.name.clone()).await?;
        connection.tell(&ToChild::Load(Box::new(model))).await?;
        loop {
            let news = match stall_max {
                Some(limit) => match timeout(limit, connection.frames.next()).await {
                    Ok(news) => news,
                    Err(_) => return Err(stalled(&mut connection.life, limit)),
                },
                None => connection.frames.next().await,
            };
            match news {
                Ok(Some(FromChild::Loading { completed_bytes, total_bytes })) => {
                    progress(completed_bytes, total_bytes);
                }
                Ok(Some(FromChild::Loaded(info))) => return Ok(Runner::start(connection, info)),
                Ok(Some(FromChild::Refused(failure))) => return Err(failure),
                other => return Err(connection.life.lost_after(other).await),
            }
        }
    }

    fn start(connection: Connection, info: LoadedModel) -> Runner {
        let memory = MemoryReport { active_bytes: info.memory_bytes, ..MemoryReport::default() };
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            commands: Mutex::default(),
            new_command: Notify::new(),
            memory: watch::Sender::new(memory),
            ended: watch::Sender::new(None),
            gone: watch::Sender::new(false),
            kill: Notify::new(),
            unloading: AtomicBool::new(false),
        });
        let pid = connection.life.process.pid();
        tokio::spawn(supervise(connection, Arc::clone(&shared)));
        Runner { info, pid, shared }
    }

    pub fn info(&self) -> &LoadedModel {
        &self.info
    }

    /// `None`: it is a thread of this process.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The stream's last event tells how it went, also when the child dies.
    pub fn submit(&self, request: Request) -> Result<EventStream, Failure> {
        let id = request.id;
        let events = self.shared.open(id)?;
        self.shared.tell(ToChild::Submit(Box::new(request)));
        Ok(EventStream::new(id, events, Arc::clone(&self.shared)))
    }

    /// What the engine said last about its memory.
    pub fn last_memory(&self) -> MemoryReport {
        *self.shared.memory.borrow()
    }

    /// The answer shows in [`Runner::last_memory`] when the engine is between steps.
    pub fn ask_memory(&self) {
        self.shared.tell(ToChild::Memory);
    }

    /// Asks and waits a moment for the answer.
    pub async fn memory(&self) -> MemoryReport {
        let mut news = self.shared.memory.subscribe();
        self.ask_memory();
        let _ = timeout(MEMORY_WAIT, news.changed()).await;
        self.last_memory()
    }

    /// Returns when the child is gone, with the reason.
    pub async fn ended(&self) -> Failure {
        // The sender lives in `shared`: it does not go away.
        let _ = self.shared.gone.subscribe().wait_for(|gone| *gone).await;
        self.shared.why_ended()
    }

    /// False as soon as it is known to take no more requests; its process may take a moment longer.
    pub fn is_alive(&self) -> bool {
        self.shared.ended.borrow().is_none()
    }

    /// Asks the child to end, kills it after a grace time, returns when it is gone. Requests under way fail.
    pub async fn shutdown(&self) {
        self.shared.unloading.store(true, Ordering::Release);
        self.shared.tell(ToChild::Shutdown);
        if timeout(SHUTDOWN_GRACE, self.ended()).await.is_err() {
            self.shared.kill.notify_one();
            self.ended().await;
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.unloading.store(true, Ordering::Release);
        self.shared.kill.notify_one();
    }
}

/// What the handle, the streams and the supervisor share.
pub(super) struct Shared {
    streams: Mutex<HashMap<RequestId, mpsc::Sender<Event>>>,
    commands: Mutex<Commands>,
    new_command: Notify,
    memory: watch::Sender<MemoryReport>,
    /// Why no request is taken on any more.
    ended: watch::Sender<Option<Failure>>,
    /// The process has ended, its memory is free.
    gone: watch::Sender<bool>,
    kill: Notify,
    /// The end is wanted: requests were cancelled, not lost.
    unloading: AtomicBool,
}

impl Shared {
    /// Never waits; see [`Commands`] for what bounds it.
    pub fn tell(&self, command: ToChild) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        self.new_command.notify_one();
    }

    pub fn cancel(&self, id: RequestId) {
        if self.streams().remove(&id).is_some() {
            self.tell(ToChild::Cancel(id));
        }
    }

    /// Why a stream ends without a last event of the engine.
    pub fn why_ended(&self) -> Failure {
        let ended = self.ended.borrow().clone();
        ended.unwrap_or_else(|| {
            Failure::internal("the runner sent more events than its reader has room for")
        })
    }

    fn open(&self, id: RequestId) -> Result<mpsc::Receiver<Event>, Failure> {
        let mut streams = self.streams();
        if let Some(failure) = self.ended.borrow().clone() {
            return Err(failure);
        }
        if streams.len() >= REQUESTS_MAX {
            let message = format!("the model has {REQUESTS_MAX} requests already");
            return Err(Failure::new(FailureKind::Busy, message));
        }
        let (to, events) = mpsc::channel(WAITING_EVENTS_MAX);
        streams.insert(id, to);
        Ok(events)
    }

    fn deliver(&self, id: RequestId, event: Event) {
        let mut streams = self.streams();
        // A request that was cancelled meanwhile.
        let Some(to) = streams.get(&id) else { return };
        let last = event.is_last();
        let overrun = to.try_send(event).is_err();
        if last || overrun {
            streams.remove(&id);
        }
        drop(streams);
        if overrun && !last {
            self.tell(ToChild::Cancel(id));
        }
    }

    fn end(&self, failure: Failure) {
        let mut streams = self.streams();
        self.ended.send_replace(Some(failure));
        streams.clear();
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<RequestId, mpsc::Sender<Event>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_command(&self) -> Option<ToChild> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

async fn supervise(connection: Connection, shared: Arc<Shared>) {
    let Connection { mut frames, to, mut life } = connection;
    let writer = tokio::spawn(write_commands(to, Arc::clone(&shared)));
    let failure = end_of(&mut frames, &mut life, &shared).await;
    writer.abort();
    if shared.unloading.load(Ordering::Acquire) {
        tracing::debug!(model = life.name, "unloaded");
        shared.end(unloaded(&life.name));
    } else {
        tracing::error!(model = life.name, "{failure}");
        shared.end(failure);
    }
    // One that said itself that it ends may not be gone yet.
    life.lost().await;
    shared.gone.send_replace(true);
}

/// Reads events until the child takes no more requests, and says why.
async fn end_of(frames: &mut Frames, life: &mut Life, shared: &Shared) -> Failure {
    let mut reading = std::pin::pin!(read_events(frames, shared));
    let news = tokio::select! {
        news = &mut reading => news,
        _ = life.process.wait() => match timeout(DRAIN_WAIT, &mut reading).await {
            Ok(Ok(Some(FromChild::Refused(failure)))) => return failure,
            _ => return life.lost().await,
        },
        () = shared.kill.notified() => {
            life.process.kill();
            return life.lost().await;
        }
    };
    match news {
        Ok(Some(FromChild::Refused(failure))) => failure,
        other => life.lost_after(other).await,
    }
}

/// Returns with the news that ends the reading.
async fn read_events(frames: &mut Frames, shared: &Shared) -> std::io::Result<Option<FromChild>> {
    loop {
        match frames.next().await? {
            Some(FromChild::Event { id, event }) => shared.deliver(id, event),
            Some(FromChild::Memory(report)) => {
                shared.memory.send_replace(report);
            }
            other => return Ok(other),
        }
    }
}

async fn write_commands(mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut bytes = Vec::new();
    loop {
        while bytes.len() < WRITE_BYTES
            && let Some(command) = shared.next_command()
        {
            append(&mut bytes, &command, &shared);
        }
        if bytes.is_empty() {
            shared.new_command.notified().await;
            continue;
        }
        // A child that is gone is noticed by the reader.
        if to.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
        bytes.shrink_to(WRITE_BYTES);
    }
}

fn append(bytes: &mut Vec<u8>, command: &ToChild, shared: &Shared) {
    match wire::encode(command) {
        Ok(frame) => bytes.extend_from_slice(&frame),
        Err(error) => {
            if let ToChild::Submit(request) = command {
                shared.deliver(
                    request.id,
                    Event::Failed(Failure::invalid(format!("the request: {error}"))),
                );
            }
        }
    }
}

fn stalled(life: &mut Life, limit: Duration) -> Failure {
    let mut failure = life.kill_with(format!(
        "loading `{}` made no progress for {limit:?} and was given up",
        life.name
    ));
    failure.hint = Some(
        "a slow disk may need more: set `OLLAMA_LOAD_TIMEOUT`, for example to `15m`".to_owned(),
    );
    failure
}

fn unloaded(name: &str) -> Failure {
    Failure::new(FailureKind::Cancelled, format!("`{name}` was unloaded while the request ran"))
}
