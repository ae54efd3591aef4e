//! Mistral's `tekken.json`: tiktoken's kind of ranks, with its expression and special tokens beside them. Special
//! tokens come first, ranks count from behind them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::added::AddedToken;
use super::splits::Splits;
use super::{Around, Loaded, tiktoken};
use crate::{Error, Files, Result};

pub(super) const FILE: &str = "tekken.json";

/// As many as there are ids for in [`crate::pieces`].
const SPECIALS_MAX: u64 = 1 << 20;

/// What files before the eleventh version leave unsaid, in the order of their ids.
const SPECIALS: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

pub(super) fn load(text: &str) -> Result<Loaded> {
    let bad = |why: String| Error::bad_file(FILE, why);
    let file = Files::from_texts([(FILE, text)]).json(FILE)?;
    let config = &file["config"];
    let number = |name: &str| {
        let number = config[name].as_u64().filter(|number| *number <= 1 << 22);
        number.ok_or_else(|| bad(format!("it has no usable `{name}`")))
    };
    let specials_count = number("default_num_special_tokens")?;
    if specials_count > SPECIALS_MAX {
        return Err(bad(format!("{specials_count} special tokens are over the limit")));
    }
    let vocabulary_size = number("default_vocab_size")?.saturating_sub(specials_count);
    let pattern = config["pattern"].as_str().ok_or_else(|| bad("it has no pattern".to_owned()))?;
    let tokens = ranks(&file["vocab"], vocabulary_size, specials_count as u32).map_err(bad)?;
    let added = specials(&file["special_tokens"], specials_count as u32);
    let begin = added.iter().find(|token| token.text == "<s>").map(|token| token.id);
    let around = Around { before: begin.into_iter().collect(), after: Vec::new() };
    let splits = Splits::new([pattern]).map_err(bad)?;
    tiktoken::build(tokens, added, splits, false, around)
}

/// The first `count` tokens; files hold more than models use.
fn ranks(
    vocab: &Value,
    count: u64,
    first: u32,
) -> std::result::Result<FxHashMap<Box<[u8]>, u32>, String> {
    let entries = vocab.as_array().ok_or("it has no vocabulary")?;
    let mut tokens = FxHashMap::default();
    for (index, entry) in entries.iter().enumerate() {
        let rank = entry["rank"].as_u64().unwrap_or(index as u64);
        let bytes = entry["token_bytes"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let bytes = bytes.ok_or_else(|| format!("token {index} of its vocabulary has no bytes"))?;
        if rank < count {
            tokens.insert(bytes.into(), rank as u32 + first);
        }
    }
    Ok(tokens)
}

fn specials(listed: &Value, count: u32) -> Vec<AddedToken> {
    let mut tokens: Vec<AddedToken> =
        (0..count).map(|id| AddedToken::special(id, format!("<SPECIAL_{id}>"))).collect();
    match listed.as_array() {
        Some(listed) => {
            for (index, entry) in listed.iter().enumerate() {
                let id = entry["rank"].as_u64().unwrap_or(index as u64) as usize;
                if let (Some(token), Some(text)) = (tokens.get_mut(id), entry["token_str"].as_str())
                {
                    token.text = text.to_owned();
                    token.special = entry["is_control"].as_bool().unwrap_or(true);
                }
            }
        }
        None => {
            for (token, text) in tokens.iter_mut().zip(SPECIALS) {
                token.text = text.to_owned();
            }
        }
    }
    tokens
}
