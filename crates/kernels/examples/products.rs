//! How fast the products are on this machine, beside a plain read of the same bytes by the same threads.
//!
//! `cargo run --release -p kernels --example products [-- [--cached] <filter>...]`, or `-- --model [ROWS...]` for
//! all products of a small model in turn, or `-- --experts` for layers of mixtures; `OLLMLX_CPU_ISA` and `OLLMLX_NUM_THREADS` apply.
//! Weights are taken in turn from a buffer larger than the caches. Each figure is the best of some rounds, in which
//! the read and the products alternate; on a shared machine trust the ratios, not the times. With one thread the
//! figures are of processor time, so that being pushed aside by other processes does not count.

use std::hint::black_box;

use half::{bf16, f16};
use kernels::{
    Activation, Choices, Cpu, Experts, Floats, FloatsMut, Gate, GateUp, Kind, QuantizedMatrix,
    Rows, RowsMut, Stack, experts, product, quantized_product,
};
use rustix::time::{ClockId, clock_gettime};

/// More than any last-level cache we have seen shared by few cores.
const WEIGHT_BYTES: usize = 512 << 20;

/// Names with output and input widths: Qwen3-0.6B's and Qwen3-4B's shapes.
const SHAPES: [(&str, usize, usize); 6] = [
    ("small", 512, 1024),
    ("0.6B qkv", 4096, 1024),
    ("0.6B gate+up", 6144, 1024),
    ("0.6B down", 1024, 3072),
    ("4B gate+up", 19_456, 2560),
    ("0.6B head", 151_936, 1024),
];

const KINDS: [(&str, Kind); 11] = [
    ("4-bit g64", Kind::Affine { bits: 4, group: 64 }),
    ("4-bit g32", Kind::Affine { bits: 4, group: 32 }),
    ("8-bit g64", Kind::Affine { bits: 8, group: 64 }),
    ("8-bit g32", Kind::Affine { bits: 8, group: 32 }),
    ("2-bit g64", Kind::Affine { bits: 2, group: 64 }),
    ("3-bit g64", Kind::Affine { bits: 3, group: 64 }),
    ("5-bit g64", Kind::Affine { bits: 5, group: 64 }),
    ("6-bit g64", Kind::Affine { bits: 6, group: 64 }),
    ("mxfp4", Kind::Mxfp4),
    ("mxfp8", Kind::Mxfp8),
    ("nvfp4", Kind::Nvfp4),
];

fn main() {
    let (flags, filter): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let cached = flags.iter().any(|flag| flag == "--cached");
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|f| name.contains(f.as_str()));
    let cpu = Cpu::current();
    println!("{}, {} threads", cpu.isa.name(), cpu.pool.threads());
    if flags.iter().any(|flag| flag == "--model") {
        return model(&cpu, &filter);
    }
    if flags.iter().any(|flag| flag == "--experts") {
        return mixtures(&cpu);
    }
    println!(
        "{:<14} {:<10} {:>5} {:>10} {:>8} {:>8} {:>9}",
        "shape", "kind", "rows", "µs", "GB/s", "of read", "GFLOP/s"
    );
    let memory = Memory::new(cached);
    for (shape, n, k) in SHAPES {
        for (name, kind) in KINDS {
            for rows in [1, 2, 4, 8, 16, 64, 512] {
                if wanted(&format!("{shape}/{name}/{rows}/")) {
                    quantized(&cpu, &memory, (shape, n, k), (name, kind), rows);
                }
            }
        }
        for name in ["bf16", "f16", "f32"] {
            for rows in [1, 2, 4, 8, 16, 64, 512] {
                if wanted(&format!("{shape}/{name}/{rows}/")) {
                    dense(&cpu, &memory, (shape, n, k), name, rows);
                }
            }
        }
    }
}

/// Bytes that serve as any weights.
struct Memory {
    /// Always the same weights, to see what the arithmetic alone takes.
    cached: bool,
    codes: Vec<u8>,
    floats: Vec<bf16>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
    f32: Vec<f32>,
    bytes: Vec<u8>,
}

impl Memory {
    fn new(cached: bool) -> Memory {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        Memory {
            cached,
            codes: (0..WEIGHT_BYTES).map(|_| next() & 0xbf).collect(),
            bf16: vec![bf16::from_f32(0.01); WEIGHT_BYTES / 2],
            f16: vec![f16::from_f32(0.01); WEIGHT_BYTES / 2],
            f32: vec![0.01; WEIGHT_BYTES / 4],
            floats: (0..WEIGHT_BYTES / 16).map(|_| bf16::from_f32(0.01)).collect(),
            bytes: (0..WEIGHT_BYTES / 8).map(|_| 120).collect(),
        }
    }

