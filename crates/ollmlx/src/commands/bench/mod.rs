//! `bench`: how fast a model runs on this machine, without a server in between.
//!
//! Runs the engine's own loop in this process and prints medians over rounds with their spread: prefill and decode rates,
//! and what a decode step costs inside libmlxc and in our own code.

mod bandwidth;
mod parts;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use engine::measure::{Bench, Exercise, Measured};
use protocol::{LoadModel, ModelFiles};
use serde_json::json;

use crate::fault::told;
use crate::terminal;
use bandwidth::Bandwidth;
use parts::Parts;

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
    /// How keys and values are stored: f16, q8_0, q4_0; as OLLAMA_KV_CACHE_TYPE of a server
    #[arg(long)]
    kv_cache_type: Option<String>,
    /// Processor threads; without it OLLMLX_NUM_THREADS, then one per core
    #[arg(long)]
    threads: Option<u32>,
    /// Also read 1 GiB of memory again and again: what decoding could reach at best
    #[arg(long)]
    memory: bool,
    /// Also tell where the time of decoding goes: products, attention, other kernels, outside of kernels (on a GPU only:
    /// handing it work, waiting for it, neither)
    #[arg(long)]
    parts: bool,
    /// Let MLX's own operations compute everything, without the program's kernels (on the CPU)
    #[arg(long)]
    mlx_alone: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Decoded before anything counts: by then memory, threads and graphs are there.
const WARM_UP_TOKENS: usize = 8;

pub fn run(args: Args) -> anyhow::Result<()> {
    super::serve::log_to_stderr();
    match args.mlx_alone {
        true => mlx::cpu::with_mlx_alone(|| measure(args)),
        false => measure(args),
    }
}

fn measure(args: Args) -> anyhow::Result<()> {
    let job = LoadModel {
        model: files(&args.model)?,
        threads: args.threads,
        kv_cache_type: args.kv_cache_type.clone(),
        ..LoadModel::default()
    };
    let mut bench = Bench::load(&job)?;
    let exercise = Exercise {
        prompt_tokens: args.prompt,
        decode_tokens: args.decode,
        sequences: args.sequences.max(1),
        temperature: args.temperature,
        parts: args.parts,
    };
    bench.round(Exercise { decode_tokens: args.decode.min(WARM_UP_TOKENS), ..exercise })?;
    let rounds: Vec<_> =
        (0..args.rounds.max(1)).map(|_| bench.round(exercise)).collect::<Result<_, _>>()?;
    let processor = (bench.loaded().device == "cpu").then(kernels::Cpu::current);
    let threads = processor.map(|cpu| cpu.pool.threads());
    let figures = Figures {
        instructions: processor.map(|cpu| cpu.isa.name()),
        threads,
        memory: args.memory.then(|| Bandwidth::measure(threads.unwrap_or(1))),
        ..Figures::of(&args, &bench.loaded().device, &rounds)
    };
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
    ModelFiles::of_folder(model, folder).with_context(|| format!("cannot read `{model}`"))
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
    /// Of our kernels, where they compute.
    instructions: Option<&'static str>,
    threads: Option<usize>,
    memory: Option<Bandwidth>,
    parts: Option<Parts>,
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
            instructions: None,
            threads: None,
            memory: None,
            parts: args.parts.then(|| Parts::of(rounds)),
        }
    }

    fn text(&self) -> String {
        let [_, prefill, _] = self.prefill.0;
        let mut text = format!(
            "{}\n  prefill        {}, {:.3} ms a token\n  decode         {}\n  a decode step  MLX {} in {} calls, own {}\n  peak memory    {}\n",
            self.title,
            self.prefill.text("tokens/s", 1),
            1e3 / prefill,
            self.decode.text("tokens/s", 1),
            self.inside.text("µs", 0),
            self.calls,
            self.own.text("µs", 1),
            terminal::humane::bytes(self.peak_bytes),
        );
        if let (Some(instructions), Some(threads)) = (self.instructions, self.threads) {
            text += &format!("  kernels        {instructions}, threads: {threads}\n");
        }
        if let Some(memory) = &self.memory {
            let (one, all) = (memory.one / 1e9, memory.all / 1e9);
            text += &format!("  memory reads   {all:.1} GB/s, one thread {one:.1} GB/s\n");
        }
        if let Some(parts) = &self.parts {
            text += &parts.text();
        }
        text
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
            "instructions": self.instructions,
            "threads": self.threads,
            "decode_parts": self.parts.as_ref().map(Parts::json),
            "memory_bytes_per_second": self.memory.as_ref().map(|memory| json!({"one_thread": memory.one, "all_threads": memory.all})),
        });
        format!("{value}\n")
    }
}
