//! Tokenizers as GGUF files carry them, in metadata whose names begin with `tokenizer.ggml.`.
//!
//! There are four kinds. `gpt2` is byte-pair encoding with the name of the expression that cuts words; `llama` and
//! `t5` are SentencePiece models (the former its byte-pair kind, the latter its Unigram kind); `bert` is WordPiece
//! with `▁` before words instead of `##` inside them.

mod metadata;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::added::{Added, AddedToken};
use super::bytepair::{BytePair, Joins, pair};
use super::own::{Model, Own, Prefixes};
use super::patterns::Pre;
use super::sentencepiece::{self, Algorithm, Kind, Normalizer, Piece};
use super::splits::Splits;
use super::spm::{assemble, control_tokens};
use super::tables::{WordOptions, words};
use super::{Around, Encoder, Loaded, library};
use crate::pieces::{Pieces, spell_byte_level};
use crate::{Error, Result};
pub use metadata::GgufTokenizer;

/// The metadata as a file of its own: a [`GgufTokenizer`] in JSON.
pub(super) const FILE: &str = "tokenizer.ggml.json";

pub(super) fn load(metadata: &GgufTokenizer) -> Result<Loaded> {
    metadata.check()?;
    let loaded = match metadata.model.as_str() {
        "gpt2" | "gemma4" => byte_pair(metadata),
        "llama" => sentence_piece(metadata, Algorithm::Bpe),
        "t5" => sentence_piece(metadata, Algorithm::Unigram),
        "bert" => word_piece(metadata),
        other => Err(Error::Unsupported {
            what: format!("a GGUF file's tokenizer of the kind `{other}` is not supported"),
        }),
    }?;
    Ok(Loaded { around: metadata.around()?, ..loaded })
}

fn bad(entry: &str, why: impl ToString) -> Error {
    Error::bad_file(&format!("tokenizer.ggml.{entry}"), why)
}

fn byte_pair(metadata: &GgufTokenizer) -> Result<Loaded> {
    let pre = metadata.pre()?;
    if pre.characters {
        return spelled_in_characters(metadata, pre);
    }
    let spelled: Vec<(u32, Vec<u8>, bool)> = (0..metadata.tokens.len())
        .map(|id| (id as u32, bytes(metadata, id), is_special(metadata.kind(id))))
        .collect();
    let tokens = (spelled.iter().rev())
        .filter(|(id, ..)| matches!(metadata.kind(*id as usize), Kind::Normal | Kind::Unused))
        .map(|(id, bytes, _)| (bytes.as_slice().into(), *id));
    let tokens: FxHashMap<Box<[u8]>, u32> = tokens.collect();
    let joins =
        if metadata.merges.is_empty() { Joins::Spelled } else { merges(metadata, &tokens)? };
    let model = BytePair {
        splits: Splits::new(pre.steps.iter().copied()).map_err(|why| bad("pre", why))?,
        composed: pre.composed,
        whole_words: pre.whole_words || metadata.merges.is_empty(),
        tokens,
        joins,
    };
    let own = Own { added: vec![Added::new(metadata.added())], model: Model::BytePair(model) };
    let encoder = Encoder::Own(Box::new(own));
    let pieces = Pieces::spelled(spelled)?;
    Ok(Loaded { encoder, pieces, around: Around::default(), ends: Vec::new() })
}

fn bytes(metadata: &GgufTokenizer, id: usize) -> Vec<u8> {
    let text = &metadata.tokens[id];
    match metadata.kind(id) {
        Kind::Normal | Kind::Unused => {
            let mut bytes = Vec::with_capacity(text.len());
            spell_byte_level(text, &mut bytes);
            bytes
        }
        _ => text.as_bytes().to_vec(),
    }
}

fn is_special(kind: Kind) -> bool {
    matches!(kind, Kind::Control | Kind::Unknown)
}

/// Pairs of tokens that the vocabulary lacks, alone or joined, never join.
fn merges(metadata: &GgufTokenizer, tokens: &FxHashMap<Box<[u8]>, u32>) -> Result<Joins> {
    let mut pairs = FxHashMap::default();
    for (rank, line) in metadata.merges.iter().enumerate() {
        let (left, right) = split_merge(line)
            .ok_or_else(|| bad("merges", format!("`{line}` is no pair of tokens")))?;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        spell_byte_level(left, &mut first);
        spell_byte_level(right, &mut second);
        let whole = [first.as_slice(), second.as_slice()].concat();
        let ids = (tokens.get(&*first), tokens.get(&*second), tokens.get(&*whole));
        if let (Some(left), Some(right), Some(whole)) = ids {
            pairs.entry(pair(*left, *right)).or_insert((rank as u32, *whole));
        }
    }
    Ok(Joins::Pairs(pairs))
}

/// A blank may be the first token itself.
fn split_merge(line: &str) -> Option<(&str, &str)> {
    let first = line.chars().next()?.len_utf8();
    let at = first + line[first..].find(' ')?;
    Some((&line[..at], &line[at + 1..]))
}

