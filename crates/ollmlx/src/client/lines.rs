//! A stream of JSON objects, one per line, put together from whatever pieces the network delivers.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use serde::de::DeserializeOwned;

use super::{Error, Result, cause, words};

/// Longest line. Price: this much memory for a server that never ends one.
const LINE_BYTES_MAX: usize = 8 << 20;

pub struct Lines<S = BoxStream<'static, reqwest::Result<bytes::Bytes>>> {
    chunks: S,
    held: Vec<u8>,
    /// How much of `held` is known to have no line end.
    searched: usize,
    ended: bool,
}

impl<S, B, E> Lines<S>
where
    S: Stream<Item = std::result::Result<B, E>> + Unpin,
    B: AsRef<[u8]>,
    E: std::error::Error + 'static,
{
    pub fn new(chunks: S) -> Lines<S> {
        Lines { chunks, held: Vec::new(), searched: 0, ended: false }
    }

    /// The next object; `None` after the last one. An object with an `error` is an error.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            if line.trim_ascii().is_empty() {
                continue;
            }
            let unreadable = |error: serde_json::Error| Error::Unreadable(error.to_string());
            // A refusal has a field `error`; anything else fails to read as one.
            if let Ok(refusal) = serde_json::from_slice::<words::Refusal>(&line) {
                return Err(Error::MidStream { message: refusal.error, hint: refusal.hint });
            }
            return serde_json::from_slice(&line).map(Some).map_err(unreadable);
        }
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.held[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.held.split_off(self.searched + at + 1);
                let line = std::mem::replace(&mut self.held, rest);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.held.len() > LINE_BYTES_MAX {
                return Err(Error::Unreadable(format!(
                    "a line is longer than {LINE_BYTES_MAX} bytes"
                )));
            }
            if self.ended {
                self.searched = 0;
                let last = std::mem::take(&mut self.held);
                return Ok((!last.is_empty()).then_some(last));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.held.extend_from_slice(chunk.as_ref()),
                Some(Err(error)) => return Err(Error::BrokeOff(cause(&error))),
                None => self.ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    type Piece = std::result::Result<Vec<u8>, std::io::Error>;

    async fn read(pieces: Vec<Piece>) -> (Vec<Value>, Option<String>) {
        let mut lines = Lines::new(futures::stream::iter(pieces));
        let mut values = Vec::new();
        loop {
            match lines.next::<Value>().await {
                Ok(Some(value)) => values.push(value),
                Ok(None) => return (values, None),
                Err(error) => return (values, Some(error.to_string())),
            }
        }
    }

    fn check(pieces: Vec<Piece>, values: Vec<Value>, error: Option<&str>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (got, failed) = runtime.block_on(read(pieces));
        assert_eq!((got, failed.as_deref()), (values, error));
    }

    fn piece(text: &str) -> Piece {
        Ok(text.as_bytes().to_vec())
    }

    #[test]
    fn objects_come_in_any_pieces() {
        let text = "{\"a\":1}\n\n{\"b\":\"ü\"}\n{\"c\":3}";
        let expected = vec![json!({"a": 1}), json!({"b": "ü"}), json!({"c": 3})];
        check(vec![piece(text)], expected.clone(), None);
        check(text.bytes().map(|byte| Ok(vec![byte])).collect(), expected, None);
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let one = || vec![json!({"a": 1})];
        let broken = Err(std::io::Error::other("reset"));
        check(
            vec![piece("{\"a\":1}\n{\"b"), broken],
            one(),
            Some("the server's reply broke off: reset"),
        );
        check(vec![piece("{\"a\":1}\n{\"error\":\"no\"}\n{}")], one(), Some("no"));
        let unreadable = "cannot understand the server's reply: expected value at line 1 column 1";
        check(vec![piece("<html>\n")], vec![], Some(unreadable));
        let endless = (0..10).map(|_| Ok(vec![b' '; 1 << 20])).collect();
        let long = "cannot understand the server's reply: a line is longer than 8388608 bytes";
        check(endless, vec![], Some(long));
    }
}
