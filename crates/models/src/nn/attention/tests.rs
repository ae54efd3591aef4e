//! Attention through caches against its definition: pages and lanes, ragged batches, windows, caps, sinks, stored types.

use std::sync::OnceLock;

use super::*;
use crate::batch::Batch;
use crate::cache::{Cache, KvShape, KvType, Memory, Slot};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 32;
const SCALE: f32 = 0.3;
const PAGE_TOKENS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: Dtype,
    kv_type: KvType,
    in_lanes: bool,
    window: Option<usize>,
    mask: Mask,
    softcap: Option<f32>,
    sinks: bool,
}

const PLAIN: Case = Case {
    dtype: Dtype::F32,
    kv_type: KvType::Full,
    in_lanes: false,
    window: None,
    mask: Mask::Causal,
    softcap: None,
    sinks: false,
};

impl Case {
    /// How far results may be from the definition, whose values reach 2: rounding of what comes in and of what comes out
    /// in bf16 (2^-9 of each), a half step of 8 bits, a whole one of 4 (the number furthest from the largest of its group
    /// is cut off), through keys (of scores up to 10) and values. In lanes scales, biases and what is made of them are bf16
    /// too where keys and values are: three more roundings.
    fn bound(&self) -> f32 {
        match (self.kv_type, self.dtype) {
            // Pages and lanes, which make their codes apart from each other, are 0.52 off at the same number.
            (KvType::Q4, _) => 0.6,
            (KvType::Q8, Dtype::Bf16) if self.in_lanes => 0.08 + self.scores_bound(),
            (KvType::Q8, _) => 0.04,
            (KvType::Full, Dtype::F32) => 1e-5,
            (KvType::Full, _) => 0.04 + self.scores_bound(),
        }
    }

    /// For heads as narrow as these MLX has no fused kernel on a GPU, and what it does instead rounds scores to bf16: those
    /// between 8 and 16 by up to 1/32, and weights of values up to 2 by as large a part.
    fn scores_bound(&self) -> f32 {
        if self.in_lanes && mlx::device() == Device::Gpu { 2.0 / 32.0 } else { 0.0 }
    }

    fn memory(&self) -> Memory {
        mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
        // Pages are the CPU's; lanes are tested on what the machine has.
        static USUAL: OnceLock<Device> = OnceLock::new();
        let usual = *USUAL.get_or_init(mlx::device);
        mlx::set_device(if self.in_lanes { usual } else { Device::Cpu });
        let shape = KvShape::new(KV_HEADS as i32, WIDTH as i32);
        let cache = match self.window {
            Some(window) => Cache::window(shape, window),
            None => Cache::key_value(shape),
        };
        let memory = Memory::new(self.dtype, [cache]).with_page_tokens(PAGE_TOKENS);
        let memory = memory.with_kv_type(self.kv_type);
        if self.in_lanes { memory.in_lanes() } else { memory }
    }

    fn seen(&self, position: usize, total: usize) -> std::ops::Range<usize> {
        let end = if self.mask == Mask::Causal { position + 1 } else { total };
        let start = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        start..end
    }
}

fn numbers(rows: usize, width: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 252.0 - 2.0;
    (0..rows * width).map(value).collect()
}

fn sinks() -> Vec<f32> {
    (0..HEADS).map(|head| head as f32 * 0.7 - 1.0).collect()
}

/// One query row against the keys and values of its own sequence, by the definition.
fn by_definition(
    case: &Case,
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    seen: std::ops::Range<usize>,
) -> Vec<f32> {
    let of = |rows: &[f32], position: usize, head: usize| {
        let begin = (position * KV_HEADS + head * KV_HEADS / HEADS) * WIDTH;
        rows[begin..begin + WIDTH].to_vec()
    };
    let mut out = Vec::new();
    for (head, query) in query.chunks(WIDTH).enumerate() {
        let score = |p| {
            let dot: f32 = of(keys, p, head).iter().zip(query).map(|(k, q)| k * q).sum();
            case.softcap.map_or(dot * SCALE, |cap| cap * (dot * SCALE / cap).tanh())
        };
        let weights: Vec<f32> = seen.clone().map(|position| score(position).exp()).collect();
        let sink = if case.sinks { sinks()[head].exp() } else { 0.0 };
        let sum: f32 = weights.iter().sum::<f32>() + sink;
        out.extend((0..WIDTH).map(|i| {
            let terms =
                seen.clone().zip(&weights).map(|(p, weight)| weight * of(values, p, head)[i]);
            terms.sum::<f32>() / sum
        }));
    }
    out
}

