//! `runner` (hidden): serves one model to the server that started this process, over its standard input.

use engine::DiskCache;
use protocol::{Engine, Failure, LoadModel, LoadedModel};

use crate::client::host::{switch, variable};
use crate::paths;

/// Serve one model to the server that started this process
#[derive(clap::Args)]
pub struct Args {}

/// Set to `scripted`, requests are answered by fixed words instead of a model: to try a client, and for tests.
pub const ENGINE: &str = "OLLMLX_ENGINE";
pub const SCRIPTED: &str = "scripted";

pub fn run(_: Args) -> anyhow::Result<()> {
    super::serve::log_to_stderr();
    let ended = match variable(ENGINE).as_deref() {
        Some(SCRIPTED) => {
            let crash = Box::new(|| std::process::abort());
            runner::serve_stdin(|model, progress| {
                runner::scripted::Scripted::load(model, progress, crash)
            })
        }
        _ => runner::serve_stdin(load_model),
    };
    Ok(ended?)
}

fn load_model(
    job: LoadModel,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(LoadedModel, Box<dyn Engine>), Failure> {
    let around = engine::Surroundings {
        seed: rand::random(),
        prompt_lookup: switch("OLLMLX_PROMPT_LOOKUP"),
        disk_cache: disk_cache(),
    };
    engine::load(&job, &around, progress)
}

/// Bytes of pages on disk where `OLLMLX_CACHE_SIZE` says nothing.
const CACHE_BYTES_MAX: u64 = 10 << 30;

/// Where what models have read and said is kept, unless that is switched off.
fn disk_cache() -> Option<DiskCache> {
    let bytes_max = match variable("OLLMLX_CACHE_SIZE") {
        None => CACHE_BYTES_MAX,
        Some(text) => scheduler::parse_bytes(&text).unwrap_or_else(|| {
            tracing::warn!(
                "`OLLMLX_CACHE_SIZE` is `{text}`, which cannot be read; its default is used"
            );
            CACHE_BYTES_MAX
        }),
    };
    let folder = paths::cache()?.join("pages");
    (bytes_max > 0).then_some(DiskCache { folder, bytes_max })
}
