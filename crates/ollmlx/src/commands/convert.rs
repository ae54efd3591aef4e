//! `convert` (hidden): imports files into the store for the server that started this process.

/// Import files into the store for the server that started this process
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: Args) -> anyhow::Result<()> {
    super::serve::log_to_stderr();
    Ok(runner::serve_convert_stdin(|job, progress| ::convert::import(&job, progress))?)
}
