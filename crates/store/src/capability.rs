//! What a model can do, in the words of the API.

use std::fmt;

use serde_json::Value;

use crate::{Model, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    Completion,
    Tools,
    Insert,
    Vision,
    Embedding,
    Thinking,
    Image,
    Audio,
}

/// What the parsers that a PARSER may name find in replies besides content.
const PARSERS: &[(&str, &[Capability])] = &[
    ("passthrough", &[]),
    ("qwen3", TOOLS),
    ("qwen3-thinking", BOTH),
    ("qwen3-coder", TOOLS),
    ("qwen3.5", BOTH),
    ("ornith", BOTH),
    ("qwen3-vl-instruct", TOOLS),
    ("qwen3-vl-thinking", BOTH),
    ("ministral", TOOLS),
    ("cogito", BOTH),
    ("deepseek3", BOTH),
    ("olmo3", TOOLS),
    ("olmo3-think", &[Capability::Thinking]),
    ("nemotron-3-nano", BOTH),
    ("nemotron-3.5-nano", BOTH),
    ("functiongemma", TOOLS),
    ("glm-4.7", BOTH),
    ("glm-ocr", TOOLS),
    ("gemma4", BOTH),
    ("gemma4-no-thinking", TOOLS),
    ("lfm2", TOOLS),
    ("lfm2-thinking", BOTH),
    ("laguna", BOTH),
    ("poolside-v1", BOTH),
    ("cohere", BOTH),
    ("glimmer", BOTH),
    ("harmony", BOTH),
];

const TOOLS: &[Capability] = &[Capability::Tools];
const BOTH: &[Capability] = &[Capability::Tools, Capability::Thinking];

/// A chat template with one of these separates thoughts from the answer.
const THINKING_MARKS: &[&str] = &[
    "</think>",
    "</seed:think>",
    "[/THINK]",
    "</thinking>",
    "</thought>",
    "<|END_THINKING|>",
    "<channel|>",
    "<|channel|>analysis",
    "enable_thinking",
];

impl Model {
    /// The config's list, or what the model's files show if there is none; and what a TEMPLATE and a PARSER add to either.
    pub fn capabilities(&self) -> Vec<Capability> {
        let told: Vec<_> =
            self.config.capabilities.iter().filter_map(|text| Capability::parse(text)).collect();
        let mut capabilities = if told.is_empty() { self.derived_capabilities() } else { told };
        let of_template = self.template.as_deref().map(of_go_template).unwrap_or_default();
        let of_parser = Capability::of_parser(&self.config.parser).unwrap_or_default();
        for capability in of_template.into_iter().chain(of_parser.iter().copied()) {
            if !capabilities.contains(&capability) {
                capabilities.push(capability);
            }
        }
        capabilities
    }

    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities().contains(&capability)
    }

    fn derived_capabilities(&self) -> Vec<Capability> {
        if !self.config.is_safetensors() {
            return vec![Capability::Completion];
        }
        let config = self.json("config.json").ok().flatten().unwrap_or_default();
        let template = self.chat_template().unwrap_or_else(|error| {
            tracing::warn!(name = %self.name, %error, "the chat template cannot be read");
            None
        });
        let files: Vec<&str> = self.files.keys().map(String::as_str).collect();
        Capability::of_checkpoint(&config, template.as_deref(), &files)
    }

    /// The checkpoint's own (jinja) template: a file of its own, else an entry of `tokenizer_config.json`.
    pub fn chat_template(&self) -> Result<Option<String>> {
        let text = self.file("chat_template.jinja")?;
        if let Some(text) = text {
            return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
        }
        Ok(self.json("tokenizer_config.json")?.as_ref().and_then(chat_template_of))
    }
}

/// The `chat_template` of a `tokenizer_config.json`: one text, or several with names (then all of them, one below the
/// other, which is enough to see what they can do).
pub fn chat_template_of(tokenizer_config: &Value) -> Option<String> {
    match tokenizer_config.get("chat_template")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => {
            let texts = named.iter().filter_map(|one| one.get("template")?.as_str());
            Some(texts.collect::<Vec<_>>().join("\n"))
        }
        _ => None,
    }
}

impl Capability {
    pub const ALL: [Capability; 8] = [
        Capability::Completion,
        Capability::Tools,
        Capability::Insert,
        Capability::Vision,
        Capability::Embedding,
        Capability::Thinking,
        Capability::Image,
        Capability::Audio,
    ];

