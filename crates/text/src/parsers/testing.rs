//! What the tests of all families share.

use protocol::{Tool, ToolCall, ToolFunction};
use serde_json::{Value, json};

/// Tools with every kind of parameter.
pub(super) fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool {
        kind: "function".to_owned(),
        function: ToolFunction { name: name.to_owned(), description: String::new(), parameters },
    };
    vec![
        tool(
            "get_weather",
            json!({"type": "object", "required": ["city"], "properties": {
                "city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"},
            }}),
        ),
        tool(
            "store",
            json!({"type": "object", "properties": {
                "key": {"type": ["string", "null"]}, "value": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                "tags": {"type": "array"}, "extra": {"type": "object"}, "share": {"type": "number"},
            }}),
        ),
        tool("now", json!({"type": "object", "properties": null})),
    ]
}

/// Calls as a line: name and arguments of each.
pub(super) fn told(calls: &[ToolCall]) -> String {
    let one = |call: &ToolCall| {
        let arguments: serde_json::Map<String, Value> =
            call.arguments.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        format!("{}{}", call.name, Value::Object(arguments))
    };
    calls.iter().map(one).collect::<Vec<_>>().join(" ")
}
