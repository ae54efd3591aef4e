//! `bundle` (hidden): makes a store of a model's folder, as it ships beside the program.

use std::path::PathBuf;

use crate::terminal::out_line;
use crate::terminal::progress::Progress;

/// Import a model's folder into a store, under a name
#[derive(clap::Args)]
pub struct Args {
    /// The folder with safetensors and config.json
    folder: PathBuf,
    /// The store's root folder
    store: PathBuf,
    /// The model's name
    name: String,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let progress = Progress::cleared();
    let line = progress.spinner("importing");
    ::convert::bundle(&args.folder, &args.store, &args.name, &mut |step| {
        progress.say(line, &step.status);
    })?;
    drop(progress);
    Ok(out_line(&format!("bundled '{}' into {}", args.name, args.store.display()))?)
}
