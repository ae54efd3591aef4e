//! Every renderer against Ollama's own, on conversations of ours: `tests/reference/renderers/make.py` records them.
//!
//! Of each renderer some prompts are recorded whole, all by their hash. More conversations than are recorded, compared
//! in full: `make.py … --only FOLDER`, then `OLLMLX_RENDERERS=FOLDER cargo test -p text -- --ignored every_prompt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use protocol::{Image, Message, Role, Think, Tool, ToolCall};
use serde::Deserialize;
use serde_json::Value;

use super::*;

#[derive(Deserialize)]
struct Recorded {
    /// The day on which it was recorded.
    date: String,
    hashes: Vec<String>,
    /// By the number of the conversation.
    texts: BTreeMap<usize, String>,
}

#[derive(Deserialize)]
struct Asks {
    messages: Option<Vec<Said>>,
    #[serde(default)]
    tools: Vec<Tool>,
    #[serde(default)]
    think: Value,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
    thinking: Option<String>,
    #[serde(default)]
    images: Vec<String>,
    #[serde(default)]
    tool_calls: Vec<Call>,
    tool_name: Option<String>,
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: IndexMap<String, Value>,
}

impl Said {
    fn message(self) -> Message {
        let images = self.images.into_iter().map(|base64| Image { base64 });
        let call = |call: Call| ToolCall {
            id: call.id,
            name: call.function.name,
            arguments: call.function.arguments,
        };
        Message {
            role: Role::parse(&self.role),
            content: self.content,
            thinking: self.thinking,
            images: images.collect(),
            tool_calls: self.tool_calls.into_iter().map(call).collect(),
            tool_name: self.tool_name,
            tool_call_id: self.tool_call_id,
        }
    }
}

fn think(value: &Value) -> Think {
    match value {
        Value::Bool(false) => Think::Off,
        Value::Bool(true) => Think::On,
        Value::String(level) => Think::Level(level.clone()),
        _ => Think::Unset,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/text/renderers")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// What is rendered of each conversation; an error is a text too.
fn rendered(name: &str, date: &str, conversations: &str) -> Vec<String> {
    let renderer = Renderer::named(name).unwrap();
    let date: Date = date.parse().unwrap();
    let render = |line: &str| {
        let asks: Asks = serde_json::from_str(line).unwrap();
        let messages = asks.messages.unwrap_or_default().into_iter().map(Said::message);
        let messages: Vec<Message> = messages.collect();
        let think = think(&asks.think);
        let conversation = Conversation { messages: &messages, tools: &asks.tools, think: &think };
        renderer.render_on(date, conversation).unwrap_or_else(|error| format!("error: {error}"))
    };
    conversations.lines().map(render).collect()
}

/// FNV-1a of 64 bits, folded to 32.
fn hash(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

#[test]
fn prompts_are_those_of_ollama() {
    let conversations = read(&folder().join("conversations.jsonl"));
    let mut wrong = Vec::new();
    for (name, _) in RENDERERS {
        let recorded = read(&folder().join(format!("{name}.json")));
        let recorded: Recorded = serde_json::from_str(&recorded).unwrap();
        let rendered = rendered(name, &recorded.date, &conversations);
        assert!(recorded.texts.len() >= 10 && recorded.hashes.len() == rendered.len(), "{name}");
        for (number, expected) in &recorded.texts {
            assert_eq!(rendered[*number], *expected, "{name}, conversation {number}");
        }
        let pairs = rendered.iter().zip(&recorded.hashes).enumerate();
        wrong.extend(
            pairs.filter(|(_, (text, recorded))| hash(text) != **recorded).map(
                |(number, (text, _))| format!("{name}, conversation {number}, ours: {text:?}"),
            ),
        );
    }
    assert_eq!(wrong, [] as [String; 0]);
}

#[test]
#[ignore = "needs the recordings of make.py --only"]
fn every_prompt_of_a_large_recording() {
    let folder = PathBuf::from(std::env::var_os("OLLMLX_RENDERERS").unwrap());
    let conversations = read(&folder.join("conversations.jsonl"));
    let mut different = Vec::new();
    for (name, _) in RENDERERS {
        let recorded = read(&folder.join(format!("{name}.json")));
        let recorded: Recorded = serde_json::from_str(&recorded).unwrap();
        let rendered = rendered(name, &recorded.date, &conversations);
        assert_eq!(recorded.texts.len(), rendered.len());
        let pairs = rendered.iter().zip(recorded.texts.values()).enumerate();
        let unlike: Vec<_> = pairs.filter(|(_, (ours, theirs))| ours != theirs).collect();
        if let Some((number, (ours, theirs))) = unlike.first() {
            let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
            let part = |text: &str| {
                let bytes = &text.as_bytes()[at.saturating_sub(60).min(text.len())..];
                String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).into_owned()
            };
            different.push(format!(
                "{name}: {} of {}, first {number}\n ours:   {:?}\n theirs: {:?}",
                unlike.len(),
                rendered.len(),
                part(ours),
                part(theirs)
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn names_are_exact() {
    for (name, _) in RENDERERS {
        assert_eq!(Renderer::named(name).unwrap().name(), *name);
    }
    for unknown in ["", "deepseek3", "glm-4.6", "Qwen3.5", "qwen3.5 "] {
        assert!(Renderer::named(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn a_flood_of_systems_is_refused() {
    let tool = Tool {
        kind: "function".to_owned(),
        function: protocol::ToolFunction {
            name: "f".to_owned(),
            description: "x".repeat(100_000),
            parameters: Value::Null,
        },
    };
    let system = Message { role: Role::System, ..Message::default() };
    let (messages, tools) = (vec![system; 1000], [tool]);
    let conversation = Conversation { messages: &messages, tools: &tools, think: &Think::Unset };
    let error = Renderer::named("glimmer").unwrap().render(conversation).unwrap_err();
    assert!(matches!(error, crate::Error::TooLarge { .. }), "{error}");
}
