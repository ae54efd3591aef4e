//! Qwen3 mixture of experts, arXiv:2505.09388: the dense decoder ([`super::qwen3`]) with a router and small networks in
//! place of most layers' MLP. The router's softmax is over all experts, and the chosen weights may be normalised.
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::Array;

use super::decoder::{self, Decoder, Frame};
use super::qwen3::{self, Attention};
use crate::batch::Batch;
use crate::cache::Cache;
use crate::config::Section;
use crate::error::Result;
use crate::model::Model;
use crate::nn::{Experts, Linear, Mlp, RmsNorm, Rope, choose};
use crate::weights::Weights;

struct Config {
    /// What it shares with the dense decoder.
    dense: qwen3::Config,
    mixture: MixtureConfig,
}

/// Of the layers' mixtures.
pub(super) struct MixtureConfig {
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    norm_topk_prob: bool,
    decoder_sparse_step: i32,
    mlp_only_layers: Vec<i32>,
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

pub(super) struct Mixture {
    router: Linear,
    experts: Experts,
    each: i32,
    normalised: bool,
}

impl Config {
    fn read(config: &Section<'_>) -> Result<Config> {
        let dense = qwen3::Config::read(config)?;
        Ok(Config { dense, mixture: MixtureConfig::read(config, false)? })
    }
}

impl MixtureConfig {
    /// `normalised` is what weights are where nothing says so.
    pub fn read(config: &Section<'_>, normalised: bool) -> Result<MixtureConfig> {
        let num_experts = config.size("num_experts")?;
        let num_experts_per_tok = config.size("num_experts_per_tok")?;
        if num_experts_per_tok > num_experts {
            let reason = format!("is {num_experts_per_tok}, of {num_experts} experts");
            return Err(config.error("num_experts_per_tok", reason));
        }
        Ok(MixtureConfig {
            num_experts,
            num_experts_per_tok,
            moe_intermediate_size: config.size("moe_intermediate_size")?,
            norm_topk_prob: config.flag("norm_topk_prob", normalised)?,
            decoder_sparse_step: config.size_or("decoder_sparse_step", 1)?,
            mlp_only_layers: config.indices("mlp_only_layers")?,
        })
    }

    pub fn is_sparse(&self, layer: usize) -> bool {
        let layer = layer as i32;
        !self.mlp_only_layers.contains(&layer) && (layer + 1) % self.decoder_sparse_step == 0
    }
}

pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section)?;
    let rope = Rope::read(section, config.dense.heads.head_dim)?;
    let (w, frame) = (weights.at("model"), &config.dense.frame);
    let norm = w.rms_norm("norm", frame.hidden_size, frame.rms_norm_eps)?;
    let layer = |index, w: &Weights| Layer::load(&config, &rope, index, w);
    Ok(Box::new(Decoder::load(frame, norm, &w, weights, layer)?))
}

impl Layer {
    fn load(config: &Config, rope: &Rope, index: usize, w: &Weights) -> Result<Layer> {
        let Config { dense, mixture } = config;
        let Frame { hidden_size: hidden, rms_norm_eps: eps, .. } = dense.frame;
        let feed = match mixture.is_sparse(index) {
            true => Feed::Mixture(Mixture::load(mixture, hidden, &w.at("mlp"))?),
            false => Feed::Mlp(dense.mlp(w)?),
        };
        Ok(Layer {
            attention_norm: w.rms_norm("input_layernorm", hidden, eps)?,
            attention: Attention::load(dense, rope, &w.at("self_attn"))?,
            mlp_norm: w.rms_norm("post_attention_layernorm", hidden, eps)?,
            feed,
        })
    }
}

impl decoder::Layer for Layer {
    fn cache(&self) -> Cache {
        self.attention.cache()
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
    /// The cursor stands at the layer's network.
    pub fn load(config: &MixtureConfig, hidden: i32, w: &Weights) -> Result<Mixture> {
        let count = config.num_experts;
        Ok(Mixture {
            router: w.linear("gate", [count, hidden], false)?,
            experts: w.experts(count, hidden, config.moe_intermediate_size)?,
            each: config.num_experts_per_tok,
            normalised: config.norm_topk_prob,
        })
    }

    pub fn forward(&self, x: &Array) -> Array {
        let (chosen, weights) = choose(&self.router.forward(x), self.each, self.normalised);
        self.experts.forward(x, &chosen, &weights)
    }
}
