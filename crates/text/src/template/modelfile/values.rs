//! A conversation as the values that templates see.

use std::collections::BTreeMap;
use std::rc::Rc;

use protocol::{Image, Message, Role, Think, Tool, ToolCall};
use serde_json::Value as Json;

use super::shapes::{self, root};
use crate::template::go::value::{Bytes, IMAGE, Map, Shape, Slice, Struct, Type, Value};
use crate::template::tagged;

static IMAGES: Type = Type::Slice(&IMAGE);
static TEXTS: Type = Type::Slice(&crate::template::go::value::TEXT);
static ANYTHINGS: Type = Type::Slice(&crate::template::go::value::ANY);

/// The given fields and what all templates may ask about thinking.
pub(super) fn data<const N: usize>(fields: [(&'static str, Value); N], think: &Think) -> Value {
    let level = match think {
        Think::Unset | Think::Off => "",
        Think::On => "medium",
        Think::Level(level) => level,
    };
    let thinks = matches!(think, Think::On | Think::Level(_));
    let thinking = [
        ("Think", Value::Bool(thinks)),
        ("ThinkLevel", Value::text(level)),
        ("IsThinkSet", Value::Bool(*think != Think::Unset)),
    ];
    root(fields.into_iter().chain(thinking))
}

/// All system texts as one, and the messages with neighbours of one role as one, with their pictures' tags.
pub(super) fn collate(messages: &[Message]) -> (String, Vec<Message>) {
    let mut system = Vec::new();
    let mut collated: Vec<Message> = Vec::new();
    let mut images = 0;
    for message in messages {
        if message.role == Role::System {
            system.push(message.content.as_str());
        }
        let content = tagged(message, &mut images);
        match collated.last_mut() {
            Some(last) if last.role == message.role && message.role != Role::Tool => {
                last.content.push_str("\n\n");
                last.content.push_str(&content);
            }
            _ => collated.push(Message { content, ..message.clone() }),
        }
    }
    (system.join("\n\n"), collated)
}

fn made(shape: &'static Shape, fields: impl Into<Rc<[Value]>>) -> Value {
    Value::Struct(Struct { shape, fields: fields.into() })
}

/// A list of which none at all is nil.
fn list(ty: &'static Type, items: Vec<Value>) -> Value {
    if items.is_empty() { ty.zero() } else { Value::Slice(Slice::of(ty, items)) }
}

pub(super) fn messages(messages: &[Message]) -> Value {
    let target = shapes::MESSAGES.item().item();
    let pointer = |message| Value::Pointer(target, Some(Rc::new(message_value(message))));
    Value::Slice(Slice::of(&shapes::MESSAGES, messages.iter().map(pointer).collect()))
}

fn message_value(message: &Message) -> Value {
    let optional = |text: &Option<String>| Value::text(text.as_deref().unwrap_or_default());
    let image = |image: &Image| Value::Image(image.base64.as_str().into());
    let calls = message.tool_calls.iter().enumerate().map(call).collect();
    made(
        &shapes::MESSAGE,
        [
            Value::text(message.role.as_str()),
            Value::text(&message.content),
            optional(&message.thinking),
            list(&IMAGES, message.images.iter().map(image).collect()),
            list(&shapes::CALLS, calls),
            optional(&message.tool_name),
            optional(&message.tool_call_id),
        ],
    )
}

fn call((index, call): (usize, &ToolCall)) -> Value {
    let arguments = call.arguments.iter();
    let arguments: BTreeMap<Bytes, Value> =
        arguments.map(|(name, value)| (name.as_bytes().into(), Value::of_json(value))).collect();
    let function = [
        Value::Int(index as i64),
        Value::text(&call.name),
        Value::Map(Map::of(&shapes::ARGUMENTS, arguments)),
    ];
    let id = Value::text(call.id.as_deref().unwrap_or_default());
    made(&shapes::CALL, [id, made(&shapes::CALLED, function)])
}

pub(super) fn tools(tools: &[Tool]) -> Value {
    list(&shapes::TOOLS, tools.iter().map(tool).collect())
}

fn tool(tool: &Tool) -> Value {
    let schema = &tool.function.parameters;
    let properties = match schema.get("properties") {
        Some(Json::Object(properties)) => {
            let entries = properties
                .iter()
                .map(|(name, schema)| (Bytes::from(name.as_bytes()), property(schema)));
            Value::Map(Map::of(&shapes::PROPERTIES, entries.collect()))
        }
        _ => shapes::PROPERTIES.zero(),
    };
    let parameters = [
        text(schema, "type"),
        any(schema, "$defs"),
        any(schema, "items"),
        texts(&TEXTS, schema, "required"),
        properties,
    ];
    let function = [
        Value::text(&tool.function.name),
        Value::text(&tool.function.description),
        made(&shapes::PARAMETERS, parameters),
    ];
    let function = made(&shapes::FUNCTION, function);
    made(&shapes::TOOL, [Value::text(&tool.kind), Value::Interface(None), function])
}

fn property(schema: &Json) -> Value {
    let choices = schema.get("anyOf").and_then(Json::as_array);
    let choices = choices.into_iter().flatten().map(property).collect();
    let values = schema.get("enum").and_then(Json::as_array);
    let values = values.into_iter().flatten().map(Value::of_json).collect();
    made(
        &shapes::PROPERTY,
        [
            list(&shapes::PROPERTY_LIST, choices),
            texts(&shapes::PROPERTY_KIND, schema, "type"),
            any(schema, "items"),
            text(schema, "description"),
            list(&ANYTHINGS, values),
            nested(schema),
            texts(&TEXTS, schema, "required"),
        ],
    )
}

fn nested(schema: &Json) -> Value {
    let Some(Json::Object(properties)) = schema.get("properties") else {
        return Value::Pointer(&shapes::NESTED_TYPE, None);
    };
    let pairs: Rc<[(Value, Value)]> =
        properties.iter().map(|(name, schema)| (Value::text(name), property(schema))).collect();
    let nested = made(&shapes::NESTED, [Value::Pairs(pairs)]);
    Value::Pointer(&shapes::NESTED_TYPE, Some(Rc::new(nested)))
}

fn text(schema: &Json, key: &str) -> Value {
    Value::text(schema.get(key).and_then(Json::as_str).unwrap_or_default())
}

fn any(schema: &Json, key: &str) -> Value {
    schema.get(key).map_or(Value::Interface(None), Value::of_json)
}

/// A text or a list of texts as a list.
fn texts(ty: &'static Type, schema: &Json, key: &str) -> Value {
    let items = match schema.get(key) {
        Some(Json::String(one)) => vec![Value::text(one)],
        Some(Json::Array(several)) => {
            several.iter().filter_map(Json::as_str).map(Value::text).collect()
        }
        _ => Vec::new(),
    };
    list(ty, items)
}
