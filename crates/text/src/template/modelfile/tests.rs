//! Against what Go's own engine writes (`tests/reference/go`), and against what Ollama answered.

use std::path::{Path, PathBuf};

use protocol::Tool;
use serde_json::Value as Json;

use super::*;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn json(path: PathBuf) -> Json {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn part<T: serde::de::DeserializeOwned + Default>(of: &Json, name: &str) -> T {
    let part = of.get(name).cloned();
    part.map(|part| serde_json::from_value(part).unwrap()).unwrap_or_default()
}

/// What a golden expects: a text, or an error in Go's words.
fn expected(golden: &Json) -> std::result::Result<&str, &str> {
    match golden["error"].as_str() {
        Some(error) => Err(error),
        None => Ok(golden["text"].as_str().unwrap_or_default()),
    }
}

#[track_caller]
fn none_wrong(wrong: &[String], count: usize, least: usize) {
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= least, "only {count} goldens");
}

/// All that templates can see at once, and data of its own.
fn engine_data(input: &Json) -> Value {
    let conversation = &input["conversation"];
    let given: Vec<Message> = part(conversation, "messages");
    let tools: Vec<Tool> = part(conversation, "tools");
    let (system, collated) = values::collate(&given);
    let fields = [
        ("System", Value::text(system)),
        ("Messages", values::messages(&collated)),
        ("Tools", values::tools(&tools)),
        ("Data", Value::of_json(&input["data"])),
    ];
    values::data(fields, &part(conversation, "think"))
}

#[test]
fn templates_run_as_in_go() {
    let data = engine_data(&json(folder("text/templates/engine-cases.json")));
    let goldens = json(folder("text/templates/engine.json"));
    let goldens = goldens.as_array().unwrap();
    let mut wrong = Vec::new();
    for golden in goldens {
        let source = golden["template"].as_str().unwrap();
        let got = Program::parse(source, functions::FUNCTIONS).and_then(|program| {
            program.run(data.clone()).map(text_of).map_err(|failure| match failure {
                Failure::Template(why) => why,
                other => format!("{other:?}"),
            })
        });
        let expected = expected(golden);
        if got.as_deref().map_err(String::as_str) != expected {
            wrong.push(format!("{source:?}\n   got {got:?}\n   not {expected:?}"));
        }
    }
    none_wrong(&wrong, goldens.len(), 1500);
}

#[test]
fn conversations_render_as_in_ollama() {
    let conversations = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let conversations = json(conversations.join("conversations.json"));
    let goldens = json(folder("text/templates/modelfile.json"));
    let goldens = goldens.as_array().unwrap();
    let mut wrong = Vec::new();
    for golden in goldens {
        let case = golden["template"].as_str().unwrap();
        let (file, conversation) = case.split_once(": ").unwrap();
        let source = folder("text/templates/modelfile").join(file);
        let template = ModelfileTemplate::parse(&std::fs::read_to_string(source).unwrap());
        let got = template.and_then(|template| {
            let rendered = match conversation {
                "infill" => template.infill("def f(x):\n", "\n<end>", &Think::Unset),
                _ => render(&template, &conversations[conversation]),
            };
            rendered.map_err(|error| error.to_string())
        });
        let expected = expected(golden);
        if got.as_deref().map_err(String::as_str) != expected {
            wrong.push(format!("{case}\n   got {got:?}\n   not {expected:?}"));
        }
    }
    none_wrong(&wrong, goldens.len(), 500);
}

fn render(template: &ModelfileTemplate, conversation: &Json) -> Result<String> {
    let messages: Vec<Message> = part(conversation, "messages");
    let tools: Vec<Tool> = part(conversation, "tools");
    let think: Think = part(conversation, "think");
    template.render(Conversation { messages: &messages, tools: &tools, think: &think })
}
