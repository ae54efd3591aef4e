//! What the environment says about residency, read once at start.

use std::str::FromStr;
use std::time::Duration;

use crate::{KeepAlive, memory};

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
    /// Sequences per model that run at once; `None`: as many as there is memory for.
    pub parallel_max: Option<u32>,
    /// How keys and values are stored; `None`: as they are computed.
    pub kv_cache_type: Option<String>,
    /// The context of requests that name none; `None`: the model's own.
    pub context_tokens: Option<u32>,
    /// What all loaded models together may take.
    pub memory_bytes_max: u64,
    /// What each runner takes beside its model.
    pub runner_bytes: u64,
}

/// For automatic: what one machine's memory and habits usually hold; the memory budget is the real limit.
const LOADED_MODELS_MAX: usize = 3;
const QUEUE_MAX: usize = 512;

/// MLX and its threads took 40 MiB with a model of next to no weights; the rest is for a large vocabulary's tokenizer.
const RUNNER_BYTES: u64 = 128 << 20;
const LOAD_TIMEOUT: Duration = Duration::from_secs(300);

impl Default for Config {
    /// As with an empty environment and without a limit of memory.
    fn default() -> Config {
        Config {
            keep_alive: KeepAlive::DEFAULT,
            loaded_models_max: LOADED_MODELS_MAX,
            queue_max: QUEUE_MAX,
            load_timeout: Some(LOAD_TIMEOUT),
            parallel_max: None,
            kv_cache_type: None,
            context_tokens: None,
            memory_bytes_max: u64::MAX,
            runner_bytes: RUNNER_BYTES,
        }
    }
}

impl Config {
    /// Reads `OLLAMA_KEEP_ALIVE` and its relatives; a value that cannot be read is logged and its default used.
    pub fn from_env() -> Config {
        let config = Config::read(|name| std::env::var(name).ok(), memory::budget_bytes);
        tracing::debug!(?config, "residency");
        config
    }

    fn read(
        get: impl Fn(&str) -> Option<String>,
        machine_bytes: impl Fn() -> Option<u64>,
    ) -> Config {
        let env = Env { get };
        let default = Config::default();
        let reserved = env.bytes("OLLAMA_GPU_OVERHEAD").unwrap_or(0);
        let of_machine = || machine_bytes().map_or(u64::MAX, |all| all.saturating_sub(reserved));
        Config {
            keep_alive: env.keep_alive("OLLAMA_KEEP_ALIVE").unwrap_or(KeepAlive::DEFAULT),
            loaded_models_max: env
                .positive("OLLAMA_MAX_LOADED_MODELS")
                .unwrap_or(LOADED_MODELS_MAX),
            queue_max: env.number("OLLAMA_MAX_QUEUE").unwrap_or(QUEUE_MAX),
            load_timeout: match env.keep_alive("OLLAMA_LOAD_TIMEOUT") {
                None => default.load_timeout,
                Some(KeepAlive::For(limit)) if !limit.is_zero() => Some(limit),
                Some(_) => None,
            },
            parallel_max: env.positive("OLLAMA_NUM_PARALLEL"),
            kv_cache_type: env.read("OLLAMA_KV_CACHE_TYPE", |text| Some(text.to_owned())),
            context_tokens: env.positive("OLLAMA_CONTEXT_LENGTH"),
            memory_bytes_max: env.bytes("OLLMLX_MEMORY_BYTES").unwrap_or_else(of_machine),
            runner_bytes: default.runner_bytes,
        }
    }
}

struct Env<F> {
    get: F,
}

impl<F: Fn(&str) -> Option<String>> Env<F> {
    /// Spaces and quotes around a value are dropped: shells and unit files leave them there.
    fn read<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = (self.get)(name)?;
        let text = text.trim().trim_matches(['"', '\'']);
        if text.is_empty() {
            return None;
        }
        let value = parse(text);
        if value.is_none() {
            tracing::warn!("`{name}` is `{text}`, which cannot be read; its default is used");
        }
        value
    }

    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.read(name, |text| text.parse().ok())
    }

    /// Zero means automatic.
    fn positive<T: FromStr + PartialEq + Default>(&self, name: &str) -> Option<T> {
        self.number(name).filter(|number| *number != T::default())
    }

    fn keep_alive(&self, name: &str) -> Option<KeepAlive> {
        self.read(name, |text| KeepAlive::from_text(text).ok())
    }

    fn bytes(&self, name: &str) -> Option<u64> {
        self.read(name, memory::parse_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(env: &[(&str, &str)], expected: Config) {
        let get = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(Config::read(get, || None), expected);
    }

    #[test]
    fn the_budget() {
        let check = |env: &[(&str, &str)], expected: u64| {
            let get = |name: &str| {
                env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(Config::read(get, || Some(8 << 30)).memory_bytes_max, expected);
        };
        check(&[], 8 << 30);
        check(&[("OLLAMA_GPU_OVERHEAD", "1073741824")], 7 << 30);
        check(&[("OLLAMA_GPU_OVERHEAD", "1TB")], 8 << 30);
        check(&[("OLLAMA_GPU_OVERHEAD", "100GiB")], 0);
        // A limit that somebody set is one already.
        check(&[("OLLAMA_GPU_OVERHEAD", "1GiB"), ("OLLMLX_MEMORY_BYTES", "2GiB")], 2 << 30);
    }

    #[test]
    fn the_environment() {
        let plain = Config::default;
        check(&[], plain());
        check(&[("OLLAMA_KEEP_ALIVE", "-1")], Config { keep_alive: KeepAlive::Forever, ..plain() });
        check(
            &[("OLLAMA_KEEP_ALIVE", " \"0\" ")],
            Config { keep_alive: KeepAlive::NONE, ..plain() },
        );
        check(&[("OLLAMA_KEEP_ALIVE", "soon")], plain());
        check(&[("OLLAMA_MAX_LOADED_MODELS", "0")], plain());
        check(&[("OLLAMA_MAX_LOADED_MODELS", "7")], Config { loaded_models_max: 7, ..plain() });
        check(&[("OLLAMA_MAX_QUEUE", "0")], Config { queue_max: 0, ..plain() });
        check(&[("OLLAMA_MAX_QUEUE", "-5")], plain());
        check(&[("OLLAMA_LOAD_TIMEOUT", "0")], Config { load_timeout: None, ..plain() });
        check(&[("OLLAMA_LOAD_TIMEOUT", "-1m")], Config { load_timeout: None, ..plain() });
        let minute = Some(Duration::from_secs(60));
        check(&[("OLLAMA_LOAD_TIMEOUT", "60")], Config { load_timeout: minute, ..plain() });
        check(&[("OLLAMA_NUM_PARALLEL", "4")], Config { parallel_max: Some(4), ..plain() });
        let q8 = Some("q8_0".to_owned());
        check(&[("OLLAMA_KV_CACHE_TYPE", "q8_0")], Config { kv_cache_type: q8, ..plain() });
        check(
            &[("OLLAMA_CONTEXT_LENGTH", "8192")],
            Config { context_tokens: Some(8192), ..plain() },
        );
        check(&[("OLLMLX_MEMORY_BYTES", "2GiB")], Config { memory_bytes_max: 2 << 30, ..plain() });
    }
}
