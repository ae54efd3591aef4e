//! Checkpoints that lie, lack or are of no architecture we know: each a typed error that names the culprit.

use mlx::{Array, Dtype, Mode};
use models::{Error, Model, Weights};
use serde_json::{Value, json};

use crate::support::{Checkpoint, write_safetensors};

fn load_with_config(
    fixture: &str,
    change: impl FnOnce(&mut Value),
) -> Result<Box<dyn Model>, Error> {
    let checkpoint = Checkpoint::of(fixture);
    let mut config = serde_json::from_str(&checkpoint.config).unwrap();
    change(&mut config);
    models::load(&config.to_string(), checkpoint.weights())
}

fn load_with_tensors(
    fixture: &str,
    change: impl FnOnce(&mut Vec<(String, Array)>),
) -> Result<Box<dyn Model>, Error> {
    let checkpoint = Checkpoint::of(fixture);
    let mut tensors = checkpoint.tensors();
    change(&mut tensors);
    models::load(&checkpoint.config, Weights::from_arrays(tensors))
}

fn check(result: Result<Box<dyn Model>, Error>, expected: &str) {
    let Err(error) = result else { panic!("no error, but expected: {expected}") };
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().is_some(), "{error}: no hint");
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let result =
        load_with_config("llama", |config| config["architectures"] = json!(["Llama9ForCausalLM"]));
    let Err(error) = result else { panic!("loaded") };
    assert_eq!(error.to_string(), "architecture `Llama9ForCausalLM` is not supported");
    let hint = error.hint().unwrap();
    assert!(hint.contains("LlamaForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM"), "{hint}");
}

#[test]
fn fields_that_are_missing_or_absurd_are_named() {
    for fixture in ["llama", "qwen3"] {
        for field in
            ["architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"]
        {
            let remove = |config: &mut Value| drop(config.as_object_mut().unwrap().remove(field));
            check(load_with_config(fixture, remove), &format!("config.json: `{field}` is missing"));
        }
        for (field, value) in [
            ("num_attention_heads", json!(0)),
            ("hidden_size", json!(-64)),
            ("vocab_size", json!(1_u64 << 60)),
            ("num_hidden_layers", json!(2.5)),
            ("head_dim", json!("big")),
        ] {
            let expected =
                format!("config.json: `{field}` is {value}, not a whole number from 1 to 16777216");
            check(load_with_config(fixture, |config| config[field] = value.clone()), &expected);
        }
        check(
            load_with_config(fixture, |config| config["num_key_value_heads"] = json!(3)),
            "config.json: `num_key_value_heads` is 3, which does not divide the 4 of `num_attention_heads`",
        );
        check(
            load_with_config(fixture, |config| config["rms_norm_eps"] = json!(-1e-6)),
            "config.json: `rms_norm_eps` is -1e-6, not a finite number above 0",
        );
        check(
            load_with_config(fixture, |config| config["hidden_act"] = json!("gelu")),
            "config.json: `hidden_act` is `gelu`; this architecture is known with `silu`",
        );
        check(
            load_with_config(fixture, |config| config["head_dim"] = json!(7)),
            "config.json: `head_dim` leaves 7 of 7 dimensions to rotate: an even number is needed",
        );
    }
}

/// `NaN` is not JSON, and all the same in files.
#[test]
fn a_theta_that_is_no_number_is_named() {
    let checkpoint = Checkpoint::of("llama");
    let config = checkpoint.config.replace("\"rope_theta\": 10000.0", "\"rope_theta\": NaN");
    let result = models::load(&config, checkpoint.weights());
    check(result, "config.json: `rope_theta` is \"NaN\", not a finite number above 0");
}

#[test]
fn rope_scalings_that_cannot_be_are_named() {
    let scaling = |value: Value| load_with_config("llama", |config| config["rope_scaling"] = value);
    check(
        scaling(json!({"rope_type": "spiral"})),
        "config.json: `rope_scaling.rope_type` is `spiral`; the known ones are default, linear, llama3, yarn",
    );
    check(scaling(json!({"type": "linear"})), "config.json: `rope_scaling.factor` is missing");
    check(
        scaling(json!({"type": "linear", "factor": 0})),
        "config.json: `rope_scaling.factor` is 0, not a finite number above 0",
    );
    check(
        scaling(
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}),
        ),
        "config.json: `rope_scaling.high_freq_factor` is 4, not more than the 4 of `low_freq_factor`",
    );
    check(scaling(json!([1])), "config.json: `rope_scaling` is [1], not an object");
}

#[test]
fn missing_tensors_are_named_with_their_path() {
    for name in ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight", "lm_head.weight"] {
        let result =
            load_with_tensors("llama", |tensors| tensors.retain(|(tensor, _)| tensor != name));
        check(result, &format!("tensor `{name}` is missing"));
    }
    let bias = "model.layers.2.self_attn.o_proj.bias";
    let result =
        load_with_tensors("llama-bias", |tensors| tensors.retain(|(tensor, _)| tensor != bias));
    check(result, &format!("tensor `{bias}` is missing"));
}

#[test]
fn wrong_shapes_are_told_with_both() {
    let result = load_with_config("llama", |config| config["intermediate_size"] = json!(96));
    check(
        result,
        "tensor `model.layers.0.mlp.gate_proj.weight` has shape [128, 64], the configuration asks for [96, 64]",
    );
    let result = load_with_config("qwen3", |config| config["vocab_size"] = json!(513));
    check(
        result,
        "tensor `model.embed_tokens.weight` has shape [512, 64], the configuration asks for [513, 64]",
    );
}

