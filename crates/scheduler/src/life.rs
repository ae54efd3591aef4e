//! A runner's life: loaded, resting, leaving, gone. Each step ends with a look at the queue.

use std::sync::Arc;
use std::time::SystemTime;

use protocol::{Failure, FailureKind, LoadModel};
use runner::Runner;
use tokio::time::{Instant, sleep_until};

use crate::pump::{Deliveries, Inner, State, Waiting, deliver, shutting_down};
use crate::residents::{Model, Phase};
use crate::{Job, KeepAlive};

impl Inner {
    pub async fn load(self: Arc<Inner>, digest: String, epoch: u64, job: LoadModel) {
        let loaded = match self.launch(Job::Serve) {
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
    pub fn release(self: &Arc<Inner>, digest: &str, epoch: u64) {
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
        let until = Instant::now() + duration;
        let timer = Arc::clone(self).expire(digest.to_owned(), model.last_use, until);
        let timer = self.runtime.spawn(timer);
        let at = SystemTime::now().checked_add(duration).unwrap_or_else(SystemTime::now);
        *expiry = Some((at, timer.abort_handle()));
    }

    /// `last_use`: a request may have come and gone in the moment before this timer was aborted.
    async fn expire(self: Arc<Inner>, digest: String, last_use: u64, until: Instant) {
        // Timers reach two years; some keep a model longer.
        while Instant::now() < until {
            sleep_until(until).await;
        }
        let mut state = self.lock();
        if let Some(model) = state.residents.models.get_mut(&digest)
            && model.is_idle()
            && model.last_use == last_use
        {
            self.leave(model);
        }
    }

    pub fn leave(self: &Arc<Inner>, model: &mut Model) {
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

    pub fn unload(self: &Arc<Inner>, name_or_digest: &str) -> bool {
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
    pub fn evict_by_name(self: &Arc<Inner>, name_or_digest: &str) -> Option<(String, u64)> {
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
        self.gone.send_replace(());
        waiting.into_iter().map(|one| (one, Err(reason.clone()))).collect()
    }

    pub fn close(self: &Arc<Inner>) {
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

    /// Looks again whenever a process is gone.
    pub async fn wait_until(&self, mut done: impl FnMut(&mut State) -> bool) {
        let mut gone = self.gone.subscribe();
        while !done(&mut self.lock()) {
            // The sender is ours: it does not go away.
            let _ = gone.changed().await;
        }
    }
}

fn cancelled_by_unload(name: &str) -> Failure {
    Failure::new(FailureKind::Cancelled, format!("`{name}` was unloaded while it was loading"))
}
