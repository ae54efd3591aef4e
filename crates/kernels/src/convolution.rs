//! Convolutions: the short causal one of hybrid models, which remembers its last inputs, and the two-dimensional one of
//! image towers.

use std::cell::Cell;

use crate::Cpu;
use crate::dense::product;
use crate::element::{Element, Floats, FloatsMut};
use crate::gate::{Activation, apply};
use crate::rows::{Rows, RowsMut};
use crate::scratch::{self, Line};
use crate::spread;
use crate::vector::{Body, Source, SourceRows, Target, TargetRows, Vector, copy, on};

/// The longest short convolution.
pub const TAPS_MAX: usize = 8;

/// A causal convolution of each channel by itself: `y[t] = f(Σ_j weights[j] x[t - taps + 1 + j] + bias)`.
#[derive(Clone, Copy, Debug)]
pub struct ShortConvolution<'a> {
    /// `[taps, channels]`: transposed against checkpoints, so that channels lie side by side.
    pub weights: Rows<'a>,
    pub bias: Option<Floats<'a>>,
    pub activation: Option<Activation>,
}

/// Rows of one sequence and its last inputs, `[taps - 1, channels]`, which move on by as many.
#[derive(Debug)]
pub struct ConvolutionSegment<'a> {
    pub row: usize,
    pub length: usize,
    pub state: FloatsMut<'a>,
}

/// Convolves the rows of every segment; rows that no segment names stay as they are.
pub fn convolve_short(
    cpu: &Cpu<'_>,
    convolution: &ShortConvolution<'_>,
    x: &Rows<'_>,
    segments: &mut [ConvolutionSegment<'_>],
    mut y: RowsMut<'_>,
) {
    let (taps, channels) = (convolution.weights.rows, convolution.weights.columns);
    assert!((1..=TAPS_MAX).contains(&taps), "{taps} taps; at most {TAPS_MAX}");
    assert_eq!((x.columns, y.columns, y.rows), (channels, channels, x.rows), "shapes of x and y");
    assert!(convolution.bias.is_none_or(|bias| bias.len() == channels), "a bias for each channel");
    let (inputs, weights) = (SourceRows::from(x), SourceRows::from(&convolution.weights));
    let y = TargetRows::from(&mut y);
    let mut next = 0;
    for segment in segments {
        let ConvolutionSegment { row, length, .. } = *segment;
        assert!(row >= next && row + length <= x.rows, "rows {row} + {length} of {}", x.rows);
        next = row + length;
        assert_eq!(segment.state.len(), (taps - 1) * channels, "numbers of state");
        let state = Target::from(&mut segment.state);
        // Input `t + taps - 1` of a sequence that begins with its state.
        let input = |i: usize| match i.checked_sub(taps - 1) {
            Some(t) => inputs.row(row + t),
            None => state.source().at(i * channels),
        };
        let (bias, activation) = (convolution.bias.map(Source::from), convolution.activation);
        spread::rows(cpu, length, 4 * channels, &|tokens| {
            for t in tokens {
                let mut from = [input(t); TAPS_MAX];
                for (tap, from) in from.iter_mut().enumerate().take(taps) {
                    *from = input(t + tap);
                }
                let y = y.row(row + t);
                let body = Taps { from, taps, channels, weights, bias, activation, y };
                // SAFETY: shapes were checked, rows are disjoint, and `cpu.isa` was chosen for this processor.
                unsafe { on(cpu.isa, body) };
            }
        });
        for i in 0..taps - 1 {
            let to = state.at(i * channels);
            // SAFETY: as above. What is read lies at or behind what is written, so it is still the old state.
            unsafe { on(cpu.isa, copy(input(length + i), to, channels)) };
        }
    }
}

/// One row.
struct Taps {
    from: [Source; TAPS_MAX],
    taps: usize,
    channels: usize,
    weights: SourceRows,
    bias: Option<Source>,
    activation: Option<Activation>,
    y: Target,
}

impl Body for Taps {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let end = self.channels;
        for i in (0..end).step_by(V::LANES) {
            // SAFETY: as in `vector`.
            unsafe {
                let mut sum = self.bias.map_or(V::zero(), |bias| bias.load_to::<V>(i, end));
                for (tap, from) in self.from.iter().enumerate().take(self.taps) {
                    let weight = self.weights.row(tap).load_to::<V>(i, end);
                    sum = V::fma(from.load_to::<V>(i, end), weight, sum);
                }
                if let Some(f) = self.activation {
                    sum = apply::<V>(f, sum);
                }
                self.y.store_to::<V>(i, end, sum);
            }
        }
    }
}

