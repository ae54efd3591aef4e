//! The types of what templates get to see, under the names that Ollama has for them: a template may print a value, or
//! its type, as a whole.

use std::collections::BTreeMap;

use crate::template::go::encode;
use crate::template::go::value::{
    ANY, ANY_MAP, Bytes, Field, IMAGE, Map, Methods, Named, Shape, TEXT, Type, Value,
};

static INT: Type = Type::Int;
static TEXTS: Type = Type::Slice(&TEXT);
static ANYTHINGS: Type = Type::Slice(&ANY);
static IMAGES: Type = Type::Slice(&IMAGE);

/// All of them write themselves as JSON.
const AS_JSON: Methods = &[("String", as_json)];

const fn field(name: &'static str, ty: &'static Type) -> Field {
    Field { name, ty, json: name, omit_empty: false, public: true }
}

const fn tagged(name: &'static str, ty: &'static Type, json: &'static str) -> Field {
    Field { name, ty, json, omit_empty: false, public: true }
}

const fn optional(name: &'static str, ty: &'static Type, json: &'static str) -> Field {
    Field { name, ty, json, omit_empty: true, public: true }
}

pub(super) static MESSAGE: Shape = Shape {
    name: "template.templateMessage",
    fields: &[
        field("Role", &TEXT),
        field("Content", &TEXT),
        field("Thinking", &TEXT),
        field("Images", &IMAGES),
        field("ToolCalls", &CALLS),
        field("ToolName", &TEXT),
        field("ToolCallID", &TEXT),
    ],
    methods: &[],
};
static MESSAGE_TYPE: Type = Type::Struct(&MESSAGE);
static MESSAGE_POINTER: Type = Type::Pointer(&MESSAGE_TYPE);
pub(super) static MESSAGES: Type = Type::Slice(&MESSAGE_POINTER);

pub(super) static CALL: Shape = Shape {
    name: "template.templateToolCall",
    fields: &[field("ID", &TEXT), field("Function", &CALLED_TYPE)],
    methods: &[],
};
static CALL_TYPE: Type = Type::Struct(&CALL);
pub(super) static CALLS: Type = Type::Slice(&CALL_TYPE);

pub(super) static CALLED: Shape = Shape {
    name: "template.templateToolCallFunction",
    fields: &[field("Index", &INT), field("Name", &TEXT), field("Arguments", &ARGUMENTS)],
    methods: &[],
};
static CALLED_TYPE: Type = Type::Struct(&CALLED);

pub(super) static ARGUMENTS: Type = Type::Named(&Named {
    name: "template.templateArgs",
    is: Type::Map(&ANY),
    methods: &[("String", as_json_map)],
    one_or_list: false,
});

pub(super) static TOOL: Shape = Shape {
    name: "template.templateTool",
    fields: &[
        tagged("Type", &TEXT, "type"),
        optional("Items", &ANY, "items"),
        tagged("Function", &FUNCTION_TYPE, "function"),
    ],
    methods: AS_JSON,
};
static TOOL_TYPE: Type = Type::Struct(&TOOL);
pub(super) static TOOLS: Type = Type::Named(&Named {
    name: "template.templateTools",
    is: Type::Slice(&TOOL_TYPE),
    methods: AS_JSON,
    one_or_list: false,
});

pub(super) static FUNCTION: Shape = Shape {
    name: "template.templateToolFunction",
    fields: &[
        tagged("Name", &TEXT, "name"),
        tagged("Description", &TEXT, "description"),
        tagged("Parameters", &PARAMETERS_TYPE, "parameters"),
    ],
    methods: &[],
};
static FUNCTION_TYPE: Type = Type::Struct(&FUNCTION);

pub(super) static PARAMETERS: Shape = Shape {
    name: "template.templateToolFunctionParameters",
    fields: &[
        tagged("Type", &TEXT, "type"),
        optional("Defs", &ANY, "$defs"),
        optional("Items", &ANY, "items"),
        optional("Required", &TEXTS, "required"),
        tagged("Properties", &PROPERTIES, "properties"),
    ],
    methods: &[],
};
static PARAMETERS_TYPE: Type = Type::Struct(&PARAMETERS);

pub(super) static PROPERTIES: Type = Type::Named(&Named {
    name: "template.templateProperties",
    is: Type::Map(&PROPERTY_TYPE),
    methods: &[("String", as_json_map)],
    one_or_list: false,
});

