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
    /// Tokens that lie before those that are decoded.
    #[serde(default)]
    pub depth: usize,
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
        // Like `llama-bench`: prompts and generations are measured apart, so that both sides decode at one depth.
        let reading = self.ask_ours(setting, setting.prompt, 1, &[])?;
        let decoding =
            self.ask_ours(setting, setting.depth.max(1), setting.decode, &["--memory"])?;
        let beside_ours = watch.cores();
        let watch = Watch::start();
        let prompt = setting.prompt.to_string();
        let their_reading = self.ask_theirs(setting, &["-p", &prompt, "-n", "0"])?;
        let (decode, depth) = (setting.decode.to_string(), setting.depth.to_string());
        let their_decoding = self.ask_theirs(setting, &["-p", "0", "-n", &decode, "-d", &depth])?;
        let beside_theirs = watch.cores();
        let number = |answer: &Value, path: &str| {
            let number = answer.pointer(path).and_then(Value::as_f64);
            number.with_context(|| format!("`ollmlx bench --json` tells no {path}"))
        };
        Ok(Sample {
            setting: setting.clone(),
            ours: Rates {
                prefill: number(&reading, "/prefill_tokens_per_second/1")?,
                decode: number(&decoding, "/decode_tokens_per_second/1")?,
            },
            theirs: Rates {
                prefill: their_rate(&their_reading)?,
                decode: their_rate(&their_decoding)?,
            },
            memory_one: number(&decoding, "/memory_bytes_per_second/one_thread")?,
            memory_all: number(&decoding, "/memory_bytes_per_second/all_threads")?,
            foreign_cores: beside_ours.unwrap_or(0.0).max(beside_theirs.unwrap_or(0.0)),
            bytes_per_token: self.bytes_per_token,
            instructions: text(&decoding["instructions"]),
            commit: self.commit.to_owned(),
            their_commit: text(&their_decoding[0]["build_commit"]),
            processor: text(&their_decoding[0]["cpu_info"]),
        })
    }

    fn ask_ours(
        &self,
        setting: &Setting,
        prompt: usize,
        decode: usize,
        more: &[&str],
    ) -> anyhow::Result<Value> {
        let mut command = Command::new(self.ollmlx);
        command.arg("bench").arg(self.checkpoint).args(["--json", "--rounds", "1"]).args(more);
        command.args(["--threads", &setting.threads.to_string()]);
        command.args(["--prompt", &prompt.to_string(), "--decode", &decode.to_string()]);
        answer(&mut command)
    }

    fn ask_theirs(&self, setting: &Setting, test: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(self.llama_bench);
        command.arg("-m").arg(self.gguf).args(["-o", "json", "-r", "1"]).args(test);
        command.args(["-t", &setting.threads.to_string()]);
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

/// `llama-bench` lists its tests; here it made one.
fn their_rate(tests: &Value) -> anyhow::Result<f64> {
    let rate = tests.pointer("/0/avg_ts").and_then(Value::as_f64);
    rate.context("`llama-bench -o json` tells no rate")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use serde_json::json;

    #[test]
    fn rates_of_llama_bench() {
        let rate = |tests| their_rate(&tests).ok();
        assert_eq!(rate(json!([{"n_prompt": 512, "n_gen": 0, "avg_ts": 180.5}])), Some(180.5));
        assert_eq!(rate(json!([{"n_prompt": 512, "n_gen": 0}])), None);
        assert_eq!(rate(json!([])), None);
    }
}
