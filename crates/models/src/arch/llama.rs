//! Llama dense decoder, arXiv:2302.13971 and 2407.21783: grouped-query attention, SwiGLU, pre-norms. Biases are
//! optional, and the rotary frequencies may be scaled (`nn::Rope`).
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

struct Config {
    frame: Frame,
    intermediate_size: i32,
    heads: Heads,
    attention_bias: bool,
    mlp_bias: bool,
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    rope: Rope,
    heads: Heads,
    scale: f32,
}

impl Config {
    fn read(config: &Section<'_>) -> Result<Config> {
        config.only("hidden_act", "silu")?;
        Ok(Config {
            frame: Frame::read(config, USUAL)?,
            intermediate_size: config.size("intermediate_size")?,
            heads: Heads::read(config)?,
            attention_bias: config.flag("attention_bias", false)?,
            mlp_bias: config.flag("mlp_bias", false)?,
        })
    }
}

const USUAL: Usual = Usual { max_position_embeddings: 2048, tie_word_embeddings: false };

pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section)?;
    let rope = Rope::read(section, config.heads.head_dim)?;
    let (w, Frame { hidden_size, rms_norm_eps, .. }) = (weights.at("model"), config.frame);
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
            mlp: w.at("mlp").mlp(
                Gate::Silu,
                [hidden, config.intermediate_size],
                config.mlp_bias,
            )?,
        })
    }
}

impl decoder::Layer for Layer {
    fn cache(&self) -> Cache {
        Cache::key_value(self.attention.heads.key_value())
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let x = x + self.attention.forward(&self.attention_norm.forward(x), batch, cache);
        &x + self.mlp.forward(&self.mlp_norm.forward(&x))
    }
}

impl Attention {
    fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Attention> {
        let (hidden, bias) = (config.frame.hidden_size, config.attention_bias);
        let (q, kv) = (config.heads.query_width(), config.heads.key_width());
        Ok(Attention {
            q: w.linear("q_proj", [q, hidden], bias)?,
            k: w.linear("k_proj", [kv, hidden], bias)?,
            v: w.linear("v_proj", [kv, hidden], bias)?,
            out: w.linear("o_proj", [hidden, q], bias)?,
            rope: rope.clone(),
            heads: config.heads,
            scale: config.heads.scale(),
        })
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let [q, k, v] = Linear::together([&self.q, &self.k, &self.v], x);
        let q = batch.split_heads(&q, self.heads.num_attention_heads);
        let k = batch.split_heads(&k, self.heads.num_key_value_heads);
        let v = batch.split_heads(&v, self.heads.num_key_value_heads);
        let history = cache.append(batch, &self.rope.forward(&k, batch), &v);
        let out =
            attend(&self.rope.forward(&q, batch), &history, &AttentionOptions::causal(self.scale));
        self.out.forward(&batch.merge_heads(&out))
    }
}
