//! Qwen3-Next, https://qwen.ai/blog?id=qwen3-next: of four layers three remember a state of fixed size, by the gated delta
//! rule (arXiv:2412.06464) behind a short convolution, and one attends, with a gate on what it gives and a quarter of
//! each head rotated. A mixture of many small experts beside one that everybody takes. Norms are stored as their
//! distance from 1, but for the one within the delta rule.
//! Shapes: rows `[rows, hidden]`, heads `[batch, heads, length, head_dim]`.

use mlx::fast::{Gate, gated, gated_sum};
use mlx::recurrent::{DeltaRule, Sequence, short_convolution};
use mlx::{Array, Dtype};

use super::decoder::{self, Decoder, Frame, Usual};
use super::qwen3_moe::{Mixture, MixtureConfig};
use crate::batch::Batch;
use crate::cache::{Cache, StateShape};
use crate::config::{Heads, Section};
use crate::error::Result;
use crate::model::Model;
use crate::nn::{AttentionOptions, Linear, Mlp, RmsNorm, Rope, attend};
use crate::weights::Weights;

struct Config {
    frame: Frame,
    intermediate_size: i32,
    heads: Heads,
    linear: LinearHeads,
    is_linear: Vec<bool>,
    mixture: MixtureConfig,
    shared_expert_intermediate_size: i32,
    /// Whether norms are stored with the 1 added.
    norms_are_whole: bool,
}

/// The layers of the delta rule.
#[derive(Clone, Copy)]
struct LinearHeads {
    num_key_heads: i32,
    num_value_heads: i32,
    key_head_dim: i32,
    value_head_dim: i32,
    conv_kernel_dim: i32,
}

struct Layer {
    mixer_norm: RmsNorm,
    mixer: Mixer,
    feed_norm: RmsNorm,
    feed: Feed,
}

enum Mixer {
    Linear(DeltaNet),
    Full(Attention),
}

struct DeltaNet {
    qkv: Linear,
    z: Linear,
    b: Linear,
    a: Linear,
    /// `[taps, channels]`
    conv: Array,
    a_log: Array,
    dt_bias: Array,
    norm: RmsNorm,
    out: Linear,
    heads: LinearHeads,
}

struct Attention {
    q: Linear,
    gate: Linear,
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
    Mlp(Box<Mlp>),
    Mixture(Box<SharedMixture>),
}

/// A mixture, and beside it a network that everybody takes, with a gate for each row.
struct SharedMixture {
    mixture: Mixture,
    shared: Mlp,
    shared_gate: Linear,
}

impl Config {
    fn read(config: &Section<'_>, weights: &Weights) -> Result<Config> {
        config.only("hidden_act", "silu")?;
        if config.is_set("attention_bias") {
            return Err(
                config.error("attention_bias", "is set; this architecture is known without")
            );
        }
        let frame = Frame::read(config, USUAL)?;
        let interval = config.size_or("full_attention_interval", 4)?;
        let kinds = config.layer_types(
            frame.num_hidden_layers,
            ["full_attention", "linear_attention"],
            |index| usize::from((index + 1) % interval != 0),
        )?;
        let is_linear: Vec<bool> = kinds.iter().map(|kind| *kind == 1).collect();
        Ok(Config {
            frame,
            intermediate_size: config.size("intermediate_size")?,
            heads: Heads::read(config)?,
            linear: LinearHeads::read(config)?,
            norms_are_whole: is_converted(&is_linear, weights),
            is_linear,
            mixture: MixtureConfig::read(config, true)?,
            shared_expert_intermediate_size: config.size("shared_expert_intermediate_size")?,
        })
    }

    fn norm(&self, w: &Weights, name: &str, size: i32) -> Result<RmsNorm> {
        match self.norms_are_whole {
            true => w.rms_norm(name, size, self.frame.rms_norm_eps),
            false => w.centred_rms_norm(name, size, self.frame.rms_norm_eps),
        }
    }
}

