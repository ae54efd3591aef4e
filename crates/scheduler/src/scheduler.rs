//! The scheduler itself: a queue in order of arrival, the books, and the tasks that load, watch and end runners.
//!
//! Everything happens in [`Inner::pump`]: whoever changes something (a request arrives or leaves, a load ends, a
//! model becomes idle, a process is gone) calls it, and it lets in as many from the front of the queue as it can.
//! The front is never overtaken, so nobody starves; what waits there may hold up a request for a loaded model.
//! Leases are handed out after the lock is released, for dropping one takes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use protocol::{Convert, Failure, FailureKind, LoadModel, LoadedModel, ModelFiles, RequestId};
use runner::Runner;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::lease::Use;
use crate::residents::{
    Model, Phase, Placement, Residents, context_tokens, estimated_bytes, no_room,
};
use crate::{Config, ConvertStream, Job, KeepAlive, Launcher, Lease};

/// What a request needs loaded.
#[derive(Clone, Debug)]
pub struct Want {
    /// The shortest form, for people: `llama3.2:latest`.
    pub name: String,
    /// Of the manifest: another set of files is another digest and another runner.
    pub digest: String,
    pub model: ModelFiles,
    /// Sum of the weight files.
    pub weights_bytes: u64,
    /// `num_ctx` of the request or the model; `None`: `OLLAMA_CONTEXT_LENGTH`, then the model's own. Not a reason to
    /// load anew: the runner loads with the model's own limit and each request carries its own.
    pub context_tokens: Option<u32>,
    /// `None`: the loaded model keeps the duration it has (`OLLAMA_KEEP_ALIVE` for a new one).
    pub keep_alive: Option<KeepAlive>,
}

/// A loaded model.
#[derive(Clone, Debug)]
pub struct Resident {
    pub name: String,
    pub digest: String,
    pub info: LoadedModel,
    /// What its runner takes now, as far as it has told.
    pub memory_bytes: u64,
    /// What the latest request got.
    pub context_tokens: u32,
    /// `None`: never.
    pub expires_at: Option<SystemTime>,
    pub in_flight_requests: usize,
}

/// Cheap to clone; all clones are one scheduler.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

impl Scheduler {
    /// Must be called inside a tokio runtime.
    pub fn new(config: Config, launcher: Arc<dyn Launcher>) -> Scheduler {
        let inner = Inner {
            config,
            launcher,
            runtime: Handle::current(),
            state: Mutex::default(),
            gone: watch::Sender::new(()),
            request_ids: AtomicU64::new(1),
        };
        Scheduler { inner: Arc::new(inner) }
    }

    pub fn next_request_id(&self) -> RequestId {
        RequestId(self.inner.request_ids.fetch_add(1, Ordering::Relaxed))
    }

    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Waits until the model is loaded. Dropping the future leaves the queue.
    pub async fn acquire(&self, want: Want) -> Result<Lease, Failure> {
        let (reply, answer) = oneshot::channel();
        self.inner.enqueue(Waiting { want, reply, since: Instant::now() })?;
        let leaving = PumpOnDrop(&self.inner);
        self.inner.pump();
        let answer = answer.await;
        std::mem::forget(leaving);
        answer.unwrap_or_else(|_| Err(Failure::internal("the scheduler lost a request")))
    }

    /// Loaded models, the one that expires last first.
    pub fn loaded(&self) -> Vec<Resident> {
        self.inner.lock().residents.list(&self.inner.config)
    }

    /// Unloads a model (by its name or digest) when its requests in flight are done, at once if there are none.
    /// False: it was not loaded.
    pub fn unload(&self, name_or_digest: &str) -> bool {
        self.inner.unload(name_or_digest)
    }

    /// Unloads a model now (by its name or digest), failing its requests, and returns when its process is gone.
    /// False: it was not loaded.
    pub async fn unload_now(&self, name_or_digest: &str) -> bool {
        let Some((digest, epoch)) = self.inner.evict_by_name(name_or_digest) else { return false };
        self.inner.wait_until(|state| state.residents.same(&digest, epoch).is_none()).await;
        true
    }

    /// Ends everything: waiting requests fail, runners end, nothing new is taken on.
    pub async fn shutdown(&self) {
        self.inner.close();
        self.inner.wait_until(|state| state.residents.models.is_empty()).await;
    }

