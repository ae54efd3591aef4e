//! Chat templates with a name: TEMPLATEs for the shapes that many models share, with what stops their replies, and which of
//! them a Jinja template amounts to.
//!
//! A published text is known by its digest, as Ollama knows it by the text; any other by what it renders: a Jinja template has
//! a name if it writes the same conversations in the same bytes, tools and thoughts left out
//! ([0022](../../../docs/decisions/0022-named-templates.md)).

use std::collections::BTreeMap;

use protocol::{Message, Role, Think, Tool, ToolFunction};
use sha2::{Digest, Sha256};

use super::{ChatTemplate, Conversation, ModelfileTemplate};
use crate::Result;

/// A TEMPLATE that has a name.
#[derive(Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    pub name: &'static str,
    /// In Go's template language.
    pub template: &'static str,
    /// Texts that end a reply.
    pub stops: &'static [&'static str],
}

macro_rules! named {
    ($name:literal, $stops:expr) => {
        NamedTemplate {
            name: $name,
            template: include_str!(concat!("named/", $name, ".tmpl")),
            stops: $stops,
        }
    };
}

const TEMPLATES: &[NamedTemplate] = &[
    named!("alfred", &["<start_system>", "<end_message>", "<start_user>", "<start_assistant>"]),
    named!("alpaca", &["### Instruction:", "### Response"]),
    named!("chatml", &["<|im_start|>", "<|im_end|>"]),
    named!("chatqa", &["System:", "User:", "Assistant:", "<|begin_of_text|>"]),
    named!("codellama-70b-instruct", &["Source:", "Destination:", "<step>"]),
    named!("falcon-instruct", &["User:", "Assistant:"]),
    named!("gemma-instruct", &["<start_of_turn>", "<end_of_turn>"]),
    named!("gemma3-instruct", &["<end_of_turn>"]),
    named!("granite-instruct", &["System:", "Question:", "Answer:"]),
    named!("llama2-chat", &["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]),
    named!("llama3-instruct", &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    named!("magicoder", &["@@ Instruction", "@@ Response"]),
    named!("mistral-instruct", &["<|im_start|>", "<|im_end|>"]),
    named!("openchat", &["<|end_of_turn|>"]),
    named!("phi-3", &["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]),
    named!("solar-instruct", &["### System:", "### User:", "### Assistant"]),
    named!("starcoder2-instruct", &["### Instruction", "### Response", "<|endoftext|>"]),
    named!("vicuna", &["USER:", "ASSISTANT:"]),
    named!("zephyr", &["<|system|>", "</s>", "<|user|>", "<|assistant|>"]),
];

/// How the SHA-256 of a published Jinja template begins, and its name.
const PUBLISHED: &[(&str, &str)] = &[
    ("071cfb2d4c797ad4", "alfred"),
    ("993c0af704bad76a", "alpaca"),
    ("91aa728ae59c8e30", "chatml"),
    ("58c1a1f04baa7ada", "chatml"),
    ("3ce2fe9753f9a77a", "chatml"),
    ("a805e50fed68938a", "chatml"),
    ("153280e3ff55d19d", "chatml"),
    ("793202280c0910ab", "chatml"),
    ("af9c0233881b083b", "chatml"),
    ("e6f6e5c192657d16", "chatml"),
    ("f42d04ffb2e487fa", "chatml"),
    ("f02c534193010c4b", "chatml"),
    ("faf1f8b675beeabd", "chatml"),
    ("8aeba567270fa9a8", "chatqa"),
    ("cd3636885332999f", "chatqa"),
    ("75678d4630858651", "codellama-70b-instruct"),
    ("2c575663fbb6c03a", "falcon-instruct"),
    ("f6084d6ec1cb3238", "falcon-instruct"),
    ("ecd6ae513fe103f0", "gemma-instruct"),
    ("7de1c58e208eda46", "gemma3-instruct"),
    ("e84ee90c8a81a15d", "granite-instruct"),
    ("ea2472f29dbd93c3", "llama2-chat"),
    ("e8d5b5a546d3f19d", "llama2-chat"),
    ("ba03a121d097859c", "llama3-instruct"),
    ("e10ca381b1ccc5cf", "llama3-instruct"),
    ("230527c8a608cf3a", "magicoder"),
    ("26a59556925c9873", "mistral-instruct"),
    ("7e995b379ec01747", "mistral-instruct"),
    ("901b10d47195fadb", "openchat"),
    ("605841622bcb6572", "phi-3"),
    ("268b6082ceb7176d", "phi-3"),
    ("b0e53f5e7bae6fdb", "phi-3"),
    ("b8e5e922a7a4ab5d", "solar-instruct"),
    ("6de66c5b4eb23df8", "starcoder2-instruct"),
    ("66291cf0045c2425", "zephyr"),
    ("bf61473d7119388a", "zephyr"),
];

/// Bytes of a digest that [`PUBLISHED`] holds.
const DIGEST_BYTES: usize = 8;

impl NamedTemplate {
    /// What a model's Jinja template amounts to, if it is one that has a name. `tokens` are the texts of `eos_token` and
    /// the like; a begin token does not count, because TEMPLATEs leave it to the tokenizer.
    pub fn of_jinja(
        source: &str,
        tokens: &BTreeMap<String, String>,
    ) -> Option<&'static NamedTemplate> {
        published(source).or_else(|| {
            let mut tokens = tokens.clone();
            tokens.insert("bos_token".to_owned(), String::new());
            alike(&ChatTemplate::from_source(source, tokens).ok()?)
        })
    }

    /// The one whose TEMPLATE is this text.
    pub(crate) fn of_template(template: &str) -> Option<&'static NamedTemplate> {
        TEMPLATES.iter().find(|named| named.template == template)
    }
}

fn published(source: &str) -> Option<&'static NamedTemplate> {
    let ended = format!("{}\n", source.trim_end());
    let name = [source, source.trim_end(), source.trim(), &ended].iter().find_map(|text| {
        let digest = Sha256::digest(text);
        let begin: String =
            digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
        PUBLISHED.iter().find(|(known, _)| *known == begin).map(|(_, name)| *name)
    })?;
    TEMPLATES.iter().find(|named| named.name == name)
}

/// The one that renders every probe as the Jinja template does. A probe with a system message may be refused.
fn alike(jinja: &ChatTemplate) -> Option<&'static NamedTemplate> {
    let probes = probes();
    let texts: Vec<Result<String>> =
        probes.iter().map(|probe| jinja.render(probe.view())).collect();
    let usable = |probe: &Probe, text: &Result<String>| text.is_ok() || probe.has_system();
    if !probes.iter().zip(&texts).all(|(probe, text)| usable(probe, text)) {
        return None;
    }
    TEMPLATES.iter().find(|named| {
        let Ok(template) = ModelfileTemplate::parse(named.template) else { return false };
        let same = |(probe, text): (&Probe, &Result<String>)| match text {
            Ok(text) => template.render(probe.view()).as_ref() == Ok(text),
            Err(_) => true,
        };
        probes.iter().zip(&texts).all(same)
    })
}

/// A conversation that tells shapes apart.
struct Probe {
    messages: Vec<Message>,
    tools: Vec<Tool>,
}

impl Probe {
    fn view(&self) -> Conversation<'_> {
        Conversation { messages: &self.messages, tools: &self.tools, think: &Think::Unset }
    }

    fn has_system(&self) -> bool {
        self.messages.iter().any(|message| message.role == Role::System)
    }
}