/// Byte-pair encoding over characters, with `▁` for blanks: held by the crate `tokenizers`.
fn spelled_in_characters(metadata: &GgufTokenizer, pre: Pre) -> Result<Loaded> {
    let vocab: Map<String, Value> =
        metadata.tokens.iter().zip(0u32..).map(|(token, id)| (token.clone(), id.into())).collect();
    let merges: Vec<[&str; 2]> = metadata
        .merges
        .iter()
        .filter_map(|line| split_merge(line))
        .filter(|(left, right)| {
            let known = |token: &str| vocab.contains_key(token);
            known(left) && known(right) && known(&format!("{left}{right}"))
        })
        .map(|(left, right)| [left, right])
        .collect();
    let mut added = metadata.added();
    // A run of line ends that is a token has no merges that lead to it.
    let lines = metadata.tokens.iter().enumerate().filter(|(id, text)| {
        metadata.kind(*id) == Kind::Normal
            && text.len() > 1
            && text.bytes().all(|byte| byte == b'\n')
    });
    added.extend(lines.map(|(id, text)| AddedToken {
        special: false,
        ..AddedToken::special(id as u32, text.clone())
    }));
    let added: Vec<Value> = added
        .iter()
        .map(|token| {
            json!({"id": token.id, "content": token.text, "special": token.special, "lstrip": token.lstrip,
                "rstrip": false, "single_word": false, "normalized": false})
        })
        .collect();
    let split = json!({"type": "Split", "pattern": {"Regex": pre.steps[0]}, "behavior": "Isolated", "invert": false});
    let description = json!({
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": split,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": true, "fuse_unk": true,
            "unk_token": metadata.named().get("unk_token")},
    });
    library::build("tokenizer.ggml.tokens", &description.to_string())
}

fn sentence_piece(metadata: &GgufTokenizer, algorithm: Algorithm) -> Result<Loaded> {
    let pieces: Vec<Piece> = (metadata.tokens.iter().enumerate())
        .map(|(id, text)| Piece {
            text: if text.is_empty() { format!("[EMPTY_{id}]") } else { text.clone() },
            score: metadata.scores.get(id).copied().unwrap_or(0.0),
            kind: metadata.kind(id),
        })
        .collect();
    let byte_fallback = pieces.iter().filter(|piece| piece.kind == Kind::Byte).count() >= 256;
    let is_unigram = algorithm == Algorithm::Unigram;
    let normalizer = Normalizer {
        charsmap: metadata.precompiled_charsmap.clone(),
        add_dummy_prefix: metadata.add_space_prefix.unwrap_or(true),
        remove_extra_whitespaces: metadata.remove_extra_whitespaces.unwrap_or(is_unigram),
        escape_whitespaces: true,
        whitespace_as_suffix: false,
    };
    let added = control_tokens(&pieces, None);
    let model = sentencepiece::Model { pieces, algorithm, byte_fallback, normalizer };
    assemble(&model, added, Prefixes::Each, None)
        .map_err(|fault| fault.or_bad_file("tokenizer.ggml.tokens"))
}

fn word_piece(metadata: &GgufTokenizer) -> Result<Loaded> {
    let mut vocab = Map::new();
    for (id, token) in metadata.tokens.iter().enumerate() {
        // Nothing but the mark is the mark itself, inside a word.
        let word = token.strip_prefix('▁').filter(|word| !word.is_empty());
        let text = match (metadata.kind(id), word) {
            (Kind::Normal | Kind::Unused, Some(word)) => word.to_owned(),
            (Kind::Normal | Kind::Unused, None) => format!("##{token}"),
            _ => token.clone(),
        };
        vocab.insert(text, (id as u32).into());
    }
    let named = metadata.named();
    let text = |name: &str, usual: &str| named.get(name).map_or(usual, String::as_str).to_owned();
    let unknown = text("unk_token", "[UNK]");
    let around = [text("bos_token", "[CLS]"), text("sep_token", "[SEP]")];
    // Files before that entry was there: a vocabulary without capitals was lowered.
    let has_capitals = metadata.tokens.iter().enumerate().any(|(id, token)| {
        metadata.kind(id) == Kind::Normal
            && token.bytes().any(|byte| byte.is_ascii_uppercase())
            && !token.starts_with(['[', '<'])
            && !token.starts_with("▁[")
    });
    let lowercase = metadata.lowercase.unwrap_or(!has_capitals);
    let options =
        WordOptions { lowercase, strip_accents: metadata.strip_accents, chinese_characters: true };
    let mut added = metadata.added();
    for (name, token) in &named {
        let id = metadata.tokens.iter().position(|text| text == token);
        if let Some(id) = id.filter(|_| name != "unk_token" || token.starts_with('[')) {
            let id = id as u32;
            if added.iter().all(|token| token.id != id) {
                added.push(AddedToken::special(id, token.clone()));
            }
        }
    }
    words("tokenizer.ggml.tokens", vocab, &added, &unknown, [&around[0], &around[1]], options)
}
