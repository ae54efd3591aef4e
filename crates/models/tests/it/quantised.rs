//! Quantised checkpoints in both spellings, against the same numbers dequantised and computed densely.
//!
//! Both sides compute in f32 with equal weights. With the portable products only the order of sums differs, so
//! log-probabilities agree to [`TOLERANCE`]; a wrong group size, mode or scale moves them by more than 0.1. The fast
//! products round activations to 8 bits a group: they must stay within what bf16 costs the reference itself.

use mlx::{Array, Dtype, Mode, Quantized};
use models::nn::{choices_of, with_choices};
use models::{Model, Weights};
use serde_json::{Value, json};

use crate::support::{Checkpoint, Session, difference, difference_of_best, write_safetensors};

/// Of log-probabilities; as for any other order of f32 sums in these models (see `properties`).
const TOLERANCE: f32 = 5e-5;

const FIXTURES: [&str; 6] =
    ["gemma3", "llama-bias", "llama3-rope", "qwen3", "qwen3-moe", "qwen3-next"];

#[derive(Clone, Copy)]
struct Scheme {
    mode: Mode,
    bits: i32,
    group_size: i32,
    /// A second scale of the whole matrix (the store's nvfp4).
    global_scale: Option<f32>,
}

const fn affine(bits: i32, group_size: i32) -> Scheme {
    Scheme { mode: Mode::Affine, bits, group_size, global_scale: None }
}

const fn floats(mode: Mode, bits: i32, group_size: i32) -> Scheme {
    Scheme { mode, bits, group_size, global_scale: None }
}

/// A layer's tensors as they are stored, and the dense matrix they stand for.
struct Layer {
    weight: Array,
    scales: Array,
    biases: Option<Array>,
    dense: Array,
}

impl Scheme {
    fn quantise(self, dense: &Array) -> Layer {
        let scale = self.global_scale.unwrap_or(1.0);
        let (w, scales, biases) =
            mlx::quantize(&(dense / scale), self.group_size, self.bits, self.mode);
        let wide = |array: &Array| {
            if array.dtype().is_float() { array.cast(Dtype::F32) } else { array.clone() }
        };
        let (wide_scales, wide_biases) = (wide(&scales), biases.as_ref().map(wide));
        let parts = Quantized {
            w: &w,
            scales: &wide_scales,
            biases: wide_biases.as_ref(),
            group_size: self.group_size,
            bits: self.bits,
            mode: self.mode,
        };
        let dense = mlx::dequantize(&parts, Some(Dtype::F32)) * scale;
        Layer { weight: w, scales, biases, dense }
    }
}

/// Which layers a checkpoint quantises, and how.
type Plan = fn(&str) -> Option<Scheme>;

fn is_matrix(name: &str) -> Option<&str> {
    let vector = |layer: &&str| ["norm", "conv1d"].iter().any(|end| layer.ends_with(end));
    name.strip_suffix(".weight").filter(|layer| !vector(layer))
}

/// mlx-lm's layout, in one file: parameters in config.json, one layer's own beside those for all.
fn mlx_layout(
    checkpoint: &Checkpoint,
    all: Scheme,
    plan: Plan,
) -> (Box<dyn Model>, Box<dyn Model>) {
    mlx_layout_in(Dtype::F32, checkpoint, all, plan)
}

/// The quantised side stores (and computes) everything else in `dtype`; the dense side is f32.
fn mlx_layout_in(
    dtype: Dtype,
    checkpoint: &Checkpoint,
    all: Scheme,
    plan: Plan,
) -> (Box<dyn Model>, Box<dyn Model>) {
    let (mut stored, mut dense) = (Vec::new(), Vec::new());
    let describe =
        |s: Scheme| json!({"group_size": s.group_size, "bits": s.bits, "mode": s.mode.name()});
    let mut quantization = describe(all);
    for (name, tensor) in checkpoint.tensors() {
        let tensor = tensor.cast(dtype);
        let scheme = is_matrix(&name).and_then(plan);
        let (Some(layer), Some(scheme)) = (is_matrix(&name), scheme) else {
            if let Some(layer) = is_matrix(&name) {
                quantization[layer] = json!(false);
            }
            stored.push((name.clone(), tensor.clone()));
            dense.push((name, tensor));
            continue;
        };
        let parts = scheme.quantise(&tensor);
        quantization[layer] = describe(scheme);
        stored.push((name.clone(), parts.weight));
        stored.push((format!("{layer}.scales"), parts.scales));
        stored.extend(parts.biases.map(|biases| (format!("{layer}.biases"), biases)));
        dense.push((name, parts.dense));
    }
    let file = checkpoint.folder.path().join("model.safetensors");
    write_safetensors(&file, &[("format", "mlx")], &stored);
    let mut config: Value = serde_json::from_str(&checkpoint.config).unwrap();
    config["quantization"] = quantization;
    let quantised = models::load(&config.to_string(), checkpoint.weights()).unwrap();
    (
        quantised,
        models::load(&checkpoint.config, Weights::from_arrays(dense).in_dtype(Dtype::F32)).unwrap(),
    )
}