    /// Starts a conversion in a child of its own.
    pub async fn convert(&self, convert: Convert) -> Result<ConvertStream, Failure> {
        ConvertStream::start(self.inner.launcher.launch(Job::Convert)?, convert).await
    }
}

/// A dropped `acquire` may have been what the queue waited behind.
struct PumpOnDrop<'a>(&'a Arc<Inner>);

impl Drop for PumpOnDrop<'_> {
    fn drop(&mut self) {
        self.0.pump();
    }
}

pub(crate) struct Waiting {
    want: Want,
    reply: oneshot::Sender<Answer>,
    since: Instant,
}

type Answer = Result<Lease, Failure>;

impl Waiting {
    /// False: the request was dropped.
    pub fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }
}

pub(crate) struct Inner {
    config: Config,
    launcher: Arc<dyn Launcher>,
    /// Leases are dropped anywhere.
    runtime: Handle,
    state: Mutex<State>,
    /// Tells that a process ended.
    gone: watch::Sender<()>,
    request_ids: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Waiting>,
    residents: Residents,
    /// Counts uses and runners.
    clock: u64,
    closing: bool,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// Answers to send when the lock is released.
type Deliveries = Vec<(Waiting, Answer)>;

impl Inner {
    fn enqueue(&self, waiting: Waiting) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.closing {
            return Err(shutting_down());
        }
        state.queue.retain(Waiting::is_wanted);
        let model = state.residents.models.get(&waiting.want.digest);
        let at_once = state.queue.is_empty()
            && model.is_some_and(|model| matches!(model.phase, Phase::Ready { .. }));
        let waiters = state.queue.len() + state.residents.loading_waiters();
        if !at_once && waiters >= self.config.queue_max {
            let message = format!("{waiters} requests wait for a model already");
            return Err(Failure::new(FailureKind::Busy, message)
                .hint("try again later, or raise the limit with `OLLAMA_MAX_QUEUE`"));
        }
        state.queue.push_back(waiting);
        Ok(())
    }

    /// Lets in as many from the front of the queue as it can.
    fn pump(self: &Arc<Inner>) {
        let mut deliveries = Deliveries::new();
        let mut state = self.lock();
        state.queue.retain(Waiting::is_wanted);
        while let Some(waiting) = state.queue.pop_front() {
            if let Some(blocked) = self.let_in(waiting, &mut state, &mut deliveries) {
                state.queue.push_front(blocked);
                break;
            }
        }
        drop(state);
        deliver(deliveries);
    }

    /// Gives the request back when it has to wait.
    fn let_in(
        self: &Arc<Inner>,
        waiting: Waiting,
        state: &mut State,
        deliveries: &mut Deliveries,
    ) -> Option<Waiting> {
        let now = state.tick();
        let Some(model) = state.residents.models.get_mut(&waiting.want.digest) else {
            return self.place(waiting, state, deliveries);
        };
        if let Phase::Leaving = model.phase {
            return Some(waiting);
        }
        model.note(&waiting.want, now);
        if let Phase::Loading { waiting: others, .. } = &mut model.phase {
            others.push(waiting);
            return None;
        }
        if model.is_dead() {
            // Its watcher is about to say so.
            model.phase = Phase::Leaving;
            return Some(waiting);
        }
        self.hand_out(waiting, model, deliveries);
        None
    }

    fn hand_out(
        self: &Arc<Inner>,
        waiting: Waiting,
        model: &mut Model,
        deliveries: &mut Deliveries,
    ) {
        model.cancel_expiry();
        let Phase::Ready { runner, in_flight, .. } = &mut model.phase else { return };
        *in_flight += 1;
        let in_use = Use {
            scheduler: Arc::clone(self),
            digest: waiting.want.digest.clone(),
            epoch: model.epoch,
            runner: Arc::clone(runner),
        };
        let context = context_tokens(waiting.want.context_tokens, runner, &self.config);
        let lease = Lease::new(in_use, waiting.since.elapsed(), context);
        deliveries.push((waiting, Ok(lease)));
    }

