//! Vocabularies that are plain tables: `vocab.txt` of the BERT family, `vocab.json` with `merges.txt` of the GPT-2
//! family. The crate `tokenizers` holds both exactly; what is missing is the description that a `tokenizer.json` gives,
//! written here as the tokenizer's class would.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::added::AddedToken;
use super::patterns::QWEN2;
use super::{Loaded, library};
use crate::specials::added_tokens;
use crate::{Error, Files, Result};

pub(super) const VOCAB_TXT: &str = "vocab.txt";
pub(super) const VOCAB_JSON: &str = "vocab.json";
pub(super) const MERGES: &str = "merges.txt";

/// What BERT's normaliser does with a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct WordOptions {
    pub lowercase: bool,
    pub strip_accents: Option<bool>,
    pub chinese_characters: bool,
}

pub(super) fn load_words(
    vocabulary: &str,
    files: &Files,
    named: &BTreeMap<String, String>,
) -> Result<Loaded> {
    let config = files.json("tokenizer_config.json")?;
    // A last line without its end counts, an empty one in between does too.
    let vocab: Map<String, Value> = vocabulary
        .lines()
        .zip(0..)
        .map(|(token, id): (&str, u32)| (token.to_owned(), id.into()))
        .collect();
    let options = WordOptions {
        lowercase: config["do_lower_case"].as_bool().unwrap_or(true),
        strip_accents: config["strip_accents"].as_bool(),
        chinese_characters: config["tokenize_chinese_chars"].as_bool().unwrap_or(true),
    };
    let find = |token: &str| vocab.get(token).and_then(Value::as_u64).map(|id| id as u32);
    let mut added = added_tokens(files, find)?;
    let text = |name: &str, usual: &str| named.get(name).map_or(usual, String::as_str).to_owned();
    let unknown = text("unk_token", "[UNK]");
    let (first, last) = (text("cls_token", "[CLS]"), text("sep_token", "[SEP]"));
    let usual =
        [&unknown, &first, &last, &text("pad_token", "[PAD]"), &text("mask_token", "[MASK]")];
    add_missing(&mut added, usual.into_iter().filter_map(|text| Some((find(text)?, text.clone()))));
    words(VOCAB_TXT, vocab, &added, &unknown, [&first, &last], options)
}

/// A WordPiece tokenizer. `around` names the tokens before and after a text.
pub(super) fn words(
    file: &str,
    mut vocab: Map<String, Value>,
    added: &[AddedToken],
    unknown: &str,
    around: [&str; 2],
    options: WordOptions,
) -> Result<Loaded> {
    let processor = processor(&vocab, [Some(around[0]), Some(around[1])]);
    complete(&mut vocab, added);
    build(
        file,
        json!({
            "added_tokens": described(added),
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": options.chinese_characters,
                "strip_accents": options.strip_accents,
                "lowercase": options.lowercase,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": processor,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {
                "type": "WordPiece",
                "unk_token": unknown,
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocab,
            },
        }),
    )
}

pub(super) fn load_merges(
    vocabulary: &str,
    merges: &str,
    files: &Files,
    named: &BTreeMap<String, String>,
) -> Result<Loaded> {
    let bad = |why: String| Error::bad_file(VOCAB_JSON, why);
    let vocab: Value = serde_json::from_str(vocabulary).map_err(|why| bad(why.to_string()))?;
    let Value::Object(mut vocab) = vocab else { return Err(bad("it is no table".to_owned())) };
    let config = files.json("tokenizer_config.json")?;
    let class = config["tokenizer_class"].as_str().unwrap_or_default().to_lowercase();
    if ["clip", "bertweet", "phobert", "ctrl", "fsmt", "xlm", "openaigpt", "herbert"]
        .iter()
        .any(|other| class.starts_with(other))
    {
        let what = format!("a `{VOCAB_JSON}` of the class {class} without a `tokenizer.json`");
        return Err(Error::Unsupported { what: format!("{what} is not supported") });
    }
    let find = |token: &str| vocab.get(token).and_then(Value::as_u64).map(|id| id as u32);
    let mut added = added_tokens(files, find)?;
    let usual = usual(&class).iter().map(|text| (*text).to_owned());
    add_missing(&mut added, usual.filter_map(|text| Some((find(&text)?, text))));
    let prefix = config["add_prefix_space"].as_bool().unwrap_or(false);
    let around = around(&class, &config, named);
    let processor = processor(&vocab, [around[0].as_deref(), around[1].as_deref()]);
    complete(&mut vocab, &added);
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let (normalizer, pre_tokenizer) = if class.starts_with("qwen2") {
        (json!({"type": "NFC"}), qwen2(prefix))
    } else {
        (Value::Null, byte_level.clone())
    };
    build(
        MERGES,
        json!({
            "added_tokens": described(&added),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": processor,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": merge_lines(merges)},
        }),
    )
}