const USUAL: Usual = Usual { max_position_embeddings: 32_768, tie_word_embeddings: false };

/// mlx-lm adds the 1 to norms when it converts a checkpoint, and nothing says so but the layout of the convolutions, whose
/// last axis it moves: `[channels, taps, 1]`.
fn is_converted(is_linear: &[bool], weights: &Weights) -> bool {
    let first = is_linear.iter().position(|linear| *linear);
    let shape = first.and_then(|index| {
        let layer = weights.at("model").at_index("layers", index as i32);
        layer.at("linear_attn").shape("conv1d.weight")
    });
    shape.is_some_and(|shape| shape.last() == Some(&1))
}

impl LinearHeads {
    fn read(config: &Section<'_>) -> Result<LinearHeads> {
        let num_key_heads = config.size("linear_num_key_heads")?;
        let num_value_heads = config.size("linear_num_value_heads")?;
        if num_value_heads % num_key_heads != 0 {
            let reason = format!(
                "is {num_key_heads}, which does not divide the {num_value_heads} of `linear_num_value_heads`"
            );
            return Err(config.error("linear_num_key_heads", reason));
        }
        let conv_kernel_dim = config.size_or("linear_conv_kernel_dim", 4)?;
        if !(2..=8).contains(&conv_kernel_dim) {
            let reason = format!("is {conv_kernel_dim}, not from 2 to 8");
            return Err(config.error("linear_conv_kernel_dim", reason));
        }
        let heads = LinearHeads {
            num_key_heads,
            num_value_heads,
            key_head_dim: config.size("linear_key_head_dim")?,
            value_head_dim: config.size("linear_value_head_dim")?,
            conv_kernel_dim,
        };
        let width = |count: i32, dim: i32| count.checked_mul(dim).filter(|width| *width < 1 << 24);
        if width(num_key_heads, heads.key_head_dim).is_none()
            || width(num_value_heads, heads.value_head_dim).is_none()
        {
            let reason = "with `linear_value_head_dim` is more than a tensor can hold";
            return Err(config.error("linear_key_head_dim", reason));
        }
        Ok(heads)
    }

    fn keys(&self) -> i32 {
        self.num_key_heads * self.key_head_dim
    }

    fn values(&self) -> i32 {
        self.num_value_heads * self.value_head_dim
    }

    fn channels(&self) -> i32 {
        2 * self.keys() + self.values()
    }

    /// What a sequence remembers in a layer: the convolution's last inputs, and a matrix for each value head.
    fn state(&self) -> [StateShape; 2] {
        let inputs = [self.conv_kernel_dim - 1, self.channels()];
        let matrix = [self.num_value_heads, self.value_head_dim, self.key_head_dim];
        [StateShape::new(&inputs, Dtype::F32), StateShape::new(&matrix, Dtype::F32)]
    }

    /// A checkpoint has for each key head its query, its key, and values and gates of its value heads, one after the
    /// other. Here: all queries, keys and values; all gates.
    fn qkv_and_z(&self) -> [Vec<i32>; 2] {
        let (keys, values) = (self.key_head_dim, self.values() / self.num_key_heads);
        let part = |first: i32, count: i32| {
            let stride = 2 * keys + 2 * values;
            (0..self.num_key_heads).flat_map(move |head| {
                let start = head * stride + first;
                start..start + count
            })
        };
        let qkv = part(0, keys).chain(part(keys, keys)).chain(part(2 * keys, values));
        [qkv.collect(), part(2 * keys + values, values).collect()]
    }

    /// As `qkv_and_z`: β and the decay of a key head's value heads.
    fn b_and_a(&self) -> [Vec<i32>; 2] {
        let group = self.num_value_heads / self.num_key_heads;
        let part = |first: i32| {
            let of = move |head: i32| (0..group).map(move |i| (2 * head + first) * group + i);
            (0..self.num_key_heads).flat_map(of).collect()
        };
        [part(0), part(1)]
    }
}

