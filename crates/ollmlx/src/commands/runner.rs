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

fn load_model(
    job: LoadModel,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(LoadedModel, Box<dyn Engine>), Failure> {
    engine::load(&job, rand::random(), progress)
}
