//! The books: which models are loaded, loading or leaving, what each takes, and who may come in. Only decisions;
//! starting and ending runners is `scheduler`'s. Nothing here waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use protocol::{Failure, FailureKind};
use runner::Runner;
use tokio::task::AbortHandle;

use crate::memory::bytes_in_words;
use crate::pump::Waiting;
use crate::{Config, KeepAlive, Resident, Want};

pub(crate) struct Model {
    /// Which of the runners that this digest had.
    pub epoch: u64,
    pub name: String,
    pub estimated_bytes: u64,
    pub keep_alive: KeepAlive,
    /// As the latest request wanted it.
    pub context_tokens: Option<u32>,
    /// Grows with each use; the smallest is the least recently used.
    pub last_use: u64,
    pub phase: Phase,
}

pub(crate) enum Phase {
    Loading {
        task: Option<AbortHandle>,
        waiting: Vec<Waiting>,
    },
    Ready {
        runner: Arc<Runner>,
        in_flight: usize,
        /// When an idle model goes; its timer.
        expiry: Option<(SystemTime, AbortHandle)>,
    },
    /// Its process is ending; the memory is not free yet.
    Leaving,
}

/// What a model that is not loaded has to wait for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    Fits,
    /// This idle model has to go first.
    Evict(String),
    /// For a model that leaves, or for requests in flight to end.
    Wait,
    /// Not even alone.
    Never,
}

#[derive(Default)]
pub(crate) struct Residents {
    pub models: HashMap<String, Model>,
}

/// For what one step computes beside the weights.
const WORKING_PERCENT: u64 = 5;

/// The context that a request without a wish is expected to fill: caches grow as they are filled, and few
/// conversations reach what models allow. Price: one that does may evict too late.
const CONTEXT_TOKENS_USUAL: u32 = 8192;

pub(crate) fn estimated_bytes(want: &Want, config: &Config) -> u64 {
    let context = want.context_tokens.or(config.context_tokens).unwrap_or(CONTEXT_TOKENS_USUAL);
    let context = u64::from(want.context_tokens_own.map_or(context, |own| own.min(context)));
    [
        want.weights_bytes,
        want.weights_bytes / 100 * WORKING_PERCENT,
        want.cache_bytes_per_token.saturating_mul(context),
        config.runner_bytes,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

pub(crate) fn no_room(want: &Want, config: &Config) -> Failure {
    let (needs, room) = (estimated_bytes(want, config), config.memory_bytes_max);
    let (needs, room) = (bytes_in_words(needs), bytes_in_words(room));
    Failure::new(
        FailureKind::NoRoom,
        format!(
            "`{}` needs {needs} and models may take {room} of this machine's memory",
            want.name
        ),
    )
    .hint("use a smaller model, quantisation or `num_ctx`, or raise the limit with `OLLMLX_MEMORY_BYTES`")
}

impl Model {
    /// The estimate, or what the runner said if that is more.
    pub fn bytes(&self) -> u64 {
        match &self.phase {
            Phase::Ready { runner, .. } => self.estimated_bytes.max(said_bytes(runner)),
            _ => self.estimated_bytes,
        }
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Ready { in_flight: 0, .. })
    }

    pub fn is_dead(&self) -> bool {
        matches!(&self.phase, Phase::Ready { runner, .. } if !runner.is_alive())
    }

    fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving)
    }

    /// What a new request changes, wherever the model is in its life.
    pub fn note(&mut self, want: &Want, last_use: u64) {
        self.last_use = last_use;
        self.context_tokens = want.context_tokens;
        self.keep_alive = want.keep_alive.unwrap_or(self.keep_alive);
    }

    pub fn cancel_expiry(&mut self) {
        if let Phase::Ready { expiry, .. } = &mut self.phase
            && let Some((_, timer)) = expiry.take()
        {
            timer.abort();
        }
    }

    fn resident(&self, digest: &str, config: &Config) -> Option<Resident> {
        let Phase::Ready { runner, in_flight, expiry } = &self.phase else { return None };
        let from_now = match self.keep_alive {
            KeepAlive::Forever => None,
            KeepAlive::For(duration) => SystemTime::now().checked_add(duration),
        };
        Some(Resident {
            name: self.name.clone(),
            digest: digest.to_owned(),
            info: runner.info().clone(),
            memory_bytes: said_bytes(runner),
            context_tokens: context_tokens(self.context_tokens, runner, config),
            expires_at: expiry.as_ref().map(|(at, _)| *at).or(from_now),
            in_flight_requests: *in_flight,
        })
    }
}

fn said_bytes(runner: &Runner) -> u64 {
    let memory = runner.last_memory();
    runner.info().memory_bytes.max(memory.active_bytes.saturating_add(memory.cache_bytes))
}

/// What a request gets that wants this many.
pub(crate) fn context_tokens(wanted: Option<u32>, runner: &Runner, config: &Config) -> u32 {
    let own = runner.info().context_tokens_max;
    wanted.or(config.context_tokens).map_or(own, |tokens| tokens.min(own))
}

