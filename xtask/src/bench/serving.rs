//! `bench serving`: the example `serving` of `ollmlx` over a checkpoint with random weights and a tokenizer of words, so that
//! prompts are counted in tokens and every token has a text.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use super::compare::gguf;
use super::{checkpoint, shape, take};
use crate::build::{must, program, root};

const USAGE: &str = "cargo xtask bench serving [--llama-server PATH] [--shape qwen3-0.6b] [--rounds 3] [--scenes chats,long-prompt,four,restart] [--threads N]";

pub fn run(args: &[String]) -> anyhow::Result<()> {
    let mut rest = args.to_vec();
    let name = take(&mut rest, "--shape")?.unwrap_or_else(|| "qwen3-0.6b".to_owned());
    let llama = take(&mut rest, "--llama-server")?;
    let rounds = take(&mut rest, "--rounds")?.unwrap_or_else(|| "3".to_owned());
    let scenes = take(&mut rest, "--scenes")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = take(&mut rest, "--threads")?.unwrap_or_else(|| cores.to_string());
    if let Some(unknown) = rest.first() {
        bail!("unknown `{unknown}`; usage: {USAGE}");
    }
    let checkpoint = with_words(&name)?;
    let program = program()?;
    let mut play = Command::new("cargo");
    play.args(["run", "--quiet", "--release", "-p", "ollmlx", "--example", "serving", "--"]);
    play.arg("--ollmlx").arg(program).arg("--checkpoint").arg(checkpoint);
    play.args(["--rounds", &rounds, "--threads", &threads]).current_dir(root());
    if let Some(scenes) = scenes {
        play.args(["--scenes", &scenes]);
    }
    if let Some(llama) = llama {
        play.args(["--llama-server", &llama]).arg("--gguf").arg(gguf(&name, "4")?);
    }
    must(&mut play)
}

/// The 4-bit checkpoint of a shape with another tokenizer.
fn with_words(name: &str) -> anyhow::Result<PathBuf> {
    let plain = checkpoint(name, "4")?;
    let folder = root().join("target/bench").join(format!("{name}-4-words"));
    if folder.join("done").exists() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder)?;
    let config: serde_json::Value = serde_json::from_str(&shape(name)?)?;
    let vocabulary = config["vocab_size"].as_u64().context("the shape names no `vocab_size`")?;
    for entry in std::fs::read_dir(&plain)? {
        let path = entry?.path();
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if file.starts_with("model") || file == "config.json" {
            let to = folder.join(file);
            if !to.exists() && std::fs::hard_link(&path, &to).is_err() {
                std::fs::copy(&path, &to)?;
            }
        }
    }
    let tokenizer = fixtures::word_tokenizer(vocabulary as usize);
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    std::fs::write(folder.join("tokenizer_config.json"), "{}")?;
    std::fs::write(folder.join("done"), "")?;
    Ok(folder)
}
