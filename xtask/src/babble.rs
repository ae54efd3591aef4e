//! `babble`, a fixture of the tests: a tiny Qwen3 whose weights are partly chance and partly a grammar of a few words, so
//! that what it writes looks like English and means nothing. It says something else for every seed and hardly ever ends,
//! which a model that has learnt something does not. Its files follow from this source alone: the same bytes on every
//! machine.

mod grammar;
mod tokenizer;
mod weights;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::json;

use crate::build::root;
use tokenizer::Vocabulary;

const CHAT_TEMPLATE: &str = include_str!("babble/chat_template.jinja");
const ABOUT: &str = include_str!("babble/README.md");

/// What a clone of the repository has to carry for it, at most.
const BYTES_MAX: usize = 400_000;

/// Writes the files, or with `--check` compares them with those that are there.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    let check = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => bail!("usage: cargo xtask babble [--check]"),
    };
    let directory = directory();
    let files = files()?;
    if check {
        return compare(&directory, &files);
    }
    std::fs::create_dir_all(&directory)?;
    for (name, bytes) in &files {
        let path = directory.join(name);
        std::fs::write(&path, bytes)
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

fn directory() -> PathBuf {
    root().join("testdata/babble")
}

fn compare(directory: &std::path::Path, files: &BTreeMap<&str, Vec<u8>>) -> anyhow::Result<()> {
    let is_stale = |(name, bytes): &(&&str, &Vec<u8>)| {
        std::fs::read(directory.join(**name)).ok().as_ref() != Some(*bytes)
    };
    let stale: Vec<&str> = files.iter().filter(is_stale).map(|(name, _)| *name).collect();
    if !stale.is_empty() {
        bail!("stale in testdata/babble: {}; run `cargo xtask babble`", stale.join(", "));
    }
    Ok(())
}

fn files() -> anyhow::Result<BTreeMap<&'static str, Vec<u8>>> {
    let vocabulary = Vocabulary::new();
    let files = BTreeMap::from([
        ("README.md", ABOUT.as_bytes().to_vec()),
        ("config.json", pretty(&config(&vocabulary))?),
        ("generation_config.json", pretty(&generation_config(&vocabulary))?),
        ("model.safetensors", weights::file(&vocabulary)?),
        ("tokenizer.json", serde_json::to_vec(&vocabulary.file())?),
        ("tokenizer_config.json", pretty(&tokenizer_config())?),
    ]);
    let bytes: usize = files.values().map(Vec::len).sum();
    if bytes > BYTES_MAX {
        bail!("the files have {bytes} bytes, more than {BYTES_MAX}");
    }
    Ok(files)
}

fn pretty(value: &serde_json::Value) -> anyhow::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn config(vocabulary: &Vocabulary) -> serde_json::Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary.len(),
        "hidden_size": weights::HIDDEN,
        "intermediate_size": weights::INTERMEDIATE,
        "num_hidden_layers": weights::LAYERS,
        "num_attention_heads": weights::HEADS,
        "num_key_value_heads": weights::KEY_VALUE_HEADS,
        "head_dim": weights::HEAD_DIM,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rope_scaling": null,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "use_sliding_window": false,
        "tie_word_embeddings": false,
        "use_cache": true,
        "eos_token_id": vocabulary.id(tokenizer::END_OF_TURN),
        "pad_token_id": vocabulary.id(tokenizer::END_OF_TEXT),
    })
}

fn generation_config(vocabulary: &Vocabulary) -> serde_json::Value {
    json!({
        "do_sample": true,
        "temperature": 0.8,
        "eos_token_id": [vocabulary.id(tokenizer::END_OF_TURN), vocabulary.id(tokenizer::END_OF_TEXT)],
        "pad_token_id": vocabulary.id(tokenizer::END_OF_TEXT),
    })
}

fn tokenizer_config() -> serde_json::Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096,
        "add_bos_token": false,
        "bos_token": null,
        "eos_token": tokenizer::END_OF_TURN,
        "pad_token": tokenizer::END_OF_TEXT,
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_files_are_those_of_this_source() {
        compare(&directory(), &files().unwrap()).unwrap();
    }

    #[test]
    fn making_them_twice_gives_the_same_bytes() {
        assert_eq!(files().unwrap(), files().unwrap());
    }
}
