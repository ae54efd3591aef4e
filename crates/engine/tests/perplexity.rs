//! What the fast kernels cost in accuracy: the perplexity of the embedded model, quantised as checkpoints are, on text of its kind, against the same weights dequantised and computed in f32 throughout. Needs MLX (`cargo xtask mlx`).

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx::{Array, Dtype, Mode, Quantized};
use models::{Batch, KvType, Memory, Model, Slot, Weights};
use serde_json::{Value, json};

/// Of a perplexity: what the rounding of activations (to 8 bits for products, to bf16 between them) may cost.
const TOLERANCE: f64 = 0.001;

/// Tokens that are predicted in one text.
const WRITTEN: usize = 192;

/// The fewest texts that are enough for differences of single tokens to even out.
const TEXTS: usize = 32;

/// A question, and what the exact model drew as its continuation.
struct Text {
    tokens: Vec<u32>,
    prompt: usize,
}

fn pocket() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket")
}

/// Texts of the kind that `model` was trained to write: its own, drawn from all that it holds possible. Questions that it
/// was not trained on begin them.
fn texts(model: &dyn Model, count: usize) -> Vec<Text> {
    let mut memory = model.memory();
    let mut dice = Dice(1);
    let mut texts: Vec<Text> =
        prompts(count).into_iter().map(|tokens| Text { prompt: tokens.len(), tokens }).collect();
    let slots: Vec<_> = texts.iter().map(|_| memory.open()).collect();
    for (text, slot) in texts.iter_mut().zip(&slots) {
        let rows = logits(model, &mut memory, &[(*slot, text.tokens.len())], &text.tokens);
        text.tokens.push(dice.draw(rows.last().unwrap()));
    }
    for _ in 1..WRITTEN {
        let parts: Vec<_> = slots.iter().map(|slot| (*slot, 1)).collect();
        let last: Vec<u32> = texts.iter().map(|text| *text.tokens.last().unwrap()).collect();
        for (text, row) in texts.iter_mut().zip(logits(model, &mut memory, &parts, &last)) {
            text.tokens.push(dice.draw(&row));
        }
    }
    texts
}

