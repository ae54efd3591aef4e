//! Attention against f64, over everything a call can be.

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::schedule::{Plan, Task};
use super::*;
use crate::element::{Element, FloatsMut};
use crate::{Isa, Pool, isa};

mod shared;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Type {
    F32,
    Bf16,
    F16,
    Bytes,
    Nibbles,
}

const TYPES: [Type; 5] = [Type::F32, Type::Bf16, Type::F16, Type::Bytes, Type::Nibbles];

/// Owned numbers of a cache.
struct Numbers {
    kind: Type,
    floats: Vec<f32>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

const GROUP: usize = 32;

impl Numbers {
    fn random(rng: &mut StdRng, kind: Type, count: usize) -> Numbers {
        let raw: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
        let bf16: Vec<bf16> = raw.iter().map(|&x| bf16::from_f32(x)).collect();
        let f16: Vec<f16> = raw.iter().map(|&x| f16::from_f32(x)).collect();
        let codes: Vec<i8> = (0..count).map(|_| rng.random_range(-127..=127)).collect();
        let scales: Vec<f32> =
            (0..count.div_ceil(GROUP)).map(|_| rng.random_range(0.002..0.01)).collect();
        Numbers { kind, floats: raw, bf16, f16, codes, scales }
    }

    fn cells(&self) -> Cells<'_> {
        match self.kind {
            Type::F32 => Cells::Floats(Floats::F32(&self.floats)),
            Type::Bf16 => Cells::Floats(Floats::Bf16(&self.bf16)),
            Type::F16 => Cells::Floats(Floats::F16(&self.f16)),
            Type::Bytes => Cells::Bytes { codes: &self.codes, scales: &self.scales, group: GROUP },
            Type::Nibbles => Cells::Nibbles { codes: &self.codes, scales: &self.scales },
        }
    }

    fn get(&self, i: usize) -> f64 {
        f64::from(match self.kind {
            Type::F32 => self.floats[i],
            Type::Bf16 => Element::to_f32(self.bf16[i]),
            Type::F16 => Element::to_f32(self.f16[i]),
            Type::Bytes => f32::from(self.codes[i]) * self.scales[i / GROUP],
            Type::Nibbles => {
                let byte = self.codes[i / GROUP * GROUP / 2 + i % (GROUP / 2)];
                let lower = i % GROUP < GROUP / 2;
                let code = if lower { (byte & 15) - 8 } else { byte >> 4 };
                f32::from(code) * self.scales[i / GROUP]
            }
        })
    }
}

#[derive(Clone, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    value_dim: usize,
    key_type: Type,
    value_type: Type,
    /// Length and remembered tokens (new ones included) of each sequence.
    segments: Vec<(usize, usize)>,
    /// Tokens in a page; 0: one buffer.
    page: usize,
    causal: bool,
    window: Option<usize>,
    softcap: Option<f32>,
    sinks: bool,
    /// None, added or kept.
    mask: u8,
}

impl Case {
    fn plain(heads: usize, kv_heads: usize, dim: usize, segments: &[(usize, usize)]) -> Case {
        Case {
            heads,
            kv_heads,
            dim,
            value_dim: dim,
            key_type: Type::Bf16,
            value_type: Type::Bf16,
            segments: segments.to_vec(),
            page: 0,
            causal: true,
            window: None,
            softcap: None,
            sinks: false,
            mask: 0,
        }
    }
}

/// One sequence's pages: each `[kv_heads, page, dim]`.
struct Sequence {
    page: usize,
    tokens: usize,
    keys: Vec<Numbers>,
    values: Vec<Numbers>,
}

impl Sequence {
    fn random(rng: &mut StdRng, case: &Case, tokens: usize) -> Sequence {
        // A single buffer has room to spare.
        let page = if case.page == 0 { tokens + 3 } else { case.page };
        let pages = tokens.div_ceil(page);
        let mut all = |kind, dim| {
            (0..pages).map(|_| Numbers::random(rng, kind, case.kv_heads * page * dim)).collect()
        };
        let (keys, values) = (all(case.key_type, case.dim), all(case.value_type, case.value_dim));
        Sequence { page, tokens, keys, values }
    }

