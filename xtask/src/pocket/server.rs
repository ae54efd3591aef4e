//! A server of the release program for measurements, with models of its own and nothing of the user's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

/// Ends with the value.
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Serves the models of a store on a free port; `home` takes what a server writes.
    pub fn start(program: &Path, store: &Path, home: &Path) -> anyhow::Result<Server> {
        let mut child = Command::new(program)
            .arg("serve")
            .env("HOME", home)
            .env("OLLAMA_HOST", "127.0.0.1:0")
            .env("OLLMLX_BUILTIN_MODELS", store)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no standard error")?).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("Listening on ")?;
            rest.split_whitespace().next().map(str::to_owned)
        });
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let Some(address) = address else {
            let _ = child.kill();
            bail!("the server ended: {}", child.wait()?);
        };
        Ok(Server { child, address })
    }

    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let mut stream = TcpStream::connect(&self.address)?;
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, rest) = answer.split_once("\r\n\r\n").context("no answer")?;
        if head.split(' ').nth(1) != Some("200") {
            bail!("{}: {rest}", head.lines().next().unwrap_or_default());
        }
        serde_json::from_str(rest).with_context(|| format!("no JSON: {rest}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
