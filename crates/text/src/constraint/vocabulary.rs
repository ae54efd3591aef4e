//! A model's tokens as grammars see them: a trie of their bytes. Made once for each model, shared by all its requests.
//!
//! Special tokens are no text: whatever bytes they are written with, no grammar matches them, save those that a model's
//! syntax is made of (`Vocabulary::new`'s `syntax`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::Mask;
use super::numbers::NumberTokens;
use crate::pieces::Pieces;
use crate::{Error, Result, Text};

/// Longer tokens (runs of blanks, mostly) are never drawn under a grammar. The trie takes no more than 1,024.
const TOKEN_BYTES_MAX: usize = 512;

/// States of one grammar's lexer. Price: one to two kilobytes each.
const LEXER_STATES_MAX: usize = 50_000;

/// Work on a grammar's regular expressions before the first token. Price: 20 ms or so.
const COMPILE_FUEL: u64 = 1_000_000;

/// Work on one mask. Price: 15 ms or so, once in a while.
const MASK_FUEL: u64 = 200_000;

/// Symbols of a grammar.
const GRAMMAR_SYMBOLS_MAX: usize = 200_000;

#[derive(Clone)]
pub struct Vocabulary {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub factory: ParserFactory,
    pub pieces: Arc<Pieces>,
    /// Tokens that are text, those of the model's syntax included.
    pub text: Mask,
    pub numbers: NumberTokens,
}

/// The trie and how it was asked for; cheap to send to another thread.
pub struct VocabularyParts {
    pieces: Arc<Pieces>,
    ends: Vec<u32>,
    syntax: Vec<u32>,
}

impl VocabularyParts {
    /// `syntax` names special tokens that are text all the same: tags of thinking and of calls.
    pub fn new(text: &Text, syntax: &[&str]) -> VocabularyParts {
        let tokenizer = text.tokenizer();
        VocabularyParts {
            pieces: tokenizer.pieces(),
            ends: text.ends().to_vec(),
            syntax: syntax.iter().filter_map(|token| tokenizer.token_id(token)).collect(),
        }
    }

    /// Takes a tenth of a second for 150,000 tokens.
    pub fn build(self) -> Result<Vocabulary> {
        catch_unwind(AssertUnwindSafe(|| build(self))).unwrap_or_else(|_| {
            Err(Error::bad_file("tokenizer.json", "no grammar can use its vocabulary"))
        })
    }
}

impl Vocabulary {
    pub fn new(text: &Text, syntax: &[&str]) -> Result<Vocabulary> {
        VocabularyParts::new(text, syntax).build()
    }

    /// Each byte is a token: it can write what any model can.
    pub(super) fn of_bytes() -> Result<Vocabulary> {
        static BYTES: OnceLock<Vocabulary> = OnceLock::new();
        if let Some(made) = BYTES.get() {
            return Ok(made.clone());
        }
        let pieces =
            Pieces::spelled((0..=u8::MAX).map(|byte| (byte.into(), [byte], false)).collect())?;
        let parts =
            VocabularyParts { pieces: Arc::new(pieces), ends: Vec::new(), syntax: Vec::new() };
        let made = parts.build()?;
        Ok(BYTES.get_or_init(|| made).clone())
    }

    pub fn len(&self) -> usize {
        self.inner.pieces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary of {}", self.len())
    }
}

fn build(parts: VocabularyParts) -> Result<Vocabulary> {
    let VocabularyParts { pieces, ends, syntax } = parts;
    let size = pieces.len();
    let ends: Vec<u32> = ends.into_iter().filter(|id| (*id as usize) < size).collect();
    let mut text = Mask::none(size);
    let mut words: Vec<Vec<u8>> = Vec::with_capacity(size + 1);
    for id in 0..size as u32 {
        let is_text = (!pieces.is_special(id) || syntax.contains(&id)) && !ends.contains(&id);
        let word = word(pieces.bytes(id), is_text);
        if is_text && !word.is_empty() {
            text.allow(id);
        }
        words.push(word);
    }
    // A grammar wants an end token, also where the model has none.
    words.push(b"\xff<end>".to_vec());
    let info = TokRxInfo::new(words.len() as u32, size as u32);
    let mut trie = TokTrie::from(&info, &words);
    if !ends.is_empty() {
        trie = trie.with_eos_tokens(&ends);
    }
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let factory = factory(&environment)?;
    let numbers = NumberTokens::new(&pieces);
    Ok(Vocabulary { inner: Arc::new(Inner { factory, pieces, text, numbers }) })
}

fn factory(environment: &TokEnv) -> Result<ParserFactory> {
    let slices = SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(environment, InferenceCapabilities::default(), &slices)
        .map_err(|error| Error::bad_file("tokenizer.json", error))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits {
        initial_lexer_fuel: COMPILE_FUEL,
        step_lexer_fuel: MASK_FUEL,
        max_lexer_states: LEXER_STATES_MAX,
        max_grammar_size: GRAMMAR_SYMBOLS_MAX,
        verbose_errors: false,
        ..ParserLimits::default()
    };
    Ok(factory)
}

/// What the trie gets for a token. A leading 0xff marks what is no text; a token without bytes is never drawn.
fn word(bytes: &[u8], is_text: bool) -> Vec<u8> {
    // Bytes that no UTF-8 text has.
    let is_broken = bytes.iter().any(|byte| matches!(byte, 0xc0 | 0xc1 | 0xf5..=0xff));
    if bytes.is_empty() || bytes.len() > TOKEN_BYTES_MAX || (is_text && is_broken) {
        return Vec::new();
    }
    if is_text { bytes.to_vec() } else { [b"\xff", bytes].concat() }
}