/// A fixture in 4 bits, everything else in `dtype`.
pub fn in_4_bits(dtype: Dtype, fixture: &str) -> Box<dyn Model> {
    mlx_layout_in(dtype, &Checkpoint::of(fixture), affine(4, 32), |_| Some(affine(4, 32))).0
}

/// The store's layout: each tensor with its companions in a file of its own that tells its parameters.
fn store_layout(
    checkpoint: &Checkpoint,
    kind: &str,
    plan: Plan,
) -> (Box<dyn Model>, Box<dyn Model>) {
    let (mut files, mut dense) = (Vec::new(), Vec::new());
    for (index, (name, tensor)) in checkpoint.tensors().into_iter().enumerate() {
        let file = checkpoint.folder.path().join(format!("sha256-{index:064}"));
        files.push(file.clone());
        let tensor = tensor.cast(Dtype::F32);
        let Some(scheme) = is_matrix(&name).and_then(plan) else {
            write_safetensors(&file, &[], &[(name.clone(), tensor.clone())]);
            dense.push((name, tensor));
            continue;
        };
        let parts = scheme.quantise(&tensor);
        let mut tensors =
            vec![(name.clone(), parts.weight), (format!("{name}.scale"), parts.scales)];
        tensors.extend(parts.biases.map(|biases| (format!("{name}.bias"), biases)));
        if let Some(scale) = scheme.global_scale {
            tensors.push((format!("{name}.global_scale"), Array::from_slice(&[scale], &[1])));
        }
        let group_size = scheme.group_size.to_string();
        write_safetensors(&file, &[("quant_type", kind), ("group_size", &group_size)], &tensors);
        dense.push((name, parts.dense));
    }
    let weights = Weights::from_files(&files).unwrap().in_dtype(Dtype::F32);
    let quantised = models::load(&checkpoint.config, weights).unwrap();
    (quantised, models::load(&checkpoint.config, Weights::from_arrays(dense)).unwrap())
}

fn tokens() -> Vec<u32> {
    (0..60).map(|i| 3 + (i * 29) % 490).collect()
}

fn check(what: &str, quantised: Box<dyn Model>, dense: Box<dyn Model>) {
    let (mut quantised, mut dense) = (Session::new(quantised), Session::new(dense));
    let wanted = dense.alone(&tokens());
    let exact = mlx::cpu::with_portable_products(|| quantised.alone(&tokens()));
    let off = difference(&exact, &wanted);
    assert!(off <= TOLERANCE, "{what}: log-probabilities differ by {off}");
}

#[test]
fn affine_in_the_layout_of_mlx_lm() {
    for fixture in FIXTURES {
        let (quantised, dense) =
            mlx_layout(&Checkpoint::of(fixture), affine(4, 32), |_| Some(affine(4, 32)));
        check(&format!("{fixture} 4 bits in groups of 32"), quantised, dense);
        let (quantised, dense) =
            mlx_layout(&Checkpoint::of(fixture), affine(8, 64), |_| Some(affine(8, 64)));
        check(&format!("{fixture} 8 bits in groups of 64"), quantised, dense);
    }
}

