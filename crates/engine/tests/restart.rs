//! What a conversation waits for when it goes on in another process: a measurement, on a checkpoint of the shape of
//! Qwen3-0.6B in 4 bits with random weights and a tokenizer of words, which `cargo xtask bench serving` makes.
//! `cargo test --release -p engine --test restart -- --ignored --nocapture`

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::{DiskCache, Surroundings};
use protocol::{Engine, Event, LoadModel, ModelFiles, Options, Outbox, Request, RequestId, Work};

fn load(folder: &Path) -> Box<dyn Engine> {
    let checkpoint =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench/qwen3-0.6b-4-words");
    let model = ModelFiles::of_folder("words", &checkpoint).unwrap();
    let disk_cache = Some(DiskCache { folder: PathBuf::from(folder), bytes_max: 2 << 30 });
    let around = Surroundings { disk_cache, ..Surroundings::default() };
    engine::load(&LoadModel { model, ..LoadModel::default() }, &around, &mut |_, _| {}).unwrap().1
}

#[derive(Default)]
struct Reader {
    first: Option<Instant>,
    cached_tokens: u32,
}

impl Outbox for Reader {
    fn send(&mut self, _: RequestId, event: Event) {
        match event {
            Event::PromptRead { cached_tokens, .. } => {
                (self.first, self.cached_tokens) = (Some(Instant::now()), cached_tokens);
            }
            Event::Failed(failure) => panic!("{failure}"),
            _ => {}
        }
    }

    fn ready(&self, _: RequestId) -> bool {
        true
    }
}

/// The time to the first token, and tokens that were not computed.
fn ask(
    engine: &mut dyn Engine,
    words: std::ops::Range<u32>,
    own: std::ops::Range<u32>,
) -> (Duration, u32) {
    let prompt: String = words.chain(own).map(|word| format!("w{word} ")).collect();
    let options = Options { num_predict: Some(16), seed: Some(1), ..Options::default() };
    let request = Request { options, ..Request::raw(RequestId(1), prompt) };
    let (start, mut reader) = (Instant::now(), Reader::default());
    engine.submit(request, &mut reader);
    while engine.step(&mut reader) == Work::More {}
    (reader.first.unwrap() - start, reader.cached_tokens)
}

#[test]
#[ignore = "a minute; a measurement"]
fn the_first_token_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let words = 10_000 + round * 5000..12_000 + round * 5000;
        let mut engine = load(folder.path());
        ask(&mut *engine, 9000..9064, 0..0);
        let (first, _) = ask(&mut *engine, words.clone(), 0..0);
        drop(engine);
        let mut engine = load(folder.path());
        ask(&mut *engine, 9000..9064, 0..0);
        let (again, cached) = ask(&mut *engine, words.clone(), 90_000..90_040);
        // In the same process: nothing is read.
        let (here, also) = ask(&mut *engine, words, 91_000..91_040);
        let part = |time: Duration| 100.0 * time.as_secs_f64() / first.as_secs_f64();
        println!(
            "{first:.3?}; after a restart {again:.3?} ({:.1} %, {cached} tokens known), without {here:.3?} ({:.1} %, {also})",
            part(again),
            part(here)
        );
        assert!(cached >= 2000, "{cached}");
    }
}
