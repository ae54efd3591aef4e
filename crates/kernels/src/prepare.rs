//! From the product's rows to attention's inputs in one pass: per-head norms, RoPE, and new keys and values appended to
//! the cache in its own type. Between the steps numbers stay f32.

use crate::Cpu;
use crate::attention::{NIBBLES, check_group, pack_nibbles};
use crate::element::FloatsMut;
use crate::norm::{RmsNorm, norm_in_place};
use crate::rope::{Heads, HeadsMut, Rope, SharedHeads, Turn, disjoint};
use crate::spread;
use crate::vector::{Body, LANES_MAX, Source, Target, Vector, on};

/// The widest head; one lies on the stack.
pub const HEAD_DIM_MAX: usize = 1024;

/// Numbers of a cache, to be written; as [`crate::Cells`].
#[derive(Debug)]
pub enum CellsMut<'a> {
    Floats(FloatsMut<'a>),
    Bytes { codes: &'a mut [i8], scales: &'a mut [f32], group: usize },
    Nibbles { codes: &'a mut [i8], scales: &'a mut [f32] },
}

/// As [`crate::Stored`], to be written.
#[derive(Debug)]
pub struct StoredMut<'a> {
    pub cells: CellsMut<'a>,
    pub first: usize,
    pub head_stride: usize,
    pub token_stride: usize,
}

/// Rows that follow each other become tokens that follow each other: one for each buffer, or page, that is written to.
#[derive(Debug)]
pub struct Append<'a> {
    /// The first, in the batch.
    pub row: usize,
    pub rows: usize,
    /// Where the first goes, counted from `first` of keys and values.
    pub token: usize,
    pub keys: StoredMut<'a>,
    pub values: StoredMut<'a>,
}

/// What comes in, as the product left it; all three may be views of the same rows.
#[derive(Clone, Copy, Debug)]
pub struct Prepare<'a> {
    pub queries: Heads<'a>,
    pub keys: Heads<'a>,
    pub values: Heads<'a>,
    pub query_norm: Option<RmsNorm<'a>>,
    pub key_norm: Option<RmsNorm<'a>>,
    pub rope: Option<Rope<'a>>,
}

