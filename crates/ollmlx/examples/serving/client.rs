//! One streamed reply, and when its pieces came.

use std::time::Instant;

use anyhow::{Context, bail};
use futures::StreamExt;
use serde_json::Value;

/// The moments at which a reply's tokens came.
#[derive(Clone, Debug)]
pub struct Reply {
    pub asked: Instant,
    pub tokens: Vec<Instant>,
}

impl Reply {
    pub fn first_seconds(&self) -> f64 {
        (self.tokens[0] - self.asked).as_secs_f64()
    }

    /// Of the tokens after the first.
    pub fn rate(&self) -> f64 {
        let last = self.tokens[self.tokens.len() - 1];
        (self.tokens.len() - 1) as f64 / (last - self.tokens[0]).as_secs_f64()
    }
}

/// The longest wait for a token, of those that came after `from`.
pub fn longest_gap(tokens: &[Instant], from: Instant) -> f64 {
    let pairs = tokens.windows(2).filter(|pair| pair[1] > from);
    pairs.map(|pair| (pair[1] - pair[0]).as_secs_f64()).fold(0.0, f64::max)
}

/// Asks, and reads lines of JSON (or of server-sent events) until the end. `on_token` is called for each token.
pub async fn ask(
    client: &reqwest::Client,
    url: &str,
    body: &Value,
    has_text: fn(&Value) -> bool,
    mut on_token: impl FnMut(usize),
) -> anyhow::Result<Reply> {
    let asked = Instant::now();
    let response = client.post(url).json(body).send().await.with_context(|| url.to_owned())?;
    if !response.status().is_success() {
        bail!("{url}: {} {}", response.status(), response.text().await.unwrap_or_default());
    }
    let mut reply = Reply { asked, tokens: Vec::new() };
    let mut stream = response.bytes_stream();
    let mut rest = Vec::new();
    while let Some(bytes) = stream.next().await {
        rest.extend_from_slice(&bytes?);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim().trim_start_matches("data: ");
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            if let Some(error) = value.get("error") {
                bail!("{url}: {error}");
            }
            if has_text(&value) {
                reply.tokens.push(Instant::now());
                on_token(reply.tokens.len());
            }
        }
    }
    if reply.tokens.is_empty() {
        bail!("{url}: a reply without a token");
    }
    Ok(reply)
}