fn qwen2(prefix: bool) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": false, "use_regex": false},
    ]})
}

/// The special tokens that a class knows of itself.
fn usual(class: &str) -> &'static [&'static str] {
    if is_roberta(class) {
        return &["<s>", "</s>", "<unk>", "<pad>", "<mask>"];
    }
    if class.starts_with("deberta") {
        return &["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"];
    }
    &["<|endoftext|>"]
}

fn is_roberta(class: &str) -> bool {
    let family = ["roberta", "bart", "longformer", "led", "mvp", "blenderbot"];
    family.iter().any(|member| class.starts_with(member))
}

/// Texts of the tokens before and after a text.
fn around(class: &str, config: &Value, named: &BTreeMap<String, String>) -> [Option<String>; 2] {
    let text = |name: &str, usual: &str| named.get(name).map_or(usual, String::as_str).to_owned();
    if is_roberta(class) {
        return [Some(text("cls_token", "<s>")), Some(text("sep_token", "</s>"))];
    }
    if class.starts_with("deberta") {
        return [Some(text("cls_token", "[CLS]")), Some(text("sep_token", "[SEP]"))];
    }
    let wants = |name: &str| config[name].as_bool() == Some(true);
    [
        wants("add_bos_token").then(|| text("bos_token", "<|endoftext|>")),
        wants("add_eos_token").then(|| text("eos_token", "<|endoftext|>")),
    ]
}

/// Lines of two tokens; the first may say which version of the format it is.
fn merge_lines(merges: &str) -> Vec<&str> {
    let lines = merges.lines().filter(|line| !line.is_empty());
    lines
        .enumerate()
        .filter(|(at, line)| *at > 0 || !line.starts_with("#version"))
        .map(|(_, line)| line)
        .collect()
}

fn add_missing(added: &mut Vec<AddedToken>, usual: impl Iterator<Item = (u32, String)>) {
    for (id, text) in usual {
        if added.iter().all(|token| token.id != id && token.text != text) {
            added.push(AddedToken::special(id, text));
        }
    }
}

/// The library numbers added tokens from the end of the vocabulary on, so that all have to be in it already.
fn complete(vocab: &mut Map<String, Value>, added: &[AddedToken]) {
    for token in added {
        vocab.insert(token.text.clone(), token.id.into());
    }
}

fn described(added: &[AddedToken]) -> Vec<Value> {
    let mut added: Vec<&AddedToken> = added.iter().collect();
    added.sort_by_key(|token| token.id);
    let described = added.into_iter().map(|token| {
        json!({
            "id": token.id,
            "content": token.text,
            "special": token.special,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "normalized": token.normalized,
        })
    });
    described.collect()
}

/// Tokens that the vocabulary lacks are left out.
fn processor(vocab: &Map<String, Value>, around: [Option<&str>; 2]) -> Value {
    let known = around.map(|token| token.filter(|token| vocab.contains_key(*token)));
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
    let mut single = vec![sequence];
    if let Some(first) = known[0] {
        single.insert(0, special(first));
    }
    single.extend(known[1].map(special));
    let tokens: Map<String, Value> = known
        .into_iter()
        .flatten()
        .map(|token| {
            (token.to_owned(), json!({"id": token, "ids": [vocab[token]], "tokens": [token]}))
        })
        .collect();
    let pair =
        json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

fn build(file: &str, description: Value) -> Result<Loaded> {
    library::build(file, &description.to_string())
}