impl<'a> StoredMut<'a> {
    /// `[heads, capacity, dim]` without gaps.
    pub fn new(cells: CellsMut<'a>, capacity: usize, dim: usize) -> StoredMut<'a> {
        StoredMut { cells, first: 0, head_stride: capacity * dim, token_stride: dim }
    }
}

/// Writes normed and turned queries to `queries`, normed and turned keys and plain values to their places. Rows that no
/// `Append` names are not remembered.
pub fn qk_prepare(
    cpu: &Cpu<'_>,
    prepare: &Prepare<'_>,
    mut queries: HeadsMut<'_>,
    appends: &mut [Append<'_>],
) {
    let Heads { rows, heads, dim, .. } = prepare.queries;
    assert_eq!((queries.rows, queries.heads, queries.dim), (rows, heads, dim), "shape of queries");
    prepare.queries.check();
    let out = Some(queries.shared());
    run(cpu, prepare, out, appends);
}

/// Writes keys and values to their places as they are.
pub fn append(cpu: &Cpu<'_>, keys: &Heads<'_>, values: &Heads<'_>, appends: &mut [Append<'_>]) {
    let prepare = Prepare {
        queries: *keys,
        keys: *keys,
        values: *values,
        query_norm: None,
        key_norm: None,
        rope: None,
    };
    run(cpu, &prepare, None, appends);
}

fn run(
    cpu: &Cpu<'_>,
    prepare: &Prepare<'_>,
    queries: Option<SharedHeads>,
    appends: &mut [Append<'_>],
) {
    let Prepare { keys, values, .. } = prepare;
    let rows = prepare.queries.rows;
    assert_eq!((keys.rows, values.rows), (rows, rows), "rows of queries, keys and values");
    assert_eq!(keys.heads, values.heads, "heads of keys and values");
    keys.check();
    values.check();
    for dim in [prepare.queries.dim, keys.dim, values.dim] {
        assert!(dim <= HEAD_DIM_MAX, "heads of width {dim}; at most {HEAD_DIM_MAX}");
    }
    if let Some(rope) = prepare.rope {
        rope.check(rows, prepare.queries.dim.min(keys.dim));
    }
    let mut next = 0;
    let places: Vec<Places> = appends
        .iter_mut()
        .map(|append| {
            let Append { row, rows: count, token, .. } = *append;
            assert!(row >= next && row + count <= rows, "rows {row} + {count} of {rows}");
            next = row + count;
            let shape = |dim| (keys.heads, token, count, dim);
            let (keys, values) =
                (append.keys.place(shape(keys.dim)), append.values.place(shape(values.dim)));
            Places { row, rows: count, keys, values }
        })
        .collect();
    let width = prepare.queries.heads * prepare.queries.dim + keys.heads * (keys.dim + values.dim);
    spread::rows(cpu, rows, 2 * width, &|rows| {
        for row in rows {
            let after = places.partition_point(|place| place.row <= row);
            let place = after.checked_sub(1).map(|i| &places[i]);
            let place = place.filter(|place| row < place.row + place.rows);
            // SAFETY: shapes were checked, each row has places of its own, `cpu.isa` was chosen for this processor.
            unsafe { on(cpu.isa, PrepareRow { prepare, queries, place, row }) };
        }
    });
}

/// Where rows from `row` on go.
struct Places {
    row: usize,
    rows: usize,
    keys: Place,
    values: Place,
}

/// The first token's first head.
#[derive(Clone, Copy)]
struct Place {
    to: To,
    head_stride: usize,
    token_stride: usize,
}

#[derive(Clone, Copy)]
enum To {
    Floats(Target),
    Bytes { codes: *mut i8, scales: *mut f32, at: usize, group: usize },
    Nibbles { codes: *mut i8, scales: *mut f32, at: usize },
}

// SAFETY: as with `Target`, threads write disjoint parts.
unsafe impl Send for To {}
// SAFETY: as above.
unsafe impl Sync for To {}

impl StoredMut<'_> {
    /// Panics when memory is too short or tokens overlap: kernels write through pointers.
    fn place(&mut self, (heads, token, count, dim): (usize, usize, usize, usize)) -> Place {
        let (head_stride, token_stride) = (self.head_stride, self.token_stride);
        let at = self.first + token * token_stride;
        let end = at + (heads.max(1) - 1) * head_stride + (count.max(1) - 1) * token_stride + dim;
        let empty = heads == 0 || count == 0;
        let (to, len) = match &mut self.cells {
            CellsMut::Floats(floats) => {
                (To::Floats(Target::from(&mut *floats).at(at)), floats.len())
            }
            CellsMut::Bytes { codes, scales, group } => {
                check_group(*group, &[self.first, head_stride, token_stride, dim]);
                let len = codes.len().min(scales.len() * *group);
                let (codes, scales) = (codes.as_mut_ptr(), scales.as_mut_ptr());
                (To::Bytes { codes, scales, at, group: *group }, len)
            }
            CellsMut::Nibbles { codes, scales } => {
                check_group(NIBBLES, &[self.first, head_stride, token_stride, dim]);
                let len = (2 * codes.len()).min(scales.len() * NIBBLES);
                let (codes, scales) = (codes.as_mut_ptr(), scales.as_mut_ptr());
                (To::Nibbles { codes, scales, at }, len)
            }
        };
        assert!(empty || end <= len, "tokens {token} + {count} end at {end} of {len}");
        let disjoint = empty || disjoint((count, token_stride), (heads, head_stride), dim);
        assert!(disjoint, "tokens at strides {token_stride} and {head_stride} overlap");
        Place { to, head_stride, token_stride }
    }
}

impl Place {
    #[inline(always)]
    fn at(&self, token: usize, head: usize) -> To {
        let offset = token * self.token_stride + head * self.head_stride;
        match self.to {
            To::Floats(target) => To::Floats(target.at(offset)),
            To::Bytes { codes, scales, at, group } => {
                To::Bytes { codes, scales, at: at + offset, group }
            }
            To::Nibbles { codes, scales, at } => To::Nibbles { codes, scales, at: at + offset },
        }
    }
}

struct PrepareRow<'a> {
    prepare: &'a Prepare<'a>,
    queries: Option<SharedHeads>,
    place: Option<&'a Places>,
    row: usize,
}

