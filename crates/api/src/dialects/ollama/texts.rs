//! What went wrong, in the words and with the status that Ollama's clients know. Our own words where it has none.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::{Failure, FailureKind};
use serde::Serialize;

use crate::generation::{ReferenceError, Refusal, Verb};
use crate::http::{self, BodyError, JSON, JSON_BARE};
use crate::json::{quote, to_vec};

pub(crate) const MODEL_REQUIRED: &str = "model is required";
pub(crate) const INVALID_MODEL_NAME: &str = "invalid model name";
pub(crate) const INVALID_DIGEST: &str = "invalid digest format";
pub(crate) const FILE_PATH: &str = "file path must be relative";
pub(crate) const NEITHER_FROM_NOR_FILES: &str = "neither 'from' or 'files' was specified";
pub(crate) const UNKNOWN_FILE_TYPE: &str = "unknown type";
pub(crate) const NOT_GGUF: &str = "supplied file was not in GGUF format";
pub(crate) const FROM_NOT_FOUND: &str = "pull model manifest: file does not exist";
const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";
const CANCELLED: &str = "request canceled";
const CLOUD: &str = "ollama cloud is disabled: remote model is unavailable";
const IMAGE_MODEL: &str = "image generation models are not currently supported";
const RAW_MODE: &str = "raw mode does not support template, system, or context";
const TOP_LOGPROBS: &str = "top_logprobs must be between 0 and 20";
/// The words of the inference server inside Ollama, JSON in JSON.
const NO_IMAGES: &str = r#"{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.","type":"invalid_request_error"}}"#;

/// The client hung up while it waited; no one will read this.
const CLIENT_CLOSED: u16 = 499;

pub(crate) fn not_found(asked: &str) -> String {
    format!("model '{asked}' not found")
}

/// Status, message, hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub status: StatusCode,
    pub message: String,
    pub hint: Option<String>,
    content_type: &'static str,
}

/// The body of every error; the hint is ours.
#[derive(Serialize)]
pub(crate) struct ErrorBody<'a> {
    pub error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'a str>,
}

impl Rejection {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Rejection {
        Rejection { status, message: message.into(), hint: None, content_type: JSON }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Rejection {
        Rejection::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn missing(message: impl Into<String>) -> Rejection {
        Rejection::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Rejection {
        Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: Option<String>) -> Rejection {
        self.hint = hint;
        self
    }

    /// The bare content type that routes with progress use.
    #[must_use]
    pub(crate) fn bare(mut self) -> Rejection {
        self.content_type = JSON_BARE;
        self
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        to_vec(&ErrorBody { error: &self.message, hint: self.hint.as_deref() })
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        http::json(self.status, self.content_type, self.body())
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        match refusal {
            Refusal::Body(error) => error.into(),
            Refusal::TopLogprobs => Rejection::bad(TOP_LOGPROBS),
            Refusal::Reference { verb, error } => reference(verb, error),
            Refusal::UnknownModel { asked } => Rejection::missing(not_found(&asked)),
            Refusal::ImageModel => Rejection::bad(IMAGE_MODEL),
            Refusal::RawMode => Rejection::bad(RAW_MODE),
            Refusal::NoThinking { asked } => {
                Rejection::bad(format!("{} does not support thinking", quote(&asked)))
            }
            Refusal::NoCompletion { asked, verb } => {
                let verb = match verb {
                    Verb::Chat => "chat",
                    Verb::Generate => "generate",
                };
                Rejection::bad(format!("{} does not support {verb}", quote(&asked)))
            }
            Refusal::NoCapability { full_name, missing } => {
                Rejection::bad(format!("{full_name} does not support {}", missing.join("\n")))
            }
            Refusal::Option(error) => Rejection::internal(error.to_string()),
            Refusal::Format { given } => Rejection::internal(format!(
                "invalid format: {}; expected \"json\" or a valid JSON Schema object",
                quote(&given)
            )),
            Refusal::Images => Rejection::bad(NO_IMAGES),
            Refusal::Template { why } => Rejection::internal(why),
            Refusal::Store(error) => error.into(),
            Refusal::Failure(failure) => failure.into(),
            Refusal::Said(message) => Rejection::bad(message),
        }
    }
}

fn reference(verb: Verb, error: ReferenceError) -> Rejection {
    match (error, verb) {
        (ReferenceError::Empty, Verb::Chat) => Rejection::bad(MODEL_REQUIRED),
        (ReferenceError::Empty, Verb::Generate) => Rejection::missing(not_found("")),
        (error, _) => error.into(),
    }
}

impl From<ReferenceError> for Rejection {
    fn from(error: ReferenceError) -> Rejection {
        match error {
            ReferenceError::Empty => Rejection::bad(MODEL_REQUIRED),
            ReferenceError::Invalid => Rejection::bad(INVALID_MODEL_NAME),
            ReferenceError::Cloud => Rejection::new(StatusCode::FORBIDDEN, CLOUD),
            ReferenceError::BothSources { given } => {
                Rejection::bad(format!("use either :local or :cloud, not both: {}", quote(&given)))
            }
        }
    }
}

impl From<BodyError> for Rejection {
    fn from(error: BodyError) -> Rejection {
        match error {
            BodyError::Empty => Rejection::bad("missing request body"),
            BodyError::Malformed(_) | BodyError::Broken => Rejection::bad(error.to_string()),
            BodyError::TooLarge => Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        }
    }
}

impl From<Failure> for Rejection {
    fn from(failure: Failure) -> Rejection {
        // Where clients know Ollama's words, they get those and no more.
        let (text, hint) = match failure.kind {
            FailureKind::Busy => (BUSY.to_owned(), None),
            FailureKind::Cancelled => (CANCELLED.to_owned(), None),
            _ => (failure.message, failure.hint),
        };
        Rejection::new(status(failure.kind), text).hint(hint)
    }
}

/// The one place where a kind of failure becomes a status.
fn status(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::InvalidRequest | FailureKind::Unsupported => StatusCode::BAD_REQUEST,
        FailureKind::NotFound => StatusCode::NOT_FOUND,
        FailureKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Cancelled => {
            StatusCode::from_u16(CLIENT_CLOSED).unwrap_or(StatusCode::BAD_REQUEST)
        }
        FailureKind::NoRoom
        | FailureKind::BadModel
        | FailureKind::RunnerLost
        | FailureKind::Environment
        | FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<store::Error> for Rejection {
    fn from(error: store::Error) -> Rejection {
        use store::Error;
        let status = match &error {
            Error::Name(_) | Error::Digest(_) | Error::DigestMismatch { .. } => {
                StatusCode::BAD_REQUEST
            }
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Builtin(_) => StatusCode::FORBIDDEN,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let hint = error.hint().filter(|_| !matches!(error, Error::Name(_) | Error::NotFound(_)));
        Rejection::new(status, error.to_string()).hint(hint)
    }
}
