//! What the environment says about residency, read once at start.

use std::time::Duration;

use crate::KeepAlive;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For requests that name none.
    pub keep_alive: KeepAlive,
    /// Models loaded at once.
    pub loaded_models_max: usize,
    /// Requests that may wait for a model; each costs its own body and a few hundred bytes.
    pub queue_max: usize,
    /// How long a load may go without any progress; `None` waits for ever.
    pub load_timeout: Option<Duration>,
    /// Sequences per model; kept for later.
    pub parallel_max: Option<u32>,
    /// The context of requests that name none; `None`: the model's own.
    pub context_tokens: Option<u32>,
    /// What all loaded models together may take.
    pub memory_bytes_max: u64,
}

impl Config {
    /// Reads `OLLAMA_KEEP_ALIVE` and its relatives; a value that cannot be read is logged and its default used.
    pub fn from_env() -> Config {
        todo!()
    }
}