/// Added to the square of a query's or key's length; not in configurations.
const UNIT_EPS: f32 = 1e-6;

pub(super) fn load(section: &Section<'_>, weights: &Weights) -> Result<Box<dyn Model>> {
    let config = Config::read(section, weights)?;
    let rope = Rope::read(section, config.heads.head_dim)?;
    weights.ignore("mtp");
    let w = weights.at("model");
    let norm = config.norm(&w, "norm", config.frame.hidden_size)?;
    let layer = |index, w: &Weights| Layer::load(&config, &rope, index, w);
    Ok(Box::new(Decoder::load(&config.frame, norm, &w, weights, layer)?))
}

impl Layer {
    fn load(config: &Config, rope: &Rope, index: usize, w: &Weights) -> Result<Layer> {
        let hidden = config.frame.hidden_size;
        let mixer = match config.is_linear[index] {
            true => Mixer::Linear(DeltaNet::load(config, &w.at("linear_attn"))?),
            false => Mixer::Full(Attention::load(config, rope, &w.at("self_attn"))?),
        };
        let feed = match config.mixture.is_sparse(index) {
            true => Feed::Mixture(Box::new(SharedMixture::load(config, &w.at("mlp"))?)),
            false => {
                let sizes = [hidden, config.intermediate_size];
                Feed::Mlp(Box::new(w.at("mlp").mlp(Gate::Silu, sizes, false)?))
            }
        };
        Ok(Layer {
            mixer_norm: config.norm(w, "input_layernorm", hidden)?,
            mixer,
            feed_norm: config.norm(w, "post_attention_layernorm", hidden)?,
            feed,
        })
    }
}

impl decoder::Layer for Layer {
    fn cache(&self) -> Cache {
        match &self.mixer {
            Mixer::Linear(net) => Cache::recurrent(net.heads.state()),
            Mixer::Full(attention) => Cache::key_value(attention.heads.key_value()),
        }
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let normed = self.mixer_norm.forward(x);
        let x = x + match &self.mixer {
            Mixer::Linear(net) => net.forward(&normed, batch, cache),
            Mixer::Full(attention) => attention.forward(&normed, batch, cache),
        };
        let normed = self.feed_norm.forward(&x);
        &x + match &self.feed {
            Feed::Mlp(mlp) => mlp.forward(&normed),
            Feed::Mixture(mixture) => mixture.forward(&normed),
        }
    }
}

impl DeltaNet {
    fn load(config: &Config, w: &Weights) -> Result<DeltaNet> {
        let (hidden, heads) = (config.frame.hidden_size, config.linear);
        let [qkv, z] = w.linears("in_proj_qkvz", hidden, heads.qkv_and_z())?;
        let [b, a] = w.linears("in_proj_ba", hidden, heads.b_and_a())?;
        let (channels, taps) = (heads.channels(), heads.conv_kernel_dim);
        let conv = match config.norms_are_whole {
            true => w.tensor("conv1d.weight", &[channels, taps, 1])?,
            false => w.tensor("conv1d.weight", &[channels, 1, taps])?,
        };
        let conv = conv.reshape(&[channels, taps]).t().contiguous();
        Ok(DeltaNet {
            qkv,
            z,
            b,
            a,
            conv,
            a_log: w.tensor("A_log", &[heads.num_value_heads])?,
            dt_bias: w.tensor("dt_bias", &[heads.num_value_heads])?,
            norm: w.rms_norm("norm", heads.value_head_dim, config.frame.rms_norm_eps)?,
            out: w.linear("out_proj", [hidden, heads.values()], false)?,
            heads,
        })
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let [qkv, z, b, a] = Linear::together([&self.qkv, &self.z, &self.b, &self.a], x);
        let y = self.recur(&qkv, &a, &b, batch, cache);
        let y = y.reshape(&[-1, self.heads.value_head_dim]);
        let y = self.norm.forward(&y).reshape(&[batch.rows(), -1]);
        self.out.forward(&gated(Gate::Silu, &z, &y))
    }

