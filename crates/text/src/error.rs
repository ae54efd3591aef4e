//! What can go wrong with a model's text files or with a prompt, named after what the caller can do about it.

use protocol::{Failure, FailureKind};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file of the model is missing or cannot be read.
    #[error("cannot read `{file}`: {why}")]
    Unreadable { file: String, why: String },
    /// A file of the model is not what its name says.
    #[error("`{file}` is not usable: {why}")]
    BadFile { file: String, why: String },
    /// The chat template does not work; `line` counts from 1 within it.
    #[error("the chat template fails in line {line}: {why}")]
    Template { line: usize, why: String },
    /// A Modelfile's template does not work; the words are Go's, with the place.
    #[error("{why}")]
    Modelfile { why: String },
    /// The chat template itself turns this conversation down (`raise_exception`).
    #[error("the chat template refuses this conversation: {why}")]
    Refused { why: String },
    /// The model's renderer turns this conversation down; in Ollama's words, which stand alone.
    #[error("{why}")]
    Conversation { why: String },
    /// The model wants its prompts written by a renderer that is not built in; in Ollama's words.
    #[error("unknown renderer {name:?}")]
    UnknownRenderer { name: String },
    /// More than a named limit allows.
    #[error("{what} of {size} is over the limit of {limit}")]
    TooLarge { what: &'static str, size: usize, limit: usize },
    /// What a reply is to look like (schema, grammar, tool call) cannot be asked for like this.
    #[error("the format cannot be used: {why}")]
    Format { why: String },
    /// The tokenizer cannot turn this text into tokens.
    #[error("the tokenizer cannot encode this text: {why}")]
    Unencodable { why: String },
    /// Not something this model, or this version, can do.
    #[error("{what}")]
    Unsupported { what: String },
}

impl Error {
    pub(crate) fn bad_file(file: &str, why: impl ToString) -> Error {
        Error::BadFile { file: file.to_owned(), why: why.to_string() }
    }

    pub(crate) fn format(why: impl ToString) -> Error {
        Error::Format { why: why.to_string() }
    }

    fn kind(&self) -> FailureKind {
        match self {
            Error::Unreadable { .. }
            | Error::BadFile { .. }
            | Error::Template { .. }
            | Error::Modelfile { .. }
            | Error::UnknownRenderer { .. } => FailureKind::BadModel,
            Error::Refused { .. }
            | Error::Conversation { .. }
            | Error::TooLarge { .. }
            | Error::Format { .. }
            | Error::Unencodable { .. } => FailureKind::InvalidRequest,
            Error::Unsupported { .. } => FailureKind::Unsupported,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Error::Unreadable { .. } => "pull or create the model again",
            Error::BadFile { .. } => "compare the file with the one at the model's publisher",
            Error::Template { .. } => {
                "report it with the model's name; a prompt sent with `raw` goes around the template"
            }
            Error::Modelfile { .. } => "correct the TEMPLATE and create the model again",
            Error::UnknownRenderer { .. } => {
                "create the model again with a RENDERER that is built in"
            }
            Error::Refused { .. } | Error::Conversation { .. } => {
                "change the order or the roles of the messages"
            }
            Error::TooLarge { .. } => "send less text",
            Error::Format { .. } => {
                "change the schema or the grammar, or ask for the form in the prompt"
            }
            Error::Unencodable { .. } => "remove characters that the model does not know",
            Error::Unsupported { .. } => {
                "send the prompt with `raw`, already in the model's format"
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(error.kind(), error.to_string()).hint(error.hint())
    }
}
