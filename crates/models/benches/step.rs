//! What building a decode step costs: the graph of 28 layers in Qwen3-0.6B's arrangement, narrow, so that computing it
//! takes no time worth mentioning. `cargo bench -p models --bench step`.
//!
//! Prints the time per step to build the graph, split into MLX's share and ours, its calls, and the time to evaluate it:
//! for one sequence, for several in step, and for several at different positions. Reading the clock around each call is
//! counted as ours.

use std::time::{Duration, Instant};

use fixtures::{Encoding, random_checkpoint};
use mlx::Array;
use models::{Batch, Memory, Model, Slot, Weights};

const STEPS: u32 = 200;

const CONFIG: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 256, "hidden_size": 64,
    "intermediate_size": 64, "num_hidden_layers": 28, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "tie_word_embeddings": true}"#;

fn main() {
    if let Err(error) = mlx::open() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    for (name, encoding) in
        [("bf16", Encoding::Bf16), ("4-bit", Encoding::Affine { bits: 4, group_size: 32 })]
    {
        let model = model(encoding);
        measure(&format!("{name}, 1 sequence"), model.as_ref(), &[10]);
        measure(&format!("{name}, 8 sequences in step"), model.as_ref(), &[10; 8]);
        let positions: Vec<usize> = (10..18).collect();
        measure(&format!("{name}, 8 sequences apart"), model.as_ref(), &positions);
    }
}

fn model(encoding: Encoding) -> Box<dyn Model> {
    let load = || -> Result<_, Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        random_checkpoint(CONFIG, 1, folder.path(), encoding)?;
        let config = std::fs::read_to_string(folder.path().join("config.json"))?;
        Ok(models::load(&config, Weights::from_folder(folder.path())?)?)
    };
    load().unwrap_or_else(|error| panic!("{error}"))
}

fn measure(name: &str, model: &dyn Model, positions: &[usize]) {
    let mut memory = model.memory();
    let slots: Vec<Slot> =
        positions.iter().map(|position| prefilled(model, &mut memory, *position)).collect();
    let parts: Vec<(Slot, usize)> = slots.iter().map(|slot| (*slot, 1)).collect();
    let (mut building, mut inside, mut evaluating, mut calls) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO, 0);
    for _ in 0..STEPS {
        let tokens = mlx::zeros(&[parts.len() as i32], mlx::Dtype::U32);
        mlx::meter::start();
        let begin = Instant::now();
        let batch = Batch::new(tokens, &parts, &memory);
        let logits = model.logits(&model.forward(batch, &mut memory));
        building += begin.elapsed();
        let meter = mlx::meter::stop();
        (inside, calls) = (inside + meter.time, calls + meter.calls);
        let begin = Instant::now();
        eval(&[&logits]);
        evaluating += begin.elapsed();
    }
    println!(
        "{name}: build {:?} (ours {:?}, {} calls), evaluate {:?}",
        building / STEPS,
        (building - inside) / STEPS,
        calls / u64::from(STEPS),
        evaluating / STEPS
    );
}

fn prefilled(model: &dyn Model, memory: &mut Memory, length: usize) -> Slot {
    let slot = memory.open();
    let batch =
        Batch::new(mlx::zeros(&[length as i32], mlx::Dtype::U32), &[(slot, length)], memory);
    eval(&[&model.forward(batch, memory)]);
    slot
}

fn eval(arrays: &[&Array]) {
    mlx::eval(arrays).unwrap_or_else(|error| panic!("{error}"));
}
