//! Numbers about a model that `/api/show` and lists tell: from `config.json` and from the tensors' shapes.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{DRAFT_TENSORS, Model, Result, SafetensorsHeader, StoredTensor};

/// What `config.json` says; 0 or an empty text where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFacts {
    /// `model_type`, else derived from the class in `architectures`.
    pub architecture: String,
    pub context_length: u64,
    pub embedding_length: u64,
    pub block_count: u64,
    pub head_count: u64,
    pub head_count_kv: u64,
    /// Of one head; where it is not told, the embedding is split evenly.
    pub head_length: u64,
    pub feed_forward_length: u64,
    pub vocab_size: u64,
    /// `bfloat16` …
    pub dtype: String,
}

/// What `/api/show` tells of a safetensors model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    pub facts: ConfigFacts,
    /// Exact, from the shapes; a quantised tensor counts the weights it stands for.
    pub parameter_count: u64,
    /// The coarsest quantisation among the tensors, else the type the checkpoint says it has.
    pub quantization: String,
    /// By name; a quantised one has its unpacked shape and the name of its quantisation as type.
    pub tensors: Vec<TensorInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// `BF16`, `int4` …
    pub dtype: String,
    pub shape: Vec<u64>,
}

impl ConfigFacts {
    pub fn of(config: &Value) -> ConfigFacts {
        let inner = ["text_config", "llm_config", "language_config"]
            .iter()
            .find_map(|key| config.get(key))
            .unwrap_or(&Value::Null);
        // Multimodal configs repeat some of these outside, with values for another part.
        let number = |keys: &[&str]| {
            let all = [inner, config].into_iter().flat_map(|at| keys.iter().map(|key| at.get(key)));
            all.flatten().filter_map(Value::as_u64).find(|&value| value > 0).unwrap_or(0)
        };
        let dtype = ["dtype", "torch_dtype"]
            .iter()
            .find_map(|key| [config, inner].into_iter().find_map(|at| at.get(key)?.as_str()));
        ConfigFacts {
            architecture: architecture(config),
            context_length: number(&[
                "max_position_embeddings",
                "n_positions",
                "max_sequence_length",
                "seq_length",
                "max_target_positions",
            ]),
            embedding_length: number(&["hidden_size", "n_embd", "d_model"]),
            block_count: number(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"]),
            head_count: number(&["num_attention_heads", "n_head", "num_heads"]),
            head_count_kv: number(&["num_key_value_heads", "num_kv_heads"]),
            head_length: number(&["head_dim"]),
            feed_forward_length: number(&["intermediate_size", "n_inner", "encoder_ffn_dim"]),
            vocab_size: number(&["vocab_size"]),
            dtype: dtype.unwrap_or_default().to_owned(),
        }
    }
}

/// More layers, heads or numbers in a head than this has no model.
const CACHE_SIZE_MAX: u64 = 1 << 16;

impl ConfigFacts {
    /// Keys and values that one token adds to the caches of all layers, at two bytes a number. An upper limit where
    /// some layers see a window only, or keep a state of fixed size; 0 where the config does not tell, or tells nonsense
    /// (which is refused by who loads it).
    pub fn cache_bytes_per_token(&self) -> u64 {
        let heads = if self.head_count_kv > 0 { self.head_count_kv } else { self.head_count };
        let even = self.embedding_length.checked_div(self.head_count).unwrap_or(0);
        let length = if self.head_length > 0 { self.head_length } else { even };
        let known = |size: &u64| (1..=CACHE_SIZE_MAX).contains(size);
        let sizes = [self.block_count, heads, length];
        if sizes.iter().all(known) { sizes.iter().fold(4, |all, size| all * size) } else { 0 }
    }
}

fn architecture(config: &Value) -> String {
    if let Some(model_type) = config.get("model_type").and_then(Value::as_str) {
        return model_type.to_owned();
    }
    let class = config.pointer("/architectures/0").and_then(Value::as_str).unwrap_or_default();
    let class = class.to_lowercase();
    let tails = ["forcausallm", "forconditionalgeneration", "model"];
    tails.iter().find_map(|tail| class.strip_suffix(tail)).unwrap_or(&class).to_owned()
}

impl Model {
    /// Reads `config.json` and the headers of all tensors (not their data).
    pub fn info(&self) -> Result<ModelInfo> {
        let config = self.json("config.json")?.unwrap_or_default();
        let facts = ConfigFacts::of(&config);
        let hint = config.pointer("/quantization/bits").and_then(Value::as_u64);
        let mut tensors = Vec::new();
        // Equal blobs under several names are told once per name, as they are loaded.
        let own = |(name, _): &&(String, PathBuf)| !name.starts_with(DRAFT_TENSORS);
        for (name, path) in self.tensors.iter().filter(own) {
            tensors.extend(tensors_of_blob(name, path, hint)?);
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let coarsest = tensors.iter().filter_map(|t| Some((quant_bits(&t.dtype)?, &t.dtype))).min();
        Ok(ModelInfo {
            parameter_count: tensors
                .iter()
                .map(TensorInfo::element_count)
                .fold(0, u64::saturating_add),
            quantization: coarsest.map_or_else(|| facts.dtype.clone(), |(_, name)| name.clone()),
            facts,
            tensors,
        })
    }
}

impl TensorInfo {
    pub fn element_count(&self) -> u64 {
        self.shape.iter().fold(1, |count, &length| count.saturating_mul(length))
    }
}

fn tensors_of_blob(layer: &str, path: &Path, bits_hint: Option<u64>) -> Result<Vec<TensorInfo>> {
    let header = SafetensorsHeader::read(path)?;
    let mut tensors = logical_tensors(&header, bits_hint);
    // A blob of one tensor may carry any key; the layer's name is the tensor's.
    if let [only] = tensors.as_mut_slice() {
        only.name = layer.to_owned();
    }
    Ok(tensors)
}

/// The tensors a file stands for: scales and offsets of quantised ones are no tensors of their own.
pub fn logical_tensors(header: &SafetensorsHeader, bits_hint: Option<u64>) -> Vec<TensorInfo> {
    let by_name: BTreeMap<&str, &StoredTensor> =
        header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let companions: HashSet<String> = by_name
        .keys()
        .filter(|name| by_name.contains_key(format!("{name}.scale").as_str()))
        .flat_map(|name| ["scale", "bias", "global_scale"].map(|part| format!("{name}.{part}")))
        .collect();
    let own = header.tensors.iter().filter(|tensor| !companions.contains(&tensor.name));
    own.map(|tensor| {
        let scale = by_name.get(format!("{}.scale", tensor.name).as_str()).copied();
        let quant = quant_of(header, tensor, scale, bits_hint);
        logical(tensor, quant)
    })
    .collect()
}

fn quant_of(
    header: &SafetensorsHeader,
    tensor: &StoredTensor,
    scale: Option<&StoredTensor>,
    bits_hint: Option<u64>,
) -> Option<String> {
    let scale = scale?;
    let own = format!("{}.quant_type", tensor.name);
    let told = header.metadata.get(&own).or_else(|| header.metadata.get("quant_type"));
    let told = told.map(|text| text.trim().to_lowercase());
    told.or_else(|| inferred(*tensor.shape.last()?, *scale.shape.last()?, bits_hint))
}

/// Files without metadata: what the lengths of a packed row and of its scales allow.
fn inferred(packed: u64, scales: u64, bits_hint: Option<u64>) -> Option<String> {
    let group = |bits: u64| (scales > 0).then(|| packed.saturating_mul(32) / bits / scales);
    let possible = |bits: &u64| matches!(group(*bits), Some(16 | 32 | 64 | 128));
    let usual = |bits: &u64| matches!((*bits, group(*bits)), (4, Some(32)) | (8, Some(64)));
    let hinted = || bits_hint.filter(possible);
    // The usual pairs of four and eight bits explain themselves; a checkpoint of other bits says so.
    let bits = hinted().filter(|bits| ![4, 8].contains(bits));
    let bits = bits.or_else(|| [4, 8].into_iter().find(usual)).or_else(hinted);
    let bits = bits.or_else(|| [4, 8].into_iter().find(possible));
    bits.map(|bits| format!("int{bits}"))
}

fn logical(tensor: &StoredTensor, quant: Option<String>) -> TensorInfo {
    let mut shape = tensor.shape.clone();
    let bits = quant.as_deref().and_then(quant_bits);
    if let (Some(bits), Some(last), "U32") = (bits, shape.last_mut(), tensor.dtype.as_str()) {
        *last = last.saturating_mul(32) / bits;
    }
    let dtype = quant.unwrap_or_else(|| tensor.dtype.clone());
    TensorInfo { name: tensor.name.clone(), dtype, shape }
}

/// Bits of one weight.
fn quant_bits(quant: &str) -> Option<u64> {
    let digits = ["int", "nvfp", "mxfp"].iter().find_map(|family| quant.strip_prefix(family))?;
    digits.parse().ok().filter(|bits| (1..=8).contains(bits))
}

/// A count for people, as Ollama writes it: `139584` is `140K`, eight thousand million `8B`.
pub fn parameter_size(count: u64) -> String {
    let (unit, letter, decimals) = match count {
        1_000_000_000.. => (1e9, "B", 1),
        1_000_000.. => (1e6, "M", 2),
        1_000.. => (1e3, "K", 0),
        _ => return count.to_string(),
    };
    let number = count as f64 / unit;
    let decimals = if number.fract() == 0.0 { 0 } else { decimals };
    format!("{number:.decimals$}{letter}")
}

/// JSON as Python writes it, with `Infinity` and `NaN`, which become null.
pub fn parse_python_json(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(bytes).or_else(|_| serde_json::from_slice(&without_infinities(bytes)))
}

/// The words are overwritten in place, outside of texts.
fn without_infinities(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let (mut at, mut in_text) = (0, false);
    while at < out.len() {
        let word = [&b"-Infinity"[..], b"Infinity", b"NaN"]
            .into_iter()
            .find(|word| !in_text && out[at..].starts_with(word));
        match (word, out[at]) {
            (Some(word), _) => {
                let null = [b"null".as_slice(), &[b' '; 9]].concat();
                // `NaN` is one byte short of `null`; no number says the same.
                let filler = if word.len() < 4 { &b"0  "[..] } else { &null[..word.len()] };
                out[at..at + word.len()].copy_from_slice(filler);
                at += word.len();
                continue;
            }
            (None, b'\\') if in_text => at += 1,
            (None, b'"') => in_text = !in_text,
            _ => {}
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_for_people() {
        let check = |count, expected: &str| assert_eq!(parameter_size(count), expected);
        check(139_584, "140K");
        check(999, "999");
        check(1_000, "1K");
        check(23_400_000, "23.40M");
        check(7_000_000, "7M");
        check(8_030_261_248, "8.0B");
        check(8_000_000_000, "8B");
        check(235_093_634_560, "235.1B");
    }

    #[test]
    fn configs_of_many_kinds() {
        let check = |config: Value, expected: ConfigFacts| {
            assert_eq!(ConfigFacts::of(&config), expected, "{config}");
        };
        check(Value::Null, ConfigFacts::default());
        check(
            json!({"architectures": ["Gemma3ForCausalLM"], "n_layer": 2, "hidden_size": -1, "vocab_size": 1.5}),
            ConfigFacts { architecture: "gemma3".into(), block_count: 2, ..ConfigFacts::default() },
        );
        check(
            json!({
                "model_type": "qwen2_5_vl", "hidden_size": 1, "torch_dtype": "bfloat16",
                "text_config": {"hidden_size": 64, "max_position_embeddings": 512, "num_hidden_layers": 3,
                    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 9},
            }),
            ConfigFacts {
                architecture: "qwen2_5_vl".into(),
                context_length: 512,
                embedding_length: 64,
                block_count: 3,
                head_count: 4,
                head_count_kv: 2,
                head_length: 0,
                feed_forward_length: 128,
                vocab_size: 9,
                dtype: "bfloat16".into(),
            },
        );
    }

    #[test]
    fn what_a_token_takes() {
        let check = |config: Value, expected: u64| {
            assert_eq!(ConfigFacts::of(&config).cache_bytes_per_token(), expected, "{config}");
        };
        // Llama 3.1 8B: 128 KiB.
        let llama = json!({"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096});
        check(llama, 131_072);
        check(json!({"n_layer": 2, "n_head": 4, "n_embd": 64}), 4 * 2 * 64);
        check(json!({"num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 128}), 4 * 256);
        check(json!({"num_hidden_layers": 32}), 0);
        check(json!({"num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": u64::MAX}), 0);
    }

    #[test]
    fn python_writes_infinities() {
        let text =
            br#"{"time_step_limit": [0.0, Infinity, -Infinity], "n": NaN, "s": "NaN \"Infinity"}"#;
        let value = parse_python_json(text).unwrap();
        assert_eq!(value["time_step_limit"], json!([0.0, null, null]));
        assert_eq!(value["s"], json!("NaN \"Infinity"));
        assert!(parse_python_json(b"{").is_err());
        assert!(parse_python_json(b"").is_err());
    }

    #[test]
    fn lengths_tell_the_quantisation() {
        let check = |packed, scales, hint, expected: Option<&str>| {
            assert_eq!(inferred(packed, scales, hint).as_deref(), expected, "{packed} {scales}");
        };
        check(16, 4, None, Some("int4"));
        check(32, 2, None, Some("int8"));
        check(8, 1, None, Some("int4"));
        check(8, 1, Some(8), Some("int8"));
        check(32, 2, Some(4), Some("int8"));
        check(24, 4, Some(3), Some("int3"));
        check(4, 1, None, Some("int4"));
        check(4, 1, Some(2), Some("int2"));
        check(1, 7, None, None);
        check(1, 0, None, None);
    }

    #[test]
    fn quantised_tensors_count_their_weights() {
        let stored = |name: &str, dtype: &str, shape: &[u64]| StoredTensor {
            name: name.into(),
            dtype: dtype.into(),
            shape: shape.into(),
            data: 0..0,
        };
        let header = SafetensorsHeader {
            tensors: vec![
                stored("q.weight", "U32", &[64, 6]),
                stored("q.weight.scale", "BF16", &[64, 1]),
                stored("q.weight.bias", "BF16", &[64, 1]),
                stored("q.bias", "BF16", &[64]),
            ],
            metadata: [("quant_type".to_owned(), "int3".to_owned())].into(),
        };
        let listed = logical_tensors(&header, None);
        let names: Vec<_> = listed.iter().map(|t| (t.name.as_str(), t.dtype.as_str())).collect();
        assert_eq!(names, [("q.weight", "int3"), ("q.bias", "BF16")]);
        assert_eq!(listed[0].shape, [64, 64]);
        assert_eq!(listed.iter().map(TensorInfo::element_count).sum::<u64>(), 64 * 64 + 64);
    }
}