    /// Convolution and delta rule, each from the state before to the one after.
    fn recur(&self, qkv: &Array, a: &Array, b: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let before: Vec<Vec<Array>> =
            batch.segments.iter().map(|segment| cache.state(segment)).collect();
        let sequences = |which: usize| {
            let states = before.iter().map(|states| &states[which]);
            let sequences = batch.segments.iter().zip(states);
            sequences.map(|(s, state)| Sequence { length: s.length as i32, state }).collect()
        };
        let sequences: [Vec<Sequence<'_>>; 2] = [sequences(0), sequences(1)];
        let (qkv, inputs) = short_convolution(qkv, &self.conv, &sequences[0]);
        let rule = DeltaRule {
            qkv: &qkv,
            a,
            b,
            a_log: &self.a_log,
            dt_bias: &self.dt_bias,
            key_heads: self.heads.num_key_heads,
            key_dim: self.heads.key_head_dim,
            heads: self.heads.num_value_heads,
            value_dim: self.heads.value_head_dim,
            unit_eps: UNIT_EPS,
        };
        let (y, matrices) = rule.forward(&sequences[1]);
        for ((segment, inputs), matrix) in batch.segments.iter().zip(inputs).zip(matrices) {
            cache.set_state(segment, vec![inputs, matrix]);
        }
        y
    }
}

impl Attention {
    fn load(config: &Config, rope: &Rope, w: &Weights) -> Result<Attention> {
        let (hidden, heads) = (config.frame.hidden_size, config.heads);
        let (q, kv, dim) = (heads.query_width(), heads.key_width(), heads.head_dim);
        // Each head's query, then its gate.
        let part = |first: i32| {
            let head = move |head: i32| (0..dim).map(move |i| (2 * head + first) * dim + i);
            (0..heads.num_attention_heads).flat_map(head).collect::<Vec<i32>>()
        };
        let [queries, gate] = w.linears("q_proj", hidden, [part(0), part(1)])?;
        Ok(Attention {
            q: queries,
            gate,
            k: w.linear("k_proj", [kv, hidden], false)?,
            v: w.linear("v_proj", [kv, hidden], false)?,
            q_norm: config.norm(w, "q_norm", dim)?,
            k_norm: config.norm(w, "k_norm", dim)?,
            out: w.linear("o_proj", [hidden, q], false)?,
            rope: rope.clone(),
            heads,
            scale: heads.scale(),
        })
    }

    fn forward(&self, x: &Array, batch: &Batch, cache: &mut Cache) -> Array {
        let [q, gate, k, v] = Linear::together([&self.q, &self.gate, &self.k, &self.v], x);
        let q = batch.split_heads(&q, self.heads.num_attention_heads);
        let k = batch.split_heads(&k, self.heads.num_key_value_heads);
        let v = batch.split_heads(&v, self.heads.num_key_value_heads);
        let q = self.rope.forward(&self.q_norm.forward(&q), batch);
        let k = self.rope.forward(&self.k_norm.forward(&k), batch);
        let out = attend(&q, &cache.append(batch, &k, &v), &AttentionOptions::causal(self.scale));
        self.out.forward(&gated(Gate::Sigmoid, &gate, &batch.merge_heads(&out)))
    }
}

impl SharedMixture {
    fn load(config: &Config, w: &Weights) -> Result<SharedMixture> {
        let hidden = config.frame.hidden_size;
        let sizes = [hidden, config.shared_expert_intermediate_size];
        Ok(SharedMixture {
            mixture: Mixture::load(&config.mixture, hidden, w)?,
            shared: w.at("shared_expert").mlp(Gate::Silu, sizes, false)?,
            shared_gate: w.linear("shared_expert_gate", [1, hidden], false)?,
        })
    }

    fn forward(&self, x: &Array) -> Array {
        let routed = self.mixture.forward(x);
        gated_sum(&routed, &self.shared_gate.forward(x), &self.shared.forward(x))
    }
}
