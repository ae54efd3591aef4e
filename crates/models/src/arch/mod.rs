//! One file per architecture, named after the checkpoint's word: configuration, weights, what a layer computes. To add
//! one: the file, its row here, its fixture. What stands around the layers is the same for all ([`decoder`]).

mod decoder;
mod gemma3;
mod llama;
mod qwen3;
mod qwen3_moe;
mod qwen3_next;

use crate::config::Section;
use crate::error::Result;
use crate::model::Model;
use crate::weights::Weights;

/// Builds a model from its configuration and weights.
pub type Load = fn(&Section<'_>, &Weights) -> Result<Box<dyn Model>>;

/// By the name in config.json's `architectures`.
pub const ARCHITECTURES: &[(&str, Load)] = &[
    ("Gemma3ForCausalLM", gemma3::load),
    ("Gemma3ForConditionalGeneration", gemma3::load_pictured),
    ("LlamaForCausalLM", llama::load),
    ("Qwen3ForCausalLM", qwen3::load),
    ("Qwen3MoeForCausalLM", qwen3_moe::load),
    ("Qwen3NextForCausalLM", qwen3_next::load),
];
