//! Every operation once, with an answer that can be checked by hand: that each is bound to the function its name says,
//! with its arguments in their places.
#![allow(clippy::unwrap_used)]

use mlx::fast::{Angles, Mask, Rope, layer_norm, rms_norm, scaled_dot_product_attention};
use mlx::{Array, Conv, Device, Dtype, Mode, Pad, Quantized, catch, random};
use std::f32::consts::{FRAC_PI_4, LN_2};

/// Equal in shape, and in values within 1e-5.
#[track_caller]
fn check(found: Array, shape: &[i32], expected: &[f32]) {
    assert_eq!(found.shape(), shape);
    let values = found.cast(Dtype::F32).to_vec::<f32>().unwrap();
    let near = |(a, b): (&f32, &f32)| {
        a == b || (a - b).abs() <= 1e-5 * b.abs().max(1.0) || (a.is_nan() && b.is_nan())
    };
    assert_eq!(values.len(), expected.len(), "{values:?}");
    assert!(values.iter().zip(expected).all(near), "{values:?} instead of {expected:?}");
}

fn v(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32])
}

fn m(shape: &[i32], values: &[f32]) -> Array {
    Array::from_slice(values, shape)
}

fn i(values: &[i32]) -> Array {
    Array::from_slice(values, &[values.len() as i32])
}

/// 0, 1, 2, … in `shape`.
fn count(shape: &[i32]) -> Array {
    mlx::arange(0.0, shape.iter().product::<i32>().into(), 1.0, Dtype::F32).reshape(shape)
}

#[test]
fn elements() {
    let x = v(&[-1.5, 0.0, 2.0]);
    let y = v(&[2.0, 3.0, -2.0]);
    check(&x + &y, &[3], &[0.5, 3.0, 0.0]);
    check(&x - &y, &[3], &[-3.5, -3.0, 4.0]);
    check(&x * &y, &[3], &[-3.0, 0.0, -4.0]);
    check(&x / &y, &[3], &[-0.75, 0.0, -1.0]);
    check(-&x, &[3], &[1.5, -0.0, -2.0]);
    check(1.0 - &x, &[3], &[2.5, 1.0, -1.0]);
    check(&x * 2.0 + 1.0, &[3], &[-2.0, 1.0, 5.0]);
    check(x.abs(), &[3], &[1.5, 0.0, 2.0]);
    check(x.maximum(&y), &[3], &[2.0, 3.0, 2.0]);
    check(x.minimum(&y), &[3], &[-1.5, 0.0, -2.0]);
    check(y.power(&v(&[2.0, 2.0, 2.0])), &[3], &[4.0, 9.0, 4.0]);
    check(x.exp(), &[3], &[0.223_130_16, 1.0, 7.389_056]);
    check(v(&[1.0, 8.0]).log(), &[2], &[0.0, 2.079_441_5]);
    check(v(&[1.0, 8.0]).log2(), &[2], &[0.0, 3.0]);
    check(v(&[1.0, 100.0]).log10(), &[2], &[0.0, 2.0]);
    check(v(&[0.0, 1.0]).log1p(), &[2], &[0.0, LN_2]);
    check(v(&[0.0, 1.0]).expm1(), &[2], &[0.0, 1.718_281_8]);
    check(v(&[4.0, 9.0]).sqrt(), &[2], &[2.0, 3.0]);
    check(v(&[4.0, 16.0]).rsqrt(), &[2], &[0.5, 0.25]);
    check(v(&[4.0, 0.5]).reciprocal(), &[2], &[0.25, 2.0]);
    check(x.square(), &[3], &[2.25, 0.0, 4.0]);
    check(x.sign(), &[3], &[-1.0, 0.0, 1.0]);
    check(x.sigmoid(), &[3], &[0.182_425_52, 0.5, 0.880_797]);
    check(x.silu(), &[3], &[-0.273_638_28, 0.0, 1.761_594]);
    check(x.tanh(), &[3], &[-0.905_148_27, 0.0, 0.964_027_6]);
    check(x.erf(), &[3], &[-0.966_105_16, 0.0, 0.995_322_3]);
    check(v(&[0.0, 0.5]).erfinv(), &[2], &[0.0, 0.476_936_28]);
    check(x.sin(), &[3], &[-0.997_495, 0.0, 0.909_297_4]);
    check(x.cos(), &[3], &[0.070_737_2, 1.0, -0.416_146_84]);
    check(v(&[0.0, 0.5]).tan(), &[2], &[0.0, 0.546_302_5]);
    check(v(&[0.0, 1.0]).sinh(), &[2], &[0.0, 1.175_201_2]);
    check(v(&[0.0, 1.0]).cosh(), &[2], &[1.0, 1.543_080_7]);
    check(v(&[0.0, 1.0]).arcsin(), &[2], &[0.0, 1.570_796_4]);
    check(v(&[0.0, 1.0]).arccos(), &[2], &[1.570_796_4, 0.0]);
    check(v(&[0.0, 1.0]).arctan(), &[2], &[0.0, FRAC_PI_4]);
    check(v(&[1.0, -1.0]).arctan2(&v(&[1.0, 0.0])), &[2], &[FRAC_PI_4, -1.570_796_4]);
    check(v(&[0.0, 1.0]).logaddexp(&v(&[0.0, 1.0])), &[2], &[LN_2, 1.693_147_2]);
    check(v(&[1.5, -1.5]).floor(), &[2], &[1.0, -2.0]);
    check(v(&[1.5, -1.5]).ceil(), &[2], &[2.0, -1.0]);
    check(v(&[1.26, 2.5]).round(1), &[2], &[1.3, 2.5]);
    check(v(&[7.0, -7.0]).remainder(&v(&[3.0, 3.0])), &[2], &[1.0, 2.0]);
    check(v(&[7.0, -7.0]).floor_divide(&v(&[3.0, 3.0])), &[2], &[2.0, -3.0]);
    check(x.clip(Some(&Array::from(-1.0)), None), &[3], &[-1.0, 0.0, 2.0]);
    check(x.clip(None, Some(&Array::from(1.0))), &[3], &[-1.5, 0.0, 1.0]);
    check(v(&[f32::NAN, f32::INFINITY]).nan_to_num(7.0, Some(9.0), None), &[2], &[7.0, 9.0]);
}