/// Activations in bf16, as a published checkpoint has them, lose what any bf16 model loses: the fixture's tolerance, for
/// the twenty best as there.
#[test]
fn bfloat16_activations_stay_within_the_tolerance_of_bfloat16() {
    let in_bf16 =
        |fixture, scheme, plan| mlx_layout_in(Dtype::Bf16, &Checkpoint::of(fixture), scheme, plan);
    let cases = [
        ("llama-bias", in_bf16("llama-bias", affine(4, 32), |_| Some(affine(4, 32)))),
        ("llama3-rope", in_bf16("llama3-rope", affine(8, 64), |_| Some(affine(8, 64)))),
        ("qwen3", in_bf16("qwen3", affine(4, 64), |_| Some(affine(4, 64)))),
        ("qwen3", in_bf16("qwen3", MXFP4, |_| Some(MXFP4))),
        ("qwen3-moe", in_bf16("qwen3-moe", affine(8, 64), |_| Some(affine(8, 64)))),
    ];
    for (fixture, (quantised, dense)) in cases {
        let reference = fixtures::Reference::read(&fixtures::arch(fixture)).unwrap();
        let tolerance = reference.tolerance.unwrap().bf16;
        let mut dense = Session::new(dense);
        let (wanted, choices) = choices_of(|| dense.alone(&tokens()));
        let found = with_choices(choices, || Session::new(quantised).alone(&tokens()));
        let worst = difference_of_best(&found, &wanted);
        assert!(
            worst <= tolerance,
            "{fixture}: log-probabilities differ by {worst}, not {tolerance}"
        );
    }
}

#[test]
fn all_widths_that_mlx_has() {
    let two = mlx_layout(&Checkpoint::of("qwen3"), affine(2, 32), |_| Some(affine(2, 32)));
    let three = mlx_layout(&Checkpoint::of("qwen3"), affine(3, 64), |_| Some(affine(3, 64)));
    let five = mlx_layout(&Checkpoint::of("qwen3"), affine(5, 64), |_| Some(affine(5, 64)));
    let six = mlx_layout(&Checkpoint::of("qwen3"), affine(6, 32), |_| Some(affine(6, 32)));
    for (bits, (quantised, dense)) in [(2, two), (3, three), (5, five), (6, six)] {
        check(&format!("{bits} bits"), quantised, dense);
    }
}

/// The embedding and one projection in 8 bits, one layer not at all, the rest in 4.
#[test]
fn layers_with_parameters_of_their_own() {
    for fixture in FIXTURES {
        let (quantised, dense) =
            mlx_layout(&Checkpoint::of(fixture), affine(4, 64), |layer| match layer {
                "model.embed_tokens" => Some(affine(8, 32)),
                layer if layer.ends_with("v_proj") => Some(affine(6, 32)),
                "model.layers.1.mlp.down_proj" => None,
                _ => Some(affine(4, 64)),
            });
        check(fixture, quantised, dense);
    }
}

#[test]
fn floating_point_modes_in_the_layout_of_mlx_lm() {
    let mxfp4 = || mlx_layout(&Checkpoint::of("qwen3"), MXFP4, |_| Some(MXFP4));
    let mxfp8 = || mlx_layout(&Checkpoint::of("qwen3"), MXFP8, |_| Some(MXFP8));
    let nvfp4 = || mlx_layout(&Checkpoint::of("qwen3"), NVFP4, |_| Some(NVFP4));
    for (name, (quantised, dense)) in [("mxfp4", mxfp4()), ("mxfp8", mxfp8()), ("nvfp4", nvfp4())] {
        check(name, quantised, dense);
    }
}

const MXFP4: Scheme = floats(Mode::Mxfp4, 4, 32);
const MXFP8: Scheme = floats(Mode::Mxfp8, 8, 32);
const NVFP4: Scheme = floats(Mode::Nvfp4, 4, 16);

#[test]
fn the_layout_of_the_store() {
    for fixture in FIXTURES {
        let (quantised, dense) =
            store_layout(&Checkpoint::of(fixture), "int4", |_| Some(affine(4, 64)));
        check(&format!("{fixture} int4"), quantised, dense);
        let (quantised, dense) =
            store_layout(&Checkpoint::of(fixture), "int8", |_| Some(affine(8, 32)));
        check(&format!("{fixture} int8"), quantised, dense);
        let (quantised, dense) = store_layout(&Checkpoint::of(fixture), "nvfp4", |layer| {
            let scheme = Scheme { global_scale: Some(0.37), ..NVFP4 };
            (!layer.contains("embed")).then_some(scheme)
        });
        check(&format!("{fixture} nvfp4 with a global scale"), quantised, dense);
    }
}
