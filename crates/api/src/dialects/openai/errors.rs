//! OpenAI's error envelope around Ollama's words.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::dialects::ollama;
use crate::generation::Refusal;
use crate::http::{self, BodyError, JSON, JSON_BARE};
use crate::json::{to_line, to_vec};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    status: StatusCode,
    message: String,
    hint: Option<String>,
    /// Ollama looks at a body in two steps, whose errors differ by a newline and the content type's charset.
    at_the_door: bool,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Value,
    code: Value,
    /// Ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Rejection {
    /// The body itself is wrong.
    pub(crate) fn bad_body(message: impl Into<String>) -> Rejection {
        Rejection {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            hint: None,
            at_the_door: true,
        }
    }

    fn envelope(&self) -> Envelope<'_> {
        let kind = match self.status {
            StatusCode::BAD_REQUEST => "invalid_request_error",
            StatusCode::NOT_FOUND => "not_found_error",
            _ => "api_error",
        };
        Envelope {
            error: Inner {
                message: &self.message,
                kind,
                param: Value::Null,
                code: Value::Null,
                hint: self.hint.as_deref(),
            },
        }
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        to_vec(&self.envelope())
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        match self.at_the_door {
            true => http::json(self.status, JSON, self.body()),
            false => http::json(self.status, JSON_BARE, to_line(&self.envelope())),
        }
    }
}

impl From<ollama::Rejection> for Rejection {
    fn from(rejection: ollama::Rejection) -> Rejection {
        Rejection {
            status: rejection.status,
            message: rejection.message,
            hint: rejection.hint,
            at_the_door: false,
        }
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        ollama::Rejection::from(refusal).into()
    }
}

impl From<BodyError> for Rejection {
    fn from(error: BodyError) -> Rejection {
        let status = match error {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Rejection { status, message: error.to_string(), hint: None, at_the_door: true }
    }
}
