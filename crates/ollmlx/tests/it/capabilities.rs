//! What a model is said to be able to do is what its replies are read for. Two rooms that may not know each other tell
//! the one and the other.

use protocol::{Message, Think, Tool, ToolFunction};
use store::Capability;
use text::parsers::{Asked, FAMILIES, Parsers};

#[test]
fn parsers_find_what_is_told_of_them() {
    for family in FAMILIES {
        let told = Capability::of_parser(family.name)
            .unwrap_or_else(|| panic!("`{}` is not told of", family.name));
        assert_eq!(told.contains(&Capability::Tools), family.can_call_tools, "{}", family.name);
        assert_eq!(told.contains(&Capability::Thinking), family.can_think, "{}", family.name);
    }
    assert_eq!(Capability::of_parser("nobody"), None);
}

/// Tags that chat templates write thoughts between.
const THOUGHTS: &[(&str, &str)] = &[
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
];

#[test]
fn templates_find_what_is_told_of_them() {
    let (think, call) =
        ("{{ '<think>' }}x{{ '</think>' }}", "{% if tools %}<tool_call>{% endif %}");
    for (template, thinks, calls) in
        [(think, true, false), (call, false, true), ("{% if x %}{% endif %}", false, false)]
    {
        let told = Capability::of_checkpoint(&serde_json::Value::Null, Some(template), &[]);
        assert_eq!(told.contains(&Capability::Thinking), thinks, "{template}");
        assert_eq!(told.contains(&Capability::Tools), calls, "{template}");
        let reply = "<think>a</think>b<tool_call>{\"name\": \"f\"}</tool_call>";
        let (thinking, found) = read(template, reply);
        assert_eq!((thinking == "a", found == 1), (thinks, calls), "{template}");
    }
    for (open, close) in THOUGHTS {
        let template = format!("{{% if x %}}{open}{close}{{% endif %}}");
        let told = Capability::of_checkpoint(&serde_json::Value::Null, Some(&template), &[]);
        assert!(told.contains(&Capability::Thinking), "{template}");
        assert_eq!(read(&template, &format!("{open}a{close}b")).0, "a", "{template}");
    }
}

/// Thinking, and the number of calls.
fn read(template: &str, reply: &str) -> (String, usize) {
    let function = ToolFunction {
        name: "f".into(),
        description: String::new(),
        parameters: serde_json::Value::Null,
    };
    let mut parser = Parsers::of_templates([template]).parser(&Asked {
        messages: &[Message::default()],
        tools: &[Tool { kind: "function".into(), function }],
        think: &Think::On,
        prompt: "x",
        template: None,
    });
    let mut parsed = parser.push(reply);
    parsed.append(parser.finish());
    (parsed.thinking, parsed.calls.len())
}
