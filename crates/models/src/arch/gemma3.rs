//! Gemma 3 decoder, arXiv:2503.19786, and the text half of its pictured sizes: most layers see a window of the last
//! tokens and rotate with a base of their own, one in six sees everything and stretches its positions. Norms stand
//! before and after each half of a layer and are stored as their distance from 1; embeddings are scaled.
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::Array;
use mlx::fast::Gate;

use super::decoder::{self, Decoder, Frame, Usual};
use crate::batch::Batch;
use crate::cache::Cache;
use crate::config::{Heads, Section};
use crate::error::Result;
use crate::model::Model;
use crate::nn::{AttentionOptions, Linear, Mlp, RmsNorm, Rope, attend};
use crate::weights::Weights;

/// The published files of the pictured sizes leave out what these say.
struct Config {
    frame: Frame,
    intermediate_size: i32,
    heads: Heads,
    attention_bias: bool,
    query_pre_attn_scalar: f32,
    sliding_window: i32,
    final_logit_softcapping: Option<f32>,
    /// For each layer.
    is_sliding: Vec<bool>,
}

/// One for each kind of layer.
struct Ropes {
    sliding: Rope,
    full: Rope,
}

struct Layer {
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    pre_mlp_norm: RmsNorm,
    mlp: Mlp,
    post_mlp_norm: RmsNorm,
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    out: Linear,
    rope: Rope,
    heads: Heads,
    window: Option<usize>,
    scale: f32,
}

impl Config {
    fn read(config: &Section<'_>) -> Result<Config> {
        config.only("hidden_activation", "gelu_pytorch_tanh")?;
        for field in ["attn_logit_softcapping", "use_bidirectional_attention"] {
            if config.is_set(field) {
                return Err(config.error(field, "is set; this architecture is known without"));
            }
        }
        Ok(Config {
            frame: Frame::sized(config, config.size_or("vocab_size", 262_208)?, USUAL)?,
            intermediate_size: config.size("intermediate_size")?,
            heads: Heads::read_or(config, HEADS)?,
            attention_bias: config.flag("attention_bias", false)?,
            query_pre_attn_scalar: config.positive_or("query_pre_attn_scalar", 256.0)?,
            sliding_window: config.size_or("sliding_window", 4096)?,
            final_logit_softcapping: config.optional_positive("final_logit_softcapping")?,
            is_sliding: is_sliding(config)?,
        })
    }

    fn norm(&self, w: &Weights, name: &str) -> Result<RmsNorm> {
        w.centred_rms_norm(name, self.frame.hidden_size, self.frame.rms_norm_eps)
    }
}

const USUAL: Usual = Usual { max_position_embeddings: 131_072, tie_word_embeddings: true };

const HEADS: Heads = Heads { num_attention_heads: 8, num_key_value_heads: 4, head_dim: 256 };

/// By `layer_types`, else all but every `sliding_window_pattern`th.
fn is_sliding(config: &Section<'_>) -> Result<Vec<bool>> {
    let pattern = config.size_or("sliding_window_pattern", 6)?;
    let pattern = config.size_or("_sliding_window_pattern", pattern)?;
    let layers = config.size("num_hidden_layers")?;
    let usual = |index: i32| usize::from((index + 1) % pattern != 0);
    let kinds = config.layer_types(layers, ["full_attention", "sliding_attention"], usual)?;
    Ok(kinds.iter().map(|kind| *kind == 1).collect())
}

impl Ropes {
    /// In the new spelling each kind of layer has parameters of its own; in the old one those of all are the full ones'.
    fn read(config: &Section<'_>, head_dim: i32) -> Result<Ropes> {
        let parameters = config.section("rope_parameters")?;
        let of = |kind| parameters.map_or(Ok(None), |parameters| parameters.section(kind));
        let full = match of("full_attention")? {
            Some(full) => Rope::of_parameters(&full, config, GLOBAL_THETA, head_dim)?,
            None => Rope::read_or(config, GLOBAL_THETA, head_dim)?,
        };
        let theta = config.positive_or("rope_local_base_freq", 10_000.0)?;
        let sliding = match of("sliding_attention")? {
            Some(sliding) => Rope::of_parameters(&sliding, config, theta, head_dim)?,
            None => Rope::plain(theta, head_dim),
        };
        Ok(Ropes { sliding, full })
    }
}