    fn spans(&self, case: &Case) -> Vec<Span<'_>> {
        let pages = self.keys.iter().zip(&self.values).enumerate();
        pages
            .map(|(i, (keys, values))| Span {
                keys: Stored::new(keys.cells(), self.page, case.dim),
                values: Stored::new(values.cells(), self.page, case.value_dim),
                tokens: self.page.min(self.tokens - i * self.page),
            })
            .collect()
    }

    /// `[kv_heads][tokens][dim]`
    fn all(&self, of: &[Numbers], kv_heads: usize, dim: usize) -> Vec<f64> {
        let cells = (0..kv_heads).flat_map(|head| (0..self.tokens).map(move |t| (head, t)));
        let at = |(head, token): (usize, usize)| (head * self.page + token % self.page) * dim;
        cells
            .flat_map(|cell| (0..dim).map(move |i| of[cell.1 / self.page].get(at(cell) + i)))
            .collect()
    }
}

/// The instruction sets with vectors of their own: attention uses nothing else of them.
fn vectors() -> Vec<Isa> {
    let mut all = isa::available();
    all.dedup_by_key(|isa| isa.lanes());
    all
}

/// One case with every kind of vectors, with one thread and with three.
fn check(case: &Case) {
    let mut rng = StdRng::seed_from_u64(case.dim as u64 + case.segments.len() as u64);
    let Case { heads, kv_heads, dim, value_dim, .. } = *case;
    let sequences: Vec<Sequence> =
        case.segments.iter().map(|&(_, tokens)| Sequence::random(&mut rng, case, tokens)).collect();
    let spans: Vec<Vec<Span<'_>>> = sequences.iter().map(|s| s.spans(case)).collect();
    let mut rows = 0;
    // Windows drop what is out of sight: the history starts later.
    let dropped = if case.window.is_some() { 5 } else { 0 };
    let segments: Vec<Segment<'_>> = case
        .segments
        .iter()
        .zip(&spans)
        .map(|(&(length, tokens), spans)| {
            // A row in between belongs to nobody.
            let row = rows + 1;
            rows = row + length;
            let position = dropped + tokens - length;
            Segment { row, length, position, history_start: dropped, spans, page: case.page }
        })
        .collect();
    let queries: Vec<bf16> =
        (0..rows * heads * dim).map(|_| bf16::from_f32(rng.random_range(-1.0..1.0))).collect();
    let sinks: Vec<f32> = (0..heads).map(|_| rng.random_range(-2.0..2.0)).collect();
    let most = case.segments.iter().map(|s| s.1).max().unwrap_or(0);
    let added: Vec<f32> = (0..rows * heads * most).map(|_| rng.random_range(-3.0..3.0)).collect();
    let kept: Vec<u8> = (0..rows * most).map(|_| rng.random_range(0..3)).collect();
    let mask = match case.mask {
        0 => None,
        1 => Some(Mask {
            cells: MaskCells::Add(Floats::F32(&added)),
            row_stride: heads * most,
            head_stride: most,
        }),
        _ => Some(Mask { cells: MaskCells::Keep(&kept), row_stride: most, head_stride: 0 }),
    };
    let attention = Attention {
        value_dim,
        causal: case.causal,
        window: case.window,
        softcap: case.softcap,
        sinks: case.sinks.then_some(Floats::F32(&sinks)),
        mask,
        ..Attention::causal(
            Heads::new(Floats::Bf16(&queries), rows, heads, dim),
            kv_heads,
            &segments,
        )
    };
    let want = exact(&attention, &sequences, case, &queries);
    for threads in [1, 3] {
        let pool = Pool::new(threads);
        for isa in vectors() {
            let cpu = Cpu { isa, pool: &pool };
            let mut out = vec![5f32; rows * heads * value_dim];
            attend(
                &cpu,
                &attention,
                HeadsMut::new(FloatsMut::F32(&mut out), rows, heads, value_dim),
            );
            compare(&out, &want, isa, case);
        }
    }
}