struct Session {
    case: Case,
    memory: Memory,
    slots: Vec<Slot>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Session {
    fn new(case: Case, count: usize) -> Session {
        let mut memory = case.memory();
        let slots = (0..count).map(|_| memory.open()).collect();
        Session { case, memory, slots, keys: vec![vec![]; count], values: vec![vec![]; count] }
    }

    /// Numbers of a sequence depend on it and its position alone.
    fn rows(&self, index: usize, length: usize, width: usize, seed: usize) -> Vec<f32> {
        let position = self.memory.length(self.slots[index]);
        numbers(position + length, width, seed + 10 * index)[position * width..].to_vec()
    }

    /// A pass over so many rows of each of these sequences; the output rows of each.
    fn pass(&mut self, parts: &[(usize, usize)]) -> Vec<Vec<f32>> {
        let lengths: Vec<_> = parts.iter().map(|(i, length)| (self.slots[*i], *length)).collect();
        let rows: usize = parts.iter().map(|(_, length)| length).sum();
        let mut batch = Batch::new(mlx::zeros(&[rows as i32], Dtype::U32), &lengths, &self.memory);
        let all = |width: usize, seed: usize| -> Vec<f32> {
            parts.iter().flat_map(|&(i, length)| self.rows(i, length, width, seed)).collect()
        };
        let (q, k, v) = (all(HEADS * WIDTH, 0), all(KV_HEADS * WIDTH, 1), all(KV_HEADS * WIDTH, 2));
        for &(i, length) in parts {
            let (keys, values) = (
                self.rows(i, length, KV_HEADS * WIDTH, 1),
                self.rows(i, length, KV_HEADS * WIDTH, 2),
            );
            self.keys[i].extend(keys);
            self.values[i].extend(values);
        }
        let split = |x: &[f32], heads: usize| {
            let x = Array::from_slice(x, &[rows as i32, (heads * WIDTH) as i32]);
            batch.split_heads(&x.cast(self.case.dtype), heads as i32)
        };
        let sinks = Array::from_slice(&sinks(), &[HEADS as i32]).cast(self.case.dtype);
        let options = AttentionOptions {
            mask: self.case.mask,
            softcap: self.case.softcap,
            sinks: self.case.sinks.then_some(&sinks),
            ..AttentionOptions::causal(SCALE)
        };
        let (queries, keys, values) = (split(&q, HEADS), split(&k, KV_HEADS), split(&v, KV_HEADS));
        let cache = self.memory.step(&mut batch).next().unwrap();
        let history = cache.append(&batch, &keys, &values);
        let out = attend(&queries, &history, &options);
        let found: Vec<f32> = batch.merge_heads(&out).cast(Dtype::F32).to_vec().unwrap();
        let mut begin = 0;
        parts
            .iter()
            .map(|(_, length)| {
                let own = &found[begin * HEADS * WIDTH..(begin + length) * HEADS * WIDTH];
                begin += length;
                own.to_vec()
            })
            .collect()
    }

    /// The sequence goes on with its first `length` tokens: with what it has of them, or with their pages as they come
    /// back from a file.
    fn go_back(&mut self, index: usize, length: usize, from_file: bool) {
        let slot = self.slots[index];
        if from_file {
            let pages = self.memory.pages(slot)[..length.div_ceil(PAGE_TOKENS)].to_vec();
            let files: Vec<Vec<u8>> =
                pages.iter().map(|page| self.memory.export(*page).unwrap()).collect();
            self.memory.close(slot);
            let pages: Vec<_> =
                files.iter().map(|file| self.memory.import(file).unwrap()).collect();
            self.slots[index] = self.memory.open_on(&pages, length, None);
            pages.iter().for_each(|page| self.memory.release(*page));
        } else {
            self.memory.rewind(slot, length);
        }
        self.keys[index].truncate(length * KV_HEADS * WIDTH);
        self.values[index].truncate(length * KV_HEADS * WIDTH);
    }

    fn check(&mut self, parts: &[(usize, usize)]) {
        let queries: Vec<Vec<f32>> =
            parts.iter().map(|&(i, length)| self.rows(i, length, HEADS * WIDTH, 0)).collect();
        let starts: Vec<usize> =
            parts.iter().map(|&(i, _)| self.memory.length(self.slots[i])).collect();
        let found = self.pass(parts);
        for (place, &(i, length)) in parts.iter().enumerate() {
            let total = starts[place] + length;
            for row in 0..length {
                let at = row * HEADS * WIDTH..(row + 1) * HEADS * WIDTH;
                let seen = self.case.seen(starts[place] + row, total);
                let query = &queries[place][at.clone()];
                let expected =
                    by_definition(&self.case, query, &self.keys[i], &self.values[i], seen);
                for (found, expected) in found[place][at].iter().zip(&expected) {
                    let what = format!("{:?} {parts:?}, sequence {i}, row {row}", self.case);
                    let off = (found - expected).abs();
                    assert!(off <= self.case.bound(), "{what}: {found}, not {expected}");
                }
            }
        }
    }
}

fn check(case: Case) {
    let mut one = Session::new(case, 1);
    for length in [1, 1, 5, 1, 9, 1] {
        one.check(&[(0, length)]);
    }
    let mut in_step = Session::new(case, 3);
    for length in [2, 1, 1, 3] {
        in_step.check(&[(0, length), (1, length), (2, length)]);
    }
    // The first one stays alone with a block of three.
    in_step.check(&[(1, 1), (2, 1)]);
    in_step.check(&[(0, 1)]);
    let mut ragged = Session::new(case, 3);
    ragged.check(&[(0, 4), (1, 1), (2, 2)]);
    ragged.check(&[(2, 1), (0, 11)]);
    ragged.check(&[(1, 1), (0, 1), (2, 8)]);
    ragged.check(&[(0, 1), (1, 3), (2, 1)]);
    ragged.go_back(0, 14, false);
    ragged.check(&[(0, 2), (2, 1)]);
    ragged.go_back(2, 11, true);
    ragged.check(&[(0, 1), (1, 1), (2, 3)]);
    if case.in_lanes {
        decode_together(&mut ragged);
    }
}

/// For long enough that their lanes come together; then one leaves, and one joins.
fn decode_together(ragged: &mut Session) {
    for _ in 0..7 {
        ragged.check(&[(0, 1), (1, 1), (2, 1)]);
    }
    ragged.go_back(1, 7, false);
    for _ in 0..6 {
        ragged.check(&[(0, 1), (2, 1)]);
    }
    ragged.check(&[(1, 9), (0, 1), (2, 1)]);
    ragged.go_back(2, 21, true);
    for _ in 0..6 {
        ragged.check(&[(1, 1), (0, 1), (2, 1)]);
    }
}

#[test]
fn attention_is_what_its_definition_says() {
    for in_lanes in [false, true] {
        let plain = Case { in_lanes, ..PLAIN };
        check(plain);
        check(Case { mask: Mask::Full, ..plain });
        check(Case { softcap: Some(3.0), ..plain });
        check(Case { sinks: true, ..plain });
        check(Case { softcap: Some(3.0), sinks: true, ..plain });
        check(Case { dtype: Dtype::Bf16, ..plain });
        for window in [1, 3, 8] {
            let windowed = Case { window: Some(window), ..plain };
            check(windowed);
            check(Case { softcap: Some(3.0), sinks: true, ..windowed });
        }
    }
    for (kv_type, in_lanes) in [KvType::Q8, KvType::Q4].map(|t| [(t, false), (t, true)]).concat() {
        let fewer = Case { kv_type, in_lanes, ..PLAIN };
        check(fewer);
        check(Case { softcap: Some(3.0), sinks: true, ..fewer });
        check(Case { dtype: Dtype::Bf16, window: Some(5), ..fewer });
    }
}

/// Bit for bit: codes are copied, not made again.
#[test]
fn pages_of_lanes_come_back_as_they_were() {
    for kv_type in [KvType::Full, KvType::Q8, KvType::Q4] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let case = Case { kv_type, dtype, in_lanes: true, ..PLAIN };
            let (mut kept, mut back) = (Session::new(case, 1), Session::new(case, 1));
            for session in [&mut kept, &mut back] {
                session.pass(&[(0, 10)]);
                session.pass(&[(0, 1)]);
            }
            kept.go_back(0, 9, false);
            back.go_back(0, 9, true);
            assert_eq!(kept.pass(&[(0, 3)]), back.pass(&[(0, 3)]), "{case:?}");
        }
    }
}

/// Bit for bit: what else is in the batch is not to be seen in a sequence's rows.
#[test]
fn a_sequence_in_a_batch_is_the_sequence_alone() {
    let steps: [&[(usize, usize)]; 5] = [
        &[(0, 7), (1, 1), (2, 3)],
        &[(1, 1), (0, 1)],
        &[(2, 9), (1, 1), (0, 1)],
        &[(0, 1), (1, 1), (2, 1)],
        &[(2, 2), (0, 3)],
    ];
    for kv_type in [KvType::Full, KvType::Q8, KvType::Q4] {
        for window in [None, Some(6)] {
            let case = Case { kv_type, window, ..PLAIN };
            let (mut together, mut alone) = (Session::new(case, 3), Session::new(case, 3));
            for step in steps {
                let found = together.pass(step);
                let expected: Vec<Vec<f32>> =
                    step.iter().flat_map(|part| alone.pass(&[*part])).collect();
                assert_eq!(found, expected, "{case:?} {step:?}");
            }
        }
    }
}
