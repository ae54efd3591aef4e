//! The commands' way to the server: JSON in and out, NDJSON streams, uploads.
//!
//! Every reply is bounded in size; a stream that breaks off before its end is an error, never a short answer. Errors
//! keep the wording that scripts know: a plain call shows the server's message alone, a stream its status too.

pub mod host;
mod lines;
pub mod words;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use futures::StreamExt;
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fault::{Told, told};
use crate::{program, terminal};
use host::Host;
pub use lines::Lines;

/// Largest body of a plain reply: `show --verbose` of a model with a big vocabulary is some megabytes. Price: memory.
const REPLY_BYTES_MAX: usize = 256 << 20;
/// A server that does not even answer the door.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a file is read and sent at a time.
const UPLOAD_CHUNK_BYTES: usize = 1 << 20;

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    pub host: Host,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the address.
    #[error("could not connect to {0} server, run '{0} serve' to start it", program::name())]
    Refused,
    /// The server's own words.
    #[error("{}", message_or_status(.status, .message))]
    Answered { status: StatusCode, message: String, hint: Option<String> },
    /// The server's own words where a stream was asked for.
    #[error("{} {}", .status.as_u16(), status_and_message(.status, .message))]
    NotStreamed { status: StatusCode, message: String, hint: Option<String> },
    /// An error in the middle of a stream.
    #[error("{message}")]
    MidStream { message: String, hint: Option<String> },
    #[error("the server's reply broke off: {0}")]
    BrokeOff(String),
    #[error("cannot understand the server's reply: {0}")]
    Unreadable(String),
    #[error("cannot reach the server at {url}: {reason}")]
    Transport { url: String, reason: String },
    #[error("cannot read {0}")]
    File(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn is_not_found(&self) -> bool {
        match self {
            Error::Answered { status, .. } | Error::NotStreamed { status, .. } => {
                *status == StatusCode::NOT_FOUND
            }
            _ => false,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Answered { hint, .. }
            | Error::NotStreamed { hint, .. }
            | Error::MidStream { hint, .. } => hint.clone(),
            Error::Transport { .. } => Some("OLLAMA_HOST says where the server is".to_owned()),
            Error::BrokeOff(_) => {
                Some("the server's log says why; ask again to start over".to_owned())
            }
            _ => None,
        }
    }
}

impl From<&Error> for Told {
    fn from(error: &Error) -> Told {
        Told { message: error.to_string(), hint: error.hint() }
    }
}

impl Client {
    pub fn from_env() -> anyhow::Result<Client> {
        let host = Host::from_env();
        if let Some(warning) = &host.warning {
            terminal::note_line(&format!("WARN {warning}"));
        }
        Client::new(host)
    }

    pub fn new(host: Host) -> anyhow::Result<Client> {
        if !matches!(host.scheme.as_str(), "http" | "https") {
            return Err(told(format!("`{}` is no scheme a server can be reached by", host.scheme))
                .hint(
                    "set OLLAMA_HOST to an address like `127.0.0.1:11434` or `https://example.com`",
                )
                .into());
        }
        install_tls();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("ollmlx/", env!("CARGO_PKG_VERSION")))
            // A prompt waits for its user for hours: connections are not kept for that long.
            .pool_max_idle_per_host(0);
        if host.is_local() {
            builder = builder.no_proxy();
        }
        if host.scheme == "http" {
            // No certificates are needed, and a machine may have none.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| {
            told(format!("cannot prepare connections: {}", cause(&error)))
                .hint("https needs the system's certificates (package `ca-certificates`)")
        })?;
        Ok(Client { http, base: host.url(), host })
    }

    /// Whether somebody answers at the address.
    pub async fn heartbeat(&self) -> Result<()> {
        let response = self.http.head(&self.base).send().await.map_err(transport)?;
        if response.status().is_success() { Ok(()) } else { Err(answered(response).await) }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.send(Method::GET, path, None).await?).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        read(self.send(Method::POST, path, Some(body)).await?).await
    }

    /// A call whose reply says nothing but that it worked.
    pub async fn tell(&self, method: Method, path: &str, body: &Value) -> Result<()> {
        let response = self.send(method, path, Some(body)).await?;
        if response.status().is_success() { Ok(()) } else { Err(answered(response).await) }
    }

    /// A call answered by one JSON object after another.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Lines> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(Lines::new(response.bytes_stream().boxed()));
        }
        match answered(response).await {
            Error::Answered { status, message, hint } => {
                Err(Error::NotStreamed { status, message, hint })
            }
            other => Err(other),
        }
    }

    pub async fn has_blob(&self, digest: &str) -> Result<bool> {
        let url = format!("{}/api/blobs/{digest}", self.base);
        let response = self.http.head(url).send().await.map_err(transport)?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(answered(response).await),
        }
    }

    /// Uploads a file; `sent_bytes` grows while it goes.
    pub async fn upload(
        &self,
        digest: &str,
        file: &Path,
        sent_bytes: Arc<AtomicU64>,
    ) -> Result<()> {
        let unreadable = |error| Error::File(format!("`{}`: {error}", file.display()));
        let source = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let length = source.metadata().await.map_err(unreadable)?.len();
        let chunks = tokio_util::io::ReaderStream::with_capacity(source, UPLOAD_CHUNK_BYTES);
        let counted = chunks.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                sent_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        });
        let response = self
            .http
            .post(format!("{}/api/blobs/{digest}", self.base))
            .header(reqwest::header::CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(counted))
            .send()
            .await
            .map_err(transport)?;
        if response.status().is_success() { Ok(()) } else { Err(answered(response).await) }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.map_err(transport)
    }
}

/// The process has one source of cryptography; choosing it twice is harmless.
fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T> {
    if !response.status().is_success() {
        return Err(answered(response).await);
    }
    let body = body(response).await?;
    serde_json::from_slice(&body).map_err(|error| Error::Unreadable(error.to_string()))
}

async fn body(response: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|error| Error::BrokeOff(cause(&error)))?);
        if body.len() > REPLY_BYTES_MAX {
            return Err(Error::Unreadable(format!("it is longer than {REPLY_BYTES_MAX} bytes")));
        }
    }
    Ok(body)
}

/// What an unsuccessful reply says.
async fn answered(response: Response) -> Error {
    let status = response.status();
    let body = match body(response).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    match serde_json::from_slice::<words::Refusal>(&body) {
        Ok(refusal) => Error::Answered { status, message: refusal.error, hint: refusal.hint },
        Err(_) => {
            let message = String::from_utf8_lossy(&body).trim().to_owned();
            Error::Answered { status, message, hint: None }
        }
    }
}

fn transport(error: reqwest::Error) -> Error {
    if error.is_connect() && refused(&error) {
        return Error::Refused;
    }
    let url = error.url().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    Error::Transport { url, reason: cause(&error) }
}

fn refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        next = error.source();
    }
    false
}

/// The innermost reason of an error, which names what a person can do something about.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    innermost.unwrap_or(error).to_string()
}

fn message_or_status(status: &StatusCode, message: &str) -> String {
    match message {
        "" => format!("the server answered {status} and nothing else"),
        message => message.to_owned(),
    }
}

fn status_and_message(status: &StatusCode, message: &str) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") }
}
