//! `pocket`, the model that comes with the program: what it can do, measured by our own engine over HTTP, and its training
//! in small. The model itself is trained by the scripts in `models/pocket/training`.

mod evaluation;
mod server;
mod toy;

use std::path::PathBuf;

use anyhow::bail;

use crate::bench::take;

const USAGE: &str =
    "cargo xtask pocket --evaluate [--program PATH] [SKILL…] | --toy [--program PATH]";

pub fn run(args: &[String]) -> anyhow::Result<()> {
    let mut args = args.to_vec();
    let program = take(&mut args, "--program")?.map(PathBuf::from);
    match args.split_first() {
        Some((what, skills)) if what == "--evaluate" => evaluation::run(skills, program),
        Some((what, [])) if what == "--toy" => toy::run(program),
        _ => bail!("usage: {USAGE}"),
    }
}
