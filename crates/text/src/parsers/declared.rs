//! The tools a request declares, and values read by their schemas.

use protocol::{Tool, ToolCall};
use serde_json::Value;

#[derive(Clone, Debug, Default)]
pub(super) struct Declared(Vec<Tool>);

impl Declared {
    pub fn new(tools: &[Tool]) -> Declared {
        Declared(tools.iter().filter(|tool| !tool.function.name.is_empty()).cloned().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|tool| tool.function.name.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Names and schemas of a tool's parameters, in the client's order.
    pub fn properties(&self, name: &str) -> impl Iterator<Item = (&str, &Value)> {
        let tool = self.0.iter().find(|tool| tool.function.name == name);
        let properties = tool.and_then(|tool| tool.function.parameters["properties"].as_object());
        properties.into_iter().flatten().map(|(name, schema)| (name.as_str(), schema))
    }

    /// The types a parameter may have; none if it is not declared.
    pub fn types(&self, name: &str, parameter: &str) -> Vec<&str> {
        let mut properties = self.properties(name);
        let schema = properties.find(|(known, _)| *known == parameter).map(|(_, schema)| schema);
        schema.map(types).unwrap_or_default()
    }

    /// A parameter's value as text becomes what its schema wants.
    pub fn typed(&self, name: &str, parameter: &str, text: &str) -> Value {
        typed(text, &self.types(name, parameter))
    }

    /// Whether a call is one of a declared tool, with everything that tool requires.
    pub fn accepts(&self, call: &ToolCall) -> bool {
        let tool = self.0.iter().find(|tool| tool.function.name == call.name);
        tool.is_some_and(|tool| {
            let required = tool.function.parameters["required"].as_array();
            required
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .all(|name| call.arguments.contains_key(name))
        })
    }
}

/// Those of all alternatives, where there are some.
pub(super) fn types(schema: &Value) -> Vec<&str> {
    match schema["anyOf"].as_array().filter(|any| !any.is_empty()) {
        Some(any) => any.iter().flat_map(own_types).collect(),
        None => own_types(schema),
    }
}

fn own_types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The narrowest of `types` that `text` can be: null, boolean, integer, number, array, object, at last a string.
pub(super) fn typed(text: &str, types: &[&str]) -> Value {
    if text.eq_ignore_ascii_case("null") {
        return Value::Null;
    }
    let has = |name: &str| types.contains(&name);
    let read = || {
        has("boolean")
            .then(|| boolean(text, types.len() == 1))
            .flatten()
            .or_else(|| has("integer").then(|| integer(text)).flatten())
            .or_else(|| has("number").then(|| number(text)).flatten())
            .or_else(|| has("array").then(|| json(text).filter(Value::is_array)).flatten())
            .or_else(|| has("object").then(|| json(text).filter(Value::is_object)).flatten())
    };
    read().unwrap_or_else(|| Value::from(text))
}

/// Where nothing else is allowed, everything that is not true is false.
fn boolean(text: &str, only: bool) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ => only.then_some(Value::Bool(false)),
    }
}

fn integer(text: &str) -> Option<Value> {
    text.parse::<i64>().ok().map(Value::from)
}

/// Whole numbers become integers.
pub(super) fn number(text: &str) -> Option<Value> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite())?;
    // Up to 2^53 every whole number has a float of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        true => Some(Value::from(number as i64)),
        false => Some(Value::from(number)),
    }
}

pub(super) fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(types: &[&str], cases: &[(&str, Value)]) {
        for (text, expected) in cases {
            assert_eq!(typed(text, types), *expected, "{text:?} as {types:?}");
        }
    }

    #[test]
    fn values_have_their_declared_type() {
        check(&[], &[("5", json!("5")), ("NULL", Value::Null), (" null", json!(" null"))]);
        check(&["string"], &[("5", json!("5")), ("true", json!("true")), ("", json!(""))]);
        check(&["integer"], &[("-5", json!(-5)), ("5.0", json!("5.0")), ("x", json!("x"))]);
        check(
            &["number"],
            &[
                ("5", json!(5)),
                ("5.0", json!(5)),
                ("2.5", json!(2.5)),
                ("1e2", json!(100)),
                ("inf", json!("inf")),
            ],
        );
        check(&["boolean"], &[("TRUE", json!(true)), ("no", json!(false))]);
        check(&["boolean", "string"], &[("no", json!("no")), ("False", json!(false))]);
        check(&["string", "number"], &[("12", json!(12)), ("a", json!("a"))]);
        check(&["array"], &[("[1, {\"b\": 2}]", json!([1, {"b": 2}])), ("[1", json!("[1"))]);
        check(
            &["object"],
            &[("{\"z\": 1, \"a\": 2}", json!({"z": 1, "a": 2})), ("[]", json!("[]"))],
        );
    }

    #[test]
    fn alternatives_are_one_list() {
        assert_eq!(
            types(&json!({"anyOf": [{"type": "integer"}, {"type": ["null", "string"]}]})),
            ["integer", "null", "string"]
        );
        assert_eq!(types(&json!({"type": "array", "anyOf": []})), ["array"]);
        assert_eq!(types(&json!({"description": "x"})), [""; 0]);
    }
}