    /// A model that is not there: loads it, or makes room first. Gives the request back when it has to wait.
    fn place(
        self: &Arc<Inner>,
        waiting: Waiting,
        state: &mut State,
        deliveries: &mut Deliveries,
    ) -> Option<Waiting> {
        match state.residents.place(estimated_bytes(&waiting.want), &self.config) {
            Placement::Fits => self.start_load(waiting, state),
            Placement::Never => {
                let failure = no_room(&waiting.want, &self.config);
                deliveries.push((waiting, Err(failure)));
            }
            Placement::Wait => return Some(waiting),
            Placement::Evict(digest) => {
                if let Some(model) = state.residents.models.get_mut(&digest) {
                    tracing::info!(
                        model = model.name,
                        "unloading to make room for `{}`",
                        waiting.want.name
                    );
                    self.leave(model);
                }
                // There may be more to evict.
                return self.place(waiting, state, deliveries);
            }
        }
        None
    }

    fn start_load(self: &Arc<Inner>, waiting: Waiting, state: &mut State) {
        let (epoch, want) = (state.tick(), &waiting.want);
        let (digest, files) = (want.digest.clone(), want.model.clone());
        let task = self.runtime.spawn(Arc::clone(self).load(digest.clone(), epoch, files));
        let model = Model {
            epoch,
            name: want.name.clone(),
            estimated_bytes: estimated_bytes(want),
            keep_alive: want.keep_alive.unwrap_or(self.config.keep_alive),
            context_tokens: want.context_tokens,
            last_use: epoch,
            phase: Phase::Loading { task: Some(task.abort_handle()), waiting: vec![waiting] },
        };
        state.residents.models.insert(digest, model);
    }

    async fn load(self: Arc<Inner>, digest: String, epoch: u64, model: ModelFiles) {
        let job = LoadModel { model, ..LoadModel::default() };
        let loaded = match self.launcher.launch(Job::Serve) {
            Ok(child) => Runner::load(child, job, self.config.load_timeout, |_, _| {}).await,
            Err(failure) => Err(failure),
        };
        match loaded {
            Ok(runner) => self.loaded(&digest, epoch, Arc::new(runner)),
            Err(failure) => self.gone(&digest, epoch, &failure),
        }
    }

    fn loaded(self: &Arc<Inner>, digest: &str, epoch: u64, runner: Arc<Runner>) {
        let mut deliveries = Deliveries::new();
        let mut state = self.lock();
        let Some(model) = state.residents.same(digest, epoch) else { return };
        let ready = Phase::Ready { runner: Arc::clone(&runner), in_flight: 0, expiry: None };
        let Phase::Loading { waiting, .. } = std::mem::replace(&mut model.phase, ready) else {
            return;
        };
        tracing::info!(model = model.name, bytes = model.bytes(), pid = runner.pid(), "loaded");
        for one in waiting.into_iter().filter(Waiting::is_wanted) {
            self.hand_out(one, model, &mut deliveries);
        }
        if model.is_idle() {
            self.rest(digest, model);
        }
        drop(state);
        let (scheduler, digest) = (Arc::clone(self), digest.to_owned());
        self.runtime.spawn(async move {
            let reason = runner.ended().await;
            scheduler.gone(&digest, epoch, &reason);
        });
        deliver(deliveries);
        self.pump();
    }

    /// A lease and all its streams are dropped.
    pub(crate) fn release(self: &Arc<Inner>, digest: &str, epoch: u64) {
        let mut state = self.lock();
        if let Some(model) = state.residents.same(digest, epoch)
            && let Phase::Ready { in_flight, .. } = &mut model.phase
        {
            *in_flight -= 1;
            if *in_flight == 0 {
                self.rest(digest, model);
            }
        }
        drop(state);
        self.pump();
    }

    /// An idle model's keep-alive begins.
    fn rest(self: &Arc<Inner>, digest: &str, model: &mut Model) {
        model.cancel_expiry();
        if model.keep_alive == KeepAlive::NONE {
            return self.leave(model);
        }
        let Phase::Ready { runner, expiry, .. } = &mut model.phase else { return };
        runner.ask_memory();
        let KeepAlive::For(duration) = model.keep_alive else { return };
        let until = tokio::time::Instant::now() + duration;
        let timer = Arc::clone(self).expire(digest.to_owned(), model.last_use, until);
        let timer = self.runtime.spawn(timer);
        let at = SystemTime::now().checked_add(duration).unwrap_or_else(SystemTime::now);
        *expiry = Some((at, timer.abort_handle()));
    }

