//! Products with one of several matrices for each row on our own kernels, where MLX has none (bf16 and f16 on the CPU) or
//! one that takes a hundred times as long. What is f32 stays with MLX, which is exact there.

use kernels::{Gather, Rows, RowsMut};

use super::products::{Held, Shape, cpu, forced, parts};
use super::rows::{are_ids, ids};
use super::values::{Values, floats_mut, is_float, promoted};
use super::{Input, Kernel, Output, Part, Start, call, kernels_compute};
use crate::{Array, Dtype, Quantized};

/// x · b[which] for `b` of `[matrices, in, out]`.
#[track_caller]
pub(crate) fn dense(x: &Array, b: &Array, which: &Array) -> Option<Array> {
    let &[count, columns, rows] = b.shape() else { return None };
    if !is_float(b) || (x.dtype(), b.dtype()) == (Dtype::F32, Dtype::F32) {
        return None;
    }
    let plan = Plan::of(x, which, (count, rows, columns))?;
    let dtype = promoted(x.dtype(), b.dtype());
    // `[matrices, out, in]`: as weights lie, of which `b` usually is a view.
    Some(plan.call(&[x, which, &b.swapaxes(1, 2)], dtype, None))
}

/// x · w[which]ᵀ for quantised `w` of `[matrices, out, in]`.
#[track_caller]
pub(crate) fn quantized(x: &Array, w: &Quantized<'_>, which: &Array) -> Option<Array> {
    let (&[count, rows, _], columns) = (w.w.shape(), w.scales.dim(-1) * w.group_size) else {
        return None;
    };
    if x.dtype() == Dtype::F32 || w.scales.ndim() != 3 {
        return None;
    }
    let plan = Plan::of(x, which, (count, rows, columns))?;
    let flat = |array: &Array| array.flatten(0, 1);
    let (codes, scales, biases) = (flat(w.w), flat(w.scales), w.biases.map(flat));
    let flat = Quantized { w: &codes, scales: &scales, biases: biases.as_ref(), ..*w };
    let shape = Shape::of(&flat, columns)?;
    let dtype = if is_float(&scales) { promoted(x.dtype(), scales.dtype()) } else { x.dtype() };
    let inputs: Vec<&Array> = [x, which].into_iter().chain(parts(&flat)).collect();
    Some(plan.call(&inputs, dtype, Some(shape)))
}

/// Which rows meet which of the numbers in `which`.
struct Plan {
    /// Rows of each product.
    rows: usize,
    /// For each product: the one of `x`, and the number's place.
    pairs: Vec<(u32, u32)>,
    shape: Vec<i32>,
    /// How many matrices there are, and the shape of each.
    count: usize,
    outputs: usize,
    columns: usize,
}

impl Plan {
    /// `x` is `[…, rows, in]`; what stands before its rows is broadcast with the shape of `which`.
    fn of(x: &Array, which: &Array, (count, outputs, columns): (i32, i32, i32)) -> Option<Plan> {
        let (&[ref before @ .., rows, width], true) = (x.shape(), x.ndim() >= 2) else {
            return None;
        };
        let fits = width == columns && is_float(x) && x.size() > 0 && count > 0 && outputs > 0;
        if !kernels_compute() || !fits || !are_ids(which) {
            return None;
        }
        let axes = before.len().max(which.ndim());
        let dim = |shape: &[i32], axis: usize| {
            (axis + shape.len()).checked_sub(axes).map_or(1, |axis| shape[axis])
        };
        let mut shape = Vec::new();
        let mut pairs = vec![(0u32, 0u32)];
        for axis in 0..axes {
            let (a, b) = (dim(before, axis), dim(which.shape(), axis));
            if a != b && a != 1 && b != 1 {
                return None;
            }
            shape.push(a.max(b));
            let step = |dim: i32, at: u32, i: u32| at * dim as u32 + if dim == 1 { 0 } else { i };
            let along = |&(x, w): &(u32, u32)| {
                (0..a.max(b) as u32).map(move |i| (step(a, x, i), step(b, w, i)))
            };
            pairs = pairs.iter().flat_map(along).collect();
        }
        shape.extend([rows, outputs]);
        Some(Plan {
            rows: rows as usize,
            pairs,
            shape,
            count: count as usize,
            outputs: outputs as usize,
            columns: columns as usize,
        })
    }

    #[track_caller]
    fn call(self, inputs: &[&Array], dtype: Dtype, quantized: Option<Shape>) -> Array {
        let shape = self.shape.clone();
        let kernel = Gathered { plan: self, quantized, isa: forced() };
        call(kernel, inputs, &[Start::Fresh { shape: &shape, dtype }]).swap_remove(0)
    }
}

struct Gathered {
    plan: Plan,
    /// None: dense.
    quantized: Option<Shape>,
    isa: Option<kernels::Isa>,
}

impl Kernel for Gathered {
    fn name(&self) -> &'static str {
        "gathered_products"
    }

    fn part(&self) -> Part {
        Part::Products
    }

    fn run(&self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) {
        let ([x, which, weights @ ..], plan) = (inputs, &self.plan) else { return };
        let (x, which) = (Values::of(x), ids(which));
        let rows = plan.rows as u32;
        let pairs = plan.pairs.iter().flat_map(|pair| (0..rows).map(move |row| (pair, row)));
        let (sources, experts): (Vec<u32>, Vec<u32>) =
            pairs.map(|((x, place), row)| (x * rows + row, which[*place as usize])).unzip();
        let gather = Gather { experts: &experts, rows: Some(&sources), count: plan.count };
        let x = Rows::new(x.floats(), x.floats().len() / plan.columns, plan.columns);
        let y = RowsMut::new(floats_mut(&mut outputs[0]), experts.len(), plan.outputs);
        match &self.quantized {
            Some(shape) => {
                let held = Held::of(shape, weights);
                kernels::gathered_quantized_product(&cpu(self.isa), &x, &held.matrix(), &gather, y);
            }
            None => {
                let weights = Values::of(&weights[0]);
                let all = plan.count * plan.outputs;
                let weights = Rows::new(weights.floats(), all, plan.columns);
                kernels::gathered_product(&cpu(self.isa), &x, &weights, &gather, y);
            }
        }
    }
}