    fn matrix(&self, kind: Kind, (n, k): (usize, usize), turn: usize) -> QuantizedMatrix<'_> {
        let (codes, scales) = (n * k * kind.bits() / 8, n * k / kind.group());
        let turns = (WEIGHT_BYTES / codes).min(self.floats.len() / scales);
        let turn = if self.cached { 0 } else { turn % turns };
        let codes = &self.codes[turn * codes..][..codes];
        let range = turn * scales..(turn + 1) * scales;
        match kind {
            Kind::Affine { bits, group } => {
                let floats = Floats::Bf16(&self.floats[range]);
                QuantizedMatrix::affine(bits, group, (n, k), codes, floats, floats)
            }
            kind => QuantizedMatrix::floats(kind, (n, k), codes, &self.bytes[range], None),
        }
    }
}

fn quantized(
    cpu: &Cpu<'_>,
    memory: &Memory,
    (shape, n, k): (&str, usize, usize),
    (name, kind): (&str, Kind),
    rows: usize,
) {
    let scale_bytes = if matches!(kind, Kind::Affine { .. }) { 4 } else { 1 };
    let bytes = n * k * kind.bits() / 8 + n * k / kind.group() * scale_bytes;
    let (x, mut y) = (activations(rows * k), vec![bf16::ZERO; rows * n]);
    let figures = measure(cpu, memory, bytes, n * k * rows, |turn| {
        let x = Rows::new(Floats::Bf16(&x), rows, k);
        let y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, n);
        quantized_product(cpu, &x, &memory.matrix(kind, (n, k), turn), y);
    });
    print(shape, name, rows, figures);
}

/// All products of Qwen3-0.6B, 4-bit groups of 64: what a step takes without attention and the small things.
fn model(cpu: &Cpu<'_>, filter: &[String]) {
    let memory = Memory::new(false);
    let kind = Kind::Affine { bits: 4, group: 64 };
    let layer = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)];
    let asked: Vec<usize> = filter.iter().filter_map(|rows| rows.parse().ok()).collect();
    for rows in if asked.is_empty() { vec![1, 8, 512] } else { asked } {
        let (x, mut y) = (activations(rows * 3072), vec![bf16::ZERO; rows * 151_936]);
        let mut step = || {
            let start = seconds(cpu);
            let layers = layer.iter().cycle().take(4 * 28).map(|&shape| (shape, rows));
            // Logits are needed of one row of a prompt.
            let head = ((151_936, 1024), if rows > 8 { 1 } else { rows });
            for (turn, ((n, k), rows)) in layers.chain([head]).enumerate() {
                let x = Rows::new(Floats::Bf16(&x[..rows * k]), rows, k);
                let y = RowsMut::new(FloatsMut::Bf16(&mut y[..rows * n]), rows, n);
                quantized_product(cpu, &x, &memory.matrix(kind, (n, k), turn), y);
            }
            seconds(cpu) - start
        };
        let count = if rows > 8 { 5 } else { 60 };
        let mut times: Vec<f64> = (0..count).map(|_| step()).collect();
        times.sort_by(f64::total_cmp);
        let (mean, median) = (times.iter().sum::<f64>() / count as f64, times[count / 2]);
        println!(
            "{rows:>4} rows: {:>8.1} tok/s by the median step, {:>8.1} by the mean, {:>8.1} by the best",
            rows as f64 / median,
            rows as f64 / mean,
            rows as f64 / times[0]
        );
    }
}

/// Names of mixtures, with the widths outside and inside of an expert, and how many there are; eight to a row.
const MIXTURES: [(&str, usize, usize, usize); 2] =
    [("1B", 1024, 512, 32), ("30B-A3B", 2048, 768, 128)];

/// One layer's experts, 4-bit groups of 64. Bytes are those of the experts that somebody chose.
fn mixtures(cpu: &Cpu<'_>) {
    let memory = Memory::new(false);
    let kind = Kind::Affine { bits: 4, group: 64 };
    println!("{:<14} {:<10} {:>5} {:>10}", "layer", "experts", "rows", "µs");
    for (name, hidden, inner, count) in MIXTURES {
        for rows in [1, 2, 8, 64, 512] {
            let mut seed = 7u32;
            let mut random = |below: usize| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as usize % below
            };
            // A row's experts are different ones.
            let chosen: Vec<u32> = (0..rows)
                .flat_map(|_| {
                    let first = random(count);
                    (0..8).map(move |i| ((first + i * (count / 8)) % count) as u32)
                })
                .collect();
            let used = chosen.iter().collect::<std::collections::BTreeSet<_>>().len();
            let bytes = used * 3 * hidden * inner * 9 / 16;
            let weights = vec![0.125f32; rows * 8];
            let (x, mut y) = (activations(rows * hidden), vec![bf16::ZERO; rows * hidden]);
            let figures = measure(cpu, &memory, bytes, 3 * hidden * inner * rows * 8, |turn| {
                let stack = |turn, out, input| {
                    Stack::Quantized(memory.matrix(kind, (count * out, input), turn))
                };
                let (gate, up) = (stack(turn, inner, hidden), stack(turn + 1, inner, hidden));
                let layer = Experts {
                    count,
                    gate_up: GateUp::Apart { gate, up },
                    down: stack(turn + 2, hidden, inner),
                    gate: Gate::Times(Activation::Silu),
                };
                let choices = Choices { each: 8, experts: &chosen, weights: Floats::F32(&weights) };
                let x = Rows::new(Floats::Bf16(&x), rows, hidden);
                let y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, hidden);
                experts(cpu, &x, &choices, &layer, y);
            });
            print(name, &format!("{used} of {count}"), rows, figures);
        }
    }
}

