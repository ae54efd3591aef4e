//! How long everything but the products takes on this machine, for Qwen3-0.6B's shapes.
//!
//! `cargo run --release -p kernels --example rest [-- <filter>]`; `OLLMLX_CPU_ISA` and `OLLMLX_NUM_THREADS` apply. Each
//! figure is the best of some rounds for one call, in one layer; the share of a whole step is beside it. With one thread
//! the figures are of processor time, so that being pushed aside by other processes does not count.

use std::hint::black_box;

use half::bf16;
use kernels::{
    Activation, Append, Attention, Candidate, Cells, CellsMut, Change, Cpu, Draw, Edit, Floats,
    FloatsMut, Gate, Heads, HeadsMut, Kind, Limits, Prepare, QuantizedMatrix, Recurrence,
    RecurrentSegment, RmsNorm, Rope, RopeLayout, Rows, RowsMut, Segment, Span, Stored, StoredMut,
    argmax, attend, embed_quantized, gated, log_sum_exp, qk_prepare, recur, rms_norm_of_sum,
    rope_angles, rope_width, softmax, top_k,
};
use rustix::time::{ClockId, clock_gettime};

const HIDDEN: usize = 1024;
const INNER: usize = 3072;
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const DIM: usize = 128;
const LAYERS: usize = 28;
const VOCABULARY: usize = 151_936;

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).collect();
    let cpu = Cpu::current();
    println!("{}, {} threads", cpu.isa.name(), cpu.pool.threads());
    println!("{:<44} {:>10} {:>12}", "kernel", "µs", "ms in a step");
    let bench = Bench { cpu, filter };
    for rows in [1, 8, 512] {
        bench.norm(rows);
        bench.gate(rows);
        bench.prepare(rows);
        bench.embed(rows);
    }
    for tokens in [128, 512, 2048, 8192] {
        bench.attend(&format!("attention, 1 query, {tokens} tokens"), &[(1, tokens)]);
    }
    bench.attend("attention, 8 sequences, 512 tokens each", &[(1, 512); 8]);
    for queries in [4, 8, 16] {
        bench.attend(&format!("attention, {queries} queries, 512 tokens"), &[(queries, 512)]);
    }
    bench.attend("attention, 512 × 512 causal", &[(512, 512)]);
    bench.attend("attention, 512 × 2048 causal", &[(512, 2048)]);
    for rows in [1, 512] {
        bench.recur(rows);
    }
    bench.logits();
}

struct Bench {
    cpu: Cpu<'static>,
    filter: Vec<String>,
}

fn numbers(count: usize) -> Vec<bf16> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bf16::from_f32((state >> 40) as f32 / 8_388_608.0 - 1.0)
    };
    (0..count).map(next).collect()
}

impl Bench {
    /// Seconds of some clock.
    fn now(&self) -> f64 {
        let alone = self.cpu.pool.threads() == 1;
        let clock = if alone { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
        let time = clock_gettime(clock);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }

    /// Best of nine rounds of about 10 ms.
    fn report(&self, name: &str, calls_in_step: usize, mut f: impl FnMut()) {
        if !self.filter.is_empty() && !self.filter.iter().any(|part| name.contains(part.as_str())) {
            return;
        }
        let start = self.now();
        f();
        let calls = (0.01 / (self.now() - start)).clamp(1.0, 10_000.0) as usize;
        let mut best = f64::MAX;
        for _ in 0..9 {
            let start = self.now();
            (0..calls).for_each(|_| f());
            best = best.min((self.now() - start) / calls as f64);
        }
        println!("{name:<44} {:>10.2} {:>12.3}", best * 1e6, best * calls_in_step as f64 * 1e3);
    }

    fn norm(&self, rows: usize) {
        let (x, residual, weight) =
            (numbers(rows * HIDDEN), numbers(rows * HIDDEN), numbers(HIDDEN));
        let (mut sum, mut y) = (x.clone(), x.clone());
        self.report(&format!("residual sum and RMS norm, {rows} rows"), 2 * LAYERS, || {
            let view = |data| Rows::new(Floats::Bf16(data), rows, HIDDEN);
            let norm =
                RmsNorm { weight: Some(Floats::Bf16(&weight)), weight_offset: 0.0, eps: 1e-6 };
            let sum = RowsMut::new(FloatsMut::Bf16(&mut sum), rows, HIDDEN);
            let y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, HIDDEN);
            rms_norm_of_sum(&self.cpu, &view(&x), &view(&residual), &norm, sum, y);
        });
    }

