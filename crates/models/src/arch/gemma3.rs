//! Gemma 3 decoder, arXiv:2503.19786, and the text half of its pictured sizes: most layers see a window of the last
//! tokens and rotate with a base of their own, one in six sees everything and stretches its positions. Norms stand
//! before and after each half of a layer and are stored as their distance from 1; embeddings are scaled.
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::{Array, Dtype};

use crate::batch::Batch;
use crate::cache::{Cache, Memory};
use crate::config::{Heads, Section};
use crate::error::Result;
use crate::model::Model;
use crate::nn::{AttentionOptions, Embedding, Linear, RmsNorm, Rope, attend, geglu, softcap};
use crate::weights::Weights;

/// The published files of the pictured sizes leave out what these say.
struct Config {
    vocab_size: i32,
    hidden_size: i32,
    intermediate_size: i32,
    heads: Heads,
    rms_norm_eps: f32,
    max_position_embeddings: i32,
    tie_word_embeddings: bool,
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

struct Gemma3 {
    embed: Embedding,
    embed_scale: f32,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    config: Config,
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
    scale: f32,
}

struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
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
            vocab_size: config.size_or("vocab_size", 262_208)?,
            hidden_size: config.size("hidden_size")?,
            intermediate_size: config.size("intermediate_size")?,
            heads: Heads::read_or(config, HEADS)?,
            rms_norm_eps: config.positive_or("rms_norm_eps", 1e-6)?,
            max_position_embeddings: config.size_or("max_position_embeddings", 131_072)?,
            tie_word_embeddings: config.flag("tie_word_embeddings", true)?,
            attention_bias: config.flag("attention_bias", false)?,
            query_pre_attn_scalar: config.positive_or("query_pre_attn_scalar", 256.0)?,
            sliding_window: config.size_or("sliding_window", 4096)?,
            final_logit_softcapping: config.optional_positive("final_logit_softcapping")?,
            is_sliding: is_sliding(config)?,
        })
    }
}

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
    let embed = w.embedding("embed_tokens", [config.vocab_size, config.hidden_size])?;
    let layers = (0..)
        .zip(&config.is_sliding)
        .map(|(index, sliding)| {
            Layer::load(&config, &ropes, *sliding, &w.at_index("layers", index))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Gemma3 {
        embed_scale: rounded((config.hidden_size as f32).sqrt(), embed.dtype())?,
        layers,
        norm: w.centred_rms_norm("norm", config.hidden_size, config.rms_norm_eps)?,
        head: outer.head("lm_head", &embed, config.tie_word_embeddings)?,
        embed,
        config,
    }))
}

/// As the model was trained: the factor has the dtype of what it multiplies.
fn rounded(factor: f32, dtype: Dtype) -> Result<f32> {
    Ok(Array::scalar(f64::from(factor), dtype).cast(Dtype::F32).item()?)
}

impl Layer {
    fn load(config: &Config, ropes: &Ropes, sliding: bool, w: &Weights) -> Result<Layer> {
        let norm = |name| w.centred_rms_norm(name, config.hidden_size, config.rms_norm_eps);
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: Attention::load(config, ropes, sliding, &w.at("self_attn"))?,
            post_attention_norm: norm("post_attention_layernorm")?,
            pre_mlp_norm: norm("pre_feedforward_layernorm")?,
            mlp: Mlp::load(config, &w.at("mlp"))?,
            post_mlp_norm: norm("post_feedforward_layernorm")?,
        })
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
        let (hidden, bias, heads) = (config.hidden_size, config.attention_bias, config.heads);
        let (q, kv) = (heads.query_width(), heads.key_width());
        Ok(Attention {
            q: w.linear("q_proj", [q, hidden], bias)?,
            k: w.linear("k_proj", [kv, hidden], bias)?,
            v: w.linear("v_proj", [kv, hidden], bias)?,
            q_norm: w.centred_rms_norm("q_norm", heads.head_dim, config.rms_norm_eps)?,
            k_norm: w.centred_rms_norm("k_norm", heads.head_dim, config.rms_norm_eps)?,
            out: w.linear("o_proj", [hidden, q], bias)?,
            rope: if sliding { ropes.sliding.clone() } else { ropes.full.clone() },
            heads,
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

impl Mlp {
    fn load(config: &Config, w: &Weights) -> Result<Mlp> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        Ok(Mlp {
            gate: w.linear("gate_proj", [wide, hidden], false)?,
            up: w.linear("up_proj", [wide, hidden], false)?,
            down: w.linear("down_proj", [hidden, wide], false)?,
        })
    }

    fn forward(&self, x: &Array) -> Array {
        let [gate, up] = Linear::together([&self.gate, &self.up], x);
        self.down.forward(&geglu(&gate, &up))
    }
}

impl Model for Gemma3 {
    fn forward(&self, batch: &Batch, memory: &mut Memory) -> Array {
        let mut x = mlx::fast::scaled(&self.embed.forward(&batch.tokens), self.embed_scale);
        for (layer, cache) in self.layers.iter().zip(memory.step(batch)) {
            x = layer.forward(&x, batch, cache);
        }
        self.norm.forward(&x)
    }

    fn logits(&self, hidden: &Array) -> Array {
        let logits = self.head.forward(hidden);
        match self.config.final_logit_softcapping {
            Some(cap) => softcap(&logits, cap),
            None => logits,
        }
    }

    fn memory(&self) -> Memory {
        let Config { heads, sliding_window, is_sliding, .. } = &self.config;
        let cache = |sliding: &bool| match sliding {
            true => Cache::window(heads.key_value(), *sliding_window as usize),
            false => Cache::key_value(heads.key_value()),
        };
        Memory::new(self.embed.dtype(), is_sliding.iter().map(cache))
    }

    fn context_max(&self) -> usize {
        self.config.max_position_embeddings as usize
    }

    fn vocabulary(&self) -> usize {
        self.embed.rows() as usize
    }
}
