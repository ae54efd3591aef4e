//! Plain HTTP, so that what is on the wire is what a test sees.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::{PATIENCE, Server};

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The whole body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Each line as JSON; of server-sent events, what stands behind `data: `.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let lines = lines.filter(|line| !line.is_empty() && *line != "[DONE]");
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Connects and sends a request.
pub fn send(server: &Server, method: &str, path: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        server.address,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    stream
}

/// Reads an answer to its end.
pub fn receive(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A connection that is reset has said what it had to say.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text.as_str(), ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Answer { status, body: if chunked { unchunked(body) } else { body.to_owned() } }
}

pub fn ask(server: &Server, method: &str, path: &str, body: &[u8]) -> Answer {
    receive(send(server, method, path, body))
}

pub fn post(server: &Server, path: &str, body: &Value) -> Answer {
    ask(server, "POST", path, body.to_string().as_bytes())
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || more.len() < size {
            break;
        }
        body.push_str(&more[..size]);
        rest = more[size..].strip_prefix("\r\n").unwrap_or("");
    }
    body
}
