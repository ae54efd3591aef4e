//! Llama dense decoder, arXiv:2302.13971 and 2407.21783: grouped-query attention, SwiGLU, pre-norms. Biases are
//! optional, and the rotary frequencies may be scaled (`nn::Rope`).
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::Array;

use crate::batch::Batch;
use crate::cache::{Cache, Memory};
use crate::config::{Heads, Section};
use crate::error::Result;
use crate::model::Model;
use crate::nn::{AttentionOptions, Embedding, Linear, RmsNorm, Rope, attend, swiglu};
use crate::weights::Weights;

struct Config {
    vocab_size: i32,
    hidden_size: i32,
    intermediate_size: i32,
    num_hidden_layers: i32,
    heads: Heads,
    rms_norm_eps: f32,
    max_position_embeddings: i32,
    tie_word_embeddings: bool,
    attention_bias: bool,
    mlp_bias: bool,
}

struct Llama {
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

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    rope: Rope,
    heads: Heads,
    scale: f32,
}

struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Config {
    fn read(config: &Section<'_>) -> Result<Config> {
        config.only("hidden_act", "silu")?;
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
            mlp_bias: config.flag("mlp_bias", false)?,
        })
    }
}

pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section)?;
    let rope = Rope::read(section, config.heads.head_dim)?;
    let w = weights.at("model");
    let embed = w.embedding("embed_tokens", [config.vocab_size, config.hidden_size])?;
    let layers = (0..config.num_hidden_layers)
        .map(|index| Layer::load(&config, &rope, &w.at_index("layers", index)))
        .collect::<Result<_>>()?;
    Ok(Box::new(Llama {
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
    fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Attention> {
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
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

    fn cache(&self) -> Cache {
        Cache::key_value(self.heads.key_value())
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

impl Mlp {
    fn load(config: &Config, w: &Weights) -> Result<Mlp> {
        let (hidden, wide, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        Ok(Mlp {
            gate: w.linear("gate_proj", [wide, hidden], bias)?,
            up: w.linear("up_proj", [wide, hidden], bias)?,
            down: w.linear("down_proj", [hidden, wide], bias)?,
        })
    }

    fn forward(&self, x: &Array) -> Array {
        let [gate, up] = Linear::together([&self.gate, &self.up], x);
        self.down.forward(&swiglu(&gate, &up))
    }
}

impl Model for Llama {
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
