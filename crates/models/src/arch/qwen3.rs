//! Qwen3 dense decoder, arXiv:2505.09388: per-head RMSNorm on queries and keys, before the rotation. The embedding
//! models of the family are the same decoder, saved without the `model.` in front of the names.
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::Array;

use crate::batch::Batch;
use crate::cache::{Cache, Memory};
use crate::config::{Heads, Section};
use crate::error::Result;
use crate::model::Model;
use crate::nn::{AttentionOptions, Embedding, Linear, RmsNorm, Rope, attend, swiglu};
use crate::weights::Weights;

pub(super) struct Config {
    pub vocab_size: i32,
    pub hidden_size: i32,
    intermediate_size: i32,
    pub num_hidden_layers: i32,
    pub heads: Heads,
    pub rms_norm_eps: f32,
    pub max_position_embeddings: i32,
    pub tie_word_embeddings: bool,
    attention_bias: bool,
}

struct Qwen3 {
    embed: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    context_max: usize,
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

pub(super) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
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
            vocab_size: config.size("vocab_size")?,
            hidden_size: config.size("hidden_size")?,
            intermediate_size: config.size("intermediate_size")?,
            num_hidden_layers: config.size("num_hidden_layers")?,
            heads: Heads::read(config)?,
            rms_norm_eps: config.positive_or("rms_norm_eps", 1e-6)?,
            max_position_embeddings: config.size_or("max_position_embeddings", 2048)?,
            tie_word_embeddings: config.flag("tie_word_embeddings", false)?,
            attention_bias: config.flag("attention_bias", false)?,
        })
    }
}

pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section)?;
    let rope = Rope::read(section, config.heads.head_dim)?;
    let w = if weights.has("embed_tokens.weight") { weights.clone() } else { weights.at("model") };
    let embed = w.embedding("embed_tokens", [config.vocab_size, config.hidden_size])?;
    let layers = (0..config.num_hidden_layers)
        .map(|index| Layer::load(&config, &rope, &w.at_index("layers", index)))
        .collect::<Result<_>>()?;
    Ok(Box::new(Qwen3 {
        layers,
        norm: w.rms_norm("norm", config.hidden_size, config.rms_norm_eps)?,
        head: weights.head("lm_head", &embed, config.tie_word_embeddings)?,
        embed,
        context_max: config.max_position_embeddings as usize,
    }))
}

impl Layer {
    fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Layer> {
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        Ok(Layer {
            attention_norm: w.rms_norm("input_layernorm", hidden, eps)?,
            attention: Attention::load(config, rope, &w.at("self_attn"))?,
            mlp_norm: w.rms_norm("post_attention_layernorm", hidden, eps)?,
            mlp: Mlp::load(config, &w.at("mlp"))?,
        })
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let x = x + self.attention.forward(&self.attention_norm.forward(x), batch, cache);
        &x + self.mlp.forward(&self.mlp_norm.forward(&x))
    }
}

impl Attention {
    pub fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Attention> {
        let (hidden, bias, eps) = (config.hidden_size, config.attention_bias, config.rms_norm_eps);
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

impl Mlp {
    pub fn load(config: &Config, w: &Weights) -> Result<Mlp> {
        Mlp::sized(config.hidden_size, config.intermediate_size, w)
    }

    pub fn sized(hidden: i32, wide: i32, w: &Weights) -> Result<Mlp> {
        Ok(Mlp {
            gate: w.linear("gate_proj", [wide, hidden], false)?,
            up: w.linear("up_proj", [wide, hidden], false)?,
            down: w.linear("down_proj", [hidden, wide], false)?,
        })
    }

    pub fn forward(&self, x: &Array) -> Array {
        let [gate, up] = Linear::together([&self.gate, &self.up], x);
        self.down.forward(&swiglu(&gate, &up))
    }
}

impl Model for Qwen3 {
    fn forward(&self, batch: &Batch, memory: &mut Memory) -> Array {
        let mut x = self.embed.forward(&batch.tokens);
        for (layer, cache) in self.layers.iter().zip(memory.step(batch)) {
            x = layer.forward(&x, batch, cache);
        }
        self.norm.forward(&x)
    }

    fn logits(&self, hidden: &Array) -> Array {
        self.head.forward(hidden)
    }

    fn memory(&self) -> Memory {
        let dtype = self.norm.dtype(self.embed.dtype());
        Memory::new(dtype, self.layers.iter().map(|layer| layer.attention.cache()))
    }

    fn context_max(&self) -> usize {
        self.context_max
    }

    fn vocabulary(&self) -> usize {
        self.embed.rows() as usize
    }
}
