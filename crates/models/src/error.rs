use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

/// Why a model cannot be loaded. Everything here is about the checkpoint, except the last four.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("architecture `{name}` is not supported")]
    UnknownArchitecture { name: String, known: Vec<&'static str> },
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
    #[error("config.json: `{field}` {reason}")]
    Config { field: String, reason: String },
    #[error("tensor `{path}` is missing")]
    MissingTensor { path: String },
    #[error("tensor `{path}` has shape {found:?}, the configuration asks for {expected:?}")]
    WrongShape { path: String, expected: Vec<i32>, found: Vec<i32> },
    #[error("tensor `{path}` holds {found} where floating-point numbers are expected")]
    WrongDtype { path: String, found: mlx::Dtype },
    #[error("quantised tensor `{path}`: {reason}")]
    Quantisation { path: String, reason: String },
    #[error("tensor `{name}` is in two files, the second is `{}`", file.display())]
    TwiceThere { name: String, file: PathBuf },
    #[error("`{}` has no weights in safetensors files", folder.display())]
    NoWeights { folder: PathBuf },
    #[error("`{}`: {reason}", path.display())]
    Index { path: PathBuf, reason: String },
    #[error("`{}`: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Safetensors(#[from] mlx::safetensors::Error),
    #[error("remembered keys and values cannot be taken in: {reason}")]
    Page { reason: String },
    #[error("building the model failed: {0}")]
    Graph(#[from] mlx::GraphError),
    #[error(transparent)]
    Eval(#[from] mlx::EvalError),
}

impl Error {
    /// What to do about it, in the house's style.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::UnknownArchitecture { known, .. } => {
                Some(format!("the known architectures are: {}", known.join(", ")))
            }
            Error::Json(_) | Error::Config { .. } => {
                Some("compare config.json with the one that was published".into())
            }
            Error::MissingTensor { .. } | Error::NoWeights { .. } => {
                Some("a file may be missing or unfinished: fetch the model again".into())
            }
            Error::WrongShape { .. }
            | Error::WrongDtype { .. }
            | Error::Quantisation { .. }
            | Error::TwiceThere { .. } => {
                Some("config.json and the weights are not of one model: fetch both again".into())
            }
            _ => None,
        }
    }
}

/// Names the field in an error about its value.
pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Config { field: field.into(), reason: reason.into() }
}
