//! `tokenizer.json`, read by the crate `tokenizers`, behind a fence; and run by it, unless we do the same faster.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Around, Encoder, Loaded, bytelevel};
use crate::pieces::Pieces;
use crate::{Error, Files, Result};

pub(super) const FILE: &str = "tokenizer.json";

pub(super) fn load(text: &str, files: &Files, named: &BTreeMap<String, String>) -> Result<Loaded> {
    let mut loaded = build(FILE, text)?;
    // The post-processor decides. Only where it adds nothing does `add_bos_token` count: such files come from
    // libraries that add the token in their own code.
    let wants_bos = files.json("tokenizer_config.json")?["add_bos_token"].as_bool() == Some(true);
    if wants_bos && loaded.around == Around::default() {
        let bos = named.get("bos_token").and_then(|token| loaded.encoder.token_id(token));
        loaded.around.before.extend(bos);
    }
    Ok(loaded)
}

/// From a description in the syntax of `tokenizer.json`, whichever `file` it comes from.
pub(super) fn build(file: &str, text: &str) -> Result<Loaded> {
    let bad = |why: String| Error::bad_file(file, why);
    if let Some(loaded) = fenced(|| Ok(bytelevel::load(text))).map_err(bad)? {
        return Ok(loaded);
    }
    let inner = fenced(|| parse(text)).map_err(bad)?;
    let pieces = fenced(|| Ok(Pieces::new(&inner))).map_err(bad)??;
    let around = fenced(|| probe(&inner)).map_err(bad)?;
    let encoder = Encoder::Library(Box::new(inner));
    Ok(Loaded { encoder, pieces, around, ends: Vec::new() })
}

/// What a tokenizer of this description puts around a text.
pub(super) fn around(text: &str) -> std::result::Result<Around, String> {
    fenced(|| probe(&parse(text)?))
}

pub(super) fn encode(
    inner: &tokenizers::Tokenizer,
    text: &str,
) -> std::result::Result<Vec<u32>, String> {
    let encoding = fenced(|| inner.encode_fast(text, false))?;
    Ok(encoding.get_ids().to_vec())
}

fn parse(text: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut tokenizer: tokenizers::Tokenizer = text.parse()?;
    tokenizer.with_truncation(None)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// What is added to a text that every vocabulary knows or replaces.
fn probe(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Around> {
    let bare = inner.encode_fast("a", false)?;
    let whole = inner.encode_fast("a", true)?;
    let (bare, whole) = (bare.get_ids(), whole.get_ids());
    let start = (0..=whole.len()).find(|start| whole[*start..].starts_with(bare));
    let Some(start) = start.filter(|_| !bare.is_empty()) else { return Ok(Around::default()) };
    let (before, after) = (&whole[..start], &whole[start + bare.len()..]);
    Ok(Around { before: before.to_vec(), after: after.to_vec() })
}

/// A panic of the library is a fault of the model's files or of the text: an error, not our end.
pub(super) fn fenced<T>(
    work: impl FnOnce() -> tokenizers::Result<T>,
) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library gave up on it".to_owned()),
    }
}
