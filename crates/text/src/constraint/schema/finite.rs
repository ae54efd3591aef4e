//! Which definitions have a value that ends. One that only refers to itself again would be entered and never left; what
//! refers to it becomes `false`, and the grammar compiler sees what that makes impossible.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::read::Fields;

type Known = HashMap<String, bool>;

/// The same schema without what never ends.
pub(super) fn prune(root: Value, definitions: Fields) -> (Value, Fields) {
    let mut known: Known = definitions.keys().map(|name| (reference(name), false)).collect();
    loop {
        let before = known.values().filter(|ends| **ends).count();
        for (name, schema) in &definitions {
            let ends = ends(schema, &known);
            known.insert(reference(name), ends);
        }
        if known.values().filter(|ends| **ends).count() == before {
            break;
        }
    }
    if !ends(&root, &known) {
        return (json!(false), Fields::new());
    }
    let kept = definitions.into_iter().filter(|(name, _)| known[&reference(name)]);
    let kept = kept.map(|(name, schema)| (name, without_endless(schema, &known))).collect();
    (without_endless(root, &known), kept)
}

fn reference(name: &str) -> String {
    format!("#/$defs/{name}")
}

/// Whether some value that fits has an end. Says yes too often where several conditions meet.
fn ends(schema: &Value, known: &Known) -> bool {
    let Some(fields) = schema.as_object() else { return *schema != json!(false) };
    let every = |name: &str| list(fields, name).iter().all(|part| ends(part, known));
    let some = |name: &str| {
        !fields.contains_key(name) || list(fields, name).iter().any(|part| ends(part, known))
    };
    let target = fields.get("$ref").and_then(Value::as_str);
    let target_ends = target.is_none_or(|target| known.get(target).copied().unwrap_or(false));
    target_ends && every("allOf") && some("anyOf") && some("oneOf") && own_ends(fields, known)
}

fn own_ends(fields: &Fields, known: &Known) -> bool {
    let kinds: Vec<&str> = match fields.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    kinds.iter().any(|kind| match *kind {
        "array" => array_ends(fields, known),
        "object" => object_ends(fields, known),
        _ => true,
    })
}

fn array_ends(fields: &Fields, known: &Known) -> bool {
    let least = fields.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
    let first = list(fields, "prefixItems");
    let rest_ends = fields.get("items").is_none_or(|items| ends(items, known));
    first.iter().take(least).all(|item| ends(item, known)) && (least <= first.len() || rest_ends)
}

fn object_ends(fields: &Fields, known: &Known) -> bool {
    let property = |name: &str| fields.get("properties")?.get(name);
    let named = list(fields, "required").iter().filter_map(Value::as_str);
    let mut needed = named.filter_map(property);
    needed.all(|schema| ends(schema, known))
}

fn list<'a>(fields: &'a Fields, name: &str) -> &'a [Value] {
    fields.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn without_endless(schema: Value, known: &Known) -> Value {
    let cut = |value| without_endless(value, known);
    match schema {
        Value::Object(fields) => {
            let target = fields.get("$ref").and_then(Value::as_str);
            match target.is_some_and(|target| known.get(target) == Some(&false)) {
                true => json!(false),
                false => fields.into_iter().map(|(name, value)| (name, cut(value))).collect(),
            }
        }
        Value::Array(items) => items.into_iter().map(cut).collect(),
        other => other,
    }
}
