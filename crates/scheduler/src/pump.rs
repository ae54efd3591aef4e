//! A queue in order of arrival, and who is let in.
//!
//! Everything happens in [`Inner::pump`]: whoever changes something (a request arrives or leaves, a load ends, a
//! model becomes idle, a process is gone) calls it, and it lets in as many from the front of the queue as it can.
//! The front is never overtaken, so nobody starves; what waits there may hold up a request for a loaded model.
//! Leases are handed out after the lock is released, for dropping one takes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::{Failure, FailureKind, LoadModel, RequestId};
use runner::Child;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::lease::Use;
use crate::residents::{
    Model, Phase, Placement, Residents, context_tokens, estimated_bytes, no_room,
};
use crate::{Config, Job, Launcher, Lease, Resident, Want};

pub(crate) struct Waiting {
    pub want: Want,
    pub reply: oneshot::Sender<Answer>,
    pub since: Instant,
}

pub(crate) type Answer = Result<Lease, Failure>;

impl Waiting {
    /// False: the request was dropped.
    pub fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }
}

pub(crate) struct Inner {
    pub config: Config,
    pub launcher: Arc<dyn Launcher>,
    /// Leases are dropped anywhere.
    pub runtime: Handle,
    state: Mutex<State>,
    /// Tells that a process ended.
    pub gone: watch::Sender<()>,
    request_ids: AtomicU64,
}

#[derive(Default)]
pub(crate) struct State {
    pub queue: VecDeque<Waiting>,
    pub residents: Residents,
    /// Counts uses and runners.
    clock: u64,
    pub closing: bool,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// Answers to send when the lock is released.
pub(crate) type Deliveries = Vec<(Waiting, Answer)>;

impl Inner {
    pub fn new(config: Config, launcher: Arc<dyn Launcher>) -> Arc<Inner> {
        Arc::new(Inner {
            config,
            launcher,
            runtime: Handle::current(),
            state: Mutex::default(),
            gone: watch::Sender::new(()),
            request_ids: AtomicU64::new(1),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn next_request_id(&self) -> RequestId {
        RequestId(self.request_ids.fetch_add(1, Ordering::Relaxed))
    }

    pub fn list(&self) -> Vec<Resident> {
        self.lock().residents.list(&self.config)
    }

    pub fn is_resident(&self, digest: &str) -> bool {
        let state = self.lock();
        let model = state.residents.models.get(digest);
        model.is_some_and(|model| !matches!(model.phase, Phase::Leaving) && !model.is_dead())
    }

    pub fn launch(&self, job: Job) -> Result<Child, Failure> {
        self.launcher.launch(job)
    }

    pub fn enqueue(&self, waiting: Waiting) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.closing {
            return Err(shutting_down());
        }
        state.queue.retain(Waiting::is_wanted);
        let model = state.residents.models.get(&waiting.want.digest);
        let at_once = state.queue.is_empty()
            && model.is_some_and(|model| matches!(model.phase, Phase::Ready { .. }));
        let waiters = state.queue.len() + state.residents.loading_waiters();
        // Who finds nobody waiting is let through even by a limit of zero.
        if !at_once && waiters >= self.config.queue_max.max(1) {
            let message = format!("{waiters} requests wait for a model already");
            return Err(Failure::new(FailureKind::Busy, message)
                .hint("try again later, or raise the limit with `OLLAMA_MAX_QUEUE`"));
        }
        state.queue.push_back(waiting);
        Ok(())
    }

    /// Lets in as many from the front of the queue as it can.
    pub fn pump(self: &Arc<Inner>) {
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

    pub fn hand_out(
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
        match state.residents.place(estimated_bytes(&waiting.want, &self.config), &self.config) {
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
        let digest = want.digest.clone();
        let config = &self.config;
        let job = LoadModel {
            model: want.model.clone(),
            threads: want.threads,
            parallel_max: config.parallel_max,
            kv_cache_type: config.kv_cache_type.clone(),
            waiting_max: Some(u32::try_from(config.queue_max).unwrap_or(u32::MAX)),
            memory_bytes_max: Some(state.residents.room_beside(config)),
            ..LoadModel::default()
        };
        let task = self.runtime.spawn(Arc::clone(self).load(digest.clone(), epoch, job));
        let model = Model {
            epoch,
            name: want.name.clone(),
            estimated_bytes: estimated_bytes(want, &self.config),
            keep_alive: want.keep_alive.unwrap_or(self.config.keep_alive),
            context_tokens: want.context_tokens,
            last_use: epoch,
            phase: Phase::Loading { task: Some(task.abort_handle()), waiting: vec![waiting] },
        };
        state.residents.models.insert(digest, model);
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never under the lock: an answer that nobody takes is a lease dropped.
pub(crate) fn deliver(deliveries: Deliveries) {
    for (waiting, answer) in deliveries {
        let _ = waiting.reply.send(answer);
    }
}

pub(crate) fn shutting_down() -> Failure {
    Failure::new(FailureKind::Cancelled, "the server is shutting down")
}
