//! `doctor`: what this machine has for running models, and what it lacks.

/// Check that models can run here
#[derive(clap::Args)]
pub struct Args {
    #[arg(hide = true)]
    pub rest: Vec<String>,
}

pub fn run(_: Args) -> anyhow::Result<()> {
    Ok(())
}
