//! Answers: a text, one JSON value, or a stream of frames that is made while it is read.

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures::Stream;

fn with_body(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn text(status: StatusCode, content_type: &'static str, text: &str) -> Response {
    with_body(status, content_type, Body::from(text.to_owned()))
}

/// `body` is JSON already.
pub(crate) fn json(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response {
    with_body(status, content_type, Body::from(body))
}

/// Neither a body nor a type.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Something that makes frames when it is asked for them.
pub(crate) trait Frames: Send + 'static {
    /// The next bytes to send; `None` ends the answer.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// A streamed answer. Frames are asked for one at a time, when the client has taken the ones before: a slow reader
/// holds back what makes them. A client that leaves drops the source.
pub(crate) fn stream(content_type: &'static str, source: impl Frames) -> Response {
    with_body(StatusCode::OK, content_type, Body::from_stream(pulled(source)))
}

fn pulled(
    source: impl Frames,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    futures::stream::unfold(source, |mut source| async move {
        let bytes = source.next().await?;
        Some((Ok(bytes), source))
    })
}