pub(super) static PROPERTY: Shape = Shape {
    name: "api.ToolProperty",
    fields: &[
        optional("AnyOf", &PROPERTY_LIST, "anyOf"),
        optional("Type", &PROPERTY_KIND, "type"),
        optional("Items", &ANY, "items"),
        optional("Description", &TEXT, "description"),
        optional("Enum", &ANYTHINGS, "enum"),
        optional("Properties", &NESTED_POINTER, "properties"),
        optional("Required", &TEXTS, "required"),
    ],
    methods: &[("ToTypeScriptType", |property| Value::text(type_script(property)))],
};
static PROPERTY_TYPE: Type = Type::Struct(&PROPERTY);
pub(super) static PROPERTY_LIST: Type = Type::Slice(&PROPERTY_TYPE);

/// One type or several.
pub(super) static PROPERTY_KIND: Type = Type::Named(&Named {
    name: "api.PropertyType",
    is: Type::Slice(&TEXT),
    methods: &[("String", kinds)],
    one_or_list: true,
});

/// Properties of properties keep their order, and are no map.
pub(super) static NESTED: Shape = Shape {
    name: "api.ToolPropertiesMap",
    fields: &[Field { name: "om", ty: &Type::Pairs, json: "", omit_empty: false, public: false }],
    methods: &[("Len", nested_length), ("All", nested_all), ("ToMap", nested_map)],
};
pub(super) static NESTED_TYPE: Type = Type::Struct(&NESTED);
static NESTED_POINTER: Type = Type::Pointer(&NESTED_TYPE);
static PLAIN_PROPERTIES: Type = Type::Map(&PROPERTY_TYPE);

fn as_json(value: &Value) -> Value {
    Value::text(encode::json(value).unwrap_or_default())
}

fn as_json_map(value: &Value) -> Value {
    match value {
        Value::Map(Map { entries: None, .. }) => Value::text("{}"),
        other => as_json(other),
    }
}

fn texts(value: &Value) -> Vec<String> {
    let Value::Slice(slice) = value else { return Vec::new() };
    let text = |item: &Value| match item {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    slice.items().iter().map(text).collect()
}

fn kinds(value: &Value) -> Value {
    let texts = texts(value);
    Value::text(match &texts[..] {
        [] => String::new(),
        [one] => one.clone(),
        several => format!("[{}]", several.join(" ")),
    })
}

fn pairs(value: &Value) -> &[(Value, Value)] {
    match value.field("om") {
        Some((_, Value::Pairs(pairs))) => pairs,
        _ => &[],
    }
}

fn nested_length(value: &Value) -> Value {
    Value::Int(pairs(value).len() as i64)
}

fn nested_all(value: &Value) -> Value {
    Value::Pairs(pairs(value).into())
}

fn nested_map(value: &Value) -> Value {
    let entries = pairs(value).iter().filter_map(|(key, value)| match key {
        Value::Text(key) => Some((key.clone(), value.clone())),
        _ => None,
    });
    let entries: BTreeMap<Bytes, Value> = entries.collect();
    Value::Map(Map::of(&PLAIN_PROPERTIES, entries))
}

/// A property's type as TypeScript writes it.
pub(super) fn type_script(value: &Value) -> String {
    let property = match value {
        Value::Interface(Some(inside)) | Value::Pointer(_, Some(inside)) => inside,
        other => other,
    };
    let Some((_, Value::Slice(choices))) = property.field("AnyOf") else {
        return "any".to_owned();
    };
    if !choices.items().is_empty() {
        let choices: Vec<String> = choices.items().iter().map(type_script).collect();
        return choices.join(" | ");
    }
    let kinds = property.field("Type").map(|(_, kinds)| texts(kinds)).unwrap_or_default();
    let names: Vec<&str> = kinds.iter().map(|kind| type_script_name(kind)).collect();
    if names.is_empty() { "any".to_owned() } else { names.join(" | ") }
}

fn type_script_name(kind: &str) -> &'static str {
    match kind {
        "string" => "string",
        "number" | "integer" => "number",
        "boolean" => "boolean",
        "array" => "any[]",
        "object" => "Record<string, any>",
        "null" => "null",
        _ => "any",
    }
}

/// The map that a template runs on.
pub(super) fn root(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let entry = |(name, value): (&'static str, Value)| (Bytes::from(name.as_bytes()), value.any());
    Value::Map(Map::of(&ANY_MAP, fields.into_iter().map(entry).collect()))
}
