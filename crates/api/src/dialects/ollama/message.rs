//! Messages and tools as clients send them.

use indexmap::IndexMap;
use protocol::{Image, Message, Role, Tool, ToolCall, ToolFunction};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::fields::ImageField;
use crate::json::{List, Listed};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.Alias~")]
pub(crate) struct MessageField {
    pub role: String,
    pub content: String,
    pub thinking: String,
    pub images: List<ImageField>,
    pub tool_calls: List<ToolCallField>,
    pub tool_name: String,
    pub tool_call_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.ToolCall")]
pub(crate) struct ToolCallField {
    pub id: String,
    pub function: CalledFunction,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.ToolCallFunction")]
pub(crate) struct CalledFunction {
    pub index: i64,
    pub name: String,
    pub arguments: IndexMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename = "api.Tools")]
pub(crate) struct Tools(pub Vec<ToolField>);

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.Tool")]
pub(crate) struct ToolField {
    #[serde(rename = "type")]
    pub kind: String,
    pub function: DescribedFunction,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.ToolFunction")]
pub(crate) struct DescribedFunction {
    pub name: String,
    pub description: String,
    pub parameters: Parameters,
}

/// What a function takes. Keywords of JSON Schema that are not here are dropped, and the order is this one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "api.ToolFunctionParameters")]
pub(crate) struct Parameters {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "$defs", skip_serializing_if = "Value::is_null")]
    defs: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    items: Value,
    #[serde(skip_serializing_if = "List::is_empty")]
    required: List<String>,
    properties: Option<IndexMap<String, Property>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "api.ToolProperty")]
struct Property {
    #[serde(rename = "anyOf", skip_serializing_if = "Vec::is_empty")]
    any_of: Vec<Property>,
    #[serde(rename = "type", skip_serializing_if = "Types::is_empty")]
    kind: Types,
    #[serde(skip_serializing_if = "Value::is_null")]
    items: Value,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(rename = "enum", skip_serializing_if = "Vec::is_empty")]
    values: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<IndexMap<String, Property>>,
    #[serde(skip_serializing_if = "List::is_empty")]
    required: List<String>,
}

/// One type or several.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(untagged)]
enum Types {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

impl Types {
    fn is_empty(&self) -> bool {
        *self == Types::None
    }
}

impl<'de> Deserialize<'de> for Types {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Types, D::Error> {
        let mut types: Vec<String> = match Value::deserialize(from)? {
            Value::String(one) => vec![one],
            list => serde_json::from_value(list).map_err(|_| {
                serde::de::Error::custom(
                    "a property's \"type\" must be a string or an array of strings",
                )
            })?,
        };
        Ok(match types.len() {
            0 => Types::None,
            1 => Types::One(types.remove(0)),
            _ => Types::Several(types),
        })
    }
}

impl Listed for MessageField {
    const LIST: &'static str = "[]api.Message";
}

impl Listed for ToolCallField {
    const LIST: &'static str = "[]api.ToolCall";
}

impl Listed for ToolField {
    const LIST: &'static str = "[]api.Tool";
}

impl MessageField {
    pub(crate) fn into_message(self) -> Message {
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        Message {
            role: Role::parse(&self.role),
            content: self.content,
            thinking: filled(self.thinking),
            images: self.images.0.into_iter().map(|image| Image { base64: image.0 }).collect(),
            tool_calls: self.tool_calls.0.into_iter().map(ToolCallField::into_call).collect(),
            tool_name: filled(self.tool_name),
            tool_call_id: filled(self.tool_call_id),
        }
    }
}

impl ToolCallField {
    fn into_call(self) -> ToolCall {
        ToolCall {
            id: Some(self.id).filter(|id| !id.is_empty()),
            name: self.function.name,
            arguments: self.function.arguments,
        }
    }
}

pub(crate) fn tools(fields: Vec<ToolField>) -> Vec<Tool> {
    fields.into_iter().map(ToolField::into_tool).collect()
}

impl ToolField {
    fn into_tool(self) -> Tool {
        let DescribedFunction { name, description, parameters } = self.function;
        let parameters = serde_json::to_value(parameters).unwrap_or_default();
        Tool { kind: self.kind, function: ToolFunction { name, description, parameters } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::decode;
    use crate::json::to_text;

    fn check(parameters: &str, expected: &str) {
        let tool =
            format!(r#"{{"type":"function","function":{{"name":"f","parameters":{parameters}}}}}"#);
        let tool = decode::<ToolField>(tool.as_bytes()).unwrap().into_tool();
        assert_eq!(to_text(&tool.function.parameters), expected);
    }

    #[test]
    fn schemas_keep_what_is_known_in_order() {
        check(
            r#"{"properties":{"b":{"description":"x","type":"string","pattern":"y"},"a":{"type":["string","null"]}},"required":["b"],"type":"object","additionalProperties":false}"#,
            r#"{"type":"object","required":["b"],"properties":{"b":{"type":"string","description":"x"},"a":{"type":["string","null"]}}}"#,
        );
        check(
            r#"{"type":"object","properties":{"a":{"anyOf":[{"type":["integer"]}],"enum":[1,"x"],"properties":{}}},"$defs":{"d":{"k":1}}}"#,
            r#"{"type":"object","$defs":{"d":{"k":1}},"properties":{"a":{"anyOf":[{"type":"integer"}],"enum":[1,"x"],"properties":{}}}}"#,
        );
        check("null", r#"{"type":"","properties":null}"#);
    }
}
