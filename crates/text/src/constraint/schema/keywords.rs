//! Rules for single keywords, and the list of those that are refused or say nothing.

use serde_json::{Map, Value, json};

use super::read::short;
use crate::{Error, Result};

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Say nothing about values.
const ANNOTATIONS: [&str; 24] = [
    "$schema",
    "$comment",
    "$anchor",
    "$vocabulary",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "nullable",
    "discriminator",
    "externalDocs",
    "xml",
    "propertyOrdering",
    "markdownDescription",
    "enumDescriptions",
];

/// Values beyond it are not exact in most readers.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// What is left when all keywords with rules are gone: an annotation, or a reason to refuse the schema.
pub(super) fn refuse(
    name: &str,
    value: &Value,
    siblings: &Map<String, Value>,
    is_root: bool,
) -> Result<()> {
    let is_nothing = match name {
        _ if ANNOTATIONS.contains(&name) => true,
        // Extensions of whoever wrote the schema.
        _ if name.starts_with("x-") => true,
        // An identifier within the schema changes what references mean.
        "$id" | "id" => {
            is_root || !(siblings.contains_key("$ref") || siblings.values().any(refers))
        }
        "uniqueItems" => *value == json!(false),
        // Without `if` and `contains` these say nothing.
        "then" | "else" => !siblings.contains_key("if"),
        "minContains" | "maxContains" => !siblings.contains_key("contains"),
        "propertyNames" | "unevaluatedProperties" | "unevaluatedItems" => is_any(value),
        "not" => *value == json!(false),
        "dependencies" | "dependentRequired" | "dependentSchemas" => {
            value.as_object().is_some_and(Map::is_empty)
        }
        _ => false,
    };
    match is_nothing {
        true => Ok(()),
        false => Err(Error::format(format!("the keyword `{name}` is not supported"))),
    }
}

fn refers(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.contains_key("$ref") || fields.values().any(refers),
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

fn is_any(value: &Value) -> bool {
    *value == json!(true) || *value == json!({})
}

pub(super) fn types(value: &Value) -> Result<Value> {
    let names: Vec<&Value> = match value {
        Value::Array(names) if !names.is_empty() => names.iter().collect(),
        one => vec![one],
    };
    match names.iter().find(|name| !name.as_str().is_some_and(|name| TYPES.contains(&name))) {
        Some(other) => Err(Error::format(format!("`type` of `{}` is unknown", short(other)))),
        None => Ok(value.clone()),
    }
}

pub(super) fn constant(name: &str, value: &Value) -> Result<Value> {
    if name == "enum" {
        array(name, value)?;
    }
    match inexact(value) {
        Some(number) => Err(Error::format(format!(
            "`{name}` with the number {number}, which is not exact in most readers"
        ))),
        None => Ok(value.clone()),
    }
}

fn inexact(value: &Value) -> Option<&Value> {
    match value {
        Value::Number(number) => {
            number.as_f64().is_none_or(|number| number.abs() > EXACT_MAX).then_some(value)
        }
        Value::Array(items) => items.iter().find_map(inexact),
        Value::Object(fields) => fields.values().find_map(inexact),
        _ => None,
    }
}

pub(super) fn count(name: &str, value: &Value) -> Result<Value> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0);
    match number {
        Some(number) if (0.0..EXACT_MAX).contains(&number) => Ok(json!(number as u64)),
        _ => Err(Error::format(format!("`{name}` is a count, not `{}`", short(value)))),
    }
}

pub(super) fn names(name: &str, value: &Value) -> Result<Value> {
    match array_or_empty(name, value)?.iter().all(Value::is_string) {
        true => Ok(value.clone()),
        false => Err(Error::format(format!("`{name}` is a list of names"))),
    }
}

pub(super) fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str> {
    value
        .as_str()
        .ok_or_else(|| Error::format(format!("`{name}` is a text, not `{}`", short(value))))
}

pub(super) fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| Error::format(format!("`{name}` is an object, not `{}`", short(value))))
}

fn array_or_empty<'a>(name: &str, value: &'a Value) -> Result<&'a Vec<Value>> {
    value
        .as_array()
        .ok_or_else(|| Error::format(format!("`{name}` is a list, not `{}`", short(value))))
}

pub(super) fn array<'a>(name: &str, value: &'a Value) -> Result<&'a Vec<Value>> {
    match array_or_empty(name, value)? {
        list if list.is_empty() && name != "prefixItems" && name != "items" => {
            Err(Error::format(format!("`{name}` is empty: nothing fits it")))
        }
        list => Ok(list),
    }
}

pub(super) fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Whether a schema has this keyword, and beside it only annotations.
pub(super) fn says_only(schema: &Value, keyword: &str) -> bool {
    schema.as_object().is_some_and(|fields| {
        fields.keys().all(|key| key == keyword || ANNOTATIONS.contains(&key.as_str()))
    })
}

/// The values of options that are nothing but constants, each there once.
pub(super) fn distinct_constants(options: &[Value]) -> Option<Vec<Value>> {
    let mut values: Vec<Value> = Vec::new();
    for option in options {
        let fields = option.as_object()?;
        let own = match (fields.get("const"), fields.get("enum")) {
            (Some(one), None) => vec![one.clone()],
            (None, Some(Value::Array(many))) => many.clone(),
            _ => return None,
        };
        let is_typed = |value: &Value| fields.get("type").is_none_or(|kind| is_of(value, kind));
        let only = fields.keys().all(|key| ["const", "enum", "type"].contains(&key.as_str()));
        if !only || !own.iter().all(is_typed) || own.iter().any(|value| has(&values, value)) {
            return None;
        }
        values.extend(own);
    }
    Some(values)
}

/// 1 and 1.0 are one value.
fn has(values: &[Value], value: &Value) -> bool {
    values
        .iter()
        .any(|known| known == value || (known.is_number() && known.as_f64() == value.as_f64()))
}

fn is_of(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

/// The schema with this `$anchor`.
pub(super) fn anchored<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            let is_it = fields.get("$anchor").and_then(Value::as_str) == Some(name);
            let within = || fields.values().find_map(|field| anchored(field, name));
            if is_it { Some(value) } else { within() }
        }
        Value::Array(items) => items.iter().find_map(|item| anchored(item, name)),
        _ => None,
    }
}

pub(super) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
