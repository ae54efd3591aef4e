//! Qwen3 dense decoder, arXiv:2505.09388: per-head RMSNorm on queries and keys, before the rotation. The embedding
//! models of the family are the same decoder, saved without the `model.` in front of the names.
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

pub(super) struct Config {
    pub frame: Frame,
    intermediate_size: i32,
    pub heads: Heads,
    attention_bias: bool,
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

pub(super) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    out: Linear,
    rope: Rope,
    heads: Heads,
    scale: f32,
}

impl Config {
    pub fn read(config: &Section<'_>) -> Result<Config> {
        config.only("hidden_act", "silu")?;
        if config.flag("use_sliding_window", false)? && config.has("sliding_window") {
            return Err(config.error(
                "use_sliding_window",
                "is true; this architecture is known without windows",
            ));
        }
        Ok(Config {
            frame: Frame::read(config, USUAL)?,
            intermediate_size: config.size("intermediate_size")?,
            heads: Heads::read(config)?,
            attention_bias: config.flag("attention_bias", false)?,
        })
    }

    /// The dense network of the layer where `w` stands.
    pub fn mlp(&self, w: &Weights) -> Result<Mlp> {
        w.at("mlp").mlp(Gate::Silu, [self.frame.hidden_size, self.intermediate_size], false)
    }
}

const USUAL: Usual = Usual { max_position_embeddings: 2048, tie_word_embeddings: false };

pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section)?;
    let rope = Rope::read(section, config.heads.head_dim)?;
    let w = if weights.has("embed_tokens.weight") { weights.clone() } else { weights.at("model") };
    let Frame { hidden_size, rms_norm_eps, .. } = config.frame;
    let norm = w.rms_norm("norm", hidden_size, rms_norm_eps)?;
    let layer = |_, w: &Weights| Layer::load(&config, &rope, w);
    Ok(Box::new(Decoder::load(&config.frame, norm, &w, weights, layer)?))
}

impl Layer {
    fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Layer> {
        let Frame { hidden_size: hidden, rms_norm_eps: eps, .. } = config.frame;
        Ok(Layer {
            attention_norm: w.rms_norm("input_layernorm", hidden, eps)?,
            attention: Attention::load(config, rope, &w.at("self_attn"))?,
            mlp_norm: w.rms_norm("post_attention_layernorm", hidden, eps)?,
            mlp: config.mlp(w)?,
        })
    }
}

impl decoder::Layer for Layer {
    fn cache(&self) -> Cache {
        self.attention.cache()
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let x = x + self.attention.forward(&self.attention_norm.forward(x), batch, cache);
        &x + self.mlp.forward(&self.mlp_norm.forward(&x))
    }
}

impl Attention {
    pub fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Attention> {
        let Frame { hidden_size: hidden, rms_norm_eps: eps, .. } = config.frame;
        let bias = config.attention_bias;
        let (q, kv) = (config.heads.query_width(), config.heads.key_width());
        Ok(Attention {
            q: w.linear("q_proj", [q, hidden], bias)?,
            k: w.linear("k_proj", [kv, hidden], bias)?,
            v: w.linear("v_proj", [kv, hidden], bias)?,
            q_norm: w.rms_norm("q_norm", config.heads.head_dim, eps)?,
            k_norm: w.rms_norm("k_norm", config.heads.head_dim, eps)?,
            out: w.linear("o_proj", [hidden, q], bias)?,
            rope: rope.clone(),
            heads: config.heads,
            scale: config.heads.scale(),
        })
    }

    pub fn cache(&self) -> Cache {
        Cache::key_value(self.heads.key_value())
    }

    pub fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
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
