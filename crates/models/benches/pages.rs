//! How many tokens a page should have, and what it is worth to share pages: one layer's append and attention in
//! Qwen3-0.6B's shape over 2,048 remembered tokens, for pages of several sizes and for lanes, in turn; then for sequences
//! that begin with the same 2,000 tokens beside such as share nothing. `cargo bench -p models --bench pages`.
//!
//! Prints the least time of a call for each (others who use the machine only add to it).

use std::time::{Duration, Instant};

use mlx::{Array, Device, Dtype};
use models::nn::{AttentionOptions, attend};
use models::{Batch, Cache, KvShape, KvType, Memory, Slot};

const HEADS: i32 = 16;
const KV_HEADS: i32 = 8;
const WIDTH: i32 = 128;
const HISTORY: usize = 2048;
/// Tokens that sequences have in common where they share.
const SHARED: usize = 2000;

const ROUNDS: usize = 15;

/// Calls recorded one after the other in a round, as layers are.
const CALLS: u32 = 8;

struct Arrangement {
    name: String,
    memory: Memory,
    slots: Vec<Slot>,
}

fn main() {
    if let Err(error) = mlx::open() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    mlx::set_device(Device::Cpu);
    for (what, sequences, rows) in
        [("decode, 1 sequence", 1, 1), ("decode, 8 sequences", 8, 1), ("prefill of 512", 1, 512)]
    {
        compare(what, rows, &mut arrangements(sequences));
    }
    compare("decode", 1, &mut [of_one_kind(1, 0), of_one_kind(8, 0), of_one_kind(8, SHARED)]);
    compare("40 rows each", 40, &mut [of_one_kind(7, 0), of_one_kind(7, SHARED)]);
}

/// All of them in turn, so that what others do to the machine is done to each.
fn compare(what: &str, rows: usize, all: &mut [Arrangement]) {
    let mut least = vec![Duration::MAX; all.len()];
    for _ in 0..ROUNDS {
        for (arrangement, least) in all.iter_mut().zip(&mut least) {
            *least = arrangement.round(rows).min(*least);
        }
    }
    for (arrangement, least) in all.iter().zip(&least) {
        println!("{what}, {}: {:.1?}", arrangement.name, *least / CALLS);
    }
}

/// Pages of 64, of which so many tokens are the same for all sequences.
fn of_one_kind(sequences: usize, shared: usize) -> Arrangement {
    let name = format!("{sequences} sequences, {shared} of {HISTORY} tokens shared");
    let layer = Cache::key_value(KvShape::new(KV_HEADS, WIDTH));
    let mut arrangement =
        Arrangement { name, memory: Memory::new(Dtype::Bf16, [layer]), slots: vec![] };
    let first = arrangement.memory.open();
    arrangement.slots.push(first);
    arrangement.pass(shared.max(1));
    for _ in 1..sequences {
        arrangement.slots.push(arrangement.memory.fork(first, shared));
    }
    arrangement.memory.rewind(first, shared);
    arrangement.pass(HISTORY - shared);
    arrangement
}

fn arrangements(sequences: usize) -> Vec<Arrangement> {
    let memory = || Memory::new(Dtype::Bf16, [Cache::key_value(KvShape::new(KV_HEADS, WIDTH))]);
    let pages = [16, 32, 64, 128, 256]
        .map(|tokens| (format!("pages of {tokens}"), memory().with_page_tokens(tokens)));
    let stored = [KvType::Q8, KvType::Q4]
        .map(|kv_type| (format!("pages of 64 as {kv_type:?}"), memory().with_kv_type(kv_type)));
    let lanes = [("lanes".to_owned(), memory().in_lanes())];
    let all = pages.into_iter().chain(stored).chain(lanes);
    all.map(|(name, mut memory)| {
        let slots = (0..sequences).map(|_| memory.open()).collect();
        let mut arrangement = Arrangement { name, memory, slots };
        arrangement.pass(HISTORY);
        arrangement
    })
    .collect()
}

impl Arrangement {
    /// So many rows for each sequence; after many, what was there before is there again.
    fn round(&mut self, rows: usize) -> Duration {
        let begin = Instant::now();
        for _ in 0..CALLS {
            self.pass(rows);
            // Lanes that write again what they wrote copy themselves first: not what is measured.
            for slot in self.slots.iter().filter(|_| rows > 1) {
                self.memory.rewind(*slot, HISTORY);
            }
        }
        begin.elapsed()
    }

    fn pass(&mut self, rows: usize) {
        let parts: Vec<(Slot, usize)> = self.slots.iter().map(|slot| (*slot, rows)).collect();
        let all = (rows * parts.len()) as i32;
        let mut batch = Batch::new(mlx::zeros(&[all], Dtype::U32), &parts, &self.memory);
        let numbers = |heads: i32| {
            let x = mlx::full(&[all, heads * WIDTH], 0.5, Dtype::Bf16);
            batch.split_heads(&x, heads)
        };
        let (queries, keys, values) = (numbers(HEADS), numbers(KV_HEADS), numbers(KV_HEADS));
        let Some(cache) = self.memory.step(&mut batch).next() else { return };
        let history = cache.append(&batch, &keys, &values);
        let out = attend(&queries, &history, &AttentionOptions::causal(0.1));
        eval(&[&out]);
    }
}

fn eval(arrays: &[&Array]) {
    mlx::eval(arrays).unwrap_or_else(|error| panic!("{error}"));
}
