//! `bench`: how fast a model runs on this machine, without a server in between.
//!
//! Runs the engine's own loop in this process and prints medians over rounds with their spread: prefill and decode rates,
//! and what a decode step costs inside libmlxc and in our own code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use engine::measure::{Bench, Exercise, Measured};
use protocol::{LoadModel, ModelFiles};
use serde_json::json;

use crate::fault::told;
use crate::terminal;

/// Measure how fast a model runs on this machine
#[derive(clap::Args)]
pub struct Args {
    /// A directory with config.json, tokenizer.json and safetensors files
    pub model: String,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens to generate
    #[arg(long, default_value_t = 128)]
    decode: usize,
    /// Sequences that run at once
    #[arg(long, default_value_t = 1)]
    sequences: usize,
    /// Rounds to take the median of, after one to warm up
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// 0 takes the best token, anything else samples
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let job = LoadModel { model: files(&args.model)?, ..LoadModel::default() };
    let mut bench = Bench::load(&job)?;
    let exercise = Exercise {
        prompt_tokens: args.prompt,
        decode_tokens: args.decode,
        sequences: args.sequences.max(1),
        temperature: args.temperature,
    };
    let mut rounds = Vec::new();
    for round in 0..=args.rounds.max(1) {
        let measured = bench.round(exercise)?;
        if round > 0 {
            rounds.push(measured);
        }
    }
    let figures = Figures::of(&args, &bench.loaded().device, &rounds);
    terminal::out(&if args.json { figures.json() } else { figures.text() })?;
    Ok(())
}

fn files(model: &str) -> anyhow::Result<ModelFiles> {
    let folder = Path::new(model);
    if !folder.is_dir() {
        return Err(told(format!("`{model}` is not a directory"))
            .hint("name a directory with config.json, tokenizer.json and safetensors files")
            .into());
    }
    let mut files = ModelFiles { name: model.to_owned(), ..ModelFiles::default() };
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read `{model}`"))? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match name.ends_with(".safetensors") {
            true => files.tensors.push(path),
            false => drop(files.files.insert(name, path)),
        }
    }
    Ok(files)
}

struct Figures {
    title: String,
    prefill: Spread,
    decode: Spread,
    /// Microseconds of a decode step.
    inside: Spread,
    own: Spread,
    calls: u64,
    peak_bytes: u64,
}

/// Least, middle and largest of the rounds.
struct Spread([f64; 3]);

impl Spread {
    fn of(rounds: &[Measured], figure: impl Fn(&Measured) -> f64) -> Spread {
        let mut values: Vec<f64> = rounds.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        Spread([values[0], values[values.len() / 2], values[values.len() - 1]])
    }

    fn text(&self, unit: &str, digits: usize) -> String {
        let [least, middle, most] = self.0;
        format!("{middle:.digits$} {unit} ({least:.digits$} to {most:.digits$})")
    }
}

impl Figures {
    fn of(args: &Args, device: &str, rounds: &[Measured]) -> Figures {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let steps = |m: &Measured| m.decode_steps.max(1) as f64;
        let sequences = args.sequences.max(1) as f64;
        let commit = std::env::var("OLLMLX_COMMIT")
            .map(|commit| format!(", commit {commit}"))
            .unwrap_or_default();
        Figures {
            title: format!(
                "{} on {device}: {} × {} + {} tokens, {} rounds{commit}",
                args.model, args.sequences, args.prompt, args.decode, args.rounds
            ),
            prefill: Spread::of(rounds, Measured::prefill_tokens_per_second),
            decode: Spread::of(rounds, |m| m.decode_steps_per_second() * sequences),
            inside: Spread::of(rounds, |m| micros(m.decode_inside_mlx) / steps(m)),
            own: Spread::of(rounds, |m| micros(m.own_per_step())),
            calls: rounds[0].decode_mlx_calls / rounds[0].decode_steps.max(1) as u64,
            peak_bytes: rounds.iter().map(|m| m.peak_bytes).max().unwrap_or(0),
        }
    }

    fn text(&self) -> String {
        let [_, prefill, _] = self.prefill.0;
        format!(
            "{}\n  prefill        {}, {:.3} ms a token\n  decode         {}\n  a decode step  MLX {} in {} calls, own {}\n  peak memory    {}\n",
            self.title,
            self.prefill.text("tokens/s", 1),
            1e3 / prefill,
            self.decode.text("tokens/s", 1),
            self.inside.text("µs", 0),
            self.calls,
            self.own.text("µs", 1),
            terminal::humane::bytes(self.peak_bytes),
        )
    }

    fn json(&self) -> String {
        let value = json!({
            "title": self.title,
            "prefill_tokens_per_second": self.prefill.0,
            "decode_tokens_per_second": self.decode.0,
            "decode_step_mlx_micros": self.inside.0,
            "decode_step_own_micros": self.own.0,
            "decode_step_mlx_calls": self.calls,
            "peak_bytes": self.peak_bytes,
        });
        format!("{value}\n")
    }
}
