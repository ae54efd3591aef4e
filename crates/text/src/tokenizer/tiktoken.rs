//! tiktoken's rank files: a token in base64 and its rank on each line. What cuts a text into words, and which special
//! tokens there are, lies in the code of each model's publisher; here it is chosen by the file's name and the class of
//! the tokenizer.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;

use super::added::{Added, AddedToken};
use super::bytepair::{BytePair, Joins};
use super::own::{Model, Own};
use super::patterns::{GPT2, KIMI, LLAMA3, O200K, QWEN2};
use super::splits::Splits;
use super::{Around, Encoder, Loaded};
use crate::pieces::Pieces;
use crate::specials::added_tokens;
use crate::{Error, Files, Result};

/// What a rank file does not say.
struct Family {
    pattern: &'static str,
    composed: bool,
    /// Texts of the tokens that follow the ranks, for models whose configuration does not list them.
    specials: fn(first: u32) -> Vec<AddedToken>,
    begins_with: Option<&'static str>,
}

/// Where no file of the model names others.
const ENDS: [&str; 8] = [
    "</s>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
];

/// The text of a file that holds ranks though its name says nothing about it.
pub(super) fn text_of(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    rank(text.lines().find(|line| !line.trim().is_empty())?).and(Some(text))
}

pub(super) fn load(
    name: &str,
    text: &str,
    files: &Files,
    named: &BTreeMap<String, String>,
) -> Result<Loaded> {
    let tokens = ranks(text).map_err(|why| Error::bad_file(name, why))?;
    let family = family(name, &files.json("tokenizer_config.json")?["tokenizer_class"], &tokens);
    let find = |token: &str| tokens.get(token.as_bytes()).copied();
    let mut added = added_tokens(files, find)?;
    if added.is_empty() {
        let first = tokens.values().max().map_or(0, |last| last + 1);
        added = (family.specials)(first);
    }
    let begin = named.get("bos_token").map(String::as_str).or(family.begins_with);
    let wants = files.json("tokenizer_config.json")?["add_bos_token"].as_bool();
    let begins = wants.unwrap_or(family.begins_with.is_some());
    let begin = added.iter().find(|token| begins && Some(token.text.as_str()) == begin);
    let before = begin.map(|token| token.id).into_iter().collect();
    let around = Around { before, after: Vec::new() };
    let splits = Splits::new([family.pattern]).map_err(|why| Error::bad_file(name, why))?;
    build(tokens, added, splits, family.composed, around)
}

/// A tokenizer whose tokens are joined in the order of their ids.
pub(super) fn build(
    tokens: FxHashMap<Box<[u8]>, u32>,
    added: Vec<AddedToken>,
    splits: Splits,
    composed: bool,
    around: Around,
) -> Result<Loaded> {
    let is_end = |token: &&AddedToken| ENDS.contains(&token.text.as_str());
    let ends = added.iter().filter(is_end).map(|token| token.id).collect();
    let mut spelled: Vec<(u32, &[u8], bool)> =
        tokens.iter().map(|(bytes, id)| (*id, &**bytes, false)).collect();
    spelled.extend(added.iter().map(|token| (token.id, token.text.as_bytes(), token.special)));
    let pieces = Pieces::spelled(spelled)?;
    let model = BytePair { splits, composed, whole_words: true, tokens, joins: Joins::Spelled };
    let own = Own { added: vec![Added::new(added)], model: Model::BytePair(model) };
    Ok(Loaded { encoder: Encoder::Own(Box::new(own)), pieces, around, ends })
}

fn ranks(text: &str) -> std::result::Result<FxHashMap<Box<[u8]>, u32>, String> {
    let mut tokens = FxHashMap::default();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (token, id) = rank(line)
            .ok_or_else(|| format!("line {} is no token in base64 with its rank", index + 1))?;
        tokens.insert(token, id);
    }
    if tokens.is_empty() { Err("it holds no tokens".to_owned()) } else { Ok(tokens) }
}

fn rank(line: &str) -> Option<(Box<[u8]>, u32)> {
    let (token, rank) = line.trim().split_once(' ')?;
    let token = STANDARD.decode(token).ok().filter(|token| !token.is_empty())?;
    Some((token.into(), rank.trim().parse().ok()?))
}