/// Pictures `[count, height, width, channels]`.
#[derive(Clone, Copy, Debug)]
pub struct Pictures<'a> {
    pub data: Floats<'a>,
    pub count: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// A window over a picture; pairs are (down, across).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub size: (usize, usize),
    pub stride: (usize, usize),
    pub padding: (usize, usize),
}

impl Window {
    /// Height and width of what comes out.
    pub fn output(&self, height: usize, width: usize) -> (usize, usize) {
        let along = |length: usize, size: usize, stride: usize, padding: usize| {
            (length + 2 * padding).checked_sub(size).map_or(0, |rest| rest / stride.max(1) + 1)
        };
        (
            along(height, self.size.0, self.stride.0, self.padding.0),
            along(width, self.size.1, self.stride.1, self.padding.1),
        )
    }
}

/// Bytes of windows that are laid out at a time for the product.
const WINDOW_BYTES: usize = 4 << 20;

/// `y[count * height * width, outputs]` from `weights[outputs, size * size * channels]`; the sum of products, to which
/// [`crate::combine_row`] adds a bias.
pub fn conv2d(
    cpu: &Cpu<'_>,
    x: &Pictures<'_>,
    weights: &Rows<'_>,
    window: &Window,
    mut y: RowsMut<'_>,
) {
    let Pictures { data, count, height, width, channels } = *x;
    assert_eq!(data.len(), count * height * width * channels, "numbers of {count} pictures");
    let columns = window.size.0 * window.size.1 * channels;
    let (down, across) = window.output(height, width);
    let rows = count * down * across;
    assert_eq!(weights.columns, columns, "columns of weights");
    assert_eq!((y.rows, y.columns), (rows, weights.rows), "shape of y");
    if rows == 0 || columns == 0 {
        return;
    }
    let size = if matches!(data, Floats::F32(_)) { 4 } else { 2 };
    let at_once = (WINDOW_BYTES / (columns * size)).clamp(1, rows);
    scratch::with(&WINDOWS, at_once * columns * size, |memory| {
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let block = Block { x, window, first, count, columns };
            // SAFETY: the scratch is as long, aligned and initialised, and all bits are floats.
            let laid_out = unsafe {
                let floats = count * columns;
                match data {
                    Floats::F32(data) => {
                        let to = std::slice::from_raw_parts_mut(memory.cast::<f32>(), floats);
                        block.lay_out(cpu, data, to);
                        Floats::F32(to)
                    }
                    Floats::Bf16(data) => {
                        let to = std::slice::from_raw_parts_mut(memory.cast(), floats);
                        block.lay_out(cpu, data, to);
                        Floats::Bf16(to)
                    }
                    Floats::F16(data) => {
                        let to = std::slice::from_raw_parts_mut(memory.cast(), floats);
                        block.lay_out(cpu, data, to);
                        Floats::F16(to)
                    }
                }
            };
            product(cpu, &Rows::new(laid_out, count, columns), weights, part(&mut y, first, count));
        }
    });
}

thread_local! {
    static WINDOWS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// `count` rows of `y` from `first` on.
fn part<'a>(y: &'a mut RowsMut<'_>, first: usize, count: usize) -> RowsMut<'a> {
    let (columns, stride) = (y.columns, y.stride);
    let range = first * stride..(first + count - 1) * stride + columns;
    let data = match &mut y.data {
        FloatsMut::F32(s) => FloatsMut::F32(&mut s[range]),
        FloatsMut::Bf16(s) => FloatsMut::Bf16(&mut s[range]),
        FloatsMut::F16(s) => FloatsMut::F16(&mut s[range]),
    };
    RowsMut { data, rows: count, columns, stride }
}

/// Some windows, numbered along rows, then pictures.
struct Block<'a> {
    x: &'a Pictures<'a>,
    window: &'a Window,
    first: usize,
    count: usize,
    columns: usize,
}

