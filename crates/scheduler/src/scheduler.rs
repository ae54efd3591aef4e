//! The scheduler itself.

use std::sync::Arc;
use std::time::SystemTime;

use protocol::{Convert, Failure, LoadedModel, ModelFiles, RequestId};

use crate::{Config, ConvertStream, KeepAlive, Launcher, Lease};

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
    /// `num_ctx` of the request or the model; `None`: `OLLAMA_CONTEXT_LENGTH`, then the model's own.
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
pub struct Scheduler {}

impl Scheduler {
    /// Must be called inside a tokio runtime.
    pub fn new(_config: Config, _launcher: Arc<dyn Launcher>) -> Scheduler {
        todo!()
    }

    pub fn next_request_id(&self) -> RequestId {
        todo!()
    }

    pub fn config(&self) -> &Config {
        todo!()
    }

    /// Waits until the model is loaded. Dropping the future leaves the queue.
    pub async fn acquire(&self, _want: Want) -> Result<Lease, Failure> {
        todo!()
    }

    /// Loaded models, the one that expires last first.
    pub fn loaded(&self) -> Vec<Resident> {
        todo!()
    }

    /// Unloads a model (by its name or digest) when its requests in flight are done, at once if there are none.
    /// False: it was not loaded.
    pub fn unload(&self, _name_or_digest: &str) -> bool {
        todo!()
    }

    /// Unloads a model now (by its name or digest), failing its requests, and returns when its process is gone.
    pub async fn unload_now(&self, _name_or_digest: &str) -> bool {
        todo!()
    }

    /// Ends everything: waiting requests fail, runners end, nothing new is taken on.
    pub async fn shutdown(&self) {
        todo!()
    }

    /// Starts a conversion in a child of its own.
    pub async fn convert(&self, _convert: Convert) -> Result<ConvertStream, Failure> {
        todo!()
    }
}