#[test]
fn a_wrong_dtype_is_told() {
    let result = load_with_tensors("llama", |tensors| {
        let norm = tensors.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
        norm.1 = mlx::zeros(&[64], Dtype::I32);
    });
    let expected =
        "tensor `model.norm.weight` holds int32 where floating-point numbers are expected";
    check(result, expected);
}

/// One quantised projection, made wrong in one way after the other.
#[test]
fn quantised_tensors_that_do_not_fit_are_told() {
    let layer = "model.layers.0.mlp.up_proj";
    let path = format!("quantised tensor `{layer}.weight`");
    let load = |quantization: Value, change: fn(&mut Array, &mut Array, &mut Option<Array>)| {
        let checkpoint = Checkpoint::of("llama");
        let mut tensors = checkpoint.tensors();
        let place =
            tensors.iter().position(|(name, _)| *name == format!("{layer}.weight")).unwrap();
        let (_, dense) = tensors.swap_remove(place);
        let (mut weight, mut scales, mut biases) = mlx::quantize(&dense, 32, 4, Mode::Affine);
        change(&mut weight, &mut scales, &mut biases);
        tensors.push((format!("{layer}.weight"), weight));
        tensors.push((format!("{layer}.scales"), scales));
        tensors.extend(biases.map(|biases| (format!("{layer}.biases"), biases)));
        let mut config: Value = serde_json::from_str(&checkpoint.config).unwrap();
        config["quantization"] = quantization;
        models::load(&config.to_string(), Weights::from_arrays(tensors))
    };
    let right = json!({"group_size": 32, "bits": 4});
    assert!(load(right.clone(), |_, _, _| ()).is_ok());
    check(
        load(json!({"group_size": 64, "bits": 4}), |_, _, _| ()),
        &format!(
            "{path}: is stored as 4 bits in groups of 32 (affine) and declared as 4 bits in groups of 64"
        ),
    );
    check(
        load(right.clone(), |_, _, biases| *biases = None),
        &format!("{path}: 4 bits in groups of 32, scales bfloat16 without biases"),
    );
    check(
        load(right.clone(), |weight, _, _| *weight = weight.cast(Dtype::I32)),
        &format!("{path}: packed weights are uint32, these are int32"),
    );
    check(
        load(right.clone(), |weight, _, _| *weight = weight.narrow(1, 0, 7)),
        &format!("{path}: 7 words and 2 groups in a row of 64"),
    );
    check(
        load(right, |_, scales, _| *scales = scales.narrow(0, 0, 8)),
        &format!("{path}: scales have shape [8, 2] and biases [128, 2]"),
    );
    check(
        load(json!({"quant_method": "gptq", "bits": 4, "group_size": 32}), |_, _, _| ()),
        "config.json: `quantization.quant_method` is `gptq`; weights may be quantised in affine, mxfp4, mxfp8 or nvfp4, as mlx-lm writes them",
    );
}

#[test]
fn a_folder_without_weights_or_with_a_lying_index_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let message = |folder: &std::path::Path| match Weights::from_folder(folder) {
        Ok(_) => panic!("weights out of nothing"),
        Err(error) => error.to_string(),
    };
    assert!(message(folder.path()).ends_with("has no weights in safetensors files"));
    let index = |text: &str| {
        std::fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
        message(folder.path())
    };
    assert!(index("{").contains("model.safetensors.index.json"));
    assert!(index("{}").ends_with("has no `weight_map`"));
    assert!(
        index(r#"{"weight_map": {"a": 1}}"#).ends_with("names a file by something that is no text")
    );
    for outside in ["../a.safetensors", "/a.safetensors", "b/../../a.safetensors", ""] {
        let text = json!({"weight_map": {"a": outside}}).to_string();
        assert!(index(&text).ends_with("which is outside of the folder"), "{outside}");
    }
    let absent = index(r#"{"weight_map": {"a": "absent.safetensors"}}"#);
    assert!(absent.contains("absent.safetensors"), "{absent}");
}

#[test]
fn a_tensor_in_two_files_is_told() {
    crate::support::open_mlx();
    let folder = tempfile::tempdir().unwrap();
    let files = ["a", "b"].map(|name| folder.path().join(format!("{name}.safetensors")));
    for file in &files {
        write_safetensors(file, &[], &[("w".to_owned(), mlx::zeros(&[2], Dtype::F32))]);
    }
    let Err(error) = Weights::from_files(&files) else { panic!("one of them was dropped") };
    assert!(error.to_string().starts_with("tensor `w` is in two files"), "{error}");
}

#[test]
fn tensors_nobody_took_are_listed() {
    let checkpoint = Checkpoint::of("llama3-rope");
    let mut tensors = checkpoint.tensors();
    let extra = |name: &str| (name.to_owned(), mlx::zeros(&[2], Dtype::F32));
    tensors.push(extra("model.layers.0.self_attn.rotary_emb.inv_freq"));
    tensors.push(extra("lm_head.weight")); // tied, so the embedding serves
    tensors.push(extra("model.layers.0.self_attn.sinks"));
    let weights = Weights::from_arrays(tensors);
    let stored = checkpoint.weights().bytes();
    assert_eq!(weights.bytes(), stored + 3 * 2 * 4);
    models::load(&checkpoint.config, weights.clone()).unwrap();
    assert_eq!(weights.untaken(), ["model.layers.0.self_attn.sinks"]);
    assert_eq!(weights.bytes(), 3 * 2 * 4);
}
