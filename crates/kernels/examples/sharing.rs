//! What it is worth that sequences which begin alike read their common pages once, in Qwen3-0.6B's shape.
//!
//! `cargo run --release -p kernels --example sharing [-- <filter>]`; `OLLMLX_CPU_ISA` and `OLLMLX_NUM_THREADS` apply. All
//! cases are measured in turn, layer after layer, as a step would; each figure is the least of all rounds for one layer. With
//! one thread it is of processor time, so that being pushed aside by other processes does not count.

use std::hint::black_box;

use half::bf16;
use kernels::{
    Attention, Cells, Cpu, Floats, FloatsMut, Heads, HeadsMut, Segment, Span, Stored, attend,
};
use rustix::time::{ClockId, clock_gettime};

const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const DIM: usize = 128;
const PAGE: usize = 64;

/// Layers whose numbers lie in one page, which are worked on one after the other.
const LAYERS: usize = 4;

const ROUNDS: usize = 20;

/// Numbers of keys, or of values, of one layer in a page.
const NUMBERS: usize = KV_HEADS * PAGE * DIM;

struct Case {
    name: &'static str,
    /// Tokens of each sequence, of which so many are queries, and so many the same as the first's.
    tokens: usize,
    queries: usize,
    shared: usize,
    sequences: usize,
    /// In one piece for each layer and sequence instead of pages.
    whole: bool,
    pages: Vec<Vec<bf16>>,
    /// Which pages a sequence has.
    places: Vec<Vec<usize>>,
    /// Seconds.
    least: f64,
}

fn now(cpu: &Cpu<'_>) -> f64 {
    let alone = cpu.pool.threads() == 1;
    let clock = if alone { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn numbers(count: usize, seed: u64) -> Vec<bf16> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bf16::from_f32((state >> 40) as f32 / 8_388_608.0 - 1.0)
    };
    (0..count).map(next).collect()
}

impl Case {
    fn new(name: &'static str, tokens: usize, queries: usize, sequences: usize) -> Case {
        let least = f64::MAX;
        let (pages, places) = (vec![], vec![]);
        Case { name, tokens, queries, shared: 0, sequences, whole: false, pages, places, least }
    }

    fn fill(&mut self) {
        let page = if self.whole { self.tokens } else { PAGE };
        for sequence in 0..self.sequences {
            let shared = if sequence == 0 { 0 } else { self.shared / page };
            let mut own = self.places.first().map_or(vec![], |first| first[..shared].to_vec());
            for _ in shared..self.tokens.div_ceil(page) {
                own.push(self.pages.len());
                let seed = self.pages.len() as u64;
                self.pages.push(numbers(2 * LAYERS * NUMBERS * page / PAGE, seed));
            }
            self.places.push(own);
        }
    }

    fn round(&mut self, cpu: &Cpu<'_>) {
        let rows = self.queries * self.sequences;
        let queries = numbers(rows * HEADS * DIM, 7);
        let mut out = queries.clone();
        let begin = now(cpu);
        for layer in 0..LAYERS {
            self.layer(cpu, layer, &queries, &mut out);
        }
        self.least = self.least.min((now(cpu) - begin) / LAYERS as f64);
        black_box(&out);
    }

    fn layer(&self, cpu: &Cpu<'_>, layer: usize, queries: &[bf16], out: &mut [bf16]) {
        let page = if self.whole { self.tokens } else { PAGE };
        let stored = |place: usize, part: usize| {
            let numbers = NUMBERS * page / PAGE;
            let part = &self.pages[place][(2 * layer + part) * numbers..][..numbers];
            Stored::new(Cells::Floats(Floats::Bf16(part)), page, DIM)
        };
        let span = |(i, &place): (usize, &usize)| Span {
            keys: stored(place, 0),
            values: stored(place, 1),
            tokens: page.min(self.tokens - i * page),
        };
        let spans: Vec<Vec<Span<'_>>> =
            self.places.iter().map(|own| own.iter().enumerate().map(span).collect()).collect();
        let segment = |(i, spans)| Segment {
            row: i * self.queries,
            length: self.queries,
            position: self.tokens - self.queries,
            history_start: 0,
            spans,
            page,
        };
        let segments: Vec<Segment<'_>> =
            spans.iter().map(Vec::as_slice).enumerate().map(segment).collect();
        let rows = self.queries * self.sequences;
        let queries = Heads::new(Floats::Bf16(queries), rows, HEADS, DIM);
        let attention = Attention::causal(queries, KV_HEADS, &segments);
        attend(cpu, &attention, HeadsMut::new(FloatsMut::Bf16(out), rows, HEADS, DIM));
    }

    fn report(&self) {
        let before = self.tokens - self.queries;
        let pairs = self.sequences * self.queries * (before + self.queries.div_ceil(2));
        let work = (pairs * HEADS * DIM * 4) as f64;
        let seconds = self.least;
        let bytes =
            (self.pages.len() * 2 * NUMBERS * 2 * if self.whole { self.tokens / PAGE } else { 1 })
                as f64;
        println!(
            "{:<44} {:>10.1} {:>10.1} {:>10.1}",
            self.name,
            seconds * 1e6,
            work / seconds / 1e9,
            bytes / seconds / 1e9
        );
    }
}

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).collect();
    let cpu = Cpu::current();
    println!("{}, {} threads", cpu.isa.name(), cpu.pool.threads());
    println!("{:<44} {:>10} {:>10} {:>10}", "one layer", "µs", "GFLOP/s", "GB/s");
    let shared = |case: Case| Case { shared: 2000, ..case };
    let whole = |case: Case| Case { whole: true, ..case };
    let cases = [
        Case::new("1 sequence, 2040 tokens", 2040, 1, 1),
        whole(Case::new("1 sequence, 2048 tokens, in one piece", 2048, 1, 1)),
        shared(Case::new("8 sequences, 2000 of 2040 tokens shared", 2040, 1, 8)),
        Case::new("8 sequences, 2040 tokens, nothing shared", 2040, 1, 8),
        whole(Case::new("8 sequences, 2048 tokens, in one piece", 2048, 1, 8)),
        Case::new("5 rows of one sequence, 2040 tokens", 2040, 5, 1),
        shared(Case::new("7 of 40 rows, 2000 of 2040 tokens shared", 2040, 40, 7)),
        Case::new("7 of 40 rows, 2040 tokens, nothing shared", 2040, 40, 7),
        Case::new("512 rows, 512 tokens", 512, 512, 1),
        Case::new("512 rows, 2048 tokens", 2048, 512, 1),
    ];
    let wanted =
        |case: &Case| filter.is_empty() || filter.iter().any(|part| case.name.contains(part));
    let mut cases: Vec<Case> = cases.into_iter().filter(wanted).collect();
    cases.iter_mut().for_each(Case::fill);
    for _ in 0..ROUNDS {
        cases.iter_mut().for_each(|case| case.round(&cpu));
    }
    cases.iter().for_each(Case::report);
}
