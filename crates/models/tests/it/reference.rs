//! The reference's top-20 log-probabilities and greedy continuations, in f32 and in bf16.
//!
//! Tolerances are the fixtures' own: f32 as the reference computes; bf16 three times what the reference itself loses
//! when it computes in bf16.

use fixtures::{Greedy, Prompt, Reference, Tolerance};
use mlx::Dtype;

use crate::support::{Checkpoint, DECODERS, Session, best};

#[test]
fn float32_agrees_with_the_reference() {
    check_float32();
}

/// The way of devices that have none of our kernels.
#[test]
fn float32_agrees_with_the_reference_on_mlx_alone() {
    mlx::cpu::with_mlx_alone(check_float32);
}

fn check_float32() {
    for name in DECODERS {
        let reference = Reference::read(&fixtures::arch(name)).unwrap();
        let tolerance = reference.tolerance.unwrap().f32;
        let mut session = Session::new(Checkpoint::of(name).load(Some(Dtype::F32)));
        for prompt in &reference.prompts {
            check_positions(name, &mut session, prompt, tolerance);
            // Every greedy step is wider than what f32 can lose, so every step must be the same.
            check_greedy(name, &mut session, prompt, tolerance, 0.0);
        }
    }
}

#[test]
fn bfloat16_agrees_with_the_reference() {
    for name in DECODERS {
        let reference = Reference::read(&fixtures::arch(name)).unwrap();
        let tolerance = reference.tolerance.unwrap().bf16;
        let checkpoint = Checkpoint::of(name);
        let session = Session::new(checkpoint.load(None));
        let mut session = session.guided(checkpoint.load(Some(Dtype::F32)));
        for prompt in &reference.prompts {
            check_positions(name, &mut session, prompt, tolerance);
            check_greedy(name, &mut session, prompt, tolerance, tolerance);
        }
    }
}

fn check_positions(name: &str, session: &mut Session, prompt: &Prompt, tolerance: f32) {
    let rows = session.alone(&prompt.ids);
    assert!(!prompt.positions.is_empty());
    for (position, top) in &prompt.positions {
        for (id, expected) in top {
            let found = rows[*position][*id as usize];
            let what =
                format!("{name}, prompt of {}, position {position}, id {id}", prompt.ids.len());
            assert!(
                (found - expected).abs() <= tolerance,
                "{what}: {found}, not {expected} ± {tolerance}"
            );
        }
    }
}

/// A step may go another way where its gap is below `gap_min`; what follows then means nothing.
fn check_greedy(name: &str, session: &mut Session, prompt: &Prompt, tolerance: f32, gap_min: f32) {
    let Greedy { ids, logprobs, gaps } = prompt.greedy.as_ref().unwrap();
    assert_eq!(ids.len(), 24);
    let slot = session.open();
    let mut rows = session.step(&[(slot, &prompt.ids)]);
    for (step, expected) in ids.iter().enumerate() {
        let row = rows.last().unwrap();
        let found = best(row);
        let what = format!("{name}, prompt of {}, greedy step {step}", prompt.ids.len());
        if found != *expected && gaps[step] < gap_min {
            break;
        }
        assert_eq!(found, *expected, "{what}, whose gap is {}", gaps[step]);
        let (found, expected_logprob) = (row[*expected as usize], logprobs[step]);
        assert!(
            (found - expected_logprob).abs() <= tolerance,
            "{what}: {found}, not {expected_logprob}"
        );
        rows = session.step(&[(slot, &[*expected])]);
    }
    session.close(slot);
}

/// Of a model that sees pictures, the text half: prompts without any.
#[test]
fn the_text_half_agrees_with_the_reference() {
    for name in ["gemma3-vl"] {
        let reference = Reference::read(&fixtures::arch(name)).unwrap();
        let Tolerance { f32, bf16 } = reference.tolerance.unwrap();
        for (dtype, tolerance, gap_min) in [(Some(Dtype::F32), f32, 0.0), (None, bf16, bf16)] {
            let mut session = Session::new(Checkpoint::of(name).load(dtype));
            let prompt = &reference.prompts[0];
            check_positions(name, &mut session, prompt, tolerance);
            check_greedy(name, &mut session, prompt, tolerance, gap_min);
        }
    }
}

/// Embedders of the family: the last token's hidden state, normalised.
#[test]
fn the_embedder_agrees_with_the_reference() {
    let name = "qwen3-embedding";
    let reference = Reference::read(&fixtures::arch(name)).unwrap();
    let bf16_loss = 1.0 - reference.transformers_bf16_min_cosine.unwrap();
    let bounds = [(Some(Dtype::F32), 0.9999), (None, 1.0 - 3.0 * bf16_loss)];
    for (dtype, bound) in bounds {
        let mut session = Session::new(Checkpoint::of(name).load(dtype));
        assert!(!reference.items.is_empty());
        for item in &reference.items {
            let slot = session.memory.open();
            let hidden = session.hidden(&[(slot, &item.ids)]).cast(Dtype::F32);
            let hidden = hidden.to_vec::<f32>().unwrap();
            let last = &hidden[hidden.len() - item.embedding.len()..];
            let cosine = cosine(last, &item.embedding);
            assert!(cosine > bound, "{name} {dtype:?}: {cosine}, not above {bound}");
            session.memory.close(slot);
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