impl Body for PrepareRow<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let PrepareRow { prepare, queries, place, row } = self;
        let Prepare { rope, query_norm, key_norm, .. } = prepare;
        let mut buffer = [0f32; HEAD_DIM_MAX + LANES_MAX];
        // SAFETY: as in `vector`; a head fits the buffer.
        unsafe {
            if let Some(queries) = queries {
                for head in 0..prepare.queries.heads {
                    load::<V>(&prepare.queries, (row, head), query_norm, &mut buffer);
                    let dim = prepare.queries.dim;
                    turn::<V>(rope, row, dim, &mut buffer);
                    store::<V>(&mut buffer, dim, To::Floats(queries.at(row, head)));
                }
            }
            let Some(place) = place else { return };
            let token = row - place.row;
            for head in 0..prepare.keys.heads {
                load::<V>(&prepare.keys, (row, head), key_norm, &mut buffer);
                turn::<V>(rope, row, prepare.keys.dim, &mut buffer);
                store::<V>(&mut buffer, prepare.keys.dim, place.keys.at(token, head));
            }
            for head in 0..prepare.values.heads {
                load::<V>(&prepare.values, (row, head), &None, &mut buffer);
                store::<V>(&mut buffer, prepare.values.dim, place.values.at(token, head));
            }
        }
    }
}

