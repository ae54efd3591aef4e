//! A tool as Gemma 4 reads it. Of a schema only some keywords are written, which ones depends on the type; a property
//! with the name of a keyword is lost.

use serde_json::{Map, Value};

use super::QUOTE;
use crate::renderers::schema::{Function, strings, type_names};
use crate::renderers::values::{names, printed, upper, whole_or_printed};

/// No property can have such a name.
const KEYWORDS: &[&str] = &["description", "type", "properties", "required", "nullable"];

pub(super) fn declare(tool: &Function<'_>) -> String {
    let mut parts = vec![format!("description:{}", quote(tool.description))];
    if tool.properties().is_some() || !tool.parameters_type().is_empty() {
        parts.push(format!("parameters:{{{}}}", parameters(tool)));
    }
    format!("<|tool>declaration:{}{{{}}}<tool|>", tool.name, parts.join(","))
}

fn parameters(tool: &Function<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(declared) = tool.properties().filter(|declared| !declared.is_empty()) {
        parts.push(format!("properties:{{{}}}", properties(&typed_all(declared))));
    }
    parts.extend(required(tool.parameters.get("required")));
    let kind = tool.parameters_type();
    if !kind.is_empty() {
        parts.push(format!("type:{}", quote(&upper(kind))));
    }
    parts.join(",")
}

/// Types of declared properties are one text, also if they are several.
fn typed_all(properties: &Map<String, Value>) -> Map<String, Value> {
    let object = |(name, value): (&String, &Value)| Some((name.clone(), typed(value.as_object()?)));
    properties.iter().filter_map(object).collect()
}

fn typed(property: &Map<String, Value>) -> Value {
    let mut typed = property.clone();
    typed.remove("anyOf");
    let own = type_names(property.get("type"));
    let types = if own.is_empty() { union(property) } else { own };
    match types.as_slice() {
        [] => {}
        [one] => {
            typed.insert("type".to_owned(), (*one).into());
        }
        several => {
            let several: Vec<String> =
                several.iter().map(|name| format!("'{}'", upper(name))).collect();
            typed.insert("type".to_owned(), format!("[{}]", several.join(", ")).into());
        }
    }
    if let Some(nested) = property.get("properties").and_then(Value::as_object) {
        typed.insert("properties".to_owned(), Value::Object(typed_all(nested)));
    }
    Value::Object(typed)
}

/// The types of an `anyOf` whose branches are nothing but types.
fn union(property: &Map<String, Value>) -> Vec<&str> {
    let mut types = Vec::new();
    for branch in property.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        let own = type_names(branch.get("type"));
        if own.is_empty() || branch.as_object().is_none_or(|branch| branch.len() > 1) {
            return Vec::new();
        }
        for name in own {
            if !types.contains(&name) {
                types.push(name);
            }
        }
    }
    types
}

fn properties(declared: &Map<String, Value>) -> String {
    let declared = names(declared).into_iter().filter(|(name, _)| !KEYWORDS.contains(name));
    let parts: Vec<String> = declared
        .filter_map(|(name, value)| Some(format!("{name}:{{{}}}", property(value.as_object()?))))
        .collect();
    parts.join(",")
}

fn property(schema: &Map<String, Value>) -> String {
    let mut parts = Vec::new();
    if let Some(Value::String(text)) = schema.get("description")
        && !text.is_empty()
    {
        parts.push(format!("description:{}", quote(text)));
    }
    let types: Vec<String> = type_names(schema.get("type")).into_iter().map(upper).collect();
    let first = types.first().map(String::as_str).unwrap_or_default();
    match (first, schema.get("enum"), schema.get("items")) {
        ("STRING", Some(Value::Array(values)), _) if !values.is_empty() => {
            parts.push(format!("enum:{}", list(values.iter().map(|value| quote(&printed(value))))));
        }
        ("ARRAY", _, Some(Value::Object(spec))) if !spec.is_empty() => {
            parts.push(format!("items:{{{}}}", items(spec)));
        }
        _ => {}
    }
    if schema.get("nullable") == Some(&Value::Bool(true)) {
        parts.push("nullable:true".to_owned());
    }
    if first == "OBJECT" {
        let nested = schema.get("properties").and_then(Value::as_object).unwrap_or(schema);
        parts.push(format!("properties:{{{}}}", properties(nested)));
        parts.extend(required(schema.get("required")));
    }
    parts.extend(types_written(&types));
    parts.join(",")
}

fn items(spec: &Map<String, Value>) -> String {
    let spec = names(spec).into_iter().filter(|(_, value)| !value.is_null());
    let parts: Vec<String> = spec.map(|(name, value)| item_keyword(name, value)).collect();
    parts.join(",")
}

fn item_keyword(name: &str, value: &Value) -> String {
    match name {
        "properties" => {
            let nested = value.as_object().map(properties).unwrap_or_default();
            format!("properties:{{{nested}}}")
        }
        "required" => format!("required:{}", list(strings(Some(value)).map(quote))),
        "type" => {
            let types: Vec<String> = type_names(Some(value)).into_iter().map(upper).collect();
            types_written(&types).unwrap_or_default()
        }
        other => format!("{other}:{}", anything(value)),
    }
}

fn types_written(types: &[String]) -> Option<String> {
    match types {
        [] => None,
        [one] => Some(format!("type:{}", quote(one))),
        several => Some(format!("type:{}", list(several.iter().map(|name| quote(name))))),
    }
}

fn required(names: Option<&Value>) -> Option<String> {
    let mut names = strings(names).peekable();
    names.peek()?;
    Some(format!("required:{}", list(names.map(quote))))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    format!("[{}]", items.join(","))
}

fn quote(text: &str) -> String {
    format!("{QUOTE}{text}{QUOTE}")
}

/// A keyword's value of whatever kind.
fn anything(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Number(number) => whole_or_printed(number.as_f64().unwrap_or_default()),
        Value::String(text) => quote(text),
        Value::Array(values) => list(values.iter().map(anything)),
        Value::Object(fields) => {
            let fields = names(fields).into_iter();
            let fields: Vec<String> = fields
                .map(|(name, value)| format!("{}:{}", quote(name), anything(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Bool(_) => printed(value),
    }
}
