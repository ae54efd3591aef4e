//! What the rest of the server sees: say what you want, get a lease.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use protocol::{Convert, Failure, LoadedModel, ModelFiles, RequestId};
use tokio::sync::oneshot;

use crate::pump::{Inner, Waiting};
use crate::{Config, ConvertStream, Job, KeepAlive, Launcher, Lease};

/// What a request needs loaded.
#[derive(Clone, Debug, Default)]
pub struct Want {
    /// The shortest form, for people: `llama3.2:latest`.
    pub name: String,
    /// Of the manifest: another set of files is another digest and another runner.
    pub digest: String,
    pub model: ModelFiles,
    /// Sum of the weight files.
    pub weights_bytes: u64,
    /// Caches of one sequence per token of its context; 0 where that is not known.
    pub cache_bytes_per_token: u64,
    /// `num_ctx` of the request or the model; `None`: `OLLAMA_CONTEXT_LENGTH`, then the model's own. Not a reason to
    /// load anew: the runner loads with the model's own limit and each request carries its own.
    pub context_tokens: Option<u32>,
    /// What the model was made for, where its files say so.
    pub context_tokens_own: Option<u32>,
    /// `num_thread`: processor threads of a runner that has to be started; `None`: `OLLMLX_NUM_THREADS`, then one per
    /// core. No reason to load anew.
    pub threads: Option<u32>,
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
        Scheduler { inner: Inner::new(config, launcher) }
    }

    pub fn next_request_id(&self) -> RequestId {
        self.inner.next_request_id()
    }

    pub fn config(&self) -> &Config {
        self.inner.config()
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

    /// Whether a request for this digest would find its runner loaded, or loading.
    pub fn is_resident(&self, digest: &str) -> bool {
        self.inner.is_resident(digest)
    }

    /// Loaded models, the one that expires last first.
    pub fn loaded(&self) -> Vec<Resident> {
        self.inner.list()
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
        ConvertStream::start(self.inner.launch(Job::Convert)?, convert).await
    }
}

/// A dropped `acquire` may have been what the queue waited behind.
struct PumpOnDrop<'a>(&'a Arc<Inner>);

impl Drop for PumpOnDrop<'_> {
    fn drop(&mut self) {
        self.0.pump();
    }
}
