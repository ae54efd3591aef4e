//! Products with weights on our own kernels. MLX's are a hundred times slower on this device, and in bf16 inexact.

use std::cell::Cell;
use std::thread::LocalKey;

use kernels::{Cpu, Isa, Kind, QuantizedMatrix, Rows, RowsMut};
use smallvec::SmallVec;

use super::tape::Dims;
use super::values::{Values, floats_mut, in_order, is_float, promoted};
use super::{Input, Kernel, Output, Part, Start, call, kernels_compute};
use crate::{Array, Dtype, Mode, Quantized};

/// One for each of the weights that share a call; more are rare and cost an allocation. Steps are made of hundreds of calls.
type Each<T> = SmallVec<[T; 4]>;

/// x · wᵀ for each of `weights`, which share `x`. None where this is not ours to compute.
#[track_caller]
pub(crate) fn quantized(x: &Array, weights: &[&Quantized<'_>]) -> Option<Vec<Array>> {
    let columns = *x.shape().last()?;
    let shapes: Option<Each<Shape>> =
        weights.iter().map(|weight| Shape::of(weight, columns)).collect();
    let shapes = shapes.filter(|_| ours(x))?;
    let inputs: SmallVec<[&Array; 12]> =
        std::iter::once(x).chain(weights.iter().flat_map(|weight| parts(weight))).collect();
    let outputs = outputs_of(x, shapes.iter().map(|shape| shape.rows));
    let others =
        weights.iter().filter(|weight| is_float(weight.scales)).map(|weight| weight.scales.dtype());
    let starts = starts(&outputs, others.fold(x.dtype(), promoted));
    Some(call(QuantizedProducts { shapes, isa: forced() }, &inputs, &starts))
}

/// x · wᵀ for each of `weights`, `[rows, columns]` and dense. None where this is not ours to compute.
#[track_caller]
pub(crate) fn dense(x: &Array, weights: &[&Array]) -> Option<Vec<Array>> {
    let columns = *x.shape().last()?;
    let fits =
        |weight: &&&Array| is_float(weight) && weight.ndim() == 2 && weight.shape()[1] == columns;
    if !ours(x) || !weights.iter().all(|weight| fits(&weight)) {
        return None;
    }
    let inputs: Each<&Array> = std::iter::once(x).chain(weights.iter().copied()).collect();
    let outputs = outputs_of(x, weights.iter().map(|weight| weight.shape()[0] as usize));
    let starts =
        starts(&outputs, weights.iter().map(|weight| weight.dtype()).fold(x.dtype(), promoted));
    Some(call(DenseProducts { isa: forced() }, &inputs, &starts))
}

thread_local! {
    static PORTABLE: Cell<bool> = const { Cell::new(false) };
}

/// Makes the products asked for in `f` with the portable reference: exact activations, one number at a time. For tests
/// that tell a wrong weight from the rounding of activations to 8 bits.
pub fn with_portable_products<T>(f: impl FnOnce() -> T) -> T {
    with(&PORTABLE, f)
}

pub(super) fn with<T>(wish: &'static LocalKey<Cell<bool>>, f: impl FnOnce() -> T) -> T {
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(wish, wish.replace(true));
    f()
}

pub(super) fn forced() -> Option<Isa> {
    PORTABLE.get().then_some(Isa::Scalar)
}

pub(super) fn cpu(isa: Option<Isa>) -> Cpu<'static> {
    let current = Cpu::current();
    Cpu { isa: isa.unwrap_or(current.isa), ..current }
}

fn ours(x: &Array) -> bool {
    kernels_compute() && is_float(x) && x.ndim() > 0
}

pub(super) fn parts<'a>(weight: &Quantized<'a>) -> impl Iterator<Item = &'a Array> {
    [weight.w, weight.scales].into_iter().chain(weight.biases)
}

fn outputs_of(x: &Array, rows: impl Iterator<Item = usize>) -> Each<Dims> {
    let leading = &x.shape()[..x.ndim() - 1];
    rows.map(|rows| leading.iter().copied().chain([rows as i32]).collect()).collect()
}

fn starts(shapes: &[Dims], dtype: Dtype) -> Each<Start<'_>> {
    shapes.iter().map(|shape| Start::Fresh { shape, dtype }).collect()
}

/// One quantised matrix, checked.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    kind: Kind,
    rows: usize,
    columns: usize,
    biased: bool,
}

impl Shape {
    /// The matrix, if it is one that our kernels know.
    pub fn of(weight: &Quantized<'_>, columns: i32) -> Option<Shape> {
        let kind = kind(weight)?;
        let (bits, group) = (kind.bits() as i32, kind.group() as i32);
        let &[rows, words] = weight.w.shape() else { return None };
        let grouped = [rows, columns / group];
        let biased = matches!(kind, Kind::Affine { .. });
        let scales = match biased {
            true => is_float(weight.scales),
            false => weight.scales.dtype() == Dtype::U8,
        };
        let biases = match weight.biases {
            Some(biases) => {
                biased && biases.shape() == grouped && biases.dtype() == weight.scales.dtype()
            }
            None => !biased,
        };
        let fits = columns % group == 0
            && i64::from(words) * 32 == i64::from(columns) * i64::from(bits)
            && weight.w.dtype() == Dtype::U32
            && weight.scales.shape() == grouped;
        (fits && scales && biases).then_some(Shape {
            kind,
            rows: rows as usize,
            columns: columns as usize,
            biased,
        })
    }