fn compare(out: &[f32], want: &[f64], isa: Isa, case: &Case) {
    for (i, (&got, &want)) in out.iter().zip(want).enumerate() {
        // Values are within ±1.3, weights sum to 1.
        let near = (f64::from(got) - want).abs() <= 3e-6;
        assert!(near, "{} {case:?} at {i}: {got} {want}", isa.name());
    }
}

fn exact(
    attention: &Attention<'_>,
    sequences: &[Sequence],
    case: &Case,
    queries: &[bf16],
) -> Vec<f64> {
    let Case { heads, kv_heads, dim, value_dim, .. } = *case;
    // Rows of nobody stay as they were.
    let mut out = vec![5f64; attention.queries.rows * heads * value_dim];
    let queries: Vec<f64> = queries.iter().map(|q| f64::from(Element::to_f32(*q))).collect();
    for (segment, sequence) in attention.segments.iter().zip(sequences) {
        let tokens = sequence.tokens;
        let keys = sequence.all(&sequence.keys, kv_heads, dim);
        let values = sequence.all(&sequence.values, kv_heads, value_dim);
        for (query, head) in (0..segment.length).flat_map(|q| (0..heads).map(move |h| (q, h))) {
            let (row, kv_head) = (segment.row + query, head * kv_heads / heads);
            let position = segment.position + query;
            let score = |token: usize| {
                let at = segment.history_start + token;
                let hidden = case.causal && at > position
                    || case.window.is_some_and(|window| at + window <= position);
                if hidden {
                    return 0.0;
                }
                let query = &queries[(row * heads + head) * dim..][..dim];
                let key = &keys[(kv_head * tokens + token) * dim..][..dim];
                let mut score: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                score *= f64::from(attention.scale);
                if let Some(cap) = case.softcap {
                    score = f64::from(cap) * (score / f64::from(cap)).tanh();
                }
                let mut kept = true;
                if let Some(mask) = attention.mask {
                    let at = row * mask.row_stride + head * mask.head_stride + token;
                    match mask.cells {
                        MaskCells::Add(floats) => score += f64::from(floats.get(at)),
                        MaskCells::Keep(bytes) => kept &= bytes[at] != 0,
                    }
                }
                if kept { score.exp() } else { 0.0 }
            };
            let weights: Vec<f64> = (0..tokens).map(score).collect();
            let mut sum: f64 = weights.iter().sum();
            sum += attention.sinks.map_or(0.0, |sinks| f64::from(sinks.get(head)).exp());
            let out = &mut out[(row * heads + head) * value_dim..][..value_dim];
            out.fill(0.0);
            if sum == 0.0 {
                continue;
            }
            let values = values[kv_head * tokens * value_dim..].chunks_exact(value_dim);
            for (weight, value) in weights.iter().zip(values) {
                out.iter_mut().zip(value).for_each(|(out, value)| *out += weight / sum * value);
            }
        }
    }
    out
}

