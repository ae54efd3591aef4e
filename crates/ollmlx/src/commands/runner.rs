//! `runner` (hidden): serves one model to the server that started this process, over its standard input.

use protocol::{Engine, Failure, LoadModel, LoadedModel};

use crate::client::host::variable;

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

/// Where the real engine is made of a model's files; `progress` is told loaded and total bytes.
fn load_model(
    job: LoadModel,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(LoadedModel, Box<dyn Engine>), Failure> {
    let _ = (job, progress);
    Err(Failure::new(protocol::FailureKind::Environment, "this build has no engine")
        .hint("set OLLMLX_ENGINE=scripted to try clients without one"))
}
