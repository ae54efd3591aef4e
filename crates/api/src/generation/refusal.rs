//! Why a request gets no answer. Each dialect has its own status and words for these.

use protocol::{Failure, OptionError};

use super::{ReferenceError, Verb};
use crate::http::BodyError;

#[derive(Debug)]
pub(crate) enum Refusal {
    Body(BodyError),
    TopLogprobs,
    Reference {
        verb: Verb,
        error: ReferenceError,
    },
    /// `asked` is what the client wrote.
    UnknownModel {
        asked: String,
    },
    ImageModel,
    RawMode,
    NoThinking {
        asked: String,
    },
    /// The model can neither chat nor generate.
    NoCompletion {
        asked: String,
        verb: Verb,
    },
    /// `missing` in words of the API.
    NoCapability {
        full_name: String,
        missing: Vec<&'static str>,
    },
    Option(OptionError),
    /// `given` as JSON.
    Format {
        given: String,
    },
    Images,
    /// The request's own template is none.
    Template {
        why: String,
    },
    Store(store::Error),
    Failure(Failure),
    /// A message of a dialect's own, for a request that is wrong.
    Said(String),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failure(failure)
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Refusal {
        Refusal::Store(error)
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Refusal {
        Refusal::Body(error)
    }
}