    pub fn inputs(&self) -> usize {
        if self.biased { 3 } else { 2 }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }
}

fn kind(weight: &Quantized<'_>) -> Option<Kind> {
    let (bits, group) = (weight.bits as usize, weight.group_size as usize);
    match (weight.mode, bits, group) {
        (Mode::Affine, 2..=6 | 8, 32 | 64 | 128) => Some(Kind::Affine { bits, group }),
        (Mode::Mxfp4, 4, 32) => Some(Kind::Mxfp4),
        (Mode::Mxfp8, 8, 32) => Some(Kind::Mxfp8),
        (Mode::Nvfp4, 4, 16) => Some(Kind::Nvfp4),
        _ => None,
    }
}

struct QuantizedProducts {
    shapes: Each<Shape>,
    isa: Option<Isa>,
}

impl Kernel for QuantizedProducts {
    fn name(&self) -> &'static str {
        "quantized_products"
    }

    fn part(&self) -> Part {
        Part::Products
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let Some((x, mut rest)) = inputs.split_first() else { return };
        let held: Each<Held<'_>> = self
            .shapes
            .iter()
            .map(|shape| {
                let (own, others) = rest.split_at(shape.inputs());
                rest = others;
                Held::of(shape, own)
            })
            .collect();
        let matrices: Each<QuantizedMatrix<'_>> = held.iter().map(Held::matrix).collect();
        let x = Values::of(x);
        let columns = self.shapes[0].columns;
        let x = Rows::new(x.floats(), x.floats().len() / columns, columns);
        let mut y = results(outputs, x.rows);
        kernels::quantized_products(&cpu(self.isa), &x, &matrices, &mut y);
    }
}

fn results<'a>(outputs: &'a mut [Output<'_>], rows: usize) -> Each<RowsMut<'a>> {
    let one = |output: &'a mut Output<'_>| {
        let columns = *output.shape.last().expect("has the axis of columns") as usize;
        RowsMut::new(floats_mut(output), rows, columns)
    };
    outputs.iter_mut().map(one).collect()
}

/// The parts of a quantised matrix, in order.
pub(super) struct Held<'a> {
    shape: Shape,
    codes: std::borrow::Cow<'a, [u32]>,
    scales: HeldScales<'a>,
}

enum HeldScales<'a> {
    Affine(Values<'a>, Values<'a>),
    Bytes(std::borrow::Cow<'a, [u8]>),
}

impl<'a> Held<'a> {
    pub fn of(shape: &Shape, inputs: &[Input<'a>]) -> Held<'a> {
        let scales = match inputs {
            [_, scales, biases] => HeldScales::Affine(Values::of(scales), Values::of(biases)),
            inputs => HeldScales::Bytes(in_order(&inputs[1])),
        };
        Held { shape: *shape, codes: in_order(&inputs[0]), scales }
    }

    pub fn matrix(&self) -> QuantizedMatrix<'_> {
        let size = (self.shape.rows, self.shape.columns);
        let codes = bytes(&self.codes);
        match (&self.scales, self.shape.kind) {
            (HeldScales::Affine(scales, biases), Kind::Affine { bits, group }) => {
                QuantizedMatrix::affine(bits, group, size, codes, scales.floats(), biases.floats())
            }
            (HeldScales::Bytes(scales), kind) => {
                QuantizedMatrix::floats(kind, size, codes, scales, None)
            }
            (HeldScales::Affine(..), kind) => unreachable!("{kind:?} has no biases"),
        }
    }
}

fn bytes(words: &[u32]) -> &[u8] {
    // SAFETY: words are bytes without padding, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

struct DenseProducts {
    isa: Option<Isa>,
}

impl Kernel for DenseProducts {
    fn name(&self) -> &'static str {
        "dense_products"
    }

    fn part(&self) -> Part {
        Part::Products
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let Some((x, weights)) = inputs.split_first() else { return };
        let columns = *x.shape.last().expect("checked when the node was made") as usize;
        let x = Values::of(x);
        let x = Rows::new(x.floats(), x.floats().len() / columns.max(1), columns);
        let held: Each<Values<'_>> = weights.iter().map(Values::of).collect();
        let matrices: Each<Rows<'_>> = held
            .iter()
            .zip(weights)
            .map(|(values, weight)| Rows::new(values.floats(), weight.shape[0] as usize, columns))
            .collect();
        let mut y = results(outputs, x.rows);
        kernels::products(&cpu(self.isa), &x, &matrices, &mut y);
    }
}