#[test]
fn truth_and_bits() {
    let (x, y) = (v(&[1.0, 2.0, 3.0]), v(&[2.0, 2.0, 2.0]));
    check(x.less(&y), &[3], &[1.0, 0.0, 0.0]);
    check(x.less_equal(&y), &[3], &[1.0, 1.0, 0.0]);
    check(x.greater(&y), &[3], &[0.0, 0.0, 1.0]);
    check(x.greater_equal(&y), &[3], &[0.0, 1.0, 1.0]);
    check(x.equal(&y), &[3], &[0.0, 1.0, 0.0]);
    check(x.not_equal(&y), &[3], &[1.0, 0.0, 1.0]);
    assert_eq!(x.equal(&y).dtype(), Dtype::Bool);
    assert_eq!(x.equal(&y).to_vec::<u8>().unwrap(), [0, 1, 0]);
    check(mlx::where_(&x.less(&y), &x, &y), &[3], &[1.0, 2.0, 2.0]);
    let odd = v(&[f32::NAN, f32::INFINITY, 1.0]);
    check(odd.isnan(), &[3], &[1.0, 0.0, 0.0]);
    check(odd.isinf(), &[3], &[0.0, 1.0, 0.0]);
    check(odd.isfinite(), &[3], &[0.0, 0.0, 1.0]);
    let (t, f) = (v(&[1.0, 0.0]), v(&[1.0, 1.0]));
    check(t.logical_and(&f), &[2], &[1.0, 0.0]);
    check(t.logical_or(&f), &[2], &[1.0, 1.0]);
    check(t.logical_not(), &[2], &[0.0, 1.0]);
    let (a, b) = (i(&[12, 10]), i(&[10, 3]));
    check(a.bitwise_and(&b), &[2], &[8.0, 2.0]);
    check(a.bitwise_or(&b), &[2], &[14.0, 11.0]);
    check(a.bitwise_xor(&b), &[2], &[6.0, 9.0]);
    check(a.bitwise_invert(), &[2], &[-13.0, -11.0]);
    check(a.left_shift(&i(&[1, 2])), &[2], &[24.0, 40.0]);
    check(a.right_shift(&i(&[2, 1])), &[2], &[3.0, 5.0]);
    check(mlx::array_equal(&a, &a), &[], &[1.0]);
    check(v(&[1.0]).allclose(&v(&[1.001]), 0.0, 0.01), &[], &[1.0]);
    check(v(&[1.0]).allclose(&v(&[1.1]), 0.0, 0.01), &[], &[0.0]);
    check(m(&[2, 2], &[1.0, 0.0, 1.0, 1.0]).all(&[1], false), &[2], &[0.0, 1.0]);
    check(m(&[2, 2], &[0.0, 0.0, 1.0, 0.0]).any(&[-1], true), &[2, 1], &[0.0, 1.0]);
}