fn family(name: &str, class: &serde_json::Value, tokens: &FxHashMap<Box<[u8]>, u32>) -> Family {
    let class = class.as_str().unwrap_or_default().to_lowercase();
    let plain =
        |pattern| Family { pattern, composed: false, specials: |_| Vec::new(), begins_with: None };
    let is = |part: &str| name.contains(part) || class.contains(part);
    if is("qwen") {
        return Family { composed: true, specials: qwen_specials, ..plain(QWEN2) };
    }
    if is("tiktoken.model") || is("kimi") {
        return plain(KIMI);
    }
    if is("o200k") || is("gptoss") {
        return Family { specials: harmony_specials, ..plain(O200K) };
    }
    if is("gpt2") || is("r50k") || is("p50k") || is("multilingual") || is("whisper") {
        return Family { specials: end_of_text, ..plain(GPT2) };
    }
    if name == "tokenizer.model" && tokens.len() == LLAMA3_TOKENS {
        let begins_with = Some("<|begin_of_text|>");
        return Family { specials: llama3_specials, begins_with, ..plain(LLAMA3) };
    }
    plain(LLAMA3)
}

const LLAMA3_TOKENS: usize = 128_000;

fn specials(first: u32, texts: impl IntoIterator<Item = String>) -> Vec<AddedToken> {
    (first..).zip(texts).map(|(id, text)| AddedToken::special(id, text)).collect()
}

fn end_of_text(first: u32) -> Vec<AddedToken> {
    specials(first, ["<|endoftext|>".to_owned()])
}

fn qwen_specials(first: u32) -> Vec<AddedToken> {
    let named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let extra = (0..205).map(|number| format!("<|extra_{number}|>"));
    specials(first, named.into_iter().chain(extra))
}

/// Llama 3.1 and later: 256 tokens, most of them reserved.
fn llama3_specials(first: u32) -> Vec<AddedToken> {
    let reserved = |number: u32| format!("<|reserved_special_token_{number}|>");
    let named =
        [(0, "<|begin_of_text|>"), (1, "<|end_of_text|>"), (4, "<|finetune_right_pad_id|>")]
            .into_iter()
            .chain([(6, "<|start_header_id|>"), (7, "<|end_header_id|>"), (8, "<|eom_id|>")])
            .chain([(9, "<|eot_id|>"), (10, "<|python_tag|>")]);
    let named: BTreeMap<u32, &str> = named.collect();
    let mut next = 0;
    let texts = (0..256).map(|place| match named.get(&place) {
        Some(text) => (*text).to_owned(),
        None => {
            next += 1;
            reserved(next - 1)
        }
    });
    specials(first, texts)
}

fn harmony_specials(first: u32) -> Vec<AddedToken> {
    let named = [
        (0, "<|startoftext|>"),
        (1, "<|endoftext|>"),
        (4, "<|return|>"),
        (5, "<|constrain|>"),
        (7, "<|channel|>"),
        (8, "<|start|>"),
        (9, "<|end|>"),
        (10, "<|message|>"),
        (14, "<|call|>"),
        (20, "<|endofprompt|>"),
    ];
    let named: BTreeMap<u32, &str> = named.into_iter().collect();
    let text = |place| match named.get(&place) {
        Some(text) => (*text).to_owned(),
        None => format!("<|reserved_{}|>", first + place),
    };
    specials(first, (0..1090).map(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_places_of_special_tokens() {
        let id = |tokens: Vec<AddedToken>, text: &str| {
            tokens.into_iter().find(|token| token.text == text).map(|token| token.id)
        };
        assert_eq!(id(llama3_specials(128_000), "<|eot_id|>"), Some(128_009));
        assert_eq!(id(llama3_specials(128_000), "<|reserved_special_token_247|>"), Some(128_255));
        assert_eq!(id(qwen_specials(151_643), "<|im_end|>"), Some(151_645));
        assert_eq!(id(qwen_specials(151_643), "<|extra_204|>"), Some(151_850));
        assert_eq!(id(harmony_specials(199_998), "<|call|>"), Some(200_012));
        assert_eq!(id(harmony_specials(199_998), "<|reserved_201087|>"), Some(201_087));
        assert_eq!(id(harmony_specials(199_998), "<|endofprompt|>"), Some(200_018));
    }

    #[test]
    fn lines_are_tokens_and_ranks() {
        assert_eq!(rank("IQ== 0"), Some((b"!"[..].into(), 0)));
        for bad in ["", "IQ==", "IQ== x", "*** 1", " 1", "IQ== -1"] {
            assert_eq!(rank(bad), None, "{bad}");
        }
        assert!(text_of(b"\nIQ== 0\n").is_some());
        assert!(text_of(b"\x0a\x0e\x0a\x05<unk>").is_none());
        assert!(ranks("IQ== 0\nnot it\n").unwrap_err().contains("line 2"));
    }
}
