//! The door to this crate: everything the engine needs of a model's text side, loaded once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use protocol::{Input, Think};

use crate::{ChatTemplate, Error, Files, Result, Specials, Stream, Tokenizer};

/// A model's tokenizer and its template.
#[derive(Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

/// Where a prompt comes from decides which special tokens are put around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// Rendered by the model's own template, which has written every special token itself.
    Chat,
    /// Plain text: a begin token is put before it if the tokenizer wants one and the text has none.
    Plain,
    /// All that the tokenizer puts around a text, end tokens too: what embedders expect.
    Embedding,
}

impl Text {
    /// From a model's files by their name in the repository; unknown names are ignored.
    pub fn load(files: &BTreeMap<String, PathBuf>) -> Result<Text> {
        Text::from_files(&Files::open(files)?)
    }

    pub fn from_files(files: &Files) -> Result<Text> {
        Ok(Text { tokenizer: Tokenizer::load(files)?, template: ChatTemplate::load(files)? })
    }

    /// The prompt as the tokenizer gets it.
    pub fn render(&self, input: &Input, think: &Think) -> Result<String> {
        let _ = (input, think);
        Err(Error::Unsupported { what: "not yet".into() })
    }

    /// How the prompt rendered from `input` is to be encoded.
    pub fn prompt_kind(&self, input: &Input) -> PromptKind {
        match input {
            Input::Chat { .. } if self.template.is_some() => PromptKind::Chat,
            _ => PromptKind::Plain,
        }
    }

    pub fn encode_prompt(&self, prompt: &str, kind: PromptKind) -> Result<Vec<u32>> {
        let _ = kind;
        self.tokenizer.encode(prompt, false)
    }

    /// A decoder for one generated sequence. Special tokens are left out of the text.
    pub fn decoder(&self) -> Stream {
        self.decoder_with(Specials::Skip)
    }

    pub fn decoder_with(&self, specials: Specials) -> Stream {
        self.tokenizer.stream(specials)
    }

    /// The tokens that end a reply, ascending.
    pub fn ends(&self) -> &[u32] {
        self.tokenizer.ends()
    }

    /// One more than the largest token id. A model may have more logits than that.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The bytes a token stands for, which need not be UTF-8; empty for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.tokenizer.token_bytes(id)
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }
}