#[test]
fn types() {
    let x = v(&[1.0, -2.75]);
    for (dtype, expected) in
        [(Dtype::Bf16, [1.0, -2.75]), (Dtype::F16, [1.0, -2.75]), (Dtype::I32, [1.0, -2.0])]
    {
        assert_eq!(x.cast(dtype).dtype(), dtype);
        check(x.cast(dtype), &[2], &expected);
    }
    assert_eq!(
        x.view(Dtype::U32).to_vec::<u32>().unwrap(),
        [1.0_f32.to_bits(), (-2.75_f32).to_bits()]
    );
    assert_eq!(x.view(Dtype::U16).shape(), [4]);
    check(v(&[1.0, 2.5, -448.0]).to_fp8().from_fp8(Dtype::F32), &[3], &[1.0, 2.5, -448.0]);
    assert_eq!((&x.cast(Dtype::Bf16) * 2.0).dtype(), Dtype::Bf16, "a number widens nothing");
    assert_eq!((i(&[1]) * 0.5).dtype(), Dtype::F32);
    for dtype in [
        Dtype::Bool,
        Dtype::U8,
        Dtype::U16,
        Dtype::U32,
        Dtype::U64,
        Dtype::I8,
        Dtype::I16,
        Dtype::I64,
    ] {
        check(Array::scalar(1.0, dtype), &[], &[1.0]);
    }
    // No GPU of MLX computes in float64.
    let wide = mlx::with_device(Device::Cpu, || Array::scalar(0.1, Dtype::F64).to_bytes());
    assert_eq!(wide.unwrap(), 0.1_f64.to_ne_bytes());
    let error = x.to_vec::<i32>().unwrap_err().to_string();
    assert_eq!(error, "an array of float32 cannot be read as int32");
    assert_eq!(
        x.item::<f32>().unwrap_err().to_string(),
        "an array of 2 elements is no single value"
    );
}

