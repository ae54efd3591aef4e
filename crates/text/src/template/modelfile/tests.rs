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
    let templates = folder("text/templates/modelfile");
    check_folder(&templates, json(folder("text/templates/modelfile.json")), 500);
}

/// Those of [`crate::NamedTemplate`]; Ollama's own under these names write the same.
#[test]
fn named_templates_render_as_in_go() {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/template/named");
    check_folder(&templates, json(folder("text/templates/named.json")), 400);
}

/// `OLLMLX_TEMPLATES=FOLDER cargo test -p text --lib -- --ignored templates_from_anywhere_render_as_in_ollama`, after the
/// Go program.
#[test]
#[ignore = "needs templates and what Go makes of them: tests/reference/go"]
fn templates_from_anywhere_render_as_in_ollama() {
    let folder = PathBuf::from(std::env::var_os("OLLMLX_TEMPLATES").expect("OLLMLX_TEMPLATES"));
    check_folder(&folder, json(folder.join("modelfile.json")), 1);
}

fn check_folder(templates: &Path, goldens: Json, least: usize) {
    let conversations = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let conversations = json(conversations.join("conversations.json"));
    let goldens = goldens.as_array().unwrap();
    let mut wrong = Vec::new();
    for golden in goldens {
        let case = golden["template"].as_str().unwrap();
        let (file, conversation) = case.split_once(": ").unwrap();
        let source = std::fs::read_to_string(templates.join(file)).unwrap();
        let got = ModelfileTemplate::parse(&source).and_then(|template| {
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
    none_wrong(&wrong, goldens.len(), least);
}

fn render(template: &ModelfileTemplate, conversation: &Json) -> Result<String> {
    let messages: Vec<Message> = part(conversation, "messages");
    let tools: Vec<Tool> = part(conversation, "tools");
    let think: Think = part(conversation, "think");
    template.render(Conversation { messages: &messages, tools: &tools, think: &think })
}

/// A recorded exchange: its request's and its response's bodies.
fn recorded(name: &str) -> (Json, Json) {
    let golden = json(folder("goldens/ollama").join(format!("{name}.json")));
    let body = |text: &Json| serde_json::from_str(text.as_str().unwrap_or("null")).unwrap();
    (body(&golden["request"]["body"]), body(&golden["response"]["body"]))
}

fn said(role: &str, content: &str) -> Message {
    Message { role: Role::parse(role), content: content.to_owned(), ..Message::default() }
}

/// The model is told by the recorded request that made it and by the one that shows it.
#[track_caller]
fn check_recorded(name: &str, made: Option<&str>, shown: &str) {
    let source = recorded(shown).1["template"].as_str().unwrap().to_owned();
    let made = made.map(|made| recorded(made).0).unwrap_or_default();
    let (request, response) = recorded(name);
    let text = |of: &Json, key: &str| of[key].as_str().map(str::to_owned);
    let system = text(&request, "system").or(text(&made, "system"));
    let mut messages: Vec<Message> = system.iter().map(|text| said("system", text)).collect();
    for list in [&made["messages"], &request["messages"]] {
        for message in list.as_array().into_iter().flatten() {
            let mut ours = said(
                message["role"].as_str().unwrap(),
                message["content"].as_str().unwrap_or_default(),
            );
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                ours.tool_calls.push(serde_json::from_value(call["function"].clone()).unwrap());
            }
            messages.push(ours);
        }
    }
    messages.extend(text(&request, "prompt").map(|prompt| said("user", &prompt)));
    let tools: Vec<Tool> = part(&request, "tools");
    let conversation = Conversation { messages: &messages, tools: &tools, think: &Think::Unset };
    let got = ModelfileTemplate::parse(&source).unwrap().render(conversation).unwrap();
    assert_eq!(response["_debug_info"]["rendered_template"], got, "{name}");
}

#[test]
fn prompts_are_those_that_ollama_showed() {
    check_recorded("chat-tools-debug-render", None, "show-tools");
    check_recorded("chat-system-debug-render", Some("create-from"), "show");
    check_recorded("generate-modelfile-messages", Some("create-from"), "show");
    check_recorded("generate-debug-render", None, "show");
    check_recorded("chat-no-template-debug-render", None, "show-plain");
}

#[test]
fn templates_tell_tags() {
    let check = |source: &str, thinking: Option<(&str, &str)>, tool: &str| {
        let template = ModelfileTemplate::parse(source).unwrap();
        let got = template.thinking_tags();
        let got = got.as_ref().map(|(open, close)| (open.as_str(), close.as_str()));
        assert_eq!((got, template.tool_tag().as_str()), (thinking, tool), "{source}");
    };
    check("{{ .Prompt }}", None, "{");
    check(
        "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}\n</think> {{ end }}{{ end }}",
        Some(("<think>", "</think>")),
        "{",
    );
    check("{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}", None, "{");
    check("{{ range .Messages }}a{{ .Thinking }}{{ end }}", Some(("a", "")), "{");
    check(
        "{{ range .Messages }}{{ if .ToolCalls }} [CALLS] [{{ range .ToolCalls }}{{ end }}{{ end }}{{ end }}",
        None,
        "[CALLS] [",
    );
    check("{{ if .ToolCalls }}{{ range .ToolCalls }}<c>{\"n\"{{ end }}{{ end }}", None, "<c>");
    check("{{ if .ToolCalls }}{{ .Content }}<c>{{ end }}", None, "{");
    check("{{ if .ToolCalls }}\n {\"name\"{{ end }}", None, "{");
}

/// What templates of models stored long ago rely on.
#[test]
fn capabilities_are_in_the_names() {
    let template = ModelfileTemplate::parse("{{ if $.Tools }}{{ .Suffix }}{{ end }}").unwrap();
    assert!(template.uses("tools") && template.uses("suffix") && !template.uses("messages"));
}

#[test]
fn dates_are_days() {
    let template = ModelfileTemplate::parse("{{ currentDate }} {{ yesterdayDate \"x\" }}").unwrap();
    let rendered = render(&template, &serde_json::json!({})).unwrap();
    let days: Vec<jiff::civil::Date> =
        rendered.split(' ').map(|day| day.parse().unwrap()).collect();
    assert_eq!(days[1].tomorrow().unwrap(), days[0]);
}
