//! One model, told in several ways: configurations and names as older and newer files have them, and as mlx-lm converts
//! them.

use std::collections::BTreeMap;

use mlx::{Array, Dtype};
use models::Weights;
use serde_json::{Value, json};

use crate::support::{Checkpoint, Rows, Session, difference};

type Tensors = BTreeMap<String, Array>;

fn tokens() -> Vec<u32> {
    (0..70).map(|i| 3 + (i * 29) % 490).collect()
}

fn answer(config: &Value, tensors: Tensors) -> Rows {
    let weights = Weights::from_arrays(tensors).in_dtype(Dtype::F32);
    let model = models::load(&config.to_string(), weights.clone()).unwrap();
    assert_eq!(weights.untaken(), [""; 0], "left over");
    Session::new(model).alone(&tokens())
}

/// The fixture, and the same changed, give the same.
fn check(fixture: &str, change: impl FnOnce(&mut Value, Tensors) -> Tensors) {
    let checkpoint = Checkpoint::of(fixture);
    let mut config: Value = serde_json::from_str(&checkpoint.config).unwrap();
    let tensors: Tensors = checkpoint.tensors().into_iter().collect();
    let expected = answer(&config, tensors.clone());
    let tensors = change(&mut config, tensors);
    let off = difference(&answer(&config, tensors), &expected);
    assert!(off == 0.0, "{fixture}: log-probabilities differ by {off}");
}

fn remove(config: &mut Value, fields: &[&str]) {
    for field in fields {
        config.as_object_mut().unwrap().remove(*field).unwrap_or_else(|| panic!("no {field}"));
    }
}

#[test]
fn kinds_of_layers_and_rotations_in_lists() {
    for (fixture, pattern, factor) in [("gemma3", 2, 1.0), ("gemma3-linear", 3, 8.0)] {
        check(fixture, |config, tensors| {
            let kind = |layer: i32| match (layer + 1) % pattern {
                0 => "full_attention",
                _ => "sliding_attention",
            };
            config["layer_types"] = (0..4).map(kind).collect();
            let full = match factor {
                1.0 => json!({"rope_type": "default", "rope_theta": 1e6}),
                _ => json!({"rope_type": "linear", "factor": factor, "rope_theta": 1e6}),
            };
            let sliding = json!({"rope_type": "default", "rope_theta": 1e4});
            config["rope_parameters"] =
                json!({"full_attention": full, "sliding_attention": sliding});
            let old =
                ["sliding_window_pattern", "rope_theta", "rope_scaling", "rope_local_base_freq"];
            remove(config, &old);
            tensors
        });
    }
    check("qwen3-next", |config, tensors| {
        let linear = "linear_attention";
        config["layer_types"] = json!([linear, linear, linear, "full_attention"]);
        config["rope_parameters"] = json!({"rope_theta": 1e4, "partial_rotary_factor": 0.25});
        remove(config, &["full_attention_interval", "rope_theta", "partial_rotary_factor"]);
        tensors
    });
}

/// Newer files have the tower and the text under `model`, and the head outside.
#[test]
fn the_text_half_in_both_places() {
    check("gemma3-vl", |_, tensors| {
        let place = |name: String| match name.strip_prefix("language_model.model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => format!("model.{name}"),
        };
        tensors.into_iter().map(|(name, tensor)| (place(name), tensor)).collect()
    });
}

/// mlx-lm stacks experts, moves the convolution's last axis, and adds the 1 to norms.
#[test]
fn qwen3_next_as_mlx_lm_converts_it() {
    check("qwen3-next", |_, tensors| {
        let is_norm = |name: &str| {
            name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight")
        };
        let mut out = Tensors::new();
        for (name, tensor) in &tensors {
            let tensor = tensor.cast(Dtype::F32);
            if name.contains(".experts.") {
                continue;
            }
            let tensor = match name {
                name if name.ends_with("conv1d.weight") => tensor.moveaxis(2, 1),
                name if is_norm(name) => tensor + 1.0,
                _ => tensor,
            };
            out.insert(name.clone(), tensor);
        }
        for layer in 0..4 {
            for projection in ["gate_proj", "up_proj", "down_proj"] {
                let mlp = format!("model.layers.{layer}.mlp");
                let name = |expert| format!("{mlp}.experts.{expert}.{projection}.weight");
                let own: Vec<&Array> = (0..4).map(|expert| &tensors[&name(expert)]).collect();
                let name = format!("{mlp}.switch_mlp.{projection}.weight");
                out.insert(name, mlx::stack(&own, 0));
            }
        }
        out
    });
}

