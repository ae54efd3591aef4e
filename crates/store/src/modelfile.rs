//! The Modelfile: what `create` reads and `show --modelfile` prints.

use std::fmt;

use crate::{Model, Store};

/// The commands in their order; at least one `From`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modelfile {
    pub commands: Vec<Command>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    From(String),
    Adapter(String),
    Draft(String),
    Template(String),
    System(String),
    Renderer(String),
    Parser(String),
    Requires(String),
    Parameter { name: String, value: String },
    License(String),
    Message { role: String, content: String },
}

/// Ollama's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("no FROM line")]
    NoFrom,
    #[error(
        "(line {line}): command must be one of \"from\", \"license\", \"template\", \"system\", \"adapter\", \"draft\", \"renderer\", \"parser\", \"parameter\", \"message\", or \"requires\""
    )]
    BadCommand { line: usize },
    #[error("(line {line}): message role must be one of \"system\", \"user\", or \"assistant\"")]
    BadRole { line: usize },
    #[error("unexpected EOF{0}")]
    UnexpectedEnd(String),
}

/// Parameters that Ollama once had and now warns about (`warning: parameter x is deprecated`).
pub const DEPRECATED_PARAMETERS: &[&str] = &[
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

impl Modelfile {
    /// UTF-8, or UTF-16 with a byte order mark.
    pub fn parse(bytes: &[u8]) -> Result<Modelfile, ParseError> {
        let _ = bytes;
        unimplemented!()
    }

    /// What `show --modelfile` prints for a model, comments included.
    pub fn describe(store: &Store, model: &Model) -> String {
        let _ = (store, model);
        unimplemented!()
    }
}

impl fmt::Display for Modelfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        unimplemented!()
    }
}