#[test]
fn creation() {
    check(mlx::zeros(&[2], Dtype::I32), &[2], &[0.0; 2]);
    check(mlx::ones(&[1, 2], Dtype::Bf16), &[1, 2], &[1.0; 2]);
    check(mlx::full(&[2], 2.5, Dtype::F16), &[2], &[2.5; 2]);
    check(mlx::arange(1.0, 6.0, 2.0, Dtype::I32), &[3], &[1.0, 3.0, 5.0]);
    check(mlx::linspace(0.0, 1.0, 3, Dtype::F32), &[3], &[0.0, 0.5, 1.0]);
    check(mlx::eye(2, 3, 1, Dtype::F32), &[2, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    check(mlx::tri(2, 3, 0, Dtype::F32), &[2, 3], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    check(count(&[2, 2]).tril(0), &[2, 2], &[0.0, 0.0, 2.0, 3.0]);
    check(count(&[2, 2]).triu(1), &[2, 2], &[0.0, 1.0, 0.0, 0.0]);
    check(count(&[2]).zeros_like() + count(&[2]).ones_like(), &[2], &[1.0; 2]);
    assert!(mlx::zeros(&[0, 3], Dtype::F32).to_vec::<f32>().unwrap().is_empty());
}

#[test]
fn shapes() {
    let x = count(&[2, 3]);
    check(x.reshape(&[3, -1]), &[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    check(x.t(), &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    check(x.transpose(&[1, 0]), &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    check(x.swapaxes(0, -1).contiguous(), &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(mlx::zeros(&[2, 3, 4], Dtype::F32).moveaxis(0, 2).shape(), [3, 4, 2]);
    assert_eq!(x.expand_dims(&[0, 3]).shape(), [1, 2, 3, 1]);
    assert_eq!(x.expand_dims(&[0, 3]).squeeze(&[0, 3]).shape(), [2, 3]);
    assert_eq!(mlx::zeros(&[2, 3, 4], Dtype::F32).flatten(1, 2).shape(), [2, 12]);
    assert_eq!(mlx::zeros(&[2, 12], Dtype::F32).unflatten(1, &[3, 4]).shape(), [2, 3, 4]);
    check(v(&[1.0, 2.0]).broadcast_to(&[2, 2]), &[2, 2], &[1.0, 2.0, 1.0, 2.0]);
    check(
        mlx::concatenate(&[&x, &x.narrow(0, 0, 1)], 0),
        &[3, 3],
        &[0., 1., 2., 3., 4., 5., 0., 1., 2.],
    );
    check(mlx::stack(&[&v(&[1.0, 2.0]), &v(&[3.0, 4.0])], 1), &[2, 2], &[1.0, 3.0, 2.0, 4.0]);
    let parts = count(&[6]).split(3, 0);
    check(parts[1].clone(), &[2], &[2.0, 3.0]);
    let parts = count(&[6]).split_at(&[1, 4], 0);
    assert_eq!(parts.iter().map(|p| p.dim(0)).collect::<Vec<_>>(), [1, 3, 2]);
    check(v(&[1.0, 2.0]).repeat(2, 0), &[4], &[1.0, 1.0, 2.0, 2.0]);
    check(v(&[1.0, 2.0]).tile(&[2]), &[4], &[1.0, 2.0, 1.0, 2.0]);
    check(
        v(&[1.0, 2.0]).pad(&[0], &[1], &[2], 9.0, Pad::Constant),
        &[5],
        &[9.0, 1.0, 2.0, 9.0, 9.0],
    );
    check(v(&[1.0, 2.0]).pad(&[0], &[1], &[1], 0.0, Pad::Edge), &[4], &[1.0, 1.0, 2.0, 2.0]);
    check(count(&[3]).flip(0), &[3], &[2.0, 1.0, 0.0]);
    check(count(&[3]).roll(1, 0), &[3], &[2.0, 0.0, 1.0]);
    check(count(&[6]).as_strided(&[2, 2], &[1, 3], 1), &[2, 2], &[1.0, 4.0, 2.0, 5.0]);
    assert_eq!((x.dim(-1), x.ndim(), x.size(), x.nbytes()), (3, 2, 6, 24));
}

#[test]
fn indexing() {
    let x = count(&[3, 4]);
    check(x.slice(&[0, 1], &[3, 4], &[2, 2]), &[2, 2], &[1.0, 3.0, 9.0, 11.0]);
    check(x.narrow(1, 1, 3), &[3, 2], &[1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
    check(x.select(-1, -1), &[3], &[3.0, 7.0, 11.0]);
    check(x.slice_dynamic(&i(&[1]), &[0], &[1, 4]), &[1, 4], &[4.0, 5.0, 6.0, 7.0]);
    check(count(&[4]).slice_update(&v(&[9.0]), &[2], &[3], &[1]), &[4], &[0.0, 1.0, 9.0, 3.0]);
    check(count(&[4]).slice_update_add(&v(&[9.0]), &[2], &[3], &[1]), &[4], &[0.0, 1.0, 11.0, 3.0]);
    check(
        count(&[4]).slice_update_dynamic(&v(&[9.0]), &i(&[1]), &[0]),
        &[4],
        &[0.0, 9.0, 2.0, 3.0],
    );
    check(x.take(&i(&[2, 0]), 0), &[2, 4], &[8.0, 9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 3.0]);
    let columns = Array::from_slice(&[3, 0, 1], &[3, 1]);
    check(x.take_along_axis(&columns, 1), &[3, 1], &[3.0, 4.0, 9.0]);
    check(count(&[3]).put_along_axis(&i(&[1]), &v(&[7.0]), 0), &[3], &[0.0, 7.0, 2.0]);
    check(count(&[3]).scatter_add_axis(&i(&[1, 1]), &v(&[7.0, 1.0]), 0), &[3], &[0.0, 9.0, 2.0]);
    let updates = m(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let twice = i(&[1, 1]);
    check(
        mlx::zeros(&[2, 2], Dtype::F32).scatter_add(&[&twice], &updates, &[0]),
        &[2, 2],
        &[0.0, 0.0, 4.0, 6.0],
    );
    let apart = i(&[1, 0]);
    check(
        mlx::zeros(&[2, 2], Dtype::F32).scatter(&[&apart], &updates, &[0]),
        &[2, 2],
        &[3.0, 4.0, 1.0, 2.0],
    );
    let mask = v(&[0.0, 1.0, 1.0]).cast(Dtype::Bool);
    check(count(&[3]).masked_scatter(&mask, &v(&[8.0, 9.0])), &[3], &[0.0, 8.0, 9.0]);
}

#[test]
fn reductions() {
    let x = m(&[2, 3], &[1.0, 5.0, 3.0, 4.0, 2.0, 6.0]);
    check(x.sum(&[], false), &[], &[21.0]);
    check(x.sum(&[0], false), &[3], &[5.0, 7.0, 9.0]);
    check(x.mean(&[-1], true), &[2, 1], &[3.0, 4.0]);
    check(x.max(&[1], false), &[2], &[5.0, 6.0]);
    check(x.min(&[1], false), &[2], &[1.0, 2.0]);
    check(x.prod(&[1], false), &[2], &[15.0, 48.0]);
    check(x.logsumexp(&[1], false), &[2], &[5.142_931_5, 6.142_932]);
    check(x.var(&[1], false, 0), &[2], &[2.666_666_7, 2.666_666_7]);
    check(x.std(&[1], false, 1), &[2], &[2.0, 2.0]);
    check(v(&[0.0, 0.0]).softmax(&[0]), &[2], &[0.5, 0.5]);
    check(v(&[1.0, 2.0]).softmax_precise(&[-1]), &[2], &[0.268_941_43, 0.731_058_6]);
    check(v(&[1.0, 2.0, 3.0]).cumsum(0), &[3], &[1.0, 3.0, 6.0]);
    check(v(&[1.0, 2.0, 3.0]).cumsum_before(0), &[3], &[0.0, 1.0, 3.0]);
    check(v(&[1.0, 2.0, 3.0]).cumprod(0), &[3], &[1.0, 2.0, 6.0]);
    check(v(&[1.0, 3.0, 2.0]).cummax(0), &[3], &[1.0, 3.0, 3.0]);
    check(v(&[0.0, 0.0]).logcumsumexp(0), &[2], &[0.0, LN_2]);
    check(x.argmax(-1, false), &[2], &[1.0, 2.0]);
    check(x.argmin(-1, true), &[2, 1], &[0.0, 1.0]);
    check(x.sort(1), &[2, 3], &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    check(x.argsort(1), &[2, 3], &[0.0, 2.0, 1.0, 1.0, 0.0, 2.0]);
    check(x.partition(0, 1).narrow(1, 0, 1), &[2, 1], &[1.0, 2.0]);
    check(x.argpartition(0, 1).narrow(1, 0, 1), &[2, 1], &[0.0, 1.0]);
    check(x.topk(2, 1).sort(1), &[2, 2], &[3.0, 5.0, 4.0, 6.0]);
    check(v(&[1.0, 3.0, 5.0]).searchsorted(&v(&[0.0, 3.0, 9.0])), &[3], &[0.0, 1.0, 3.0]);
}

#[test]
fn products() {
    let (a, b) = (count(&[2, 3]), count(&[3, 2]));
    check(a.matmul(&b), &[2, 2], &[10.0, 13.0, 28.0, 40.0]);
    check(mlx::addmm(&v(&[1.0, 2.0]), &a, &b, 2.0, 10.0), &[2, 2], &[30.0, 46.0, 66.0, 100.0]);
    check(v(&[1.0, 2.0]).outer(&v(&[3.0, 4.0])), &[2, 2], &[3.0, 4.0, 6.0, 8.0]);
    check(mlx::einsum("ij,jk->ik", &[&a, &b]), &[2, 2], &[10.0, 13.0, 28.0, 40.0]);
    check(v(&[1.0, 2.0]).hadamard_transform(Some(1.0)), &[2], &[3.0, -1.0]);
    let stacked = mlx::stack(&[&b, &(&b * 10.0)], 0);
    let rows = a.reshape(&[2, 1, 3]);
    let which = Array::from_slice(&[1_u32, 0], &[2]);
    check(
        mlx::gather_mm(&rows, &stacked, None, Some(&which), false),
        &[2, 1, 2],
        &[100.0, 130.0, 28.0, 40.0],
    );
}

/// bf16 on the CPU is ours: against the product with each matrix by itself.
#[test]
fn gathered_products_in_bf16() {
    let normal = |shape: &[i32], key| {
        random::normal(shape, Dtype::F32, 0.0, 1.0, &random::key(key)).cast(Dtype::Bf16)
    };
    let (x, w) = (normal(&[2, 1, 3, 64], 1), normal(&[4, 32, 64], 2));
    let numbers = [3_u32, 0, 0, 2, 1, 3];
    let which = Array::from_slice(&numbers, &[2, 3]);
    let (codes, scales, biases) = mlx::quantize(&w, 32, 4, Mode::Affine);
    let q = Quantized {
        w: &codes,
        scales: &scales,
        biases: biases.as_ref(),
        group_size: 32,
        bits: 4,
        mode: Mode::Affine,
    };
    let dense = mlx::gather_mm(&x, &w.swapaxes(1, 2), None, Some(&which), false);
    let turned = mlx::gather_mm(&x, &w.swapaxes(1, 2).contiguous(), None, Some(&which), false);
    let quantised = mlx::gather_qmm(&x, &q, None, Some(&which), true, false);
    let wide = |array: &Array| array.cast(Dtype::F32);
    let expected = |w: &Array| {
        let one = |(place, number): (usize, &u32)| {
            wide(&x).select(0, place as i32 / 3).matmul(&w.select(0, *number as i32).t())
        };
        let all: Vec<Array> = numbers.iter().enumerate().map(one).collect();
        mlx::stack(&all.iter().collect::<Vec<_>>(), 0).reshape(&[2, 3, 3, 32])
    };
    let read = wide(&mlx::dequantize(&q, None));
    for (found, expected, bound) in [
        (&dense, expected(&wide(&w)), 0.1),
        (&turned, expected(&wide(&w)), 0.1),
        (&quantised, expected(&read), 0.4),
    ] {
        assert_eq!((found.shape(), found.dtype()), (&[2, 3, 3, 32][..], Dtype::Bf16));
        let off = (wide(found) - expected).abs().max(&[], false).item::<f32>().unwrap();
        assert!(off < bound, "{off}");
    }
}

#[test]
fn convolutions() {
    let x = count(&[1, 5, 1]);
    let w = m(&[1, 2, 1], &[1.0, 10.0]);
    check(mlx::conv1d(&x, &w, Conv::default()), &[1, 4, 1], &[10.0, 21.0, 32.0, 43.0]);
    let c = Conv { stride: [2], padding: [1], ..Conv::default() };
    check(mlx::conv1d(&x, &w, c), &[1, 3, 1], &[0.0, 21.0, 43.0]);
    let image = count(&[1, 2, 3, 1]);
    let w = m(&[1, 2, 1, 1], &[1.0, 10.0]);
    check(mlx::conv2d(&image, &w, Conv::default()), &[1, 1, 3, 1], &[30.0, 41.0, 52.0]);
    let wide = Conv { stride: [1, 2], ..Conv::default() };
    check(mlx::conv2d(&image, &w, wide), &[1, 1, 2, 1], &[30.0, 52.0]);
    let film = count(&[1, 2, 1, 2, 1]);
    let w = m(&[1, 2, 1, 1, 1], &[1.0, 10.0]);
    check(mlx::conv3d(&film, &w, Conv::default()), &[1, 1, 1, 2, 1], &[20.0, 31.0]);
}

/// What is quantised, read back, is near; products with it are those with what is read back.
#[test]
fn quantisation() {
    let w = random::normal(&[16, 128], Dtype::F32, 0.0, 1.0, &random::key(3));
    let x = random::normal(&[3, 128], Dtype::F32, 0.0, 1.0, &random::key(4));
    let modes =
        [(Mode::Affine, 32, 4, 0.3), (Mode::Affine, 64, 8, 0.02), (Mode::Mxfp4, 32, 4, 0.6)];
    for (mode, group_size, bits, tolerance) in
        modes.into_iter().chain([(Mode::Mxfp8, 32, 8, 0.2), (Mode::Nvfp4, 16, 4, 0.6)])
    {
        let (packed, scales, biases) = mlx::quantize(&w, group_size, bits, mode);
        assert_eq!(
            (packed.dtype(), packed.shape()),
            (Dtype::U32, &[16, 128 * bits / 32][..]),
            "{mode:?}"
        );
        assert_eq!(biases.is_some(), mode == Mode::Affine);
        let q = Quantized {
            w: &packed,
            scales: &scales,
            biases: biases.as_ref(),
            group_size,
            bits,
            mode,
        };
        let read = mlx::dequantize(&q, Some(Dtype::F32));
        let worst = (&read - &w).abs().max(&[], false).item::<f32>().unwrap();
        assert!(worst < tolerance, "{mode:?} {bits} bits: {worst}");
        let near =
            |a: &Array, b: &Array| (a - b).abs().max(&[], false).item::<f32>().unwrap() < 1e-3;
        assert!(near(&mlx::quantized_matmul(&x, &q, true), &x.matmul(&read.t())), "{mode:?}");
        assert_eq!(Mode::from_name(mode.name()), Some(mode));
    }
    one_group_in_a_row(&w.narrow(1, 0, 64), &x.narrow(1, 0, 64));
    let (packed, scales, biases) = mlx::quantize(&w.reshape(&[2, 8, 128]), 32, 4, Mode::Affine);
    let q = Quantized {
        w: &packed,
        scales: &scales,
        biases: biases.as_ref(),
        group_size: 32,
        bits: 4,
        mode: Mode::Affine,
    };
    let which = Array::from_slice(&[1_u32, 0, 1], &[3]);
    let found = mlx::gather_qmm(&x.reshape(&[3, 1, 128]), &q, None, Some(&which), true, false);
    let read = mlx::dequantize(&q, None).swapaxes(1, 2);
    let expected = mlx::gather_mm(&x.reshape(&[3, 1, 128]), &read, None, Some(&which), false);
    check(found, &[3, 1, 8], &expected.to_vec::<f32>().unwrap());
}

/// MLX has a kernel of its own for these rows on some GPUs.
fn one_group_in_a_row(w: &Array, x: &Array) {
    for (bits, rows) in [(4, 1), (4, 3), (8, 3), (8, 16)] {
        let (w, x) = (w.tile(&[rows, 1]), x.tile(&[rows, 1]));
        let (packed, scales, biases) = mlx::quantize(&w, 64, bits, Mode::Affine);
        let (scales, biases) = (&scales, biases.as_ref());
        let q = Quantized { w: &packed, scales, biases, group_size: 64, bits, mode: Mode::Affine };
        let expected = x.matmul(&mlx::dequantize(&q, None).t());
        let off = (mlx::quantized_matmul(&x, &q, true) - expected).abs().max(&[], false);
        assert!(off.item::<f32>().unwrap() < 1e-3, "{bits} bits, {rows} times as many rows");
    }
}

#[test]
fn fused() {
    let x = m(&[1, 2], &[3.0, 4.0]);
    check(rms_norm(&x, None, 0.0), &[1, 2], &[0.848_528_15, 1.131_370_9]);
    check(rms_norm(&x, Some(&v(&[1.0, 2.0])), 0.0), &[1, 2], &[0.848_528_15, 2.262_741_8]);
    check(layer_norm(&x, None, None, 0.0), &[1, 2], &[-1.0, 1.0]);
    check(layer_norm(&x, Some(&v(&[2.0, 3.0])), Some(&v(&[1.0, 1.0])), 0.0), &[1, 2], &[-1.0, 4.0]);
    fn rope(angles: Angles<'_>, traditional: bool) -> Rope<'_> {
        Rope { dims: 4, traditional, angles, scale: 1.0 }
    }
    let x = m(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    // Pairs (1, 3) and (2, 4) turn by 1 and 0.1.
    let halves = [-1.984_110_6, 1.590_674_4, 2.462_378, 4.179_683];
    check(rope(Angles::Base(100.0), false).apply(&x, 1), &[1, 1, 1, 4], &halves);
    let freqs = v(&[1.0, 10.0]);
    check(rope(Angles::Freqs(&freqs), false).apply(&x, 1), &[1, 1, 1, 4], &halves);
    check(rope(Angles::Base(100.0), false).apply_at(&x, &i(&[1])), &[1, 1, 1, 4], &halves);
    // Pairs (1, 2) and (3, 4).
    let neighbours = [-1.142_639_7, 1.922_075_6, 2.585_678_8, 4.279_516_7];
    check(rope(Angles::Base(100.0), true).apply(&x, 1), &[1, 1, 1, 4], &neighbours);
    let q = m(&[1, 1, 2, 1], &[0.0, 0.0]);
    let value = m(&[1, 1, 2, 1], &[2.0, 4.0]);
    let attend = |mask, sinks| scaled_dot_product_attention(&q, &value, &value, 1.0, mask, sinks);
    check(attend(Mask::None, None), &[1, 1, 2, 1], &[3.0, 3.0]);
    check(attend(Mask::Causal, None), &[1, 1, 2, 1], &[2.0, 3.0]);
    let seen = m(&[2, 2], &[0.0, 1.0, 1.0, 0.0]).cast(Dtype::Bool);
    check(attend(Mask::Array(&seen), None), &[1, 1, 2, 1], &[4.0, 2.0]);
    check(attend(Mask::None, Some(&v(&[0.0]))), &[1, 1, 2, 1], &[2.0, 2.0]);
}

/// What turned before decides nothing: some angles are kept, and there are more here than that, which differ in one thing
/// each. Every one is asked for in each place of the order.
#[test]
fn many_ropes_in_turn() {
    let x: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
    let input = m(&[1, 1, 1, 4], &x);
    // Base, or wavelength of the second pair; scale; position.
    let plain = (100f64, 1f64, 3);
    let all = [plain, (10_000.0, 1.0, 3), (100.0, 0.5, 3), (100.0, 1.0, 4), (16.0, 2.0, 9)];
    let one = |(base, scale, position): (f64, f64, i32), traditional: bool, given: bool| {
        let freqs = v(&[1.0, base.sqrt() as f32]);
        let angles = if given { Angles::Freqs(&freqs) } else { Angles::Base(base as f32) };
        let found =
            Rope { dims: 4, traditional, angles, scale: scale as f32 }.apply(&input, position);
        let mut expected = [0f32; 4];
        for pair in 0..2 {
            let (a, b) = if traditional { (2 * pair, 2 * pair + 1) } else { (pair, pair + 2) };
            let angle = f64::from(position) * scale / base.sqrt().powi(pair as i32);
            let (sin, cos) = angle.sin_cos();
            let (p, q) = (f64::from(x[a]), f64::from(x[b]));
            expected[a] = (p * cos - q * sin) as f32;
            expected[b] = (p * sin + q * cos) as f32;
        }
        check(found, &[1, 1, 1, 4], &expected);
    };
    for first in 0..all.len() {
        for which in 0..4 * all.len() {
            let (traditional, given) = (which % 2 == 1, which / 2 % 2 == 1);
            one(all[(first + which / 4) % all.len()], traditional, given);
        }
    }
}

#[test]
fn chance() {
    let key = random::key(42);
    let draw =
        |key: &Array| random::uniform(0.0, 1.0, &[1000], Dtype::F32, key).to_vec::<f32>().unwrap();
    assert_eq!(draw(&key), draw(&random::key(42)), "the same key, the same numbers");
    let (a, b) = random::split(&key);
    assert_ne!(draw(&a), draw(&b));
    assert_eq!(random::split_into(&key, 5).shape(), [5, 2]);
    assert!(draw(&key).iter().all(|x| (0.0..1.0).contains(x)));
    let mean = |x: Array| x.cast(Dtype::F32).mean(&[], false).item::<f32>().unwrap();
    assert!((mean(random::normal(&[10_000], Dtype::F32, 3.0, 2.0, &key)) - 3.0).abs() < 0.1);
    assert!((mean(random::gumbel(&[10_000], Dtype::F32, &key)) - 0.5772).abs() < 0.05);
    assert!((mean(random::bernoulli(&Array::from(0.25), &[10_000], &key)) - 0.25).abs() < 0.02);
    let logits = v(&[0.0, 50.0, 0.0]).broadcast_to(&[8, 3]);
    assert_eq!(random::categorical(&logits, -1, &key).to_vec::<u32>().unwrap(), [1; 8]);
    let dice = random::randint(1, 7, &[1000], &key).to_vec::<i32>().unwrap();
    assert!(
        (1..7).all(|face| dice.contains(&face)) && dice.iter().all(|face| (1..7).contains(face))
    );
    check(
        random::permutation(&count(&[9]), 0, &key).sort(0),
        &[9],
        &[0., 1., 2., 3., 4., 5., 6., 7., 8.],
    );
    assert_eq!(random::bits(&[4], &key).dtype(), Dtype::U32);
}

#[test]
fn wrong_uses_name_the_operation_the_shapes_and_the_line() {
    #[track_caller]
    fn refused(make: impl FnOnce() -> Array, words: &[&str]) {
        let error = catch(make).expect_err("accepted").to_string();
        words.iter().for_each(|w| assert!(error.contains(w), "no `{w}` in {error}"));
        assert!(error.contains("operations.rs:"), "{error}");
        assert!(!error.contains(".cpp"), "{error}");
    }
    let x = count(&[2, 3]);
    refused(|| x.matmul(&x), &["`matmul` of float32[2, 3], float32[2, 3]"]);
    refused(|| &x + &count(&[2]), &["`add` of float32[2, 3], float32[2]"]);
    refused(|| x.reshape(&[4]), &["`reshape` of float32[2, 3]"]);
    refused(
        || x.narrow(1, 2, 5),
        &["`narrow` of float32[2, 3]", "2..5 is no part of axis 1, which has 3"],
    );
    refused(|| x.select(7, 0), &["there is no axis 7"]);
    refused(|| x.as_strided(&[4], &[2], 0), &["leaves the array"]);
    refused(|| x.as_strided(&[4], &[-1], 2), &["leaves the array"]);
    refused(
        || mlx::concatenate(&[&x, &count(&[2])], 0),
        &["`concatenate_axis` of float32[2, 3], float32[2]"],
    );
    refused(|| mlx::einsum("ij,\0", &[&x]), &["zero byte"]);
    refused(
        || rms_norm(&x, Some(&count(&[7])), 0.1),
        &["`fast_rms_norm` of float32[2, 3], float32[7]"],
    );
    refused(|| Array::from_slice(&[1.0_f32], &[2]), &["4 bytes do not fill float32[2]"]);
    refused(|| Array::from_slice(&[1.0_f32], &[-1]), &["4 bytes do not fill float32[-1]"]);
    refused(|| mlx::zeros(&[-2], Dtype::F32), &["`zeros`"]);
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    if mlx::open().unwrap().device() == Device::Gpu {
        return;
    }
    let error =
        catch(|| mlx::with_device(Device::Gpu, || mlx::zeros(&[1], Dtype::F32))).unwrap_err();
    assert!(error.to_string().contains("gpu"), "{error}");
    assert_eq!(mlx::device(), Device::Cpu, "the choice ended with the error");
    check(mlx::zeros(&[1], Dtype::F32), &[1], &[0.0]);
}