/// The last one has what named templates do not show: a Jinja template that shows it is more than they are.
fn probes() -> Vec<Probe> {
    let said = |role: Role, content: &str| Message {
        role,
        content: content.to_owned(),
        ..Message::default()
    };
    let question = || said(Role::User, "How far is it?");
    let turns =
        || vec![question(), said(Role::Assistant, "Two miles."), said(Role::User, "And back?")];
    let system = || said(Role::System, "Be brief.");
    let plain = |messages| Probe { messages, tools: Vec::new() };
    let mut thought = turns();
    thought[1].thinking = Some("It is far.".to_owned());
    let function = ToolFunction {
        name: "distance".to_owned(),
        description: String::new(),
        parameters: serde_json::Value::Null,
    };
    let tool = Tool { kind: "function".to_owned(), function };
    vec![
        plain(vec![question()]),
        plain(turns()),
        plain(vec![system(), question()]),
        plain([vec![system()], turns()].concat()),
        Probe { messages: thought, tools: vec![tool] },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    const ZEPHYR: &str = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}<|assistant|>\n\n";
    /// Refuses what it does not know.
    const GEMMA: &str = "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n\n";

    #[track_caller]
    fn check(source: &str, expected: Option<&str>) {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens = tokens.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let found = NamedTemplate::of_jinja(source, &BTreeMap::from(tokens));
        assert_eq!(found.map(|named| named.name), expected);
    }

    #[test]
    fn a_template_is_known_by_what_it_renders() {
        check(CHATML, Some("chatml"));
        check(ZEPHYR, Some("zephyr"));
        check(GEMMA, Some("gemma-instruct"));
        check(&format!("{{# something else #}}{CHATML}"), Some("chatml"));
    }

    #[test]
    fn what_renders_otherwise_has_no_name() {
        check(&CHATML.replace("im_start", "im_begin"), None);
        check(&ZEPHYR.replace("eos_token", "bos_token"), None);
        check(&format!("You are helpful.{CHATML}"), None);
        check(&format!("{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{CHATML}"), None);
        check(&CHATML.replace("m.content", "(m.thinking or '') + m.content"), None);
        check("{{ raise_exception('no') }}", None);
        check("{% if %}", None);
        check("", None);
    }

    #[test]
    fn names_are_there_once_and_all_digests_have_one() {
        for (number, named) in TEMPLATES.iter().enumerate() {
            assert!(
                TEMPLATES[..number].iter().all(|other| other.name < named.name),
                "{}",
                named.name
            );
            assert!(!named.stops.is_empty() && ModelfileTemplate::parse(named.template).is_ok());
            assert_eq!(NamedTemplate::of_template(named.template), Some(named));
        }
        for (digest, name) in PUBLISHED {
            assert_eq!(digest.len(), 2 * DIGEST_BYTES);
            assert!(TEMPLATES.iter().any(|named| named.name == *name), "{name}");
        }
    }

    /// `OLLMLX_TEMPLATES=index.json cargo test -p text --lib -- --ignored published_texts`, with Ollama's list of texts.
    #[test]
    #[ignore = "needs the published texts: template/index.json of Ollama's repository"]
    fn published_texts_are_known_by_name() {
        let index =
            std::fs::read(std::env::var_os("OLLMLX_TEMPLATES").expect("OLLMLX_TEMPLATES")).unwrap();
        let index: Vec<BTreeMap<String, String>> = serde_json::from_slice(&index).unwrap();
        let mut by_rendering = 0;
        for entry in &index {
            let name = Some(entry["name"].as_str()).filter(|name| *name != "command-r");
            let tokens = ["</s>", "<|im_end|>", "<|endoftext|>", "<|end_of_turn|>", "<|eot_id|>"];
            check(&entry["template"], name);
            check(&format!("{}\n", entry["template"]), name);
            by_rendering += usize::from(tokens.iter().any(|eos| {
                let tokens = ["bos_token", "eos_token"]
                    .map(str::to_owned)
                    .into_iter()
                    .zip([String::new(), (*eos).to_owned()]);
                let jinja = ChatTemplate::from_source(&entry["template"], tokens.collect());
                let found = jinja.ok().and_then(|jinja| alike(&jinja));
                assert!(
                    found.is_none_or(|found| Some(found.name) == name),
                    "{name:?} renders as {found:?}"
                );
                found.is_some()
            }));
        }
        println!("{by_rendering} of {} are known by what they render, too", index.len());
    }
}