type Buffer = [f32; HEAD_DIM_MAX + LANES_MAX];

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn load<V: Vector>(
    heads: &Heads<'_>,
    (row, head): (usize, usize),
    norm: &Option<RmsNorm<'_>>,
    buffer: &mut Buffer,
) {
    let (from, dim) = (heads.at(row, head), heads.dim);
    // SAFETY: as in `vector`.
    unsafe {
        for i in (0..dim).step_by(V::LANES) {
            V::store(buffer.as_mut_ptr().add(i), from.load_to::<V>(i, dim));
        }
        if let Some(norm) = norm {
            norm_in_place::<V>(buffer.as_mut_ptr(), dim, norm);
        }
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn turn<V: Vector>(rope: &Option<Rope<'_>>, row: usize, dim: usize, buffer: &mut Buffer) {
    if let Some(rope) = rope {
        let (from, to) = (Source::F32(buffer.as_ptr()), Target::F32(buffer.as_mut_ptr()));
        // SAFETY: as in `vector`.
        unsafe { Turn::new(rope, row, dim, from, to).run::<V>() };
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn store<V: Vector>(buffer: &mut Buffer, dim: usize, to: To) {
    // SAFETY: as in `vector`.
    unsafe {
        match to {
            To::Floats(to) => {
                for i in (0..dim).step_by(V::LANES) {
                    to.store_to::<V>(i, dim, V::load(buffer.as_ptr().add(i)));
                }
            }
            To::Bytes { codes, scales, at, group } => {
                for start in (0..dim).step_by(group) {
                    let values = &buffer[start..start + group];
                    let max = values
                        .iter()
                        .fold(0f32, |max, x| if x.abs() > max { x.abs() } else { max });
                    let inverse = if max > 1e-30 { 127.0 / max } else { 0.0 };
                    *scales.add((at + start) / group) = max / 127.0;
                    for (i, value) in values.iter().enumerate() {
                        *codes.add(at + start + i) = (value * inverse).round_ties_even() as i8;
                    }
                }
            }
            To::Nibbles { codes, scales, at } => {
                let (groups, _) = buffer[..dim].as_chunks::<NIBBLES>();
                for (index, values) in groups.iter().enumerate() {
                    let group = at / NIBBLES + index;
                    let to = codes.add(group * NIBBLES / 2).cast::<[i8; NIBBLES / 2]>();
                    *scales.add(group) = pack_nibbles(values, &mut *to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::element::Floats;
    use crate::rope::{RopeLayout, rope_angles, rope_width};
    use crate::{Pool, isa};

    const HEADS: usize = 6;
    const KV_HEADS: usize = 2;
    const CAPACITY: usize = 40;

    /// One head in f64.
    fn exact(x: &[f32], weight: &[f32], position: i32, frequencies: &[f32]) -> Vec<f64> {
        let square: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let normed: Vec<f64> = x
            .iter()
            .zip(weight)
            .map(|(&x, &w)| f64::from(x) / (square + 1e-6).sqrt() * f64::from(w))
            .collect();
        let half = frequencies.len();
        let mut out = normed.clone();
        for i in 0..half {
            let (sin, cos) = (f64::from(position) * f64::from(frequencies[i])).sin_cos();
            out[i] = normed[i] * cos - normed[half + i] * sin;
            out[half + i] = normed[half + i] * cos + normed[i] * sin;
        }
        out
    }

    fn check(dim: usize, bytes: bool) {
        let mut rng = StdRng::seed_from_u64(dim as u64);
        let rows = 21;
        let width = (HEADS + 2 * KV_HEADS) * dim;
        let x: Vec<bf16> =
            (0..rows * width).map(|_| bf16::from_f32(rng.random_range(-2.0..2.0))).collect();
        let weight: Vec<f32> = (0..dim).map(|_| rng.random_range(0.5..1.5)).collect();
        let frequencies: Vec<f32> = (0..dim / 2).map(|i| 0.9f32.powi(i as i32)).collect();
        // Two sequences: 12 rows at 100 and 7 at 3; rows 12 and 20 belong to nobody.
        let positions: Vec<i32> =
            (0..rows as i32).map(|row| if row < 12 { 100 + row } else { row - 10 }).collect();
        let mut angles = vec![0.0; rows * rope_width(RopeLayout::Halves, dim)];
        rope_angles(RopeLayout::Halves, &positions, &frequencies, 1.0, &mut angles);
        let view = |first: usize, heads| Heads {
            data: Floats::Bf16(&x[first * dim..]),
            rows,
            heads,
            dim,
            row_stride: width,
            head_stride: dim,
        };
        let norm = RmsNorm { weight: Some(Floats::F32(&weight)), weight_offset: 0.0, eps: 1e-6 };
        let prepare = Prepare {
            queries: view(0, HEADS),
            keys: view(HEADS, KV_HEADS),
            values: view(HEADS + KV_HEADS, KV_HEADS),
            query_norm: Some(norm),
            key_norm: Some(norm),
            rope: Some(Rope { layout: RopeLayout::Halves, dims: dim, angles: &angles }),
        };
        let head = |first: usize, row: usize, head: usize| -> Vec<f32> {
            let at = row * width + (first + head) * dim;
            x[at..at + dim].iter().map(|x| x.to_f32()).collect()
        };
        let pool = Pool::new(2);
        for isa in isa::available() {
            let cpu = Cpu { isa, pool: &pool };
            let count = KV_HEADS * CAPACITY * dim;
            let mut queries = vec![0f32; rows * HEADS * dim];
            let mut keys = [vec![f16::NAN; count], vec![f16::NAN; count]];
            let mut codes = [vec![99i8; count], vec![99; count]];
            let mut scales = [vec![7f32; count / 16], vec![7.0; count / 16]];
            let mut values = [vec![bf16::NAN; count], vec![bf16::NAN; count]];
            let mut stores: Vec<StoredMut<'_>> = keys
                .iter_mut()
                .zip(codes.iter_mut().zip(&mut scales))
                .map(|(keys, (codes, scales))| {
                    let cells = if bytes {
                        CellsMut::Bytes { codes, scales, group: 16 }
                    } else {
                        CellsMut::Floats(FloatsMut::F16(keys))
                    };
                    StoredMut::new(cells, CAPACITY, dim)
                })
                .collect();
            let [values0, values1] = &mut values;
            let values_at = |v| StoredMut::new(CellsMut::Floats(FloatsMut::Bf16(v)), CAPACITY, dim);
            let (keys1, keys0) = (stores.pop().unwrap(), stores.pop().unwrap());
            let mut appends = [
                Append { row: 0, rows: 12, token: 5, keys: keys0, values: values_at(values0) },
                Append { row: 13, rows: 7, token: 30, keys: keys1, values: values_at(values1) },
            ];
            let out = HeadsMut::new(FloatsMut::F32(&mut queries), rows, HEADS, dim);
            qk_prepare(&cpu, &prepare, out, &mut appends);
            for row in 0..rows {
                for h in 0..HEADS {
                    let want = exact(&head(0, row, h), &weight, positions[row], &frequencies);
                    for (i, want) in want.iter().enumerate() {
                        let got = f64::from(queries[(row * HEADS + h) * dim + i]);
                        assert!((got - want).abs() < 4e-6, "{} {row} {h} {i}", isa.name());
                    }
                }
            }
            let mut written = 0;
            for (sequence, first, count, token) in [(0, 0, 12, 5), (1, 13, 7, 30)] {
                for (t, h) in (0..count).flat_map(|t| (0..KV_HEADS).map(move |h| (t, h))) {
                    let at = (h * CAPACITY + token + t) * dim;
                    let row = first + t;
                    let want = exact(&head(HEADS, row, h), &weight, positions[row], &frequencies);
                    let value = head(HEADS + KV_HEADS, row, h);
                    written += dim;
                    for i in 0..dim {
                        assert_eq!(values[sequence][at + i].to_f32(), value[i]);
                        let (got, bound) = if bytes {
                            let scale = scales[sequence][(at + i) / 16];
                            (f32::from(codes[sequence][at + i]) * scale, 0.51 * scale)
                        } else {
                            (keys[sequence][at + i].to_f32(), 0.002)
                        };
                        let off = (f64::from(got) - want[i]).abs();
                        assert!(off <= f64::from(bound), "{} {t} {h} {i}: {off}", isa.name());
                    }
                }
            }
            // Nothing else was touched.
            let untouched = values.iter().flatten().filter(|v| v.is_nan()).count();
            assert_eq!(untouched, 2 * count - written);
        }
    }

    #[test]
    fn fused_preparation() {
        check(128, false);
        check(128, true);
        check(64, true);
        check(40, false);
    }

    #[test]
    fn plain_append_with_gaps() {
        let keys: Vec<f32> = (0..3 * 2 * 8).map(|i| i as f32).collect();
        let mut to = [vec![-1f32; 2 * 8 * 10], vec![-1f32; 2 * 8 * 10]];
        let [a, b] = &mut to;
        let store = |v| StoredMut::new(CellsMut::Floats(FloatsMut::F32(v)), 10, 8);
        let mut appends = [Append { row: 1, rows: 2, token: 4, keys: store(a), values: store(b) }];
        let heads = Heads::new(Floats::F32(&keys), 3, 2, 8);
        let pool = Pool::new(1);
        append(&Cpu { isa: isa::best(), pool: &pool }, &heads, &heads, &mut appends);
        assert_eq!(to[0], to[1]);
        for (i, &value) in to[0].iter().enumerate() {
            let (head, token, i) = (i / 80, i / 8 % 10, i % 8);
            let want = if token == 4 || token == 5 {
                ((token - 3) * 16 + head * 8 + i) as f32
            } else {
                -1.0
            };
            assert_eq!(value, want);
        }
    }

    #[test]
    #[should_panic(expected = "tokens 9 + 2 end at")]
    fn past_the_end_of_a_buffer() {
        let (mut a, mut b) = (vec![0f32; 80], vec![0f32; 80]);
        let store = |v| StoredMut::new(CellsMut::Floats(FloatsMut::F32(v)), 10, 8);
        let (keys, values) = (store(&mut a), store(&mut b));
        let mut appends = [Append { row: 0, rows: 2, token: 9, keys, values }];
        let heads = Heads::new(Floats::F32(&[0.0; 16]), 2, 1, 8);
        let pool = Pool::new(1);
        append(&Cpu { isa: isa::best(), pool: &pool }, &heads, &heads, &mut appends);
    }
}