/// bf16 beside bf16; f16 and f32 beside f32.
fn dense(
    cpu: &Cpu<'_>,
    memory: &Memory,
    (shape, n, k): (&str, usize, usize),
    name: &str,
    rows: usize,
) {
    let size = if name == "f32" { 4 } else { 2 };
    if n * k * size > WEIGHT_BYTES {
        return;
    }
    let x = activations(rows * k);
    let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let (mut y, mut wide_y) = (vec![bf16::ZERO; rows * n], vec![0f32; rows * n]);
    let count = if memory.cached { 1 } else { (memory.bf16.len() * 2 / (n * k * size)).max(1) };
    let figures = measure(cpu, memory, n * k * size, n * k * rows, |turn| {
        let range = turn % count * n * k..(turn % count + 1) * n * k;
        let w = match name {
            "bf16" => Floats::Bf16(&memory.bf16[range]),
            "f16" => Floats::F16(&memory.f16[range]),
            _ => Floats::F32(&memory.f32[range]),
        };
        let w = Rows::new(w, n, k);
        if name == "bf16" {
            let y = RowsMut::new(FloatsMut::Bf16(&mut y), rows, n);
            product(cpu, &Rows::new(Floats::Bf16(&x), rows, k), &w, y);
        } else {
            let y = RowsMut::new(FloatsMut::F32(&mut wide_y), rows, n);
            product(cpu, &Rows::new(Floats::F32(&wide), rows, k), &w, y);
        }
    });
    print(shape, name, rows, figures);
}

fn activations(len: usize) -> Vec<bf16> {
    (0..len).map(|i| bf16::from_f32((i % 97) as f32 / 50.0 - 1.0)).collect()
}

/// Best times of a plain read and of a product of as many bytes.
struct Figures {
    bytes: usize,
    products: usize,
    read: f64,
    product: f64,
}

fn measure(
    cpu: &Cpu<'_>,
    memory: &Memory,
    bytes: usize,
    products: usize,
    mut f: impl FnMut(usize),
) -> Figures {
    let mut figures = Figures { bytes, products, read: f64::MAX, product: f64::MAX };
    let calls = (40_000_000 / (bytes + products / 16)).clamp(1, 40);
    let mut turn = 0;
    for _ in 0..7 {
        let read = time(cpu, calls, || {
            turn += 1;
            let start = turn * bytes % (WEIGHT_BYTES - bytes);
            plain_read(cpu, &memory.codes[start..][..bytes]);
        });
        figures.read = figures.read.min(read);
        let product = time(cpu, calls, || {
            turn += 1;
            f(turn);
        });
        figures.product = figures.product.min(product);
    }
    figures
}

fn print(shape: &str, name: &str, rows: usize, figures: Figures) {
    let Figures { bytes, products, read, product } = figures;
    println!(
        "{shape:<14} {name:<10} {rows:>5} {:>10.1} {:>8.2} {:>7.0}% {:>9.1}",
        product * 1e6,
        bytes as f64 / product / 1e9,
        read / product * 100.0,
        2.0 * products as f64 / product / 1e9
    );
}

/// Seconds for one of `calls` calls.
fn time(cpu: &Cpu<'_>, calls: usize, mut f: impl FnMut()) -> f64 {
    let start = seconds(cpu);
    (0..calls).for_each(|_| f());
    (seconds(cpu) - start) / calls as f64
}

/// Now; of one thread alone, its processor time.
fn seconds(cpu: &Cpu<'_>) -> f64 {
    let clock = if cpu.pool.threads() == 1 { ClockId::ThreadCPUTime } else { ClockId::Monotonic };
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// What the machine can do at best: every cache line is loaded, one addition for each 64 bytes or so.
fn plain_read(cpu: &Cpu<'_>, bytes: &[u8]) {
    cpu.pool.run_ranges(bytes.len(), 64 << 10, &|range| {
        let mut sums = [0u64; 32];
        for chunk in bytes[range].as_chunks::<256>().0 {
            for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
            }
        }
        black_box(sums);
    });
}