    /// `last_use`: a request may have come and gone in the moment before this timer was aborted.
    async fn expire(self: Arc<Inner>, digest: String, last_use: u64, until: tokio::time::Instant) {
        // Timers reach two years; some keep a model longer.
        while tokio::time::Instant::now() < until {
            tokio::time::sleep_until(until).await;
        }
        let mut state = self.lock();
        if let Some(model) = state.residents.models.get_mut(&digest)
            && model.is_idle()
            && model.last_use == last_use
        {
            self.leave(model);
        }
    }

    fn leave(self: &Arc<Inner>, model: &mut Model) {
        model.cancel_expiry();
        if let Phase::Ready { runner, .. } = std::mem::replace(&mut model.phase, Phase::Leaving) {
            self.runtime.spawn(async move { runner.shutdown().await });
        }
    }

    /// A process ended, or a load failed.
    fn gone(self: &Arc<Inner>, digest: &str, epoch: u64, reason: &Failure) {
        let mut state = self.lock();
        if state.residents.same(digest, epoch).is_none() {
            return;
        }
        let model = state.residents.models.remove(digest);
        drop(state);
        if let Some(mut model) = model {
            model.cancel_expiry();
            if let Phase::Loading { waiting, .. } = model.phase {
                deliver(waiting.into_iter().map(|one| (one, Err(reason.clone()))).collect());
            }
        }
        self.gone.send_replace(());
        self.pump();
    }

    fn unload(self: &Arc<Inner>, name_or_digest: &str) -> bool {
        let mut state = self.lock();
        let Some(digest) = state.residents.find(name_or_digest) else { return false };
        let Some(model) = state.residents.models.get_mut(&digest) else { return false };
        model.keep_alive = KeepAlive::NONE;
        if model.is_idle() {
            self.leave(model);
        }
        true
    }

    /// Whatever it is doing.
    fn evict_by_name(self: &Arc<Inner>, name_or_digest: &str) -> Option<(String, u64)> {
        let mut state = self.lock();
        let digest = state.residents.find(name_or_digest)?;
        let epoch = state.residents.models.get(&digest)?.epoch;
        let deliveries = self.end(&digest, &mut state, &cancelled_by_unload(name_or_digest));
        drop(state);
        deliver(deliveries);
        self.pump();
        Some((digest, epoch))
    }

    /// A load is broken off, a loaded model leaves.
    fn end(self: &Arc<Inner>, digest: &str, state: &mut State, reason: &Failure) -> Deliveries {
        let Some(model) = state.residents.models.get_mut(digest) else { return Deliveries::new() };
        let Phase::Loading { task, waiting } = &mut model.phase else {
            self.leave(model);
            return Deliveries::new();
        };
        if let Some(task) = task {
            task.abort();
        }
        let waiting = std::mem::take(waiting);
        state.residents.models.remove(digest);
        waiting.into_iter().map(|one| (one, Err(reason.clone()))).collect()
    }

    fn close(self: &Arc<Inner>) {
        let mut state = self.lock();
        state.closing = true;
        let queue = std::mem::take(&mut state.queue);
        let mut deliveries: Deliveries =
            queue.into_iter().map(|waiting| (waiting, Err(shutting_down()))).collect();
        let digests: Vec<String> = state.residents.models.keys().cloned().collect();
        for digest in digests {
            deliveries.extend(self.end(&digest, &mut state, &shutting_down()));
        }
        drop(state);
        deliver(deliveries);
    }

    async fn wait_until(&self, mut done: impl FnMut(&mut State) -> bool) {
        let mut gone = self.gone.subscribe();
        while !done(&mut self.lock()) {
            // The sender is ours: it does not go away.
            let _ = gone.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never under the lock: an answer that nobody takes is a lease dropped.
fn deliver(deliveries: Deliveries) {
    for (waiting, answer) in deliveries {
        let _ = waiting.reply.send(answer);
    }
}

fn shutting_down() -> Failure {
    Failure::new(FailureKind::Cancelled, "the server is shutting down")
}

fn cancelled_by_unload(name: &str) -> Failure {
    Failure::new(FailureKind::Cancelled, format!("`{name}` was unloaded while it was loading"))
}
