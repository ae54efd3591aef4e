//! Norms, rotary positions and attention on our own kernels: one node each, where MLX's CPU backend builds graphs of
//! small operations. Each gives None for what it does not take, and MLX computes that.
//!
//! Heads are `[batch, heads, length, width]`, any strides but the last.

use std::cell::RefCell;

use kernels::{
    Attention, Cells, Cpu, Floats, Heads, HeadsMut, RmsNorm, RopeLayout, Rows, RowsMut, Segment,
    Span, Stored, rope_angles, rope_width,
};

use super::values::{Axes, Values, View, in_order, is_float, part_mut, promoted};
use super::{Input, Kernel, Output, Part, Start, call, kernels_compute};
use crate::fast::{Angles, Mask, Rope};
use crate::{Array, Dtype};

fn ours(arrays: &[&Array]) -> bool {
    kernels_compute()
        && arrays.iter().all(|array| is_float(array) && array.ndim() > 0 && array.size() > 0)
}

/// One node with one output of the shape of `like`.
#[track_caller]
fn one(kernel: impl Kernel, inputs: &[&Array], like: &Array, dtype: Dtype) -> Array {
    let start = Start::Fresh { shape: like.shape(), dtype };
    call(kernel, inputs, &[start]).swap_remove(0)
}

#[track_caller]
pub(crate) fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32, dtype: Dtype) -> Option<Array> {
    let inputs: Vec<&Array> = std::iter::once(x).chain(weight).collect();
    let fits = weight.is_none_or(|weight| weight.shape() == [x.dim(-1)]);
    (ours(&inputs) && fits).then(|| one(Norm { eps }, &inputs, x, dtype))
}

struct Norm {
    eps: f32,
}

impl Kernel for Norm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let weight = inputs.get(1).map(Values::of);
        let norm = RmsNorm {
            weight: weight.as_ref().map(Values::floats),
            weight_offset: 0.0,
            eps: self.eps,
        };
        let (x, y) = (View::of(&inputs[0]), &mut outputs[0]);
        let columns = x.shape.last().copied().unwrap_or(1);
        let blocks = Blocks::of(&x);
        for (index, first) in blocks.firsts.iter().enumerate() {
            let rows = Rows {
                data: x.floats_from(*first),
                rows: blocks.rows,
                columns,
                stride: blocks.stride,
            };
            let size = blocks.rows * columns;
            let part = part_mut(y, index * size..(index + 1) * size);
            kernels::rms_norm(
                &Cpu::current(),
                &rows,
                &norm,
                RowsMut::new(part, blocks.rows, columns),
            );
        }
    }
}

/// An array as stretches of rows at one stride, in row-major order.
struct Blocks {
    firsts: Axes,
    rows: usize,
    stride: usize,
}

impl Blocks {
    fn of(x: &View<'_>) -> Blocks {
        let axes = x.shape.len() - 1;
        let columns = x.shape[axes];
        // The longest run of leading axes that step like one.
        let mut inner = axes;
        let (mut rows, mut stride) = (1, columns);
        while inner > 0 {
            let (dim, step) = (x.shape[inner - 1], x.strides[inner - 1]);
            if dim != 1 && rows != 1 && step != rows * stride {
                break;
            }
            if dim != 1 {
                stride = if rows == 1 { step } else { stride };
                rows *= dim;
            }
            inner -= 1;
        }
        let mut firsts = Axes::from_slice(&[x.first]);
        for axis in 0..inner {
            let steps = |first: &usize| {
                let first = *first;
                (0..x.shape[axis]).map(move |index| first + index * x.strides[axis])
            };
            firsts = firsts.iter().flat_map(steps).collect();
        }
        Blocks { firsts, rows, stride }
    }
}

/// `offsets`: the first position, one for all or one for each of the batch.
#[track_caller]
pub(crate) fn rope(rope: &Rope<'_>, x: &Array, offsets: Offsets<'_>) -> Option<Array> {
    let &[batch, _, _, width] = x.shape() else { return None };
    let (base, freqs) = match rope.angles {
        Angles::Base(base) => (Some(base), None),
        Angles::Freqs(freqs) => (None, Some(freqs)),
    };
    let given =
        freqs.is_none_or(|freqs| freqs.dtype() == Dtype::F32 && freqs.shape() == [rope.dims / 2]);
    let placed = match offsets {
        Offsets::One(_) => true,
        Offsets::Each(each) => {
            each.dtype() == Dtype::I32 && [&[] as &[i32], &[1], &[batch]].contains(&each.shape())
        }
    };
    if !ours(&[x]) || !given || !placed || rope.dims % 2 != 0 || rope.dims > width {
        return None;
    }
    let (offset, each) = match offsets {
        Offsets::One(offset) => (Some(offset), None),
        Offsets::Each(each) => (None, Some(each)),
    };
    let inputs: Vec<&Array> = [Some(x), each, freqs].into_iter().flatten().collect();
    let layout = if rope.traditional { RopeLayout::Pairs } else { RopeLayout::Halves };
    Some(one(
        Turn { layout, dims: rope.dims as usize, base, scale: rope.scale, offset },
        &inputs,
        x,
        x.dtype(),
    ))
}

