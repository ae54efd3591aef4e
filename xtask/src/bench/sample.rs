//! One pair of measurements: ours, then llama.cpp's, within a minute of each other on the same machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::foreign::Watch;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    pub shape: String,
    pub bits: u32,
    pub threads: usize,
    pub prompt: usize,
    pub decode: usize,
    /// Foreign processes that compute all the time.
    pub busy: usize,
}

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub prefill: f64,
    pub decode: f64,
}

/// A line of a results file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub setting: Setting,
    pub ours: Rates,
    pub theirs: Rates,
    /// Bytes a second that memory gave in the same minute to one thread, and to as many as computed.
    pub memory_one: f64,
    pub memory_all: f64,
    /// Cores that other processes kept busy meanwhile, at the worse of both; 0 where that is not known.
    pub foreign_cores: f64,
    /// Bytes of our weights that a decoded token reads.
    pub bytes_per_token: usize,
    pub instructions: String,
    pub commit: String,
    /// llama.cpp's build.
    pub their_commit: String,
    pub processor: String,
}

/// More than a machine's own housekeeping takes: a pair beside which others computed as much does not count.
const FOREIGN_CORES_MAX: f64 = 0.15;

impl Sample {
    /// Nobody computed beside it who was not asked to.
    pub fn is_quiet(&self) -> bool {
        self.foreign_cores <= self.setting.busy as f64 + FOREIGN_CORES_MAX
    }
}

/// Both programs and both models.
pub struct Pair<'a> {
    pub ollmlx: &'a Path,
    pub llama_bench: &'a Path,
    pub checkpoint: &'a Path,
    pub gguf: &'a Path,
    pub bytes_per_token: usize,
    pub commit: &'a str,
}

impl Pair<'_> {
    pub fn measure(&self, setting: &Setting) -> anyhow::Result<Sample> {
        let watch = Watch::start();
        let ours = self.ask_ours(setting)?;
        let beside_ours = watch.cores();
        let watch = Watch::start();
        let theirs = self.ask_theirs(setting)?;
        let beside_theirs = watch.cores();
        let number = |path: &str| {
            let number = ours.pointer(path).and_then(Value::as_f64);
            number.with_context(|| format!("`ollmlx bench --json` tells no {path}"))
        };
        Ok(Sample {
            setting: setting.clone(),
            ours: Rates {
                prefill: number("/prefill_tokens_per_second/1")?,
                decode: number("/decode_tokens_per_second/1")?,
            },
            theirs: their_rates(&theirs)?,
            memory_one: number("/memory_bytes_per_second/one_thread")?,
            memory_all: number("/memory_bytes_per_second/all_threads")?,
            foreign_cores: beside_ours.unwrap_or(0.0).max(beside_theirs.unwrap_or(0.0)),
            bytes_per_token: self.bytes_per_token,
            instructions: text(&ours["instructions"]),
            commit: self.commit.to_owned(),
            their_commit: text(&theirs[0]["build_commit"]),
            processor: text(&theirs[0]["cpu_info"]),
        })
    }

    fn ask_ours(&self, setting: &Setting) -> anyhow::Result<Value> {
        let mut command = Command::new(self.ollmlx);
        command.arg("bench").arg(self.checkpoint).args(["--json", "--memory", "--rounds", "1"]);
        command.args(["--threads", &setting.threads.to_string()]);
        command.args(["--prompt", &setting.prompt.to_string()]);
        command.args(["--decode", &setting.decode.to_string()]);
        answer(&mut command)
    }

    fn ask_theirs(&self, setting: &Setting) -> anyhow::Result<Value> {
        let mut command = Command::new(self.llama_bench);
        command.arg("-m").arg(self.gguf).args(["-o", "json", "-r", "1"]);
        command.args(["-t", &setting.threads.to_string()]);
        command.args(["-p", &setting.prompt.to_string(), "-n", &setting.decode.to_string()]);
        answer(&mut command)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("unknown").trim().to_owned()
}

fn answer(command: &mut Command) -> anyhow::Result<Value> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, words.trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} told no JSON"))
}

/// `llama-bench` lists its tests: one with a prompt only, one that only generates.
fn their_rates(tests: &Value) -> anyhow::Result<Rates> {
    let rate = |is_it: fn(&Value) -> bool| {
        let found = tests.as_array().into_iter().flatten().find(|test| is_it(test));
        let rate = found.and_then(|test| test["avg_ts"].as_f64());
        rate.context("`llama-bench -o json` tells no rate of prompt or generation")
    };
    Ok(Rates { prefill: rate(|t| t["n_gen"] == 0)?, decode: rate(|t| t["n_prompt"] == 0)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use serde_json::json;

    #[test]
    fn rates_of_llama_bench() {
        let prompt = json!({"n_prompt": 512, "n_gen": 0, "avg_ts": 180.5});
        let generation = json!({"n_prompt": 0, "n_gen": 128, "avg_ts": 31.25});
        for tests in [json!([prompt, generation]), json!([generation, prompt])] {
            assert_eq!(their_rates(&tests).unwrap(), Rates { prefill: 180.5, decode: 31.25 });
        }
        for tests in [json!([prompt]), json!({}), json!([{"n_prompt": 0, "n_gen": 0}])] {
            assert!(their_rates(&tests).is_err());
        }
    }
}