/// One sequence, its queries in one call or in several, alone or beside each other, its history in any pieces and
/// without what no query sees: the same bits.
fn check_invariance(case: &Case, rng: &mut StdRng) {
    let Case { heads, kv_heads, dim, value_dim, window, .. } = *case;
    let tokens = case.segments[0].1;
    let sequence = Sequence::random(rng, &Case { page: 0, ..case.clone() }, tokens);
    let queries: Vec<f32> =
        (0..tokens * heads * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let sinks: Vec<f32> = (0..heads).map(|_| rng.random_range(-2.0..2.0)).collect();
    let spans = |keys: Range<usize>, rng: &mut StdRng| {
        let (mut all, mut start) = (vec![], keys.start);
        let whole = [&sequence.keys[0], &sequence.values[0]];
        let [k, v] = whole.map(|numbers| numbers.cells());
        while start < keys.end {
            let tokens = rng.random_range(1..200).min(keys.end - start);
            let at = |cells, dim| {
                let stored = Stored::new(cells, sequence.page, dim);
                Stored { first: start * dim, ..stored }
            };
            all.push(Span { keys: at(k, dim), values: at(v, value_dim), tokens });
            start += tokens;
        }
        all
    };
    // Queries `from..to` of each chunk with what they may see.
    let attend = |isa: Isa, threads: usize, chunks: &[Range<usize>], rng: &mut StdRng| {
        let histories: Vec<(usize, Vec<Span<'_>>)> = chunks
            .iter()
            .map(|chunk| {
                let seen = window.map_or(0, |window| (chunk.start + 1).saturating_sub(window));
                let start = rng.random_range(0..=seen);
                (start, spans(start..chunk.end, rng))
            })
            .collect();
        let first = chunks[0].start;
        let segments: Vec<Segment<'_>> = chunks
            .iter()
            .zip(&histories)
            .map(|(chunk, (history_start, spans))| Segment {
                row: chunk.start - first,
                length: chunk.len(),
                position: chunk.start,
                history_start: *history_start,
                spans,
                page: 0,
            })
            .collect();
        let rows = chunks[chunks.len() - 1].end - first;
        let own = &queries[first * heads * dim..][..rows * heads * dim];
        let attention = Attention {
            value_dim,
            window,
            softcap: case.softcap,
            sinks: case.sinks.then_some(Floats::F32(&sinks)),
            ..Attention::causal(Heads::new(Floats::F32(own), rows, heads, dim), kv_heads, &segments)
        };
        let mut out = vec![0f32; rows * heads * value_dim];
        let cpu = Cpu { isa, pool: &Pool::new(threads) };
        let to = HeadsMut::new(FloatsMut::F32(&mut out), rows, heads, value_dim);
        super::attend(&cpu, &attention, to);
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let mut chunks = vec![];
    let mut start = 0;
    while start < tokens {
        let length = if rng.random() { 1 } else { rng.random_range(1..150) };
        chunks.push(start..(start + length).min(tokens));
        start += length;
    }
    for isa in vectors() {
        let want = attend(isa, 1, std::slice::from_ref(&(0..tokens)), rng);
        let together = attend(isa, 3, &chunks, rng);
        assert!(together == want, "{} {case:?}: side by side", isa.name());
        for (i, chunk) in chunks.iter().enumerate() {
            let got = attend(isa, 1 + 3 * (i % 2), std::slice::from_ref(chunk), rng);
            let want = &want[chunk.start * heads * value_dim..chunk.end * heads * value_dim];
            assert!(got == want, "{} {case:?}: {chunk:?} alone", isa.name());
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let mut rng = StdRng::seed_from_u64(78);
    for round in 0..12 {
        let kv_heads = rng.random_range(1..3);
        let case = Case {
            heads: kv_heads * rng.random_range(1..5),
            value_dim: GROUP * rng.random_range(1..4),
            key_type: TYPES[round % TYPES.len()],
            value_type: TYPES[round % TYPES.len()],
            window: (round % 3 == 0).then(|| rng.random_range(1..400)),
            softcap: (round % 4 == 1).then_some(2.0),
            sinks: round % 2 == 0,
            ..Case::plain(kv_heads, kv_heads, GROUP * (1 + round % 3), &[(1, 300 + 50 * round)])
        };
        check_invariance(&case, &mut rng);
    }
}

#[test]
fn decoding() {
    check(&Case::plain(4, 2, 128, &[(1, 1)]));
    check(&Case::plain(4, 2, 128, &[(1, 700)]));
    check(&Case::plain(8, 1, 64, &[(1, 333), (1, 5), (1, 64)]));
    check(&Case::plain(3, 3, 80, &[(1, 65)]));
    check(&Case::plain(5, 1, 72, &[(1, 130)]));
    check(&Case::plain(7, 1, 256, &[(1, 17)]));
}

#[test]
fn histories_are_cut_where_that_helps() {
    let parts = |segments: &[(usize, usize)], kv_heads: usize, threads: usize| -> Vec<usize> {
        let numbers = vec![0f32; 70_000];
        let stored = Stored::new(Cells::Floats(Floats::F32(&numbers)), 8192, 8);
        let spans: Vec<[Span<'_>; 1]> = segments
            .iter()
            .map(|&(_, tokens)| [Span { keys: stored, values: stored, tokens }])
            .collect();
        let segments: Vec<Segment<'_>> = segments
            .iter()
            .zip(&spans)
            .map(|(&(length, tokens), spans)| {
                let position = tokens - length;
                Segment { row: 0, length, position, history_start: 0, spans, page: 0 }
            })
            .collect();
        let queries = Heads::new(Floats::F32(&numbers), 1, 8, 8);
        let attention = Attention::causal(queries, kv_heads, &segments);
        let mut plan = Plan::default();
        plan.make(&attention, threads);
        let keys = |task: &Task| {
            plan.families.stretches[task.stretches.clone()]
                .iter()
                .map(|stretch| stretch.keys.len())
                .sum()
        };
        plan.tasks.iter().map(keys).collect()
    };
    // As many heads as tasks are wanted; one head; a long history among short ones; too short to cut; one thread.
    assert_eq!(parts(&[(1, 4096)], 8, 2), [4096; 8]);
    assert_eq!(parts(&[(1, 4096)], 1, 2), [512; 8]);
    assert_eq!(parts(&[(1, 10), (1, 8192)], 1, 2)[..7], [1024; 7]);
    assert_eq!(parts(&[(1, 200)], 1, 8), [200]);
    assert_eq!(parts(&[(1, 4096)], 1, 1), [4096]);
}

#[test]
fn prefill() {
    check(&Case::plain(2, 1, 128, &[(150, 150)]));
    check(&Case::plain(4, 4, 64, &[(100, 230)]));
    check(&Case::plain(6, 2, 40, &[(33, 33), (1, 50), (9, 200)]));
    check(&Case::plain(100, 1, 16, &[(3, 70)]));
}

#[test]
fn every_type_of_cache_in_buffers_and_pages() {
    for key_type in TYPES {
        for value_type in TYPES {
            for (segments, page) in [(&[(1, 300)][..], 0), (&[(20, 90), (2, 150)], 48)] {
                let case = Case {
                    key_type,
                    value_type,
                    page,
                    value_dim: 96,
                    ..Case::plain(4, 2, 64, segments)
                };
                check(&case);
            }
        }
    }
}

#[test]
fn windows_caps_sinks_and_masks() {
    for segments in [&[(1, 300), (1, 7)][..], &[(130, 160), (3, 20)]] {
        let plain = Case::plain(4, 2, 64, segments);
        check(&Case { window: Some(50), ..plain.clone() });
        check(&Case { window: Some(1), ..plain.clone() });
        check(&Case { softcap: Some(0.5), ..plain.clone() });
        check(&Case { sinks: true, ..plain.clone() });
        check(&Case { causal: false, ..plain.clone() });
        for mask in [1, 2] {
            check(&Case { mask, causal: false, ..plain.clone() });
            check(&Case { mask, window: Some(3), sinks: true, ..plain.clone() });
        }
    }
}

#[test]
fn random_cases() {
    let mut rng = StdRng::seed_from_u64(77);
    for _ in 0..40 {
        let kv_heads = rng.random_range(1..4);
        let count = rng.random_range(1..5);
        let segments: Vec<(usize, usize)> = (0..count)
            .map(|_| {
                let length = if rng.random() { 1 } else { rng.random_range(1..60) };
                (length, length + rng.random_range(0..200))
            })
            .collect();
        let bytes = rng.random::<bool>();
        let width = |rng: &mut StdRng| {
            if bytes { GROUP * rng.random_range(1..5) } else { 8 * rng.random_range(1..20) }
        };
        let types = if bytes { 4 } else { 3 };
        let case = Case {
            heads: kv_heads * rng.random_range(1..9),
            kv_heads,
            dim: width(&mut rng),
            value_dim: width(&mut rng),
            key_type: TYPES[rng.random_range(0..types)],
            value_type: TYPES[rng.random_range(0..types)],
            segments,
            page: if rng.random() { 0 } else { rng.random_range(1..100) },
            causal: rng.random_range(0..4) > 0,
            window: rng.random::<bool>().then(|| rng.random_range(1..100)),
            softcap: rng.random::<bool>().then(|| rng.random_range(0.3..20.0)),
            sinks: rng.random(),
            mask: rng.random_range(0..3),
        };
        check(&case);
    }
}