#[derive(Clone, Copy)]
pub(crate) enum Offsets<'a> {
    One(i32),
    Each(&'a Array),
}

struct Turn {
    layout: RopeLayout,
    dims: usize,
    /// None: wavelengths are the last input.
    base: Option<f32>,
    scale: f32,
    /// None: offsets are the second input.
    offset: Option<i32>,
}

impl Turn {
    /// The position of each row.
    fn positions(&self, inputs: &[Input<'_>], batch: usize, length: usize) -> Vec<i32> {
        let offsets = match self.offset {
            Some(offset) => vec![offset],
            None => in_order::<i32>(&inputs[1]).into_owned(),
        };
        let offset = |index: usize| offsets[if offsets.len() == 1 { 0 } else { index }];
        (0..batch)
            .flat_map(|index| (0..length as i32).map(move |row| (index, row)))
            .map(|(i, row)| offset(i) + row)
            .collect()
    }
}

impl Kernel for Turn {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let x = View::of(&inputs[0]);
        let (batch, heads, length, width) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
        let positions = self.positions(inputs, batch, length);
        let step = rope_width(self.layout, self.dims);
        let wavelengths = match self.base {
            Some(_) => None,
            None => Some(in_order::<f32>(&inputs[inputs.len() - 1])),
        };
        with_angles(self, wavelengths.as_deref(), positions, |angles| {
            for block in blocks(&x) {
                let rows = block.rows;
                let angles = &angles[block.row * step..(block.row + rows) * step];
                let turn = kernels::Rope { layout: self.layout, dims: self.dims, angles };
                let from = block.heads(&x);
                let to = block.heads_mut(&mut outputs[0], heads, length, width);
                kernels::rope(&Cpu::current(), &from, &turn, to);
            }
        });
    }
}

/// Angles of some positions, and what else decided them.
struct Table {
    layout: RopeLayout,
    dims: usize,
    base: Option<f32>,
    /// Empty where there is a base.
    wavelengths: Vec<f32>,
    scale: f32,
    positions: Vec<i32>,
    angles: Vec<f32>,
}

/// Tables of angles that a thread keeps: layers of a model turn by one or two, all of them in every step. Each costs the
/// rows of a batch times the width of a head, in f32.
const TABLES_MAX: usize = 4;

impl Table {
    fn new(turn: &Turn, wavelengths: Option<&[f32]>, positions: Vec<i32>) -> Table {
        let Turn { layout, dims, base, scale, .. } = *turn;
        let frequencies: Vec<f32> = match (base, wavelengths) {
            (Some(base), _) => {
                let exponent = |i: usize| -2.0 * i as f64 / dims as f64;
                (0..dims / 2)
                    .map(|i| (f64::from(base).powf(exponent(i)) * f64::from(scale)) as f32)
                    .collect()
            }
            (None, given) => given.unwrap_or_default().iter().map(|wave| scale / wave).collect(),
        };
        let mut angles = vec![0.0; positions.len() * rope_width(layout, dims)];
        rope_angles(layout, &positions, &frequencies, 1.0, &mut angles);
        let wavelengths = wavelengths.unwrap_or_default().to_vec();
        Table { layout, dims, base, wavelengths, scale, positions, angles }
    }

    fn is_of(&self, turn: &Turn, wavelengths: Option<&[f32]>, positions: &[i32]) -> bool {
        let Turn { layout, dims, base, scale, .. } = *turn;
        (self.layout, self.dims, self.base, self.scale) == (layout, dims, base, scale)
            && self.positions == positions
            && self.wavelengths == wavelengths.unwrap_or_default()
    }
}

/// Queries and keys of all layers turn by the same angles in a step, so the last ones are kept.
fn with_angles<T>(
    turn: &Turn,
    wavelengths: Option<&[f32]>,
    positions: Vec<i32>,
    f: impl FnOnce(&[f32]) -> T,
) -> T {
    thread_local! {
        static TABLES: RefCell<Vec<Table>> = const { RefCell::new(Vec::new()) };
    }
    TABLES.with_borrow_mut(|tables| {
        let known = tables.iter().position(|table| table.is_of(turn, wavelengths, &positions));
        match known {
            Some(place) => tables[..=place].rotate_right(1),
            None => {
                tables.truncate(TABLES_MAX - 1);
                tables.insert(0, Table::new(turn, wavelengths, positions));
            }
        }
        f(&tables[0].angles)
    })
}

/// Part of `[batch, heads, length, width]` in which rows step evenly: everything where the length is 1, else one of the
/// batch.
struct Block {
    /// Of the batch.
    index: usize,
    /// Its first row, of batch × length.
    row: usize,
    rows: usize,
    row_stride: usize,
    first: usize,
}