const GLOBAL_THETA: f32 = 1_000_000.0;

/// A decoder by itself.
pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    load_text(section, &weights.at("model"), weights)
}

/// The text half of one that sees pictures, in the places where older and newer files have it.
pub(super) fn load_pictured(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let text = section.section("text_config")?;
    let text = text.ok_or_else(|| section.error("text_config", "is missing"))?;
    for tower in ["vision_tower", "multi_modal_projector"] {
        weights.ignore(tower);
        weights.at("model").ignore(tower);
    }
    let old = weights.at("language_model");
    if old.has_below("model") {
        return load_text(&text, &old.at("model"), &old);
    }
    load_text(&text, &weights.at("model").at("language_model"), weights)
}

fn load_text(section: &Section<'_>, w: &Weights, outer: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section)?;
    let ropes = Ropes::read(section, config.heads.head_dim)?;
    let layer =
        |index: usize, w: &Weights| Layer::load(&config, &ropes, config.is_sliding[index], w);
    let decoder = Decoder::load(&config.frame, config.norm(w, "norm")?, w, outer, layer)?;
    let decoder = decoder.with_scaled_embeddings((config.frame.hidden_size as f32).sqrt())?;
    Ok(Box::new(decoder.with_softcap(config.final_logit_softcapping)))
}

impl Layer {
    fn load(config: &Config, ropes: &Ropes, sliding: bool, w: &Weights) -> Result<Layer> {
        let norm = |name| config.norm(w, name);
        let sizes = [config.frame.hidden_size, config.intermediate_size];
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(config, ropes, sliding, &w.at("self_attn"))?,
            post_attention_norm: norm("post_attention_layernorm")?,
            pre_mlp_norm: norm("pre_feedforward_layernorm")?,
            mlp: w.at("mlp").mlp(Gate::GeluTanh, sizes, false)?,
            post_mlp_norm: norm("post_feedforward_layernorm")?,
        })
    }
}

impl decoder::Layer for Layer {
    fn cache(&self) -> Cache {
        let Attention { heads, window, .. } = &self.attention;
        match window {
            Some(window) => Cache::window(heads.key_value(), *window),
            None => Cache::key_value(heads.key_value()),
        }
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let attended = self.attention.forward(&self.input_norm.forward(x), batch, cache);
        let x = x + self.post_attention_norm.forward(&attended);
        let fed = self.mlp.forward(&self.pre_mlp_norm.forward(&x));
        &x + self.post_mlp_norm.forward(&fed)
    }
}

impl Attention {
    fn load(config: &Config, ropes: &Ropes, sliding: bool, w: &Weights) -> Result<Attention> {
        let Frame { hidden_size: hidden, rms_norm_eps: eps, .. } = config.frame;
        let (bias, heads) = (config.attention_bias, config.heads);
        let (q, kv) = (heads.query_width(), heads.key_width());
        Ok(Attention {
            q: w.linear("q_proj", [q, hidden], bias)?,
            k: w.linear("k_proj", [kv, hidden], bias)?,
            v: w.linear("v_proj", [kv, hidden], bias)?,
            q_norm: w.centred_rms_norm("q_norm", heads.head_dim, eps)?,
            k_norm: w.centred_rms_norm("k_norm", heads.head_dim, eps)?,
            out: w.linear("o_proj", [hidden, q], bias)?,
            rope: if sliding { ropes.sliding.clone() } else { ropes.full.clone() },
            heads,
            window: sliding.then_some(config.sliding_window as usize),
            scale: config.query_pre_attn_scalar.sqrt().recip(),
        })
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let [q, k, v] = Linear::together([&self.q, &self.k, &self.v], x);
        let q = batch.split_heads(&q, self.heads.num_attention_heads);
        let k = batch.split_heads(&k, self.heads.num_key_value_heads);
        let v = batch.split_heads(&v, self.heads.num_key_value_heads);
        let q = self.rope.forward(&self.q_norm.forward(&q), batch);
        let k = self.rope.forward(&self.k_norm.forward(&k), batch);
        let out = attend(&q, &cache.append(batch, &k, &v), &AttentionOptions::causal(self.scale));
        self.out.forward(&batch.merge_heads(&out))
    }
}
