//! Text to tokens, and what is known about each token.
//!
//! A model brings its vocabulary in one of many kinds of files; each has a loader below. Most become a tokenizer of the
//! crate `tokenizers`, the implementation models are trained with; those that it cannot hold exactly have models of
//! our own. Around both: limits, a fence against panics, and the question which special tokens go before and after a
//! text.

pub(crate) mod added;
mod bytelevel;
mod bytepair;
mod gguf;
mod library;
mod own;
mod patterns;
mod protobuf;
mod sentencepiece;
mod splits;
mod spm;
mod tables;
mod tekken;
mod tiktoken;
mod trie;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pieces::Pieces;
use crate::specials::{end_tokens, named_tokens};
use crate::{Error, Files, Result, Specials, Stream};
pub use gguf::GgufTokenizer;
use library::fenced;
use own::Own;

/// Four million tokens or so, more than any context. Price: about 100 bytes for each byte while it is encoded.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;

/// From a million on the regex engine's stack is full, and it would go on with wrong tokens without a word.
const BLANKS_MAX: usize = 900_000;

#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    pieces: Arc<Pieces>,
    around: Around,
    ends: Vec<u32>,
    named: BTreeMap<String, String>,
}

#[derive(Debug)]
enum Encoder {
    Library(Box<tokenizers::Tokenizer>),
    Own(Box<Own>),
}

/// What a loader makes of a model's files.
#[derive(Debug)]
struct Loaded {
    encoder: Encoder,
    pieces: Pieces,
    around: Around,
    /// What ends a reply, if no file of the model says so.
    ends: Vec<u32>,
}

/// What the tokenizer itself puts around a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Around {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Tokenizer {
    pub fn load(files: &Files) -> Result<Tokenizer> {
        if let Some(text) = files.text(gguf::FILE)
            && files.text(library::FILE).is_none()
        {
            let metadata =
                serde_json::from_str(text).map_err(|why| Error::bad_file(gguf::FILE, why))?;
            return Tokenizer::from_gguf(&metadata);
        }
        let named = named_tokens(files)?;
        let loaded = load(files, &named)?;
        let mut ends = end_tokens(files, |token| loaded.encoder.token_id(token))?;
        if ends.is_empty() {
            ends.clone_from(&loaded.ends);
        }
        Ok(Tokenizer::new(loaded, ends, named))
    }

    /// From the `tokenizer.ggml.*` entries of a GGUF file, which say all there is to know.
    pub fn from_gguf(metadata: &GgufTokenizer) -> Result<Tokenizer> {
        let loaded = gguf::load(metadata)?;
        Ok(Tokenizer::new(loaded, metadata.ends(), metadata.named()))
    }

    fn new(loaded: Loaded, ends: Vec<u32>, named: BTreeMap<String, String>) -> Tokenizer {
        let Loaded { encoder, pieces, around, .. } = loaded;
        Tokenizer { encoder, pieces: Arc::new(pieces), around, ends, named }
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
        self.encoder.token_id(token)
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
        let ids = match &self.encoder {
            Encoder::Library(inner) => library::encode(inner, text),
            Encoder::Own(own) => fenced(|| own.encode(text).map_err(Into::into)),
        };
        ids.map_err(|why| Error::Unencodable { why })
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

impl Encoder {
    fn token_id(&self, token: &str) -> Option<u32> {
        match self {
            Encoder::Library(inner) => inner.token_to_id(token),
            Encoder::Own(own) => own.token_id(token),
        }
    }
}

/// By the file that says most: the kinds below `tokenizer.json` are older, and converted from by their publishers.
fn load(files: &Files, named: &BTreeMap<String, String>) -> Result<Loaded> {
    if let Some(text) = files.text(library::FILE) {
        return library::load(text, files, named);
    }
    if let Some((name, bytes)) = files.binary(spm::FILES) {
        return match tiktoken::text_of(bytes) {
            Some(text) => tiktoken::load(name, text, files, named),
            None => spm::load(name, bytes, files, named),
        };
    }
    if let Some(text) = files.text(tekken::FILE) {
        return tekken::load(text);
    }
    if let Some((name, text)) = files.ranks() {
        return tiktoken::load(name, text, files, named);
    }
    if let (Some(vocabulary), Some(merges)) =
        (files.text(tables::VOCAB_JSON), files.text(tables::MERGES))
    {
        return tables::load_merges(vocabulary, merges, files, named);
    }
    if let Some(vocabulary) = files.text(tables::VOCAB_TXT) {
        return tables::load_words(vocabulary, files, named);
    }
    let why = "it is not there, and nothing that could stand for it".to_owned();
    Err(Error::Unreadable { file: library::FILE.into(), why })
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
