//! What a Go template computes with: Go's values and their types, as far as templates can see them.
//!
//! What lies in a list or map of `interface {}` is wrapped as [`Value::Interface`]; the wrapping shows in messages and
//! in what `nil` means. Strings are bytes: a template may cut them anywhere.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::rc::Rc;

use base64::Engine as _;

pub(in crate::template) type Bytes = Rc<[u8]>;

#[derive(Clone, Debug)]
pub(in crate::template) enum Value {
    /// No value at all: what a missing key gives.
    Invalid,
    Bool(bool),
    Int(i64),
    Byte(u8),
    Float(f64),
    Complex(f64, f64),
    Text(Bytes),
    Interface(Option<Rc<Value>>),
    Slice(Slice),
    Map(Map),
    Pointer(&'static Type, Option<Rc<Value>>),
    Struct(Struct),
    /// A picture's file in base64: a list of bytes, which is made only for a template that looks at them.
    Image(Rc<str>),
    /// An iterator over keys and values.
    Pairs(Rc<[(Value, Value)]>),
}

#[derive(Clone, Debug)]
pub(in crate::template) struct Slice {
    pub ty: &'static Type,
    /// `None` is nil.
    pub all: Option<Rc<[Value]>>,
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Debug)]
pub(in crate::template) struct Map {
    pub ty: &'static Type,
    /// `None` is nil.
    pub entries: Option<Rc<BTreeMap<Bytes, Value>>>,
}

#[derive(Clone, Debug)]
pub(in crate::template) struct Struct {
    pub shape: &'static Shape,
    pub fields: Rc<[Value]>,
}

#[derive(Debug)]
pub(in crate::template) enum Type {
    Bool,
    Int,
    Byte,
    Float,
    Complex,
    Text,
    Any,
    Slice(&'static Type),
    /// Keys are strings.
    Map(&'static Type),
    Pointer(&'static Type),
    Struct(&'static Shape),
    /// A type with a name and perhaps methods, and what it is.
    Named(&'static Named),
    Pairs,
}

pub(in crate::template) struct Named {
    pub name: &'static str,
    pub is: Type,
    pub methods: Methods,
    /// In JSON a list of one item is that item.
    pub one_or_list: bool,
}

pub(in crate::template) struct Shape {
    pub name: &'static str,
    pub fields: &'static [Field],
    pub methods: Methods,
}

#[derive(Debug)]
pub(in crate::template) struct Field {
    pub name: &'static str,
    pub ty: &'static Type,
    pub json: &'static str,
    pub omit_empty: bool,
    /// Others cannot be seen, only be printed.
    pub public: bool,
}

/// Methods without arguments, by name. One called `String` is what printing uses.
pub(in crate::template) type Methods = &'static [(&'static str, fn(&Value) -> Value)];

pub(in crate::template) static ANY: Type = Type::Any;
pub(in crate::template) static TEXT: Type = Type::Text;
pub(in crate::template) static BYTE: Type = Type::Byte;
pub(in crate::template) static ANY_SLICE: Type = Type::Slice(&ANY);
pub(in crate::template) static IMAGE: Type = Type::Named(&Named {
    name: "api.ImageData",
    is: Type::Slice(&BYTE),
    methods: &[],
    one_or_list: false,
});
pub(in crate::template) static ANY_MAP: Type = Type::Map(&ANY);

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Byte => f.write_str("uint8"),
            Type::Float => f.write_str("float64"),
            Type::Complex => f.write_str("complex128"),
            Type::Text => f.write_str("string"),
            Type::Any => f.write_str("interface {}"),
            Type::Slice(item) => write!(f, "[]{item}"),
            Type::Map(item) => write!(f, "map[string]{item}"),
            Type::Pointer(target) => write!(f, "*{target}"),
            Type::Struct(shape) => f.write_str(shape.name),
            Type::Named(named) => f.write_str(named.name),
            Type::Pairs => {
                f.write_str("iter.Seq2[string,github.com/ollama/ollama/api.ToolProperty]")
            }
        }
    }
}

impl Type {
    /// What a named type is.
    pub(in crate::template) fn plain(&self) -> &Type {
        if let Type::Named(named) = self { &named.is } else { self }
    }