/// Questions of all kinds, in the marks of the model's template.
fn prompts(count: usize) -> Vec<Vec<u32>> {
    let files = ["tokenizer.json", "tokenizer_config.json", "config.json"];
    let files: BTreeMap<String, PathBuf> =
        files.map(|name| (name.to_owned(), pocket().join(name))).into();
    let text = text::Text::load(&files).unwrap();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(pocket().join("heldout"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    paths.sort();
    let files: Vec<String> =
        paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    // One question of each kind, then the second of each.
    let at = |turn: usize| files.iter().filter_map(move |file| file.lines().nth(turn));
    let questions = (0..count).flat_map(at).map(question).filter(|text| text.len() < 400);
    let prompts: Vec<Vec<u32>> = questions
        .take(count)
        .map(|q| format!("<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n"))
        .map(|prompt| text.tokenizer().encode(&prompt, false).unwrap())
        .collect();
    assert_eq!(prompts.len(), count, "too few held-out questions");
    prompts
}

fn question(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    let last = line["messages"].as_array().unwrap().last().unwrap().clone();
    last["content"].as_str().unwrap_or_default().to_owned()
}

/// A pseudo-random sequence, the same on every run.
struct Dice(u64);

impl Dice {
    /// A token by its probability.
    fn draw(&mut self, logits: &[f32]) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut left = (self.0 >> 11) as f64 / (1u64 << 53) as f64;
        let whole = log_sum_exp(logits);
        for (token, logit) in logits.iter().enumerate() {
            left -= (f64::from(*logit) - whole).exp();
            if left < 0.0 {
                return token as u32;
            }
        }
        0
    }
}

/// A row for each of `tokens`.
fn logits(
    model: &dyn Model,
    memory: &mut Memory,
    parts: &[(Slot, usize)],
    tokens: &[u32],
) -> Vec<Vec<f32>> {
    let tokens = Array::from_slice(tokens, &[tokens.len() as i32]);
    let batch = Batch::new(tokens, parts, memory);
    let logits = model.logits(&model.forward(batch, memory)).cast(Dtype::F32);
    let wide = logits.dim(-1) as usize;
    logits.to_vec::<f32>().unwrap().chunks(wide).map(<[f32]>::to_vec).collect()
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

fn perplexity(model: &dyn Model, texts: &[Text]) -> f64 {
    perplexity_in(model, model.memory(), texts)
}

fn perplexity_in(model: &dyn Model, mut memory: Memory, texts: &[Text]) -> f64 {
    let sum: f64 = texts.iter().map(|text| surprise(model, &mut memory, text)).sum();
    (sum / (texts.len() * WRITTEN) as f64).exp()
}

/// Negative log-probabilities of what was written, summed.
fn surprise(model: &dyn Model, memory: &mut Memory, text: &Text) -> f64 {
    let slot = memory.open();
    let rows = logits(model, memory, &[(slot, text.tokens.len())], &text.tokens);
    memory.close(slot);
    let written = rows[text.prompt - 1..].iter().zip(&text.tokens[text.prompt..]);
    written.map(|(row, next)| log_sum_exp(row) - f64::from(row[*next as usize])).sum()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|value| f64::from(value - most).exp()).sum();
    f64::from(most) + sum.ln()
}

fn check(bits: i32, group_size: i32) {
    let both = both(bits, group_size);
    let texts = texts(&*both.exact, TEXTS);
    let exact = perplexity(&*both.exact, &texts);
    let fast = perplexity(&*both.quantised, &texts);
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

/// What it costs to remember keys and values in fewer bits, everything else being exact.
#[test]
fn keys_and_values_in_fewer_bits() {
    let both = both(8, 32);
    let texts = texts(&*both.exact, TEXTS);
    let whole = perplexity(&*both.exact, &texts);
    for (kv_type, most) in [(KvType::Q8, 0.0005), (KvType::Q4, 0.05)] {
        let pages = both.exact.memory().with_kv_type(kv_type);
        for (place, memory) in [("pages", pages), ("lanes", lanes_of(&*both.exact, kv_type))] {
            assert_eq!(memory.kv_type(), kv_type, "heads of whole groups");
            let change = perplexity_in(&*both.exact, memory, &texts) / whole - 1.0;
            eprintln!("{place} as {kv_type:?}: perplexity {:+.4} %", 100.0 * change);
            assert!(change.abs() < most, "{place} as {kv_type:?}: {change}");
        }
    }
}

/// As on a GPU.
fn lanes_of(model: &dyn Model, kv_type: KvType) -> Memory {
    model.memory().with_kv_type(kv_type).in_lanes()
}

/// `cargo test --release -p engine --test perplexity lanes_in_bf16 -- --ignored --nocapture`: scales and biases have the
/// dtype of what they stand for, so in bf16 they are coarse too.
#[test]
#[ignore = "minutes; a measurement"]
fn lanes_in_bf16() {
    let both = both(8, 32);
    let texts = texts(&*both.exact, 3 * TEXTS);
    let in_type =
        |kv_type| perplexity_in(&*both.quantised, lanes_of(&*both.quantised, kv_type), &texts);
    let whole = in_type(KvType::Full);
    for (kv_type, most) in [(KvType::Q8, 0.002), (KvType::Q4, 0.05)] {
        let change = in_type(kv_type) / whole - 1.0;
        eprintln!("lanes in bf16 as {kv_type:?}: perplexity {:+.4} %", 100.0 * change);
        assert!(change.abs() < most, "{kv_type:?}: {change}");
    }
}

/// `cargo test --release -p engine --test perplexity -- --ignored --nocapture`: which part costs what, on more text.
#[test]
#[ignore = "minutes; a measurement"]
fn parts_of_the_cost() {
    for (bits, group_size) in [(4, 64), (8, 32)] {
        let both = both(bits, group_size);
        let texts = texts(&*both.exact, 3 * TEXTS);
        let exact = perplexity(&*both.exact, &texts);
        let change = |perplexity: f64| format!("{:+.4} %", 100.0 * (perplexity / exact - 1.0));
        let portable =
            |model: &dyn Model| mlx::cpu::with_portable_products(|| perplexity(model, &texts));
        eprintln!(
            "{bits} bits, {} tokens: perplexity {exact:.4}; all as in use {}, fast products in f32 {}, bf16 with exact products {}, exact products in f32 {}",
            texts.len() * WRITTEN,
            change(perplexity(&*both.quantised, &texts)),
            change(perplexity(&*both.quantised_in_f32, &texts)),
            change(portable(&*both.quantised)),
            change(portable(&*both.quantised_in_f32)),
        );
    }
}
