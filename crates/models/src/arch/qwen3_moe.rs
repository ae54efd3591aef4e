//! Qwen3 mixture of experts, arXiv:2505.09388: the dense decoder ([`super::qwen3`]) with a router and small networks in
//! place of most layers' MLP. The router's softmax is over all experts, and the chosen weights may be normalised.
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::Array;

use super::qwen3::{self, Attention, Mlp};
use crate::batch::Batch;
use crate::cache::{Cache, Memory};
use crate::config::Section;
use crate::error::Result;
use crate::model::Model;
use crate::nn::{Embedding, Experts, Linear, RmsNorm, Rope, choose};
use crate::weights::Weights;

struct Config {
    /// What it shares with the dense decoder.
    dense: qwen3::Config,
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

enum Feed {
    Mlp(Mlp),
    Mixture(Mixture),
}

struct Mixture {
    router: Linear,
    experts: Experts,
    each: i32,
    normalised: bool,
}

impl Config {
    fn read(config: &Section<'_>) -> Result<Config> {
        let dense = qwen3::Config::read(config)?;
        let num_experts = config.size("num_experts")?;
        let num_experts_per_tok = config.size("num_experts_per_tok")?;
        if num_experts_per_tok > num_experts {
            let reason = format!("is {num_experts_per_tok}, of {num_experts} experts");
            return Err(config.error("num_experts_per_tok", reason));
        }
        Ok(Config {
            dense,
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
    let dense = &config.dense;
    let rope = Rope::read(section, dense.heads.head_dim)?;
    let w = weights.at("model");
    let embed = w.embedding("embed_tokens", [dense.vocab_size, dense.hidden_size])?;
    let layers = (0..dense.num_hidden_layers)
        .map(|index| {
            Layer::load(&config, &rope, config.is_sparse(index), &w.at_index("layers", index))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Qwen3Moe {
        layers,
        norm: w.rms_norm("norm", dense.hidden_size, dense.rms_norm_eps)?,
        head: weights.head("lm_head", &embed, dense.tie_word_embeddings)?,
        embed,
        context_max: dense.max_position_embeddings as usize,
    }))
}

impl Layer {
    fn load(config: &Config, rope: &Rope, sparse: bool, w: &Weights) -> Result<Layer> {
        let dense = &config.dense;
        let (hidden, eps) = (dense.hidden_size, dense.rms_norm_eps);
        let feed = match sparse {
            true => Feed::Mixture(Mixture::load(config, &w.at("mlp"))?),
            false => Feed::Mlp(Mlp::load(dense, &w.at("mlp"))?),
        };
        Ok(Layer {
            attention_norm: w.rms_norm("input_layernorm", hidden, eps)?,
            attention: Attention::load(dense, rope, &w.at("self_attn"))?,
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

impl Mixture {
    fn load(config: &Config, w: &Weights) -> Result<Mixture> {
        let (hidden, count) = (config.dense.hidden_size, config.num_experts);
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