    pub(super) fn is_one_or_list(&self) -> bool {
        matches!(self, Type::Named(named) if named.one_or_list)
    }

    /// The type of a list's or map's items.
    pub(in crate::template) fn item(&self) -> &'static Type {
        match self.plain() {
            Type::Slice(item) | Type::Map(item) | Type::Pointer(item) => item,
            _ => &ANY,
        }
    }

    pub(in crate::template) fn methods(&self) -> Methods {
        match self {
            Type::Named(named) => named.methods,
            Type::Struct(shape) => shape.methods,
            _ => &[],
        }
    }

    /// `None` for lists, maps and what holds them.
    fn is_comparable(&self) -> bool {
        match self.plain() {
            Type::Slice(_) | Type::Map(_) | Type::Pairs => false,
            Type::Struct(shape) => shape.fields.iter().all(|field| field.ty.is_comparable()),
            _ => true,
        }
    }

    pub(in crate::template) fn zero(&'static self) -> Value {
        match self.plain() {
            Type::Bool => Value::Bool(false),
            Type::Int => Value::Int(0),
            Type::Byte => Value::Byte(0),
            Type::Float => Value::Float(0.0),
            Type::Complex => Value::Complex(0.0, 0.0),
            Type::Text => Value::text(""),
            Type::Any | Type::Pairs => Value::Interface(None),
            Type::Slice(_) => Value::Slice(Slice { ty: self, all: None, start: 0, end: 0 }),
            Type::Map(_) => Value::Map(Map { ty: self, entries: None }),
            Type::Pointer(target) => Value::Pointer(target, None),
            Type::Struct(shape) => {
                let fields = shape.fields.iter().map(|field| field.ty.zero()).collect();
                Value::Struct(Struct { shape, fields })
            }
            Type::Named(_) => Value::Invalid,
        }
    }
}

impl Slice {
    pub(in crate::template) fn of(ty: &'static Type, items: Vec<Value>) -> Slice {
        Slice { ty, start: 0, end: items.len(), all: Some(items.into()) }
    }

    pub(in crate::template) fn items(&self) -> &[Value] {
        self.all.as_deref().map_or(&[], |all| &all[self.start..self.end])
    }

    /// How far it can be cut: to the end of what it was cut from.
    pub(super) fn room(&self) -> usize {
        self.all.as_deref().map_or(0, |all| all.len() - self.start)
    }

    pub(super) fn cut(&self, from: usize, to: usize) -> Slice {
        Slice { start: self.start + from, end: self.start + to, ..self.clone() }
    }

    /// A list of bytes as a string.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        let byte = |item: &Value| if let Value::Byte(byte) = item { Some(*byte) } else { None };
        matches!(self.ty.item(), Type::Byte).then(|| self.items().iter().filter_map(byte).collect())
    }
}

impl Map {
    pub(in crate::template) fn of(ty: &'static Type, entries: BTreeMap<Bytes, Value>) -> Map {
        Map { ty, entries: Some(Rc::new(entries)) }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Value> {
        self.entries.as_ref()?.get(key)
    }

    /// In the order of the keys' bytes.
    pub(in crate::template) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Value)> {
        self.entries.iter().flat_map(|entries| entries.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, |entries| entries.len())
    }
}

impl Value {
    pub(in crate::template) fn text(text: impl AsRef<[u8]>) -> Value {
        Value::Text(text.as_ref().into())
    }

    /// Wrapped as what lies in a list of anything.
    pub(in crate::template) fn any(self) -> Value {
        match self {
            Value::Invalid => Value::Interface(None),
            Value::Interface(_) => self,
            value => Value::Interface(Some(Rc::new(value))),
        }
    }

    /// JSON as Go decodes it, wrapped: numbers are floats, maps have no order of their own.
    pub(in crate::template) fn of_json(json: &serde_json::Value) -> Value {
        use serde_json::Value as Json;
        match json {
            Json::Null => Value::Interface(None),
            Json::Bool(flag) => Value::Bool(*flag).any(),
            Json::Number(number) => Value::Float(number.as_f64().unwrap_or(f64::NAN)).any(),
            Json::String(text) => Value::text(text).any(),
            Json::Array(items) => {
                let items = items.iter().map(Value::of_json).collect();
                Value::Slice(Slice::of(&ANY_SLICE, items)).any()
            }
            Json::Object(fields) => {
                let entries = fields
                    .iter()
                    .map(|(name, value)| (Bytes::from(name.as_bytes()), Value::of_json(value)));
                Value::Map(Map::of(&ANY_MAP, entries.collect())).any()
            }
        }
    }

