//! Qwen3 mixture of experts, arXiv:2505.09388: the dense decoder ([`super::qwen3`]) with a router and small networks in
//! place of most layers' MLP. The router's softmax is over all experts, and the chosen weights may be normalised.
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::Array;

use crate::batch::Batch;
use crate::cache::{Cache, Memory};
use crate::config::{Heads, Section};
use crate::error::Result;
use crate::model::Model;
use crate::nn::{Embedding, Experts, Linear, Mask, RmsNorm, Rope, attend, choose, swiglu};
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
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    norm_topk_prob: bool,
    decoder_sparse_step: i32,
    mlp_only_layers: Vec<i32>,
}

struct Qwen3Moe {
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
    feed: Feed,
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

enum Feed {
    Mlp(Mlp),
    Mixture(Mixture),
}

struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Mixture {
    router: Linear,
    experts: Experts,
    each: i32,
    normalised: bool,
}

impl Config {
    fn read(config: &Section<'_>) -> Result<Config> {
        config.only("hidden_act", "silu")?;
        if config.flag("use_sliding_window", false)? && config.has("sliding_window") {
            return Err(config.error(
                "use_sliding_window",
                "is true; this architecture is known without windows",
            ));
        }
        let num_experts = config.size("num_experts")?;
        let num_experts_per_tok = config.size("num_experts_per_tok")?;
        if num_experts_per_tok > num_experts {
            let reason = format!("is {num_experts_per_tok}, of {num_experts} experts");
            return Err(config.error("num_experts_per_tok", reason));
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
            num_experts,
            num_experts_per_tok,
            moe_intermediate_size: config.size("moe_intermediate_size")?,
            norm_topk_prob: config.flag("norm_topk_prob", false)?,
            decoder_sparse_step: config.size_or("decoder_sparse_step", 1)?,
            mlp_only_layers: config.indices("mlp_only_layers")?,
        })
    }

    fn is_sparse(&self, layer: i32) -> bool {
        !self.mlp_only_layers.contains(&layer) && (layer + 1) % self.decoder_sparse_step == 0
    }
}

pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section)?;
    let rope = Rope::read(section, config.heads.head_dim)?;
    let w = weights.at("model");
    let embed = w.embedding("embed_tokens", [config.vocab_size, config.hidden_size])?;
    let layers = (0..config.num_hidden_layers)
        .map(|index| {
            Layer::load(&config, &rope, config.is_sparse(index), &w.at_index("layers", index))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Qwen3Moe {
        layers,
        norm: w.rms_norm("norm", config.hidden_size, config.rms_norm_eps)?,
        head: weights.head("lm_head", &embed, config.tie_word_embeddings)?,
        embed,
        context_max: config.max_position_embeddings as usize,
    }))
}

impl Layer {
    fn load(config: &Config, rope: &Rope, sparse: bool, w: &Weights) -> Result<Layer> {
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        let feed = match sparse {
            true => Feed::Mixture(Mixture::load(config, &w.at("mlp"))?),
            false => Feed::Mlp(Mlp::load(config, &w.at("mlp"))?),
        };
        Ok(Layer {
            attention_norm: w.rms_norm("input_layernorm", hidden, eps)?,
            attention: Attention::load(config, rope, &w.at("self_attn"))?,
            mlp_norm: w.rms_norm("post_attention_layernorm", hidden, eps)?,
            feed,
        })
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let x = x + self.attention.forward(&self.attention_norm.forward(x), batch, cache);
        let normed = self.mlp_norm.forward(&x);
        &x + match &self.feed {
            Feed::Mlp(mlp) => mlp.forward(&normed),
            Feed::Mixture(mixture) => mixture.forward(&normed),
        }
    }
}

impl Attention {
    fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Attention> {
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

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let [q, k, v] = Linear::together([&self.q, &self.k, &self.v], x);
        let q = batch.split_heads(&q, self.heads.num_attention_heads);
        let k = batch.split_heads(&k, self.heads.num_key_value_heads);
        let v = batch.split_heads(&v, self.heads.num_key_value_heads);
        let q = self.rope.forward(&self.q_norm.forward(&q), batch);
        let k = self.rope.forward(&self.k_norm.forward(&k), batch);
        let out = attend(&q, &cache.append(batch, &k, &v), self.scale, Mask::Causal);
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
        self.down.forward(&swiglu(&gate, &up))
    }
}

impl Mixture {
    fn load(config: &Config, w: &Weights) -> Result<Mixture> {
        let (hidden, count) = (config.hidden_size, config.num_experts);
        Ok(Mixture {
            router: w.linear("gate", [count, hidden], false)?,
            experts: w.experts(count, hidden, config.moe_intermediate_size)?,
            each: config.num_experts_per_tok,
            normalised: config.norm_topk_prob,
        })
    }

    fn forward(&self, x: &Array) -> Array {
        let (chosen, weights) = choose(&self.router.forward(x), self.each, self.normalised);
        self.experts.forward(x, &chosen, &weights)
    }
}

impl Model for Qwen3Moe {
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
        Memory::new(self.layers.iter().map(|_| Cache::key_value()))
    }

    fn context_max(&self) -> usize {
        self.context_max
    }

    fn vocabulary(&self) -> usize {
        self.embed.rows() as usize
    }
}
