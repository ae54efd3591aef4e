//! A cache grows in place. In a target of its own, because MLX's memory figures are of the whole process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::cell::Cell;

use mlx::{Array, Device, Dtype, memory};
use models::{Batch, Memory, Model, Slot, Weights};

/// The fixture's cache: positions × 2 heads of 32 × 4 bytes × 3 layers, keys and values.
const fn cache_bytes(positions: usize) -> usize {
    positions * 2 * 32 * 4 * 3 * 2
}

/// What a row may take at its peak beside the cache: its activations are some 24 KiB, one layer's keys are 128.
const ROW_BYTES_MAX: usize = 64 << 10;

struct Sequences {
    model: Box<dyn Model>,
    memory: Memory,
    slots: Vec<Slot>,
}

impl Sequences {
    fn new(count: usize, arrange: impl FnOnce(Memory) -> Memory) -> Sequences {
        let folder = tempfile::tempdir().unwrap();
        fixtures::materialise(&fixtures::arch("qwen3"), folder.path()).unwrap();
        let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let weights = Weights::from_folder(folder.path()).unwrap().in_dtype(Dtype::F32);
        let model = models::load(&config, weights).unwrap();
        let mut memory = arrange(model.memory());
        let slots = (0..count).map(|_| memory.open()).collect();
        Sequences { model, memory, slots }
    }

    /// A pass over `tokens` of each sequence; the next token of each.
    fn step(&mut self, tokens: Array) -> Array {
        let rows = tokens.dim(0) as usize / self.slots.len();
        let parts: Vec<_> = self.slots.iter().map(|slot| (*slot, rows)).collect();
        let batch = Batch::new(tokens, &parts, &self.memory);
        let hidden = self.model.forward(batch, &mut self.memory);
        let last: Vec<i32> = (1..=self.slots.len()).map(|end| (end * rows) as i32 - 1).collect();
        let last = hidden.take(&Array::from_slice(&last, &[last.len() as i32]), 0);
        self.model.logits(&last).argmax(-1, false)
    }

    fn prefill(&mut self, rows: usize) -> Array {
        let tokens = mlx::full(&[(rows * self.slots.len()) as i32], 5.0, Dtype::U32);
        let next = self.step(tokens);
        mlx::eval(&[&next]).unwrap();
        next
    }

    /// The bytes above those in use that `steps` decoding steps take at their peak.
    fn rise(&mut self, mut last: Array, steps: usize) -> usize {
        let before = at_rest();
        memory::reset_peak();
        for _ in 0..steps {
            last = self.step(last);
            mlx::eval(&[&last]).unwrap();
        }
        memory::peak_bytes() - before
    }

    /// The same, each step dispatched before the one before it is waited for.
    fn rise_dispatched_ahead(&mut self, mut last: Array, steps: usize) -> usize {
        let before = at_rest();
        memory::reset_peak();
        for _ in 0..steps {
            let next = self.step(last.clone());
            mlx::async_eval(&[&next]).unwrap();
            mlx::eval(&[&last]).unwrap();
            last = next;
        }
        mlx::eval(&[&last]).unwrap();
        memory::peak_bytes() - before
    }
}

#[test]
fn a_decoding_step_copies_no_cache() {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
    for count in [1, 3] {
        in_lanes(count);
        if mlx::device() == Device::Cpu {
            in_pages(count);
        }
    }
}

/// As on a GPU.
fn in_lanes(count: usize) {
    let mut sequences = Sequences::new(count, Memory::in_lanes);
    let next = sequences.prefill(480);
    let whole = sequences.memory.bytes();
    // Blocks on a GPU have some positions beside whole steps.
    let aside = if mlx::device() == Device::Gpu { 64 } else { 0 };
    assert_eq!(whole, count * cache_bytes(512 + aside));
    let little = little_rises(&mut sequences, count, &next);

    // A fork makes its origin copy what both remember: this test would see a copy, also beside what a GPU's queue holds.
    let slot = sequences.slots[0];
    let fork = sequences.memory.fork(slot, sequences.memory.length(slot));
    let rise = sequences.rise(next.clone(), 1);
    println!("{count} sequences: a copy of {whole} bytes rises {rise}");
    assert!(rise >= whole, "{count} sequences: {rise} bytes for a copy of {whole}");
    assert!(
        rise >= little + whole * 9 / 10,
        "{count} sequences: {little} without a copy, {rise} with"
    );
    sequences.memory.close(fork);

    sequences.rise(next, 24 + aside);
    let more = count * cache_bytes(768 + aside);
    assert_eq!(sequences.memory.bytes(), more, "position 512 needs more room");
}

fn in_pages(count: usize) {
    let mut sequences = Sequences::new(count, |memory| memory);
    let page = sequences.memory.page_bytes();
    assert_eq!(page, cache_bytes(sequences.memory.page_tokens()));
    let next = sequences.prefill(480);
    assert_eq!(sequences.memory.bytes(), count * cache_bytes(512));
    little_rises(&mut sequences, count, &next);
    assert_eq!(sequences.memory.bytes(), count * cache_bytes(512));

    // What forks share is copied by the page that the first of them writes to.
    let slot = sequences.slots[0];
    let fork = sequences.memory.fork(slot, sequences.memory.length(slot));
    assert_eq!(sequences.memory.bytes(), count * cache_bytes(512));
    sequences.rise(next.clone(), 1);
    assert_eq!(sequences.memory.bytes(), count * cache_bytes(512) + page);
    sequences.memory.close(fork);
    assert_eq!(sequences.memory.bytes(), count * cache_bytes(512));

    sequences.rise(next, 24);
    let more = count * (cache_bytes(512) + page);
    assert_eq!(sequences.memory.bytes(), more, "position 512 needs another page");

    // The receipts of all that was written stay, the pages do not.
    for slot in std::mem::take(&mut sequences.slots) {
        sequences.memory.close(slot);
    }
    assert_eq!(sequences.memory.bytes(), 0);
    assert!(within_a_second(|| mlx::pages::bytes() == 0), "{} bytes stay", mlx::pages::bytes());
}

/// The bytes in use when MLX has let go of all steps, which it does on a thread of its own, on a GPU after `eval` returns.
fn at_rest() -> usize {
    let bytes = Cell::new(memory::active_bytes());
    let rests = || bytes.replace(memory::active_bytes()) == memory::active_bytes();
    (0..5).for_each(|_| assert!(within_a_second(rests), "memory does not come to rest"));
    bytes.get()
}

/// Asked now and then, after a first wait.
fn within_a_second(holds: impl Fn() -> bool) -> bool {
    let wait = std::time::Duration::from_millis(10);
    (0..100).any(|_| {
        std::thread::sleep(wait);
        holds()
    })
}

/// Steps take what their activations need of MLX's memory: on the CPU those of an operation, in a GPU's queue those of all
/// layers, scores included. What a step took.
fn little_rises(sequences: &mut Sequences, count: usize, next: &Array) -> usize {
    let row = if mlx::device() == Device::Gpu { 4 * ROW_BYTES_MAX } else { ROW_BYTES_MAX };
    let little = sequences.rise(next.clone(), 8);
    println!("{count} sequences: steps one by one rise {little} bytes");
    assert!(little < count * row, "{count} sequences: a step took {little} bytes");
    let rise = sequences.rise_dispatched_ahead(next.clone(), 8);
    println!("{count} sequences: steps dispatched ahead rise {rise} bytes");
    let most = 2 * count * row;
    assert!(rise < most, "{count} sequences: steps in a row took {rise} bytes");
    little
}
