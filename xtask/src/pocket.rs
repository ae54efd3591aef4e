//! `pocket`, the model that comes with the program: what it can do, measured by our own engine over HTTP, and its training
//! in small. The model itself is trained by the scripts in `models/pocket/training`.

mod evaluation;
mod server;

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::bench::take;
use crate::build::{must, root};

const USAGE: &str = "cargo xtask pocket --evaluate [--program PATH] [SKILL…] | --toy";

/// What the toy's training needs beside python3.
const PYTHON_PACKAGES: &str = "torch tokenizers transformers safetensors jinja2";

pub fn run(args: &[String]) -> anyhow::Result<()> {
    match args.split_first() {
        Some((what, rest)) if what == "--evaluate" => {
            let mut skills = rest.to_vec();
            let program = take(&mut skills, "--program")?.map(PathBuf::from);
            evaluation::run(&skills, program)
        }
        Some((what, [])) if what == "--toy" => toy(),
        _ => bail!("usage: {USAGE}"),
    }
}

/// The whole way from documents to answers with a tiny shape on the CPU: some minutes, and no sense in what it says.
fn toy() -> anyhow::Result<()> {
    let scripts = root().join("models/pocket/training");
    let out = root().join("target/pocket-toy");
    let python = |script: &str, args: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(script).args(args).current_dir(&scripts);
        must(&mut command)
    };
    let path = |name: &str| out.join(name).display().to_string();
    if python("-c", &["import torch, tokenizers, transformers, safetensors, jinja2"]).is_err() {
        bail!("python3 lacks a package\nhint: pip install {PYTHON_PACKAGES}");
    }
    python("checks.py", &["2000"])?;
    python("heldout.py", &[&path("heldout")])?;
    for entry in std::fs::read_dir(out.join("heldout"))? {
        let entry = entry?;
        let committed = root().join("models/pocket/heldout").join(entry.file_name());
        if std::fs::read(entry.path())? != std::fs::read(&committed)? {
            bail!("{} is stale; models/pocket/training/heldout.py writes it", committed.display());
        }
    }
    python("tokenizer.py", &[&path("tokenizer"), "--documents", "20000"])?;
    let training = ["--shape", "toy", "--seconds", "30", "--rows", "2", "--length", "1024"];
    let rest = ["--workers", "1", "--pool", "64", "--every", "10"];
    let places = ["--tokenizer", &path("tokenizer"), "--out", &path("model")];
    python("train.py", &[&training[..], &rest, &places].concat())?;
    let (model, heldout) = (path("model"), path("heldout"));
    python("evaluate.py", &[&model, &heldout, "--cases", "2", "--dtype", "float32"])
}