impl Residents {
    pub fn find(&self, name_or_digest: &str) -> Option<String> {
        let is_it = |(digest, model): &(&String, &Model)| {
            *digest == name_or_digest || model.name == name_or_digest
        };
        self.models.iter().find(is_it).map(|(digest, _)| digest.clone())
    }

    /// The model, if it is still the runner that was meant.
    pub fn same(&mut self, digest: &str, epoch: u64) -> Option<&mut Model> {
        self.models.get_mut(digest).filter(|model| model.epoch == epoch)
    }

    pub fn loading_waiters(&self) -> usize {
        let waiters = |model: &Model| match &model.phase {
            Phase::Loading { waiting, .. } => waiting.iter().filter(|one| one.is_wanted()).count(),
            _ => 0,
        };
        self.models.values().map(waiters).sum()
    }

    /// What models may take together, less what is resident already.
    pub fn room_beside(&self, config: &Config) -> u64 {
        let taken = self.models.values().map(Model::bytes).fold(0, u64::saturating_add);
        config.memory_bytes_max.saturating_sub(taken)
    }

    pub fn place(&self, needs_bytes: u64, config: &Config) -> Placement {
        let fits = |keep: &dyn Fn(&Model) -> bool| {
            let kept = self.models.values().filter(|model| keep(model));
            let (count, bytes) = kept.fold((0, needs_bytes), |(n, sum), model| {
                (n + 1, model.bytes().saturating_add(sum))
            });
            count < config.loaded_models_max && bytes <= config.memory_bytes_max
        };
        if needs_bytes > config.memory_bytes_max {
            Placement::Never
        } else if fits(&|_| true) {
            Placement::Fits
        } else if fits(&|model| !model.is_leaving()) {
            Placement::Wait
        } else if fits(&|model| !model.is_leaving() && !model.is_idle()) {
            let idle = self.models.iter().filter(|(_, model)| model.is_idle());
            let oldest = idle.min_by_key(|(_, model)| model.last_use);
            oldest.map_or(Placement::Wait, |(digest, _)| Placement::Evict(digest.clone()))
        } else {
            // Evicting idle ones would not make enough room yet.
            Placement::Wait
        }
    }

    /// The one that expires last first; who never expires comes before all.
    pub fn list(&self, config: &Config) -> Vec<Resident> {
        let resident = |(digest, model): (&String, &Model)| model.resident(digest, config);
        let mut list: Vec<Resident> = self.models.iter().filter_map(resident).collect();
        list.sort_by(|a, b| {
            let key =
                |one: &Resident| (one.expires_at.is_some(), std::cmp::Reverse(one.expires_at));
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loading ones stand for busy ones: neither is idle.
    fn books(models: &[(&str, u64, bool)]) -> Residents {
        let model = |&(name, bytes, leaving): &(&str, u64, bool)| {
            let phase = match leaving {
                true => Phase::Leaving,
                false => Phase::Loading { task: None, waiting: Vec::new() },
            };
            let model = Model {
                epoch: 0,
                name: name.to_owned(),
                estimated_bytes: bytes,
                keep_alive: KeepAlive::NONE,
                context_tokens: None,
                last_use: 0,
                phase,
            };
            (name.to_owned(), model)
        };
        Residents { models: models.iter().map(model).collect() }
    }

    fn check(models: &[(&str, u64, bool)], needs_bytes: u64, expected: Placement) {
        let config = Config { memory_bytes_max: 100, loaded_models_max: 2, ..Config::default() };
        assert_eq!(books(models).place(needs_bytes, &config), expected);
    }

    #[test]
    fn estimates() {
        let config = Config { runner_bytes: 7, context_tokens: None, ..Config::default() };
        let check = |asked: Option<u32>, own: Option<u32>, cache_bytes_per_token, expected: u64| {
            let want = Want {
                weights_bytes: 1000,
                context_tokens: asked,
                context_tokens_own: own,
                cache_bytes_per_token,
                ..Want::default()
            };
            assert_eq!(estimated_bytes(&want, &config), expected);
        };
        check(None, None, 0, 1057);
        check(None, None, 2, 1057 + 2 * 8192);
        check(None, Some(100), 2, 1257);
        check(Some(10), Some(100), 2, 1077);
        check(Some(1000), Some(100), 2, 1257);
        check(Some(1000), None, u64::MAX, u64::MAX);
        let server = Config { context_tokens: Some(20), ..config.clone() };
        let want = Want { cache_bytes_per_token: 1, ..Want::default() };
        assert_eq!(estimated_bytes(&want, &server), 27);
    }

    #[test]
    fn placement() {
        use Placement::{Fits, Never, Wait};
        check(&[], 100, Fits);
        check(&[], 101, Never);
        check(&[("a", 60, false)], 40, Fits);
        check(&[("a", 60, false)], 41, Wait);
        check(&[("a", 1, false), ("b", 1, false)], 1, Wait);
        check(&[("a", 1, false), ("b", 1, true)], 1, Wait);
        check(&[("a", 60, true)], 50, Wait);
        check(&[("a", u64::MAX, false)], 1, Wait);
    }
}
