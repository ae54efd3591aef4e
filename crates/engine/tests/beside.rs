//! What a long prompt costs those whose replies are running, and itself: a measurement, on a checkpoint of the shape of
//! Qwen3-0.6B in 4 bits with random weights, which `cargo xtask bench step` makes.
//! `cargo test --release -p engine --test beside -- --ignored --nocapture`

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::measure::Bench;
use protocol::{LoadModel, ModelFiles};

/// Who measures has the cores to himself.
fn alone() -> MutexGuard<'static, ()> {
    static CORES: Mutex<()> = Mutex::new(());
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bench() -> Bench {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench/qwen3-0.6b-4");
    let model = ModelFiles::of_folder("qwen3-0.6b", &folder).unwrap();
    Bench::load(&LoadModel { model, ..LoadModel::default() }).unwrap()
}

/// Seven chats that begin like one that runs.
#[test]
#[ignore = "a minute; a measurement"]
fn later_chats_with_a_system_prompt_of_2000_tokens() {
    let _alone = alone();
    let mut bench = bench();
    for own in [16, 40] {
        // The first one warms up.
        for _ in 0..2 {
            let round = bench.later(8, 2000, own).unwrap();
            let part = 100.0 * round.slowest.as_secs_f64() / round.first.as_secs_f64();
            eprintln!("{own} own tokens: {round:.3?}, {part:.1} %");
        }
    }
}

#[test]
#[ignore = "minutes; a measurement"]
fn a_prompt_of_800_tokens_beside_two_replies() {
    let _alone = alone();
    let mut bench = bench();
    let rounds: Vec<_> = (0..4).map(|_| bench.beside(2, 800).unwrap()).collect();
    // The first one warms up.
    for round in &rounds {
        eprintln!("{round:.3?}");
        let part = round.beside.as_secs_f64() / round.alone.as_secs_f64();
        eprintln!("  {part:.3} of alone, {} steps", round.steps);
    }
    let longest = rounds[1..].iter().map(|round| round.longest_gap.as_secs_f64());
    assert!(longest.fold(0.0, f64::max) <= 0.4, "a running reply waits too long");
}
