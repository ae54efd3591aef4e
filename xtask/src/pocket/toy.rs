//! `pocket --toy`: the whole way from documents to answers, small enough for every test run: the checks of the generator,
//! the tokenizer, some steps of training on the processor, and what our engine makes of the weights.
//!
//! There is no sense in what such a model says. What is asserted: the held-out sets are what the generator writes, the loss
//! falls, and after the prompts of those sets the engine expects the tokens that the training's own arithmetic expects.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::server::Server;
use crate::build::{cargo, must, root};

const NAME: &str = "toy";

/// Half a minute: MLX multiplies slowly on a processor. A loss of 8.3 is knowing nothing.
const TRAINING: &str = "--shape toy --backend mlx --steps 60 --rows 2 --length 384 --lr 1e-2 --warm-up 10 \
    --workers 1 --pool 64 --every 5 --loss-max 4.5";
/// Documents that the toy's tokenizer is trained on.
const DOCUMENTS: &str = "4000";
/// Conversations that `checks.py` draws.
const CHECKED: &str = "1000";

/// How far a log-probability may be from the training's: it computes in 32 bits, the engine in bf16.
const LOGPROB_TOLERANCE: f64 = 0.1;

/// A prompt, and what the training's own arithmetic expects after it.
#[derive(Deserialize)]
struct Expected {
    text: String,
    next: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: f64,
}

/// `given` is a program that is there already, in place of the tests' own.
pub fn run(given: Option<PathBuf>) -> anyhow::Result<()> {
    let out = root().join("target/pocket-toy");
    std::fs::create_dir_all(&out)?;
    let python = Python::with_packages(&out)?;
    let path = |name: &str| out.join(name).display().to_string();
    let (tokenizer, model, heldout) = (path("tokenizer"), path("model"), path("heldout"));
    python.run("checks.py", &[CHECKED])?;
    python.run("heldout.py", &[&heldout])?;
    same_files(Path::new(&heldout), &root().join("models/pocket/heldout"))?;
    python.run("tokenizer.py", &[&tokenizer, "--documents", DOCUMENTS])?;
    let training: Vec<&str> = TRAINING.split_whitespace().collect();
    let places = ["--tokenizer", &tokenizer, "--out", &model];
    python.run("train.py", &[&training[..], &places].concat())?;
    let prompts = out.join("heldout/rendered.json").display().to_string();
    let expected = ["--shape", NAME, "--backend", "mlx"];
    python.run(
        "expect.py",
        &[&[&*model, &prompts, &path("expected.json")][..], &expected].concat(),
    )?;
    let program = given.map_or_else(tests_program, Ok)?;
    let text = std::fs::read(out.join("expected.json"))?;
    let expected: Vec<Expected> = serde_json::from_slice(&text).context("expected.json")?;
    asked(&program, &out, &expected)
}

/// The program as the tests build it: there already when they have run.
fn tests_program() -> anyhow::Result<PathBuf> {
    crate::mlx::ensure(crate::mlx::default_variant())?;
    must(cargo().args(["build", "--quiet", "--package", "ollmlx"]))?;
    Ok(root().join("target/debug/ollmlx"))
}

/// python3 in the folder of the scripts, with the packages of `requirements.txt` and no others.
struct Python {
    scripts: PathBuf,
    packages: PathBuf,
}

impl Python {
    /// The packages are fetched once for these requirements and this Python.
    fn with_packages(out: &Path) -> anyhow::Result<Python> {
        let scripts = root().join("models/pocket/training");
        let requirements = scripts.join("requirements.txt");
        let version =
            Command::new("python3").arg("--version").output().context("cannot run `python3`")?;
        let what = [std::fs::read(&requirements)?, version.stdout].concat();
        let digest: String =
            Sha256::digest(what).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let packages = out.join(format!("packages-{digest}"));
        if !packages.exists() {
            let partial = out.join("packages.partial");
            let _ = std::fs::remove_dir_all(&partial);
            let mut pip = Command::new("python3");
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
            ]);
            pip.args(["--only-binary=:all:", "--require-hashes", "--target"]).arg(&partial);
            must(pip.arg("--requirement").arg(&requirements)).context(
                "the packages of the toy's training could not be installed\nhint: pip's own words are above; is the package index reachable?",
            )?;
            std::fs::rename(&partial, &packages)?;
        }
        Ok(Python { scripts, packages })
    }

    fn run(&self, script: &str, args: &[&str]) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut command = Command::new("python3");
        command.arg(script).args(args).current_dir(&self.scripts);
        // Nothing of the user's, nothing written beside the scripts.
        command
            .env("PYTHONPATH", &self.packages)
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        must(&mut command)?;
        eprintln!("toy: {script} took {:.0} s", began.elapsed().as_secs_f64());
        Ok(())
    }
}