    /// The type's name; `None` for no value.
    pub(super) fn type_name(&self) -> Option<String> {
        Some(match self {
            Value::Invalid => return None,
            Value::Bool(_) => Type::Bool.to_string(),
            Value::Int(_) => Type::Int.to_string(),
            Value::Byte(_) => Type::Byte.to_string(),
            Value::Float(_) => Type::Float.to_string(),
            Value::Complex(..) => Type::Complex.to_string(),
            Value::Text(_) => Type::Text.to_string(),
            Value::Interface(_) => Type::Any.to_string(),
            Value::Slice(slice) => slice.ty.to_string(),
            Value::Map(map) => map.ty.to_string(),
            Value::Pointer(target, _) => format!("*{target}"),
            Value::Struct(value) => value.shape.name.to_owned(),
            Value::Image(_) => IMAGE.to_string(),
            Value::Pairs(_) => Type::Pairs.to_string(),
        })
    }

    /// For messages, where there is a value.
    pub(super) fn type_text(&self) -> String {
        self.type_name().unwrap_or_else(|| "<nil>".to_owned())
    }

    pub(super) fn methods(&self) -> Methods {
        match self {
            Value::Slice(slice) => slice.ty.methods(),
            Value::Map(map) => map.ty.methods(),
            Value::Struct(value) => value.shape.methods,
            Value::Pointer(target, None) => target.methods(),
            _ => &[],
        }
    }

    pub(super) fn is_comparable(&self) -> bool {
        match self {
            Value::Slice(_) | Value::Map(_) | Value::Image(_) | Value::Pairs(_) => false,
            Value::Struct(value) => value.shape.fields.iter().all(|f| f.ty.is_comparable()),
            _ => true,
        }
    }

    pub(super) fn is_nil(&self) -> bool {
        match self {
            Value::Invalid | Value::Interface(None) | Value::Pointer(_, None) => true,
            Value::Slice(slice) => slice.all.is_none(),
            Value::Map(map) => map.entries.is_none(),
            _ => false,
        }
    }

    /// What an interface holds.
    pub(super) fn bare(&self) -> Value {
        match self {
            Value::Interface(Some(inside)) => (**inside).clone(),
            Value::Interface(None) => Value::Invalid,
            other => other.clone(),
        }
    }

    /// Through pointers and interfaces; the last one, and true, if it leads nowhere.
    pub(super) fn target(&self) -> (Value, bool) {
        let mut value = self;
        loop {
            match value {
                Value::Pointer(_, Some(inside)) | Value::Interface(Some(inside)) => value = inside,
                Value::Pointer(_, None) | Value::Interface(None) => return (value.clone(), true),
                other => return (other.expanded(), false),
            }
        }
    }

    /// A picture as the list of bytes that it is.
    pub(super) fn expanded(&self) -> Value {
        let Value::Image(base64) = self else { return self.clone() };
        let bytes = base64::engine::general_purpose::STANDARD.decode(&**base64);
        let items = bytes.unwrap_or_default().into_iter().map(Value::Byte).collect();
        Value::Slice(Slice::of(&IMAGE, items))
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Invalid => false,
            Value::Bool(flag) => *flag,
            Value::Int(number) => *number != 0,
            Value::Byte(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Complex(real, imaginary) => *real != 0.0 || *imaginary != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::Slice(slice) => !slice.items().is_empty(),
            Value::Map(map) => map.len() > 0,
            Value::Interface(inside) => inside.is_some(),
            Value::Pointer(_, inside) => inside.is_some(),
            Value::Image(base64) => !base64.is_empty(),
            Value::Struct(_) | Value::Pairs(_) => true,
        }
    }

    /// A struct's field, if there is one of that name.
    pub(in crate::template) fn field(&self, name: &str) -> Option<(&'static Field, &Value)> {
        let Value::Struct(value) = self else { return None };
        let mut fields = value.shape.fields.iter().zip(value.fields.iter());
        fields.find(|(field, _)| field.name == name)
    }
}