fn blocks(x: &View<'_>) -> Vec<Block> {
    let (batch, length) = (x.shape[0], x.shape[2]);
    if length == 1 {
        return vec![Block {
            index: 0,
            row: 0,
            rows: batch,
            row_stride: x.strides[0],
            first: x.first,
        }];
    }
    let one = |index| Block {
        index,
        row: index * length,
        rows: length,
        row_stride: x.strides[2],
        first: x.first + index * x.strides[0],
    };
    (0..batch).map(one).collect()
}

impl Block {
    fn heads<'a>(&self, x: &'a View<'_>) -> Heads<'a> {
        Heads {
            data: x.floats_from(self.first),
            rows: self.rows,
            heads: x.shape[1],
            dim: x.shape[3],
            row_stride: self.row_stride,
            head_stride: x.strides[1],
        }
    }

    fn heads_mut<'a>(
        &self,
        output: &'a mut Output<'_>,
        heads: usize,
        length: usize,
        width: usize,
    ) -> HeadsMut<'a> {
        let one = heads * length * width;
        let count = if length == 1 { self.rows } else { 1 };
        let (row_stride, head_stride) =
            if length == 1 { (one, width) } else { (width, length * width) };
        let data = part_mut(output, self.index * one..(self.index + count) * one);
        HeadsMut { data, rows: self.rows, heads, dim: width, row_stride, head_stride }
    }
}

#[track_caller]
pub(crate) fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Mask<'_>,
    sinks: Option<&Array>,
) -> Option<Array> {
    let causal = match mask {
        Mask::None => false,
        Mask::Causal => true,
        Mask::Array(_) => return None,
    };
    let inputs: Vec<&Array> = [q, k, v].into_iter().chain(sinks).collect();
    let (&[batch, heads, length, width], &[kb, kv_heads, keys, kw]) = (q.shape(), k.shape()) else {
        return None;
    };
    let &[vb, v_heads, values, value_width] = v.shape() else { return None };
    let fits = kb == batch
        && vb == batch
        && kw == width
        && v_heads == kv_heads
        && values == keys
        && kv_heads > 0
        && heads % kv_heads == 0
        && k.dtype() == v.dtype()
        && (!causal || keys >= length)
        && sinks.is_none_or(|sinks| sinks.shape() == [heads]);
    if !ours(&inputs) || !fits {
        return None;
    }
    // Rows of all heads, which is how the product that follows wants them.
    let shape = [batch, length, heads, value_width];
    let start = Start::Fresh { shape: &shape, dtype: promoted(q.dtype(), k.dtype()) };
    Some(call(Attend { scale, causal }, &inputs, &[start]).swap_remove(0).swapaxes(1, 2))
}

struct Attend {
    scale: f32,
    causal: bool,
}

impl Kernel for Attend {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn part(&self) -> Part {
        Part::Attention
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let (q, k, v) = (View::of(&inputs[0]), View::of(&inputs[1]), View::of(&inputs[2]));
        let sinks = inputs.get(3).map(Values::of);
        let (heads, length) = (q.shape[1], q.shape[2]);
        let (keys, value_dim) = (k.shape[2], v.shape[3]);
        let spans: Vec<[Span<'_>; 1]> = (0..k.shape[0])
            .map(|index| {
                [Span { keys: stored(&k, index), values: stored(&v, index), tokens: keys }]
            })
            .collect();
        for block in blocks(&q) {
            // A single query is the last one and sees every key.
            let position = keys.saturating_sub(length);
            let segment = |row, length, index: usize| Segment {
                row,
                length,
                position,
                history_start: 0,
                spans: &spans[index],
                page: 0,
            };
            let segments: Vec<Segment<'_>> = match length {
                1 => (0..block.rows).map(|index| segment(index, 1, index)).collect(),
                _ => vec![segment(0, length, block.index)],
            };
            let attention = Attention {
                value_dim,
                scale: self.scale,
                causal: self.causal,
                sinks: sinks.as_ref().map(Values::floats),
                ..Attention::causal(block.heads(&q), k.shape[1], &segments)
            };
            let one = length * heads * value_dim;
            let count = if length == 1 { block.rows } else { 1 };
            let out = HeadsMut {
                data: part_mut(&mut outputs[0], block.index * one..(block.index + count) * one),
                rows: block.rows,
                heads,
                dim: value_dim,
                row_stride: heads * value_dim,
                head_stride: value_dim,
            };
            kernels::attend(&Cpu::current(), &attention, out);
        }
    }
}

fn stored<'a>(x: &'a View<'_>, index: usize) -> Stored<'a> {
    let cells: Floats<'a> = x.floats();
    Stored {
        cells: Cells::Floats(cells),
        first: x.first + index * x.strides[0],
        head_stride: x.strides[1],
        token_stride: x.strides[2],
    }
}
