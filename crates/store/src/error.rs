//! What can go wrong in a store, named after what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Digest, DigestError, Name, NameError};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("model `{0}` not found")]
    NotFound(Name),
    /// A manifest or a request names a blob that is not there.
    #[error("blob `{0}` is not in the store")]
    MissingBlob(Digest),
    /// Ollama's words, which clients show.
    #[error("digest mismatch, expected \"{expected}\", got \"{got}\"")]
    DigestMismatch { expected: Digest, got: Digest },
    #[error("`{0}` comes with the program and cannot be removed")]
    Builtin(Name),
    #[error("the model store at `{}` cannot be written: {source}", path.display())]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("the disk is full: {needed_bytes} bytes are needed and {free_bytes} are free")]
    DiskFull { needed_bytes: u64, free_bytes: u64 },
    /// A file of the store does not hold what it should.
    #[error("`{}` is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("{doing} `{}`: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Name(error) => error.hint().to_owned(),
            Error::NotFound(_) => "`ollmlx list` shows the models that are there".to_owned(),
            Error::MissingBlob(_) => {
                "it may have been removed meanwhile: create or pull the model again".to_owned()
            }
            Error::Builtin(name) => {
                format!("a model of your own named `{name}` hides it, as `ollmlx cp` makes one")
            }
            Error::NotWritable { .. } => {
                "set OLLAMA_MODELS to a directory that you may write to".to_owned()
            }
            Error::DiskFull { .. } => {
                "free some space, or set OLLAMA_MODELS to a directory on a larger disk".to_owned()
            }
            Error::Damaged { .. } => "create or pull the model again".to_owned(),
            Error::Digest(_) | Error::DigestMismatch { .. } | Error::Io { .. } => return None,
        })
    }
}

/// Gives an I/O error the file it is about.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { doing, path: path.to_owned(), source })
    }
}
