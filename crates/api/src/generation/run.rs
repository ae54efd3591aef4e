//! Runs a request to its end: part by part as the client takes them, or all at once.
//! The whole answer is the merged parts of the stream, so the two cannot disagree.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::{Event, Failure};

use super::{Fold, Part, Refusal, Running};
use crate::http::{self, Frames};

/// An unstreamed answer is gathered in memory; this is the most it may take. (A model's context ends long before.)
const WHOLE_BYTES_MAX: usize = 64 << 20;

/// How a dialect writes its answers.
pub(crate) trait Shape: Send + 'static {
    const STREAM_TYPE: &'static str;
    const WHOLE_TYPE: &'static str;

    /// The bytes of the frames that tell this part; none is fine.
    fn part(&mut self, part: Part) -> Vec<u8>;

    /// An answer that is not streamed.
    fn whole(&mut self, part: Part) -> Vec<u8>;

    /// What ends an answer that fails after it has begun.
    fn failure(&mut self, failure: &Failure) -> Vec<u8>;
}

pub(crate) async fn answer<S: Shape>(
    running: Running,
    fold: Fold,
    shape: S,
    streams: bool,
) -> Result<Response, Refusal> {
    match streams {
        true => streamed(running, fold, shape).await,
        false => Ok(whole_answer(shape, gathered(running, fold).await?)),
    }
}

pub(crate) fn whole_answer<S: Shape>(mut shape: S, part: Part) -> Response {
    http::json(StatusCode::OK, S::WHOLE_TYPE, shape.whole(part))
}

/// What fails before the first frame is refused with a status of its own.
async fn streamed<S: Shape>(
    mut running: Running,
    mut fold: Fold,
    mut shape: S,
) -> Result<Response, Refusal> {
    let mut first = Vec::new();
    let mut ended = false;
    while first.is_empty() && !ended {
        let event = running.next().await.unwrap_or_else(lost);
        ended = event.is_last();
        if let Some(part) = fold.event(event)? {
            first = shape.part(part);
        }
    }
    let first = Some(Bytes::from(first));
    Ok(http::stream(S::STREAM_TYPE, Source { first, running, fold, shape, ended }))
}

struct Source<S> {
    first: Option<Bytes>,
    running: Running,
    fold: Fold,
    shape: S,
    ended: bool,
}

impl<S: Shape> Frames for Source<S> {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        while !self.ended {
            let event = self.running.next().await.unwrap_or_else(lost);
            self.ended = event.is_last();
            let bytes = match self.fold.event(event) {
                Ok(part) => part.map(|part| self.shape.part(part)).unwrap_or_default(),
                Err(failure) => self.shape.failure(&failure),
            };
            if !bytes.is_empty() {
                return Some(Bytes::from(bytes));
            }
        }
        None
    }
}

/// The whole answer as one part.
async fn gathered(mut running: Running, mut fold: Fold) -> Result<Part, Refusal> {
    let mut whole = Part::default();
    loop {
        let event = running.next().await.unwrap_or_else(lost);
        let ended = event.is_last();
        if let Some(part) = fold.event(event)? {
            whole.merge(part);
        }
        if ended {
            return Ok(whole);
        }
        if whole.text_bytes() > WHOLE_BYTES_MAX {
            let limit = WHOLE_BYTES_MAX >> 20;
            return Err(Refusal::Failure(
                Failure::internal(format!("the answer is longer than {limit} MiB"))
                    .hint("ask for a streamed answer, or set `num_predict`"),
            ));
        }
    }
}

/// A stream always ends with a last event; this one did not.
fn lost() -> Event {
    Event::Failed(Failure::internal("the answer broke off"))
}
