//! A server on a free port over a store of its own, and a client that shows every byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use scheduler::{InProcess, Scheduler};
use serde_json::{Value, json};
use store::{Capability, Config, Layer, Name, Recipe, Store, media};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// No answer takes longer than this in a test that is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Scene {
    pub address: SocketAddr,
    pub store: Store,
    pub scheduler: Scheduler,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
    _root: tempfile::TempDir,
}

impl Scene {
    pub async fn new() -> Scene {
        let config = scheduler::Config::from_env();
        Scene::with(scheduler::Config { memory_bytes_max: 1 << 40, ..config }).await
    }

    pub async fn with(config: scheduler::Config) -> Scene {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path().join("models"), None).unwrap();
        let scheduler = Scheduler::new(config, Arc::new(InProcess));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = api::Config { no_cloud: true, ..api::Config::default() };
        let server = api::Server::new(config, store.clone(), scheduler.clone());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        Scene { address, store, scheduler, stop: Some(stop), serving, _root: root }
    }

    /// Asks the server to end; gives what `serve` returned.
    pub async fn stop(mut self) -> std::io::Result<()> {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(PATIENCE, self.serving).await.expect("the server ends").unwrap()
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &[], body.as_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut connection = self.send(method, path, headers, body).await;
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut bytes)).await;
        read.unwrap_or_else(|_| {
            panic!("{method} {path} gets no end: {}", String::from_utf8_lossy(&bytes))
        })
        .unwrap();
        Answer::parse(&bytes, method)
    }

    /// A connection with a request on it, to be read (or left) by the test.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        // A server that has answered already may have closed.
        let _ = connection.write_all(body).await;
        connection
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, sorted.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8], method: &str) -> Answer {
        let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let head = std::str::from_utf8(&bytes[..at]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or((line, "")))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        headers.sort();
        let rest = &bytes[at + 4..];
        let is_chunked =
            headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if is_chunked && method != "HEAD" { unchunked(rest) } else { rest.to_vec() };
        Answer { status, headers, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Fails where the last chunk is missing: a broken answer is no answer.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let at = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 2 + size + 2..];
    }
}

pub const TINY_TEMPLATE: &str = "{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n";
pub const PLAIN_TEMPLATE: &str = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n";

/// A safetensors model of the shape that the recorded ones have.
pub fn make_model(store: &Store, name: &str, capabilities: &[Capability], recipe: Recipe) {
    let config = Config {
        model_format: "safetensors".into(),
        model_family: "llama".into(),
        model_families: Some(vec!["llama".into()]),
        model_type: "140K".into(),
        file_type: Some(recipe.config.file_type.clone())
            .filter(|text| !text.is_empty())
            .unwrap_or("F16".into()),
        capabilities: capabilities
            .iter()
            .map(|capability| capability.as_str().to_owned())
            .collect(),
        context_length: 512,
        embedding_length: 64,
        architecture: "amd64".into(),
        os: "linux".into(),
        ..Config::default()
    };
    let layer = |media_type: &str, name: &str, bytes: &[u8]| Layer {
        name: name.to_owned(),
        ..store.new_layer(media_type, bytes).unwrap().layer
    };
    let checkpoint = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 512,
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 512
    });
    let layers = vec![
        layer(
            media::TENSOR,
            "model.embed_tokens.weight",
            &tensor("model.embed_tokens.weight", &[512, 64]),
        ),
        layer(media::JSON, "config.json", checkpoint.to_string().as_bytes()),
    ];
    store
        .create(&Name::parse(name).unwrap(), Recipe { config, layers, ..recipe }, &mut |_| {})
        .unwrap();
}

pub fn tiny() -> Recipe {
    Recipe {
        template: Some(TINY_TEMPLATE.to_owned()),
        params: params(
            json!({"temperature": 0, "seed": 1, "num_predict": 16, "stop": ["<|im_start|>", "<|im_end|>"]}),
        ),
        ..Recipe::default()
    }
}

pub fn params(object: Value) -> IndexMap<String, Value> {
    object.as_object().unwrap().clone().into_iter().collect()
}

/// A safetensors file with one F16 tensor of zeros.
pub fn tensor(name: &str, shape: &[u64]) -> Vec<u8> {
    let bytes = shape.iter().product::<u64>() * 2;
    let header = BTreeMap::from([(
        name,
        json!({"dtype": "F16", "shape": shape, "data_offsets": [0, bytes]}),
    )]);
    let header = serde_json::to_vec(&header).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    [length.as_slice(), &header, &vec![0; bytes as usize]].concat()
}

pub fn goldens() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/goldens")
}
