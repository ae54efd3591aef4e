//! `/api/blobs/:digest`: files that a later `create` names.

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::response::Response;
use futures::StreamExt;
use store::{Digest, FinishedBlob, Store};
use tokio::sync::mpsc;

use super::{Rejection, texts};
use crate::http::{self, Call};

/// Pieces of an upload between the network and the disk; each is at most some hundred KiB.
const PIECES_MAX: usize = 8;

pub(super) async fn exists(call: Call) -> Result<Response, Rejection> {
    let digest = digest(&call.param)?;
    match call.server.blocking(move |store| store.has(&digest)).await {
        true => Ok(http::empty(StatusCode::OK)),
        false => Err(Rejection::missing(format!("blob \"{digest}\" not found"))),
    }
}

pub(super) async fn upload(call: Call) -> Result<Response, Rejection> {
    let digest = digest(&call.param)?;
    if call.server.blocking(move |store| store.has(&digest)).await {
        return Ok(http::empty(StatusCode::OK));
    }
    let length = call.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let size_bytes = length.and_then(|text| text.parse().ok());
    let (pieces, written) = mpsc::channel(PIECES_MAX);
    let store = call.server.store().clone();
    let writing = tokio::task::spawn_blocking(move || write(&store, &digest, size_bytes, written));
    send(call.body, pieces).await?;
    match writing.await {
        Ok(finished) => finished.map(|_| http::empty(StatusCode::CREATED)).map_err(Rejection::from),
        Err(error) => Err(Rejection::internal(format!("the upload could not be stored: {error}"))),
    }
}

fn digest(text: &str) -> Result<Digest, Rejection> {
    Digest::parse(text).map_err(|_| Rejection::bad(texts::INVALID_DIGEST))
}

enum Piece {
    Bytes(Bytes),
    /// All bytes were sent. Without this the upload broke off.
    End,
}

/// Passes the body on. A writer that stopped says why itself.
async fn send(body: Body, pieces: mpsc::Sender<Piece>) -> Result<(), Rejection> {
    let mut body = body.into_data_stream();
    loop {
        // A writer that stopped (a full disk) is heard of before the client's next bytes are.
        let bytes = tokio::select! {
            bytes = body.next() => bytes,
            () = pieces.closed() => return Ok(()),
        };
        let Some(bytes) = bytes else { break };
        let bytes = bytes.map_err(|_| Rejection::bad("unexpected EOF"))?;
        if pieces.send(Piece::Bytes(bytes)).await.is_err() {
            return Ok(());
        }
    }
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

/// Nothing stays of a blob that is not whole.
fn write(
    store: &Store,
    digest: &Digest,
    size_bytes: Option<u64>,
    mut pieces: mpsc::Receiver<Piece>,
) -> store::Result<Option<FinishedBlob>> {
    let mut writer = store.blob_writer(size_bytes)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => writer.write(&bytes)?,
            Piece::End => return writer.finish(Some(digest)).map(Some),
        }
    }
    Ok(None)
}