    /// What a PARSER adds; `None`: nobody knows it.
    pub fn of_parser(name: &str) -> Option<&'static [Capability]> {
        PARSERS.iter().find(|(known, _)| *known == name).map(|(_, capabilities)| *capabilities)
    }

    /// What a checkpoint's `config.json`, chat template and file names show.
    pub fn of_checkpoint(
        config: &Value,
        template: Option<&str>,
        files: &[&str],
    ) -> Vec<Capability> {
        if is_embedder(config, files) {
            return vec![Capability::Embedding];
        }
        let says = |key: &str| config.get(key).is_some_and(|value| value.is_object());
        let mut capabilities = vec![Capability::Completion];
        if says("vision_config") || config.get("has_vision") == Some(&Value::Bool(true)) {
            capabilities.push(Capability::Vision);
        }
        if says("audio_config") || says("sound_config") || is_class(config, &["Whisper"], "") {
            capabilities.push(Capability::Audio);
        }
        let template = template.unwrap_or_default();
        if template.contains("tools") || template.contains("tool_call") {
            capabilities.push(Capability::Tools);
        }
        if THINKING_MARKS.iter().any(|mark| template.contains(mark)) {
            capabilities.push(Capability::Thinking);
        }
        capabilities
    }

    pub fn parse(text: &str) -> Option<Capability> {
        Capability::ALL.into_iter().find(|capability| capability.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Completion => "completion",
            Capability::Tools => "tools",
            Capability::Insert => "insert",
            Capability::Vision => "vision",
            Capability::Embedding => "embedding",
            Capability::Thinking => "thinking",
            Capability::Image => "image",
            Capability::Audio => "audio",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A pooling layer beside the checkpoint, or a class that has no head for words.
fn is_embedder(config: &Value, files: &[&str]) -> bool {
    let has = |name: &&str| ["modules.json", "1_Pooling/config.json"].contains(name);
    let encoders = ["Bert", "Roberta", "XLMRoberta", "ModernBert", "NomicBert", "MPNet", "Distil"];
    files.iter().any(has)
        || is_class(config, &encoders, "")
        || is_class(config, &[""], "Model")
        || is_class(config, &[""], "ForSequenceClassification")
}

fn is_class(config: &Value, starts: &[&str], end: &str) -> bool {
    let classes = config.get("architectures").and_then(Value::as_array);
    classes
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|class| class.ends_with(end) && starts.iter().any(|start| class.starts_with(start)))
}

/// What the fields show that a Go template uses.
fn of_go_template(template: &str) -> Vec<Capability> {
    let actions = actions(template);
    let uses = |field: &str| actions.iter().any(|action| fields(action.code).any(|f| f == field));
    let mut capabilities = Vec::new();
    if uses("Tools") {
        capabilities.push(Capability::Tools);
    }
    if uses("Suffix") {
        capabilities.push(Capability::Insert);
    }
    // Thoughts printed between two marks.
    let prints =
        |action: &Action<'_>| fields(action.code).eq(["Thinking"]) && !action.code.contains(' ');
    let marked =
        |action: &&Action<'_>| !action.before.trim().is_empty() && !action.after.trim().is_empty();
    if actions.iter().filter(|action| prints(action)).any(|action| marked(&action)) {
        capabilities.push(Capability::Thinking);
    }
    capabilities
}

/// One `{{ … }}` and the plain text on both sides of it.
struct Action<'a> {
    before: &'a str,
    code: &'a str,
    after: &'a str,
}

fn actions(template: &str) -> Vec<Action<'_>> {
    let mut actions: Vec<Action<'_>> = Vec::new();
    let mut pieces = template.split("{{");
    let mut before = pieces.next().unwrap_or_default();
    for piece in pieces {
        let Some((code, after)) = piece.split_once("}}") else {
            break;
        };
        let code = code.trim_start_matches('-').trim_end_matches('-').trim();
        actions.push(Action { before, code, after });
        before = after;
    }
    actions
}

/// The first field of every path: `Tools` of `.Tools`, `$.Tools` and `range .Tools.Items`.
fn fields(code: &str) -> impl Iterator<Item = &str> {
    let words = code.split(|c: char| c.is_whitespace() || "()|,".contains(c));
    words.filter_map(|word| {
        let path = word
            .strip_prefix('$')
            .map_or(word, |named| named.trim_start_matches(char::is_alphanumeric));
        path.strip_prefix('.')?.split('.').next().filter(|field| !field.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(found: Vec<Capability>, expected: &str) {
        let found: Vec<_> = found.iter().map(|capability| capability.as_str()).collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn of_checkpoints() {
        let of = |config: Value, template: &str, files: &[&str]| {
            Capability::of_checkpoint(&config, Some(template), files)
        };
        let llama = || json!({"architectures": ["LlamaForCausalLM"]});
        check(of(llama(), "", &[]), "completion");
        check(of(llama(), "{% if tools %}", &[]), "completion tools");
        check(of(llama(), "{% if enable_thinking %}", &[]), "completion thinking");
        check(of(json!({"vision_config": {}, "audio_config": null}), "", &[]), "completion vision");
        check(of(json!({"architectures": ["BertForMaskedLM"]}), "", &[]), "embedding");
        check(
            of(json!({"architectures": ["Qwen3ForCausalLM"]}), "", &["modules.json"]),
            "embedding",
        );
        check(of(json!({"architectures": ["Gemma3TextModel"]}), "", &[]), "embedding");
        check(
            of(json!({"architectures": ["WhisperForConditionalGeneration"]}), "", &[]),
            "completion audio",
        );
        check(of(Value::Null, "", &[]), "completion");
    }

    #[test]
    fn of_go_templates() {
        check(of_go_template("{{ .Prompt }}"), "");
        check(
            of_go_template("{{- if .Tools }}x{{ range $i, $_ := .Messages }}{{ end }}{{ end }}"),
            "tools",
        );
        check(of_go_template("{{ if (and $.Tools (eq .Role \"user\")) }}{{ end }}"), "tools");
        check(of_go_template("no .Tools {{ .Content }} here"), "");
        check(of_go_template("{{ .Prompt }}<fim>{{ .Suffix }}"), "insert");
        check(
            of_go_template("{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"),
            "thinking",
        );
        check(of_go_template("{{ if $.Thinking }}<t>{{ $m.Thinking -}}</t>{{ end }}"), "thinking");
        check(of_go_template("{{ if .Think }}<think>{{ end }}{{ .Thinking }}"), "");
        check(of_go_template("{{ .Tools "), "");
    }

    #[test]
    fn words_are_read_as_written() {
        for capability in Capability::ALL {
            assert_eq!(Capability::parse(capability.as_str()), Some(capability));
        }
        assert_eq!(Capability::parse("flying"), None);
        let config = json!({"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]});
        assert_eq!(chat_template_of(&config).as_deref(), Some("a\nb"));
    }
}