/// Rows of windows as several threads write them.
struct SharedRows<T>(*mut T);
// SAFETY: tasks write rows of their own.
unsafe impl<T: Send> Sync for SharedRows<T> {}

impl<T> SharedRows<T> {
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

impl Block<'_> {
    fn lay_out<T: Element>(&self, cpu: &Cpu<'_>, data: &[T], to: &mut [T]) {
        let to = SharedRows(to.as_mut_ptr());
        spread::rows(cpu, self.count, self.columns, &|rows| {
            for row in rows {
                // SAFETY: `to` has `count` rows, this task alone writes this one.
                let to = unsafe {
                    std::slice::from_raw_parts_mut(to.at(row * self.columns), self.columns)
                };
                self.lay_out_one(data, self.first + row, to);
            }
        });
    }

    fn lay_out_one<T: Element>(&self, data: &[T], number: usize, to: &mut [T]) {
        let Pictures { height, width, channels, .. } = *self.x;
        let Window { size, stride, padding } = *self.window;
        let (down, across) = self.window.output(height, width);
        let picture = number / (down * across);
        let (top, left) = (number / across % down * stride.0, number % across * stride.1);
        for (dy, to) in to.chunks_exact_mut(size.1 * channels).enumerate() {
            let y = (top + dy).checked_sub(padding.0).filter(|&y| y < height);
            for (dx, to) in to.chunks_exact_mut(channels).enumerate() {
                let x = (left + dx).checked_sub(padding.1).filter(|&x| x < width);
                match (y, x) {
                    (Some(y), Some(x)) => {
                        let at = ((picture * height + y) * width + x) * channels;
                        to.copy_from_slice(&data[at..at + channels]);
                    }
                    _ => to.fill(T::ZERO),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::{Pool, isa};

    fn random(rng: &mut StdRng, count: usize) -> Vec<bf16> {
        (0..count).map(|_| bf16::from_f32(rng.random_range(-1.0..1.0))).collect()
    }

    /// Two sequences in pieces of the given lengths: the same as in one go, in f64.
    fn check_short(taps: usize, channels: usize, pieces: &[[usize; 2]]) {
        let mut rng = StdRng::seed_from_u64(channels as u64);
        let (weights, bias) = (random(&mut rng, taps * channels), random(&mut rng, channels));
        let total: [usize; 2] = std::array::from_fn(|s| pieces.iter().map(|p| p[s]).sum());
        let inputs = total.map(|length| random(&mut rng, length * channels));
        let pool = Pool::new(2);
        for isa in isa::available() {
            let mut states = [0, 1].map(|_| vec![bf16::ZERO; (taps - 1) * channels]);
            let mut outs: [Vec<f32>; 2] = [vec![], vec![]];
            let mut begun = [0, 0];
            for piece in pieces {
                let mut x = Vec::new();
                for s in 0..2 {
                    let range = begun[s] * channels..(begun[s] + piece[s]) * channels;
                    x.extend_from_slice(&inputs[s][range]);
                }
                let rows = piece[0] + piece[1];
                let mut y = vec![0f32; rows * channels];
                let [a, b] = &mut states;
                let mut segments =
                    [(0, piece[0], a), (piece[0], piece[1], b)].map(|(row, length, state)| {
                        ConvolutionSegment { row, length, state: FloatsMut::Bf16(state) }
                    });
                let convolution = ShortConvolution {
                    weights: Rows::new(Floats::Bf16(&weights), taps, channels),
                    bias: Some(Floats::Bf16(&bias)),
                    activation: Some(Activation::Silu),
                };
                convolve_short(
                    &Cpu { isa, pool: &pool },
                    &convolution,
                    &Rows::new(Floats::Bf16(&x), rows, channels),
                    &mut segments,
                    RowsMut::new(FloatsMut::F32(&mut y), rows, channels),
                );
                outs[0].extend_from_slice(&y[..piece[0] * channels]);
                outs[1].extend_from_slice(&y[piece[0] * channels..]);
                begun = [begun[0] + piece[0], begun[1] + piece[1]];
            }
            for (out, input) in outs.iter().zip(&inputs) {
                for (i, &got) in out.iter().enumerate() {
                    let (t, c) = (i / channels, i % channels);
                    let mut sum = f64::from(bias[c].to_f32());
                    for tap in 0..taps {
                        if let Some(from) = (t + tap + 1).checked_sub(taps) {
                            let x = f64::from(input[from * channels + c].to_f32());
                            sum += x * f64::from(weights[tap * channels + c].to_f32());
                        }
                    }
                    let want = sum / (1.0 + (-sum).exp());
                    assert!((f64::from(got) - want).abs() < 1e-6, "{} {t} {c}", isa.name());
                }
            }
        }
    }

    #[test]
    fn short_convolutions_in_pieces() {
        check_short(4, 64, &[[1, 1], [1, 1], [1, 1], [1, 1], [1, 1], [1, 1]]);
        check_short(4, 37, &[[10, 2], [0, 1], [1, 5], [3, 0]]);
        check_short(3, 1000, &[[40, 30], [2, 1]]);
        check_short(1, 5, &[[2, 2]]);
        check_short(8, 16, &[[3, 20], [3, 1], [3, 1]]);
    }

    fn check_2d((count, height, width, channels): (usize, usize, usize, usize), window: Window) {
        let mut rng = StdRng::seed_from_u64(height as u64);
        let outputs = 20;
        let columns = window.size.0 * window.size.1 * channels;
        let x: Vec<f32> =
            (0..count * height * width * channels).map(|_| rng.random_range(-1.0..1.0)).collect();
        let weights: Vec<f32> =
            (0..outputs * columns).map(|_| rng.random_range(-1.0..1.0)).collect();
        let (down, across) = window.output(height, width);
        let rows = count * down * across;
        let pool = Pool::new(2);
        let exact = |i: usize| {
            let (row, o) = (i / outputs, i % outputs);
            let (picture, top, left) = (row / (down * across), row / across % down, row % across);
            let mut want = 0.0;
            for j in 0..columns {
                let (dy, dx, c) =
                    (j / channels / window.size.1, j / channels % window.size.1, j % channels);
                let at = |start: usize, d: usize, stride: usize, padding: usize| {
                    (start * stride + d) as isize - padding as isize
                };
                let y = at(top, dy, window.stride.0, window.padding.0);
                let x_at = at(left, dx, window.stride.1, window.padding.1);
                if (0..height as isize).contains(&y) && (0..width as isize).contains(&x_at) {
                    let at = (picture * height + y as usize) * width + x_at as usize;
                    let weight = f64::from(weights[o * columns + j]);
                    want += f64::from(x[at * channels + c]) * weight;
                }
            }
            want
        };
        let wanted: Vec<f64> = (0..rows * outputs).map(exact).collect();
        for isa in isa::available() {
            let mut y = vec![0f32; rows * outputs];
            let data = Floats::F32(&x);
            conv2d(
                &Cpu { isa, pool: &pool },
                &Pictures { data, count, height, width, channels },
                &Rows::new(Floats::F32(&weights), outputs, columns),
                &window,
                RowsMut::new(FloatsMut::F32(&mut y), rows, outputs),
            );
            for (i, (&got, &want)) in y.iter().zip(&wanted).enumerate() {
                let off = (f64::from(got) - want).abs();
                assert!(off < 2e-5, "{} {window:?} {i}: {got} {want}", isa.name());
            }
        }
    }

    #[test]
    fn two_dimensional() {
        let window = Window { size: (14, 14), stride: (14, 14), padding: (0, 0) };
        check_2d((1, 56, 42, 3), window);
        check_2d((2, 9, 11, 5), Window { size: (3, 3), stride: (1, 1), padding: (1, 1) });
        check_2d((1, 10, 7, 2), Window { size: (4, 2), stride: (2, 3), padding: (1, 0) });
        check_2d((1, 2, 2, 1), Window { size: (5, 5), stride: (1, 1), padding: (0, 0) });
        // More than one block of windows.
        check_2d((1, 150, 150, 8), Window { size: (3, 3), stride: (1, 1), padding: (0, 0) });
    }
}
