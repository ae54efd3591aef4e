//! What lanes in fewer bits cost a GPU, or another way to attend would: 28 layers of Qwen3-0.6B's shape, one after the
//! other as in a step, over remembered tokens. `cargo bench -p models --bench lanes`; on the CPU it says little.
//!
//! Prints the least time of a layer for each (others who use the machine only add to it). "Products" attends by products
//! with codes as they lie (scores, softmax, sum), without writing anything.

use std::time::{Duration, Instant};

use mlx::{Array, Dtype, Mode, Quantized};
use models::nn::{AttentionOptions, attend};
use models::{Batch, Cache, KvShape, KvType, Memory, Slot};

const HEADS: i32 = 16;
const KV_HEADS: i32 = 8;
const WIDTH: i32 = 128;
const LAYERS: usize = 28;
const ROUNDS: usize = 8;
const GROUP: i32 = 32;
const SCALE: f32 = 0.088;

struct Lanes {
    memory: Memory,
    slots: Vec<Slot>,
}

fn main() {
    if let Err(error) = mlx::open() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    println!("on the {}", mlx::device());
    for (history, sequences, rows) in [(2048, 1, 1), (8192, 1, 1), (2048, 8, 1), (2048, 1, 512)] {
        println!("{rows} rows of each of {sequences} sequences, after {history} tokens:");
        for kv_type in [KvType::Full, KvType::Q8, KvType::Q4] {
            let mut lanes = Lanes::new(kv_type, sequences, history);
            println!("  lanes as {kv_type:?}: {:.1?}", least(|| lanes.step(rows, history)));
        }
        for bits in [8, 4] {
            let took = mlx::catch(|| products(bits, sequences as i32, rows as i32, history as i32));
            match took {
                Ok(took) => println!("  products with {bits} bits: {took:.1?}"),
                Err(error) => println!("  products with {bits} bits: {error}"),
            }
        }
    }
}

/// Of a layer.
fn least(mut step: impl FnMut() -> Array) -> Duration {
    let mut least = Duration::MAX;
    // The first ones compile.
    for round in 0..ROUNDS + 2 {
        let begin = Instant::now();
        let out = step();
        mlx::eval(&[&out]).unwrap_or_else(|error| panic!("{error}"));
        if round > 1 {
            least = begin.elapsed().min(least);
        }
    }
    least / LAYERS as u32
}

fn numbers(shape: &[i32], seed: u64) -> Array {
    mlx::random::normal(shape, Dtype::Bf16, 0.0, 1.0, &mlx::random::key(seed))
}

impl Lanes {
    fn new(kv_type: KvType, sequences: usize, history: usize) -> Lanes {
        let caches = (0..LAYERS).map(|_| Cache::key_value(KvShape::new(KV_HEADS, WIDTH)));
        let memory = Memory::new(Dtype::Bf16, caches).with_kv_type(kv_type).in_lanes();
        let mut lanes = Lanes { memory, slots: Vec::new() };
        lanes.slots = (0..sequences).map(|_| lanes.memory.open()).collect();
        let out = lanes.step(history, history);
        mlx::eval(&[&out]).unwrap_or_else(|error| panic!("{error}"));
        lanes
    }

    /// After many rows, what was there before is there again.
    fn step(&mut self, rows: usize, history: usize) -> Array {
        if rows > 1 && self.memory.length(self.slots[0]) > history {
            self.slots.iter().for_each(|slot| self.memory.rewind(*slot, history));
        }
        let parts: Vec<(Slot, usize)> = self.slots.iter().map(|slot| (*slot, rows)).collect();
        let all = (rows * parts.len()) as i32;
        let mut batch = Batch::new(mlx::zeros(&[all], Dtype::U32), &parts, &self.memory);
        let split =
            |heads: i32, seed: u64| batch.split_heads(&numbers(&[all, heads * WIDTH], seed), heads);
        let (mut queries, keys, values) = (split(HEADS, 1), split(KV_HEADS, 2), split(KV_HEADS, 3));
        for cache in self.memory.step(&mut batch) {
            let history = cache.append(&batch, &keys, &values);
            queries = attend(&queries, &history, &AttentionOptions::causal(SCALE));
        }
        queries
    }
}

fn products(bits: i32, sequences: i32, rows: i32, history: i32) -> Duration {
    let quantised = |seed: u64| {
        let x = numbers(&[sequences, KV_HEADS, history, WIDTH], seed);
        let (w, scales, biases) = mlx::quantize(&x, GROUP, bits, Mode::Affine);
        [Some(w), Some(scales), biases]
            .map(|x| x.map_or_else(|| numbers(&[1], 1), |x| x.expand_dims(&[2])))
    };
    let (keys, values) = (quantised(2), quantised(3));
    let parts = |[w, scales, biases]: &[Array; 3], x: &Array, transpose: bool| {
        let q = Quantized {
            w,
            scales,
            biases: Some(biases),
            group_size: GROUP,
            bits,
            mode: Mode::Affine,
        };
        mlx::quantized_matmul(x, &q, transpose)
    };
    let group = HEADS / KV_HEADS;
    let queries = numbers(&[sequences, KV_HEADS, group, rows, WIDTH], 1);
    least(|| {
        let mut x = queries.clone();
        for _ in 0..LAYERS {
            let scores = parts(&keys, &(&x * SCALE), true).softmax_precise(&[-1]);
            x = parts(&values, &scores, false);
        }
        x
    })
}