/// What was written is what is committed, file by file.
fn same_files(written: &Path, committed: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(written)? {
        let entry = entry?;
        let there = committed.join(entry.file_name());
        if std::fs::read(entry.path())? != std::fs::read(&there)? {
            bail!("{} is stale; models/pocket/training/heldout.py writes it", there.display());
        }
    }
    Ok(())
}

/// Serves the model and asks for the next token after every prompt.
fn asked(program: &Path, out: &Path, expected: &[Expected]) -> anyhow::Result<()> {
    let began = Instant::now();
    let store = out.join("store");
    let _ = std::fs::remove_dir_all(&store);
    let mut bundle = Command::new(program);
    must(bundle.arg("bundle").arg(out.join("model")).arg(&store).arg(NAME).stdout(Stdio::null()))?;
    let server = Server::start(program, &store, out)?;
    let mut faults = Vec::new();
    for prompt in expected {
        let body = json!({
            "model": NAME, "prompt": prompt.text, "raw": true, "stream": false, "logprobs": true,
            "options": {"temperature": 0, "num_predict": 1},
        });
        let answer = server.post("/api/generate", &body)?;
        faults.extend(
            fault(&prompt.next, &answer).map(|why| format!("{:?}: {why}", end(&prompt.text))),
        );
    }
    if expected.is_empty() || !faults.is_empty() {
        bail!("after {} of {} prompts:\n{}", faults.len(), expected.len(), faults.join("\n"));
    }
    eprintln!(
        "toy: the engine expects what the training expects after {} prompts, {:.0} s",
        expected.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Why an answer of one token is not what is expected.
fn fault(expected: &[Token], answer: &Value) -> Option<String> {
    let said = &answer["logprobs"][0];
    let Ok(said) = Token::deserialize(said) else {
        return Some(format!("no token with its probability in {answer}"));
    };
    let Some(same) = expected.iter().find(|token| token.token == said.token) else {
        return Some(format!("{:?} is not among the likely tokens", said.token));
    };
    let least = expected.first().map_or(0.0, |first| first.logprob) - LOGPROB_TOLERANCE;
    let near = (same.logprob - said.logprob).abs() <= LOGPROB_TOLERANCE && same.logprob >= least;
    (!near).then(|| format!("{:?} at {:.3}, not at {:.3}", said.token, said.logprob, same.logprob))
}

/// Enough of a prompt to know it by.
fn end(text: &str) -> &str {
    let start = text.char_indices().rev().nth(60).map_or(0, |(at, _)| at);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(token: &str, logprob: f64, expected: Option<&str>) {
        let next = [("a", -0.5), ("b", -0.55), ("c", -2.0)]
            .map(|(token, logprob)| Token { token: token.to_owned(), logprob });
        let answer = json!({"logprobs": [{"token": token, "logprob": logprob}]});
        assert_eq!(fault(&next, &answer).as_deref(), expected);
    }

    #[test]
    fn the_likeliest_token_or_one_as_likely_with_its_probability() {
        check("a", -0.48, None);
        check("b", -0.57, None);
        check("a", -0.7, Some("\"a\" at -0.700, not at -0.500"));
        check("c", -2.0, Some("\"c\" at -2.000, not at -2.000"));
        check("d", -0.5, Some("\"d\" is not among the likely tokens"));
        assert!(fault(&[], &json!({"response": "x"})).is_some());
    }
}
