//! The weights: chance after the recipe of the reference checkpoints (testdata/arch/README.md), and the grammar.
//!
//! The first channels of the hidden state say of which kind the current token is, one more is constant; no layer
//! writes to these. The output matrix turns them into the probabilities of the grammar and keeps everything that is no
//! word out. The other channels are chance: they choose among the words, depending on all that came before.

use serde_json::json;

use super::grammar::{GRAMMAR, KINDS, Kind, Rule};
use super::tokenizer::Vocabulary;

pub const HIDDEN: usize = 64;
pub const INTERMEDIATE: usize = 64;
pub const LAYERS: usize = 2;
pub const HEADS: usize = 4;
pub const KEY_VALUE_HEADS: usize = 2;
pub const HEAD_DIM: usize = 16;

const SEED: u64 = 20_261_121;

/// The channel that is the same for all tokens.
const CONSTANT: usize = KINDS;
/// From here on chance.
const FREE: usize = KINDS + 1;

/// Of a token's own channel and the constant one; chance has deviation 1.
const SIGNAL: f32 = 4.0;
/// What is left of `SIGNAL` behind the last norm, measured.
const SIGNAL_AT_END: f32 = 2.8;
/// Deviation of the output weights of chance: how freely words are chosen.
const FREEDOM: f64 = 0.12;
/// Log-probability of what must not come.
const NEVER: f32 = -30.0;
/// Choice among words raises their share, as exp is convex; a kind with one token has no choice and gets this much.
const ALONE: f32 = 0.6;

pub struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

pub fn file(vocabulary: &Vocabulary) -> anyhow::Result<Vec<u8>> {
    let mut tensors =
        vec![embedding(vocabulary), output(vocabulary), norm("model.norm.weight", HIDDEN)];
    (0..LAYERS).for_each(|layer| tensors.extend(layer_tensors(layer)));
    safetensors(&tensors)
}

fn embedding(vocabulary: &Vocabulary) -> Tensor {
    let mut tensor = chance("model.embed_tokens.weight", &[vocabulary.len(), HIDDEN], 1.0);
    for (id, row) in tensor.values.chunks_mut(HIDDEN).enumerate() {
        row[..FREE].fill(0.0);
        row[vocabulary.kind_before(id) as usize] = SIGNAL;
        row[CONSTANT] = SIGNAL;
    }
    tensor
}

fn output(vocabulary: &Vocabulary) -> Tensor {
    let mut tensor = chance("lm_head.weight", &[vocabulary.len(), HIDDEN], FREEDOM);
    for (id, row) in tensor.values.chunks_mut(HIDDEN).enumerate() {
        row[..FREE].fill(0.0);
        match vocabulary.kind(id) {
            None => {
                row.fill(0.0);
                row[CONSTANT] = NEVER / SIGNAL_AT_END;
            }
            Some(kind) => {
                for rule in GRAMMAR {
                    row[rule.kind as usize] = log_share(rule, kind) / SIGNAL_AT_END;
                }
                if words(kind) == 1 {
                    row[FREE..].fill(0.0);
                }
            }
        }
    }
    tensor
}

/// Log-probability of one word of `kind` behind a word of `rule`.
fn log_share(rule: &Rule, kind: Kind) -> f32 {
    let Some((_, probability)) = rule.next.iter().find(|(next, _)| *next == kind) else {
        return NEVER;
    };
    let share = (probability / words(kind) as f64).ln() as f32;
    if words(kind) == 1 { share + ALONE } else { share }
}

/// The tokens of a kind; the end token stands for its kind by itself.
fn words(kind: Kind) -> usize {
    let rule = GRAMMAR.iter().find(|rule| rule.kind == kind);
    rule.map_or(1, |rule| rule.words.split_whitespace().count().max(1))
}

fn layer_tensors(layer: usize) -> Vec<Tensor> {
    let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
    let (queries, keys) = (HEADS * HEAD_DIM, KEY_VALUE_HEADS * HEAD_DIM);
    vec![
        norm(&at("input_layernorm"), HIDDEN),
        norm(&at("post_attention_layernorm"), HIDDEN),
        norm(&at("self_attn.q_norm"), HEAD_DIM),
        norm(&at("self_attn.k_norm"), HEAD_DIM),
        chance(&at("self_attn.q_proj"), &[queries, HIDDEN], 0.15),
        chance(&at("self_attn.k_proj"), &[keys, HIDDEN], 0.15),
        chance(&at("self_attn.v_proj"), &[keys, HIDDEN], 0.15),
        writes_free(chance(&at("self_attn.o_proj"), &[HIDDEN, queries], 0.15)),
        chance(&at("mlp.gate_proj"), &[INTERMEDIATE, HIDDEN], 0.15),
        chance(&at("mlp.up_proj"), &[INTERMEDIATE, HIDDEN], 0.15),
        writes_free(chance(&at("mlp.down_proj"), &[HIDDEN, INTERMEDIATE], 0.15)),
    ]
}

fn writes_free(mut tensor: Tensor) -> Tensor {
    let columns = tensor.shape[1];
    tensor.values[..FREE * columns].fill(0.0);
    tensor
}

fn norm(name: &str, size: usize) -> Tensor {
    Tensor { name: name.to_owned(), shape: vec![size], values: vec![1.0; size] }
}

/// Uniform with mean 0 and this deviation: FNV-1a of the name, then SplitMix64 of the index.
fn chance(name: &str, shape: &[usize], deviation: f64) -> Tensor {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let scale = (deviation * 1.732_050_807_568_877_2) as f32;
    let value = |index: u64| {
        let mut z = (hash ^ SEED).wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        scale * ((z >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    let count: usize = shape.iter().product();
    Tensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        values: (0..count as u64).map(value).collect(),
    }
}

/// bfloat16, rounded to the nearest, ties to even.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    ((rounded >> 16) as u16).to_le_bytes()
}

fn safetensors(tensors: &[Tensor]) -> anyhow::Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(tensor.values.iter().flat_map(|value| bf16(*value)));
        let entry =
            json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes(), header.as_slice(), data.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the recipe, which has other seeds: the hash of the name is the same.
    #[test]
    fn numbers_round_to_even() {
        let check =
            |value: f32, expected: u16| assert_eq!(u16::from_le_bytes(bf16(value)), expected);
        check(1.0, 0x3f80);
        check(f32::from_bits(0x3f80_8000), 0x3f80);
        check(f32::from_bits(0x3f81_8000), 0x3f82);
        check(f32::from_bits(0x3f80_8001), 0x3f81);
        check(-30.0, 0xc1f0);
    }

    #[test]
    fn probabilities_of_each_kind_add_up() {
        for rule in GRAMMAR {
            let sum: f64 = rule.next.iter().map(|(_, probability)| probability).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{:?}: {sum}", rule.kind);
        }
        let kinds: Vec<usize> = GRAMMAR.iter().map(|rule| rule.kind as usize).collect();
        assert_eq!(
            kinds,
            (0..KINDS).collect::<Vec<_>>(),
            "the grammar is in the order of the kinds"
        );
    }
}
