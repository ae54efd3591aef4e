//! A request's tools as Ollama knows them: of a JSON schema it keeps a few keywords, in its own order.
//!
//! `parameters` has `type`, `$defs`, `items`, `required` and `properties`; a property has what [`PROPERTY`] lists. The
//! order of properties is the client's, that of all other objects alphabetic. A keyword with a value of the wrong
//! kind is as if it were not there.

use protocol::Tool;
use serde_json::{Map, Value};

use super::values::sorted;

pub(super) struct Function<'a> {
    pub kind: &'a str,
    pub name: &'a str,
    pub description: &'a str,
    /// `type` and `properties` are always there; the latter may be null.
    pub parameters: Map<String, Value>,
}

type Keyword = (&'static str, fn(&Value) -> Option<Value>);

const PROPERTY: &[Keyword] = &[
    ("anyOf", any_of),
    ("type", types),
    ("items", anything),
    ("description", text),
    ("enum", list),
    ("properties", nested),
    ("required", texts),
];

impl<'a> Function<'a> {
    pub fn of(tool: &'a Tool) -> Function<'a> {
        let function = &tool.function;
        Function {
            kind: &tool.kind,
            name: &function.name,
            description: &function.description,
            parameters: parameters(&function.parameters),
        }
    }

    /// The function alone, as an object with the members that have a value.
    pub fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("name".to_owned(), self.name.into());
        if !self.description.is_empty() {
            object.insert("description".to_owned(), self.description.into());
        }
        object.insert("parameters".to_owned(), Value::Object(self.parameters.clone()));
        object
    }

    /// The whole tool.
    pub fn tool(&self) -> Value {
        let mut tool = Map::new();
        tool.insert("type".to_owned(), self.kind.into());
        tool.insert("function".to_owned(), Value::Object(self.object()));
        Value::Object(tool)
    }

    /// `None`: the schema has no `properties`.
    pub fn properties(&self) -> Option<&Map<String, Value>> {
        self.parameters["properties"].as_object()
    }

    pub fn parameters_type(&self) -> &str {
        self.parameters["type"].as_str().unwrap_or_default()
    }

    pub fn required(&self) -> impl Iterator<Item = &str> {
        strings(self.parameters.get("required"))
    }
}

/// The texts of a list; nothing else in it, and none if it is no list.
pub(super) fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A property's types: one or several.
pub(super) fn type_names(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(one)) => vec![one],
        several => strings(several).collect(),
    }
}

fn parameters(schema: &Value) -> Map<String, Value> {
    let kind = schema.get("type").and_then(text).unwrap_or_else(|| "".into());
    let mut kept = Map::from_iter([("type".to_owned(), kind)]);
    keep(schema, &[("$defs", anything), ("items", anything), ("required", texts)], &mut kept);
    kept.insert("properties".to_owned(), schema.get("properties").and_then(nested).into());
    kept
}

fn keep(schema: &Value, keywords: &[Keyword], kept: &mut Map<String, Value>) {
    for (name, read) in keywords {
        if let Some(value) = schema.get(name).and_then(read) {
            kept.insert((*name).to_owned(), value);
        }
    }
}

fn property(schema: &Value) -> Value {
    let mut kept = Map::new();
    keep(schema, PROPERTY, &mut kept);
    Value::Object(kept)
}

fn any_of(value: &Value) -> Option<Value> {
    filled(value.as_array()?.iter().map(property).collect())
}

fn nested(value: &Value) -> Option<Value> {
    let properties = value.as_object()?.iter();
    Some(properties.map(|(name, schema)| (name.clone(), property(schema))).collect())
}

fn types(value: &Value) -> Option<Value> {
    match type_names(Some(value)).as_slice() {
        [] => None,
        [one] => Some((*one).into()),
        several => Some(several.into()),
    }
}

fn anything(value: &Value) -> Option<Value> {
    Some(sorted(value)).filter(|value| !value.is_null())
}

fn text(value: &Value) -> Option<Value> {
    value.as_str().filter(|text| !text.is_empty()).map(Value::from)
}

fn list(value: &Value) -> Option<Value> {
    filled(value.as_array()?.iter().map(sorted).collect())
}

fn texts(value: &Value) -> Option<Value> {
    filled(strings(Some(value)).map(Value::from).collect())
}

fn filled(list: Vec<Value>) -> Option<Value> {
    Some(list).filter(|list| !list.is_empty()).map(Value::Array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(schema: Value, expected: &str) {
        assert_eq!(Value::Object(parameters(&schema)).to_string(), expected);
    }

    #[test]
    fn known_keywords_stay_in_order() {
        check(Value::Null, r#"{"type":"","properties":null}"#);
        check(json!([1]), r#"{"type":"","properties":null}"#);
        check(
            json!({"properties": {}, "additionalProperties": false, "required": [], "type": "object"}),
            r#"{"type":"object","properties":{}}"#,
        );
        check(
            json!({"type": "object", "properties": {
                "z": {"minimum": 1, "description": "", "type": ["string"], "enum": [{"b": 1, "a": 2}]},
                "a": {"required": ["k"], "properties": {"k": {"items": {"y": 1, "x": 2}, "type": ["a", "b"]}}},
                "m": {"anyOf": [{"type": "null"}, {}], "type": 5, "enum": []}},
                "required": ["a", 1], "items": null, "$defs": {"t": {"b": 0, "a": 0}}}),
            concat!(
                r#"{"type":"object","$defs":{"t":{"a":0,"b":0}},"required":["a"],"properties":{"#,
                r#""z":{"type":"string","enum":[{"a":2,"b":1}]},"#,
                r#""a":{"properties":{"k":{"type":["a","b"],"items":{"x":2,"y":1}}},"required":["k"]},"#,
                r#""m":{"anyOf":[{"type":"null"},{}]}}}"#
            ),
        );
    }
}
