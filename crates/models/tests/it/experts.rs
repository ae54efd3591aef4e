//! Mixtures of experts: the layouts that checkpoints have, and which layers have experts at all.

use std::collections::BTreeMap;

use mlx::{Array, Dtype};
use models::nn::choices_of;
use models::{Model, Weights};
use serde_json::json;

use crate::support::{Checkpoint, Session};

const LAYERS: usize = 3;
const EXPERTS: usize = 6;

type Tensors = BTreeMap<String, Array>;

/// Each layer's experts taken out and put back as `put` wants them, by the name of the layer's `mlp`.
fn with_experts(tensors: &Tensors, put: impl Fn(&mut Tensors, &str, [Array; 3])) -> Tensors {
    let mut tensors = tensors.clone();
    for layer in 0..LAYERS {
        let mlp = format!("model.layers.{layer}.mlp");
        let stacks = ["gate_proj", "up_proj", "down_proj"].map(|name| {
            let own =
                |expert| tensors.remove(&format!("{mlp}.experts.{expert}.{name}.weight")).unwrap();
            let parts: Vec<Array> = (0..EXPERTS).map(own).collect();
            mlx::stack(&parts.iter().collect::<Vec<_>>(), 0)
        });
        put(&mut tensors, &mlp, stacks);
    }
    tensors
}

fn load(config: &str, tensors: Tensors) -> Box<dyn Model> {
    models::load(config, Weights::from_arrays(tensors).in_dtype(Dtype::F32)).unwrap()
}

#[test]
fn all_layouts_are_the_same_model() {
    let checkpoint = Checkpoint::of("qwen3-moe");
    let tensors: Tensors = checkpoint.tensors().into_iter().collect();
    let by_projection = with_experts(&tensors, |tensors, mlp, [gate, up, down]| {
        for (name, stack) in [("gate", gate), ("up", up), ("down", down)] {
            tensors.insert(format!("{mlp}.switch_mlp.{name}_proj.weight"), stack);
        }
    });
    let joined = with_experts(&tensors, |tensors, mlp, [gate, up, down]| {
        let both = mlx::concatenate(&[&gate, &up], 1);
        tensors.insert(format!("{mlp}.experts.gate_up_proj"), both);
        tensors.insert(format!("{mlp}.experts.down_proj"), down);
    });
    let tokens: Vec<u32> = (0..70).map(|i| 3 + (i * 29) % 490).collect();
    let expected = Session::new(load(&checkpoint.config, tensors)).alone(&tokens);
    for (name, tensors) in [("by projection", by_projection), ("joined", joined)] {
        let found = Session::new(load(&checkpoint.config, tensors)).alone(&tokens);
        assert_eq!(found, expected, "{name}");
    }
}

/// The error of a configuration that asks for other layers than the checkpoint has.
fn check(change: serde_json::Value, expected: &str) {
    let checkpoint = Checkpoint::of("qwen3-moe");
    let mut config: serde_json::Value = serde_json::from_str(&checkpoint.config).unwrap();
    for (field, value) in change.as_object().unwrap() {
        config[field] = value.clone();
    }
    let Err(error) = models::load(&config.to_string(), checkpoint.weights()) else {
        panic!("{change} was loaded");
    };
    assert_eq!(error.to_string(), expected);
}

#[test]
fn layers_without_experts_are_where_the_configuration_says() {
    let missing = |layer| format!("tensor `model.layers.{layer}.mlp.gate_proj.weight` is missing");
    check(json!({"mlp_only_layers": [1]}), &missing(1));
    check(json!({"decoder_sparse_step": 2}), &missing(0));
    check(json!({"mlp_only_layers": [2], "decoder_sparse_step": 1}), &missing(2));
}

#[test]
fn absurd_numbers_of_experts_are_named() {
    check(
        json!({"num_experts_per_tok": 7}),
        "config.json: `num_experts_per_tok` is 7, of 6 experts",
    );
    check(
        json!({"mlp_only_layers": [-1]}),
        "config.json: `mlp_only_layers` is [-1], not a list of whole numbers",
    );
    check(
        json!({"num_experts": 7}),
        "tensor `model.layers.0.mlp.gate.weight` has shape [6, 64], the configuration asks for [7, 64]",
    );
}

/// What the tests in bf16 leave out: the choice itself, which may only differ where two experts are nearly equal.
#[test]
fn rounding_hardly_changes_the_choice() {
    let checkpoint = Checkpoint::of("qwen3-moe");
    let tokens: Vec<u32> = (0..200).map(|i| 3 + (i * 29 + i * i * 7) % 490).collect();
    // Of the first layer, [tokens, 2], in ascending order: whose input is the same but for rounding.
    let first = |dtype| {
        let mut session = Session::new(checkpoint.load(dtype));
        let (_, choices) = choices_of(|| session.alone(&tokens));
        choices[0].sort(-1).to_vec::<u32>().unwrap()
    };
    let (narrow, wide) = (first(None), first(Some(Dtype::F32)));
    let pairs = narrow.chunks(2).zip(wide.chunks(2));
    let others = pairs.filter(|(a, b)| a != b).count();
    assert!(others <= tokens.len() / 20, "{others} of {} rows choose otherwise", tokens.len());
}
