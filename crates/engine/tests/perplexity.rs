//! What the fast kernels cost in accuracy: the perplexity of the embedded model on held-out text, quantised as checkpoints
//! are, against the same weights dequantised and computed in f32 throughout. Needs MLX (`cargo xtask mlx`).

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx::{Array, Dtype, Mode, Quantized};
use models::{Batch, Memory, Model, Weights};
use serde_json::{Value, json};

/// Of a perplexity: what the rounding of activations (to 8 bits for products, to bf16 between them) may cost.
const TOLERANCE: f64 = 0.001;

/// Tokens that are read at once; the first of them is not predicted.
const WINDOW: usize = 256;

/// The fewest that are enough for differences of single tokens to even out.
const WINDOWS: usize = 24;

fn pocket() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket")
}

/// Questions that the model was not trained on, as one text for each kind, in tokens.
fn windows(count: usize) -> Vec<Vec<u32>> {
    let files = ["tokenizer.json", "tokenizer_config.json", "config.json"];
    let files: BTreeMap<String, PathBuf> =
        files.map(|name| (name.to_owned(), pocket().join(name))).into();
    let text = text::Text::load(&files).unwrap();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(pocket().join("heldout"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let texts: Vec<Vec<u32>> = paths
        .iter()
        .map(|path| text.tokenizer().encode(&questions(path), false).unwrap())
        .collect();
    // One window of each kind, then the second of each.
    let at = |turn: usize| texts.iter().filter_map(move |t| t.chunks_exact(WINDOW).nth(turn));
    let windows: Vec<Vec<u32>> = (0..count).flat_map(at).take(count).map(<[u32]>::to_vec).collect();
    assert_eq!(windows.len(), count, "too little held-out text");
    windows
}

fn questions(path: &Path) -> String {
    let lines = std::fs::read_to_string(path).unwrap();
    let contents = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["messages"].as_array().unwrap().iter().map(content).collect::<String>()
    });
    contents.collect()
}

fn content(message: &Value) -> String {
    format!("{}\n", message["content"].as_str().unwrap_or_default())
}

/// The model as a published checkpoint has it, and its weights dequantised.
struct Both {
    quantised: Box<dyn Model>,
    /// Everything else in f32 too.
    quantised_in_f32: Box<dyn Model>,
    exact: Box<dyn Model>,
}

fn both(bits: i32, group_size: i32) -> Both {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
    let file = mlx::safetensors::SafeTensors::open(pocket().join("model.safetensors")).unwrap();
    let (mut stored, mut dense) = (Vec::new(), Vec::new());
    for (name, _) in file.tensors() {
        let tensor = file.array(name).unwrap().cast(Dtype::Bf16);
        let Some(layer) = name.strip_suffix(".weight").filter(|_| tensor.ndim() == 2) else {
            stored.push((name.to_owned(), tensor.clone()));
            dense.push((name.to_owned(), tensor));
            continue;
        };
        let (w, scales, biases) = mlx::quantize(&tensor, group_size, bits, Mode::Affine);
        let biases = biases.unwrap();
        dense.push((name.to_owned(), dequantised(&w, &scales, &biases, bits, group_size)));
        stored.push((name.to_owned(), w));
        stored.push((format!("{layer}.scales"), scales));
        stored.push((format!("{layer}.biases"), biases));
    }
    let text = std::fs::read_to_string(pocket().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["quantization"] = json!({"bits": bits, "group_size": group_size, "mode": "affine"});
    let config = config.to_string();
    let load = |config: &str, tensors: &[(String, Array)], dtype: Dtype| {
        let weights = Weights::from_arrays(tensors.iter().cloned()).in_dtype(dtype);
        models::load(config, weights).unwrap()
    };
    Both {
        quantised: load(&config, &stored, Dtype::Bf16),
        quantised_in_f32: load(&config, &stored, Dtype::F32),
        exact: load(&text, &dense, Dtype::F32),
    }
}

fn dequantised(w: &Array, scales: &Array, biases: &Array, bits: i32, group_size: i32) -> Array {
    let (scales, biases) = (scales.cast(Dtype::F32), biases.cast(Dtype::F32));
    let parts = Quantized {
        w,
        scales: &scales,
        biases: Some(&biases),
        group_size,
        bits,
        mode: Mode::Affine,
    };
    mlx::dequantize(&parts, Some(Dtype::F32))
}

fn perplexity(model: &dyn Model, windows: &[Vec<u32>]) -> f64 {
    let mut memory = model.memory();
    let sum: f64 = windows.iter().map(|window| surprise(model, &mut memory, window)).sum();
    (sum / (windows.len() * (WINDOW - 1)) as f64).exp()
}

/// Negative log-probabilities of a window's tokens, summed.
fn surprise(model: &dyn Model, memory: &mut Memory, window: &[u32]) -> f64 {
    let slot = memory.open();
    let tokens = Array::from_slice(window, &[window.len() as i32]);
    let batch = Batch::new(tokens, &[(slot, window.len())], memory);
    let logits = model.logits(&model.forward(&batch, memory)).cast(Dtype::F32);
    let wide = logits.dim(-1) as usize;
    let values = logits.to_vec::<f32>().unwrap();
    memory.close(slot);
    let rows = values.chunks(wide).zip(&window[1..]);
    rows.map(|(row, next)| log_sum_exp(row) - f64::from(row[*next as usize])).sum()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|value| f64::from(value - most).exp()).sum();
    f64::from(most) + sum.ln()
}

fn check(bits: i32, group_size: i32) {
    let (both, windows) = (both(bits, group_size), windows(WINDOWS));
    let exact = perplexity(&*both.exact, &windows);
    let fast = perplexity(&*both.quantised, &windows);
    let change = fast / exact - 1.0;
    eprintln!("{bits} bits: perplexity {exact:.4}, with the fast kernels {:+.4} %", 100.0 * change);
    assert!(exact > 1.0 && exact < 4096.0, "a model that has learnt something: {exact}");
    assert!(change.abs() < TOLERANCE, "{bits} bits: {exact} becomes {fast}");
}

#[test]
fn four_bits() {
    check(4, 64);
}

#[test]
fn eight_bits() {
    check(8, 32);
}

/// `cargo test --release -p engine --test perplexity -- --ignored --nocapture`: which part costs what, on more text.
#[test]
#[ignore = "minutes; a measurement"]
fn parts_of_the_cost() {
    let windows = windows(6 * WINDOWS);
    for (bits, group_size) in [(4, 64), (8, 32)] {
        let both = both(bits, group_size);
        let exact = perplexity(&*both.exact, &windows);
        let change = |perplexity: f64| format!("{:+.4} %", 100.0 * (perplexity / exact - 1.0));
        let portable =
            |model: &dyn Model| mlx::cpu::with_portable_products(|| perplexity(model, &windows));
        eprintln!(
            "{bits} bits, {} tokens: perplexity {exact:.4}; all as in use {}, fast products in f32 {}, bf16 with exact products {}, exact products in f32 {}",
            windows.len() * (WINDOW - 1),
            change(perplexity(&*both.quantised, &windows)),
            change(perplexity(&*both.quantised_in_f32, &windows)),
            change(portable(&*both.quantised)),
            change(portable(&*both.quantised_in_f32)),
        );
    }
}
