//! Text to tokens, and what is known about each token.
//!
//! The splitting itself is the crate `tokenizers`, the implementation models are trained with. Around it: limits,
//! a fence against its panics, and the question which special tokens go before and after a text.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::pieces::Pieces;
use crate::specials::{end_tokens, named_tokens};
use crate::{Error, Files, Result, Specials, Stream};

/// Four million tokens or so, more than any context. Price: about 100 bytes for each byte while it is encoded.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;

/// From a million on the regex engine's stack is full, and it would go on with wrong tokens without a word.
const BLANKS_MAX: usize = 900_000;

const FILE: &str = "tokenizer.json";

#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Arc<Pieces>,
    around: Around,
    ends: Vec<u32>,
    named: BTreeMap<String, String>,
}

/// What the tokenizer itself puts around a text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Around {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Tokenizer {
    pub fn load(files: &Files) -> Result<Tokenizer> {
        let Some(text) = files.text(FILE) else {
            return Err(Error::Unreadable { file: FILE.into(), why: "it is not there".into() });
        };
        let inner = fenced(|| parse(text)).map_err(|why| Error::bad_file(FILE, why))?;
        let pieces =
            fenced(|| Ok(Pieces::new(&inner))).map_err(|why| Error::bad_file(FILE, why))??;
        let named = named_tokens(files)?;
        let around = around(&inner, files, &named)?;
        let ends = end_tokens(files, |token| inner.token_to_id(token))?;
        Ok(Tokenizer { inner, pieces: Arc::new(pieces), around, ends, named })
    }

    /// Special tokens written in the text are understood. `with_special` adds what the tokenizer itself puts around
    /// a text.
    pub fn encode(&self, text: &str, with_special: bool) -> Result<Vec<u32>> {
        let ids = self.encode_bare(text)?;
        Ok(if with_special { self.surround(ids, true) } else { ids })
    }

    /// Begin tokens only, as a generated text goes on after its prompt; and only if the text has not written them.
    pub fn encode_beginning(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode_bare(text)?;
        Ok(self.surround(ids, false))
    }

    pub fn stream(&self, specials: Specials) -> Stream {
        Stream::new(self.pieces.clone(), specials)
    }

    /// All at once what [`Stream`] gives bit by bit.
    pub fn decode(&self, ids: &[u32], specials: Specials) -> String {
        let mut stream = self.stream(specials);
        let text: String = ids.iter().map(|id| stream.push(*id)).collect();
        text + &stream.finish()
    }

    /// The tokens that end a reply, ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The text of a named token, such as `bos_token`.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    pub(crate) fn named_tokens(&self) -> &BTreeMap<String, String> {
        &self.named
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Empty for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.bytes(id)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.is_special(id)
    }

    pub(crate) fn pieces(&self) -> Arc<Pieces> {
        self.pieces.clone()
    }

    fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        check_limits(text)?;
        let encoding = fenced(|| self.inner.encode_fast(text, false));
        let encoding = encoding.map_err(|why| Error::Unencodable { why })?;
        Ok(encoding.get_ids().to_vec())
    }

    fn surround(&self, mut ids: Vec<u32>, with_end: bool) -> Vec<u32> {
        if !ids.starts_with(&self.around.before) {
            ids.splice(0..0, self.around.before.iter().copied());
        }
        if with_end && !ids.ends_with(&self.around.after) {
            ids.extend_from_slice(&self.around.after);
        }
        ids
    }
}

fn parse(text: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut tokenizer: tokenizers::Tokenizer = text.parse()?;
    tokenizer.with_truncation(None)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// The post-processor decides. Only where it adds nothing does `add_bos_token` count: such files come from libraries
/// that add the token in their own code.
fn around(
    inner: &tokenizers::Tokenizer,
    files: &Files,
    named: &BTreeMap<String, String>,
) -> Result<Around> {
    let mut around = fenced(|| probe(inner)).map_err(|why| Error::bad_file(FILE, why))?;
    let wants_bos = files.json("tokenizer_config.json")?["add_bos_token"].as_bool() == Some(true);
    if wants_bos && around == Around::default() {
        let bos = named.get("bos_token").and_then(|token| inner.token_to_id(token));
        around.before.extend(bos);
    }
    Ok(around)
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

fn check_limits(text: &str) -> Result<()> {
    let within = |what, size, limit| {
        if size > limit { Err(Error::TooLarge { what, size, limit }) } else { Ok(()) }
    };
    within("a text in bytes", text.len(), TEXT_BYTES_MAX)?;
    // A run that is over the limit holds at least this many bytes.
    if text.len() <= BLANKS_MAX {
        return Ok(());
    }
    let runs = text.split(|character: char| !character.is_whitespace());
    let longest = runs.map(|run| run.chars().count()).max().unwrap_or(0);
    within("a run of blanks", longest, BLANKS_MAX)
}

/// A panic of the library is a fault of the model's files or of the text: an error, not our end.
fn fenced<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library gave up on it".to_owned()),
    }
}
