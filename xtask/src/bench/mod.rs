//! Measurements. The shape of a model decides its speed, its values do not: each command makes a checkpoint of a real size
//! with random weights, once, under `target/bench`. `step` lets `ollmlx bench` measure it; `compare` does so in turn with
//! llama.cpp's `llama-bench`.

mod compare;
mod foreign;
mod report;
mod sample;
mod serving;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use fixtures::Encoding;

use crate::build::{must, program, root};

const USAGE: &str = "cargo xtask bench step [--shape qwen3-0.6b|llama-3.2-1b|qwen3-4b|qwen3-moe-1b|pocket] [--bits 4|8|16] [arguments of `ollmlx bench`]
   or: cargo xtask bench compare --llama-bench PATH …
   or: cargo xtask bench serving [--llama-server PATH] …";

pub fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let Some((what, rest)) = args.split_first() else { bail!("usage: {USAGE}") };
    match what.as_str() {
        "step" => step(rest)?,
        "compare" => compare::run(rest)?,
        "serving" => serving::run(rest)?,
        compare::SPIN => compare::spin(),
        other => bail!("there is no bench `{other}`; usage: {USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn step(args: &[String]) -> anyhow::Result<()> {
    let mut rest = args.to_vec();
    let shape = take(&mut rest, "--shape")?.unwrap_or_else(|| "qwen3-0.6b".to_owned());
    let bits = take(&mut rest, "--bits")?.unwrap_or_else(|| "4".to_owned());
    let folder =
        if shape == "pocket" { root().join("models/pocket") } else { checkpoint(&shape, &bits)? };
    let mut bench = Command::new(program()?);
    bench.arg("bench").arg(folder).args(rest).env("OLLMLX_COMMIT", commit());
    must(&mut bench)
}

/// The value of an option, which is taken out.
pub fn take(args: &mut Vec<String>, name: &str) -> anyhow::Result<Option<String>> {
    let Some(at) = args.iter().position(|arg| arg == name) else { return Ok(None) };
    if at + 1 == args.len() {
        bail!("{name} needs a value");
    }
    args.remove(at);
    Ok(Some(args.remove(at)))
}

/// The folder of a random checkpoint, made if it is not there.
pub fn checkpoint(shape: &str, bits: &str) -> anyhow::Result<PathBuf> {
    let encoding = encoding(bits)?;
    let folder = root().join("target/bench").join(format!("{shape}-{bits}"));
    if folder.join("done").exists() {
        return Ok(folder);
    }
    let config = self::shape(shape)?;
    eprintln!("making {} (once)", folder.display());
    fixtures::random_checkpoint(&config, 1, &folder, encoding)?;
    // Any tokenizer does: prompts are counted in tokens.
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(root().join("models/pocket").join(name), folder.join(name))?;
    }
    std::fs::write(folder.join("done"), "")?;
    Ok(folder)
}

fn encoding(bits: &str) -> anyhow::Result<Encoding> {
    Ok(match bits {
        "16" => Encoding::Bf16,
        // 9 bits a weight beside the 8.5 of llama.cpp's Q8_0.
        "8" => Encoding::Affine { bits: 8, group_size: 32 },
        // 4.5 bits a weight, as Q4_0.
        "4" => Encoding::Affine { bits: 4, group_size: 64 },
        other => bail!("--bits {other}: 4, 8 or 16"),
    })
}

/// The text of a shape's config.json.
fn shape(name: &str) -> anyhow::Result<String> {
    let path = root().join("benches/shapes").join(format!("{name}.json"));
    std::fs::read_to_string(path).with_context(|| format!("no shape `{name}`; usage: {USAGE}"))
}

fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(Path::new(&root()))
        .output();
    git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
