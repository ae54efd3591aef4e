//! Many chats at once, ours beside llama.cpp's server, over the same shape with random weights: what a second chat waits for,
//! what a long prompt does to running replies, what is computed twice, and what a restart forgets.
//!
//! `cargo xtask bench serving --llama-server PATH [--rounds N] [--scenes long-prompt,restart]` makes both checkpoints and
//! runs this.

mod client;
mod scenes;
mod server;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};

use scenes::{Figure, Scene, play};
use server::{Llama, Ours, Server};

#[derive(Parser)]
struct Wish {
    #[arg(long)]
    ollmlx: PathBuf,
    /// A folder as `cargo xtask bench` makes it, with a tokenizer of words.
    #[arg(long)]
    checkpoint: PathBuf,
    #[arg(long)]
    llama_server: Option<PathBuf>,
    #[arg(long)]
    gguf: Option<PathBuf>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// All, if none is named.
    #[arg(long, value_delimiter = ',')]
    scenes: Vec<Scene>,
    /// Words of the prompts stay below this.
    #[arg(long, default_value_t = 150_000)]
    vocabulary: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let wish = Wish::parse();
    // The client asks for one before it knows that nothing here is encrypted; a second time is no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let work = tempfile::tempdir()?;
    let ours = Ours::prepare(&wish.ollmlx, &wish.checkpoint, work.path(), wish.threads)?;
    let mut servers: Vec<(&str, Box<dyn Server>)> = vec![("ollmlx", Box::new(ours))];
    if let Some(program) = &wish.llama_server {
        let gguf = wish.gguf.clone().context("--llama-server needs --gguf")?;
        servers.push(("llama.cpp", Box::new(Llama::new(program, &gguf, wish.threads))));
    }
    let scenes = match &wish.scenes[..] {
        [] => Scene::value_variants(),
        some => some,
    };
    let mut figures: Vec<Vec<Vec<Figure>>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 0..wish.rounds.max(1) {
        for ((name, server), figures) in servers.iter_mut().zip(&mut figures) {
            let played = play(server.as_mut(), scenes, round as u32, wish.vocabulary).await;
            let played = played.with_context(|| format!("{name}, round {}", round + 1))?;
            for figure in &played {
                eprintln!(
                    "{name} {}: {} {:.3} {}",
                    round + 1,
                    figure.what,
                    figure.value,
                    figure.unit
                );
            }
            figures.push(played);
        }
    }
    report(&servers.iter().map(|(name, _)| *name).collect::<Vec<_>>(), &figures);
    Ok(())
}

/// Medians with their spread, a column for each server.
fn report(names: &[&str], figures: &[Vec<Vec<Figure>>]) {
    println!("| what | unit | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for (index, figure) in figures[0][0].iter().enumerate() {
        let cells = figures.iter().map(|rounds| {
            let mut values: Vec<f64> = rounds.iter().map(|round| round[index].value).collect();
            values.sort_by(f64::total_cmp);
            let [least, middle, most] = [0, values.len() / 2, values.len() - 1].map(|i| values[i]);
            format!("{middle:.2} ({least:.2}–{most:.2})")
        });
        println!(
            "| {} | {} | {} |",
            figure.what,
            figure.unit,
            cells.collect::<Vec<_>>().join(" | ")
        );
    }
}