/// Published files leave out what the reference takes as usual.
#[test]
fn what_is_left_out_is_as_usual() {
    check("gemma3", |config, tensors| {
        let usual = ["rms_norm_eps", "rope_theta", "rope_local_base_freq", "tie_word_embeddings"];
        remove(config, &usual);
        remove(config, &["rope_scaling", "attention_bias", "final_logit_softcapping"]);
        tensors
    });
    check("qwen3-next", |config, tensors| {
        let usual = ["linear_conv_kernel_dim", "full_attention_interval", "norm_topk_prob"];
        remove(config, &usual);
        tensors
    });
    let without_heads = |config: &mut Value| remove(config, &["num_attention_heads"]);
    refused(
        "gemma3",
        without_heads,
        "tensor `model.layers.0.self_attn.q_proj.weight` has shape [128, 64], the configuration asks for [256, 64]",
    );
}

fn refused(fixture: &str, change: impl FnOnce(&mut Value), expected: &str) {
    let checkpoint = Checkpoint::of(fixture);
    let mut config: Value = serde_json::from_str(&checkpoint.config).unwrap();
    change(&mut config);
    let Err(error) = models::load(&config.to_string(), checkpoint.weights()) else {
        panic!("{fixture} was loaded, not refused: {expected}");
    };
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_is_not_known_is_refused() {
    refused(
        "gemma3",
        |config| config["attn_logit_softcapping"] = json!(50.0),
        "config.json: `attn_logit_softcapping` is set; this architecture is known without",
    );
    refused(
        "gemma3",
        |config| config["layer_types"] = json!(["full_attention"]),
        "config.json: `layer_types` names 1 layers, there are 4",
    );
    refused(
        "gemma3-vl",
        |config| remove(config, &["text_config"]),
        "config.json: `text_config` is missing",
    );
    refused(
        "qwen3-next",
        |config| config["linear_num_key_heads"] = json!(3),
        "config.json: `linear_num_key_heads` is 3, which does not divide the 4 of `linear_num_value_heads`",
    );
    refused(
        "qwen3-next",
        |config| config["linear_conv_kernel_dim"] = json!(9),
        "config.json: `linear_conv_kernel_dim` is 9, not from 2 to 8",
    );
    refused(
        "qwen3-next",
        |config| config["linear_key_head_dim"] = json!(1 << 24),
        "config.json: `linear_key_head_dim` with `linear_value_head_dim` is more than a tensor can hold",
    );
}

/// Logits within the cap, and what the cap makes of them without.
#[test]
fn logits_are_capped_where_the_configuration_says() {
    let checkpoint = Checkpoint::of("gemma3");
    let mut config: Value = serde_json::from_str(&checkpoint.config).unwrap();
    let mut logits = |cap: Option<f32>| {
        config["final_logit_softcapping"] = json!(cap);
        let weights = checkpoint.weights().in_dtype(Dtype::F32);
        let mut session = Session::new(models::load(&config.to_string(), weights).unwrap());
        let slot = session.open();
        let hidden = session.hidden(&[(slot, &tokens())]);
        session.model.logits(&hidden).to_vec::<f32>().unwrap()
    };
    let (free, capped) = (logits(None), logits(Some(2.0)));
    assert!(free.iter().any(|logit| logit.abs() > 4.0));
    for (free, capped) in free.iter().zip(&capped) {
        assert!((2.0 * (free / 2.0).tanh() - capped).abs() < 1e-5, "{free} became {capped}");
    }
}
