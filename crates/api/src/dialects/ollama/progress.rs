//! Routes that take their time tell how far they are: one JSON object per line, or only the last one.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::ConvertProgress;
use serde::Serialize;
use tokio::sync::mpsc;

use super::Rejection;
use crate::http::{self, Frames, JSON_BARE, NDJSON};
use crate::json::{to_line, to_vec};

/// News between the work and a slow reader. The work waits when it is full.
pub(super) const NEWS_MAX: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Progress {
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Progress {
    pub(super) fn status(status: impl Into<String>) -> Progress {
        Progress { status: status.into(), ..Progress::default() }
    }
}

impl From<ConvertProgress> for Progress {
    fn from(progress: ConvertProgress) -> Progress {
        Progress {
            status: progress.status,
            digest: String::new(),
            total: progress.total_bytes,
            completed: progress.completed_bytes,
        }
    }
}

/// A rejection is the last news.
pub(super) type News = Result<Progress, Rejection>;

/// A work that fails before it has told anything is refused with a status of its own.
pub(super) async fn answer(mut news: mpsc::Receiver<News>, streams: bool) -> Response {
    if !streams {
        return last(news).await;
    }
    match news.recv().await {
        None => http::json(StatusCode::OK, JSON_BARE, Vec::new()),
        Some(Err(rejection)) => rejection.bare().into_response(),
        Some(first) => http::stream(NDJSON, Lines { first: Some(first), news }),
    }
}

async fn last(mut news: mpsc::Receiver<News>) -> Response {
    let mut latest = Progress::default();
    while let Some(one) = news.recv().await {
        match one {
            Ok(progress) => latest = progress,
            Err(rejection) => return rejection.bare().into_response(),
        }
    }
    http::json(StatusCode::OK, JSON_BARE, to_vec(&latest))
}

struct Lines {
    first: Option<News>,
    news: mpsc::Receiver<News>,
}

impl Frames for Lines {
    async fn next(&mut self) -> Option<Bytes> {
        let one = match self.first.take() {
            Some(first) => first,
            None => self.news.recv().await?,
        };
        Some(Bytes::from(match one {
            Ok(progress) => to_line(&progress),
            Err(rejection) => [rejection.body(), b"\n".to_vec()].concat(),
        }))
    }
}