    fn gate(&self, rows: usize) {
        let both = numbers(2 * rows * INNER);
        let mut y = numbers(rows * INNER);
        self.report(&format!("silu gate, {rows} rows"), LAYERS, || {
            let view = |first: usize| Rows {
                data: Floats::Bf16(&both[first..]),
                rows,
                columns: INNER,
                stride: 2 * INNER,
            };
            let y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, INNER);
            gated(&self.cpu, Gate::Times(Activation::Silu), &view(0), &view(INNER), y);
        });
    }

    fn prepare(&self, rows: usize) {
        let width = (HEADS + 2 * KV_HEADS) * DIM;
        let (x, weight) = (numbers(rows * width), numbers(DIM));
        let positions: Vec<i32> = (0..rows as i32).collect();
        let frequencies: Vec<f32> = (0..DIM / 2).map(|i| 1e6f32.powf(-(i as f32) / 64.0)).collect();
        let mut angles = vec![0.0; rows * rope_width(RopeLayout::Halves, DIM)];
        self.report(&format!("rope angles, {rows} rows"), 1, || {
            rope_angles(RopeLayout::Halves, &positions, &frequencies, 1.0, &mut angles);
        });
        let mut queries = numbers(rows * HEADS * DIM);
        let mut cache = [numbers(KV_HEADS * 600 * DIM), numbers(KV_HEADS * 600 * DIM)];
        let view = |first: usize, heads| Heads {
            data: Floats::Bf16(&x[first * DIM..]),
            rows,
            heads,
            dim: DIM,
            row_stride: width,
            head_stride: DIM,
        };
        let norm = RmsNorm { weight: Some(Floats::Bf16(&weight)), weight_offset: 0.0, eps: 1e-6 };
        self.report(&format!("norm, rope, append, {rows} rows"), LAYERS, || {
            let prepare = Prepare {
                queries: view(0, HEADS),
                keys: view(HEADS, KV_HEADS),
                values: view(HEADS + KV_HEADS, KV_HEADS),
                query_norm: Some(norm),
                key_norm: Some(norm),
                rope: Some(Rope { layout: RopeLayout::Halves, dims: DIM, angles: &angles }),
            };
            let [keys, values] = &mut cache;
            let store = |v| StoredMut::new(CellsMut::Floats(FloatsMut::Bf16(v)), 600, DIM);
            let (keys, values) = (store(keys), store(values));
            let mut appends = [Append { row: 0, rows, token: 50, keys, values }];
            let out = HeadsMut::new(FloatsMut::Bf16(&mut queries), rows, HEADS, DIM);
            qk_prepare(&self.cpu, &prepare, out, &mut appends);
        });
    }

    fn embed(&self, rows: usize) {
        let table_rows = 10_000;
        let codes = vec![0x5a; table_rows * HIDDEN / 2];
        let scales = numbers(table_rows * HIDDEN / 64);
        let ids: Vec<u32> = (0..rows as u32).map(|i| i * 7919 % table_rows as u32).collect();
        let mut y = numbers(rows * HIDDEN);
        let table = QuantizedMatrix::affine(
            4,
            64,
            (table_rows, HIDDEN),
            &codes,
            Floats::Bf16(&scales),
            Floats::Bf16(&scales),
        );
        assert_eq!(table.kind(), Kind::Affine { bits: 4, group: 64 });
        self.report(&format!("4-bit embedding, {rows} rows"), 1, || {
            let y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, HIDDEN);
            embed_quantized(&self.cpu, &table, &ids, y);
        });
    }

    /// A history for each sequence, in bf16; taken in turn from several, as layers would.
    fn attend(&self, name: &str, lengths: &[(usize, usize)]) {
        let rows: usize = lengths.iter().map(|l| l.0).sum();
        let queries = numbers(rows * HEADS * DIM);
        let mut out = queries.clone();
        let tokens = lengths.iter().map(|l| l.1).max().unwrap_or(0);
        let turns = (32_768 / tokens / lengths.len()).clamp(1, 8);
        let cache: Vec<Vec<bf16>> =
            (0..2 * turns * lengths.len()).map(|_| numbers(KV_HEADS * tokens * DIM)).collect();
        let mut turn = 0;
        self.report(name, LAYERS, || {
            turn = (turn + 1) % turns;
            let cache = &cache[turn * 2 * lengths.len()..];
            let stored =
                |i: usize| Stored::new(Cells::Floats(Floats::Bf16(&cache[i])), tokens, DIM);
            let spans: Vec<[Span<'_>; 1]> = lengths
                .iter()
                .enumerate()
                .map(|(i, &(_, tokens))| {
                    [Span { keys: stored(2 * i), values: stored(2 * i + 1), tokens }]
                })
                .collect();
            let mut row = 0;
            let segments: Vec<Segment<'_>> = lengths
                .iter()
                .zip(&spans)
                .map(|(&(length, tokens), spans)| {
                    row += length;
                    let position = tokens - length;
                    Segment {
                        row: row - length,
                        length,
                        position,
                        history_start: 0,
                        spans,
                        page: 0,
                    }
                })
                .collect();
            let queries = Heads::new(Floats::Bf16(&queries), rows, HEADS, DIM);
            let attention = Attention::causal(queries, KV_HEADS, &segments);
            let out = HeadsMut::new(FloatsMut::Bf16(&mut out), rows, HEADS, DIM);
            attend(&self.cpu, &attention, out);
        });
    }

    /// Qwen3-Next's linear layers: 16 key heads, 32 value heads.
    fn recur(&self, rows: usize) {
        let (q, k) = (numbers(rows * 16 * DIM), numbers(rows * 16 * DIM));
        let v = numbers(rows * 32 * DIM);
        let gates = vec![0.5; rows * 32];
        let mut state = vec![0f32; 32 * DIM * DIM];
        let mut out = v.clone();
        self.report(&format!("gated delta rule, {rows} rows"), 36, || {
            let recurrence = Recurrence {
                change: Change::Delta,
                queries: Heads::new(Floats::Bf16(&q), rows, 16, DIM),
                keys: Heads::new(Floats::Bf16(&k), rows, 16, DIM),
                values: Heads::new(Floats::Bf16(&v), rows, 32, DIM),
                decay: &gates,
                beta: &gates,
                scale: 0.088,
                unit_eps: Some(1e-6),
                skip: None,
            };
            let mut segments =
                [RecurrentSegment { row: 0, length: rows, before: None, state: &mut state }];
            let out = HeadsMut::new(FloatsMut::Bf16(&mut out), rows, 32, DIM);
            recur(&self.cpu, &recurrence, &mut segments, out);
        });
    }

    fn logits(&self) {
        let row: Vec<f32> = numbers(VOCABULARY).iter().map(|x| x.to_f32() * 9.0).collect();
        let x = Floats::F32(&row);
        self.report("argmax of a vocabulary", 1, || {
            black_box(argmax(&self.cpu, x));
        });
        self.report("log-sum-exp of a vocabulary", 1, || {
            black_box(log_sum_exp(&self.cpu, x));
        });
        let mut y = row.clone();
        self.report("softmax of a vocabulary", 1, || {
            let y = RowsMut::new(FloatsMut::F32(&mut y), 1, VOCABULARY);
            softmax(&self.cpu, 1.0, &Rows::new(x, 1, VOCABULARY), y);
        });
        let mut best: Vec<Candidate> = Vec::new();
        for k in [20, 40, 256] {
            self.report(&format!("top {k} of a vocabulary"), 1, || {
                top_k(&self.cpu, x, k, &mut best);
            });
        }
        for limits in [
            Limits { temperature: 0.8, top_k: 40, typical_p: 1.0, top_p: 0.9, min_p: 0.0 },
            Limits { temperature: 0.8, top_k: 0, typical_p: 1.0, top_p: 0.9, min_p: 0.0 },
            Limits { temperature: 1.0, top_k: 0, typical_p: 1.0, top_p: 1.0, min_p: 0.0 },
        ] {
            let Limits { top_k, top_p, .. } = limits;
            for (edits, what) in [
                (&[][..], ""),
                (&[Edit { token: 9, bias: 1.0, repeat: 1.1, minus: 0.5 }], ", edited"),
            ] {
                let draw = Draw { row: 0, limits, key: 1, edits, allowed: None, logprobs: None };
                self.report(&format!("a draw, top-k {top_k}, top-p {top_p}{what}"), 1, || {
                    let rows = Rows::new(x, 1, VOCABULARY);
                    black_box(kernels::draw(&self.cpu, &rows, &[draw]));
                });
            }
        }
    }
}
