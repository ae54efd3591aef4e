//! A parsed value becomes a body type, by Go's rules.
//!
//! Body types derive `Deserialize`; their serde name is the Go name that error texts show (`api.ChatRequest`), and a
//! newtype's serde name is shown where a list or a map was expected (`api.Tools`). A name that ends in `~` belongs to
//! a type which Go decodes through a helper of its own: errors inside then name the type around it.
//! Of several mismatches the first in the body is reported.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

/// What a body has of another type than its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    Type {
        found: String,
        wanted: String,
        around: Option<&'static str>,
        path: Vec<&'static str>,
    },
    /// A type of our own said why.
    Said(String),
}

pub(crate) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Mismatch> {
    T::deserialize(Go { value, name: None })
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Said(text) => f.write_str(text),
            Mismatch::Type { found, wanted, around: None, .. } => {
                write!(f, "json: cannot unmarshal {found} into Go value of type {wanted}")
            }
            Mismatch::Type { found, wanted, around: Some(around), path } => {
                let around = around.rsplit('.').next().unwrap_or(around);
                let path = path.iter().rev().copied().collect::<Vec<_>>().join(".");
                write!(
                    f,
                    "json: cannot unmarshal {found} into Go struct field {around}.{path} of type {wanted}"
                )
            }
        }
    }
}

impl std::error::Error for Mismatch {}

impl Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Mismatch {
        Mismatch::Said(message.to_string())
    }
}

impl Mismatch {
    /// Seen from the struct `name`, in whose field `field` it happened.
    fn inside(mut self, name: &'static str, field: &'static str) -> Mismatch {
        if let Mismatch::Type { around, path, .. } = &mut self {
            path.push(field);
            *around = match name.ends_with('~') {
                true => None,
                false => around.or(Some(name)),
            };
        }
        self
    }
}

struct Go {
    value: Value,
    /// Of the newtype around, for error texts.
    name: Option<&'static str>,
}

impl Go {
    fn mismatch<T>(&self, wanted: &str) -> Result<T, Mismatch> {
        let wanted = self.name.unwrap_or(wanted).trim_end_matches('~').to_owned();
        Err(Mismatch::Type { found: kind(&self.value), wanted, around: None, path: Vec::new() })
    }
}

/// How Go names what it found.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
    .to_owned()
}

impl<'de> Deserializer<'de> for Go {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.value.deserialize_any(visitor).map_err(Mismatch::custom)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Null => visitor.visit_bool(false),
            _ => self.mismatch("bool"),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match &self.value {
            Value::Null => visitor.visit_i64(0),
            Value::Number(number) => match number.as_i64() {
                Some(value) => visitor.visit_i64(value),
                None => Err(Mismatch::Type {
                    found: format!("number {number}"),
                    wanted: "int".to_owned(),
                    around: None,
                    path: Vec::new(),
                }),
            },
            _ => self.mismatch("int"),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match &self.value {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(number) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            _ => self.mismatch("float64"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::String(text) => visitor.visit_string(text),
            Value::Null => visitor.visit_str(""),
            _ => self.mismatch("string"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(Go { name: Some(name), ..self })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Array(list) => visitor.visit_seq(List(list.into_iter())),
            Value::Null => visitor.visit_seq(List(Vec::new().into_iter())),
            _ => self.mismatch("[]interface {}"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Object(map) => visitor.visit_map(Entries { map: map.into_iter(), value: None }),
            Value::Null => visitor.visit_map(Entries { map: Map::new().into_iter(), value: None }),
            _ => self.mismatch("map[string]interface {}"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.value {
            Value::Object(map) => visitor.visit_map(Fields::new(name, fields, map)),
            Value::Null => visitor.visit_map(Fields::new(name, fields, Map::new())),
            _ => self.mismatch(name),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier ignored_any
    }
}

struct List(std::vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for List {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mismatch> {
        self.0.next().map(|value| seed.deserialize(Go { value, name: None })).transpose()
    }
}

/// An object whose keys are data.
struct Entries {
    map: serde_json::map::IntoIter,
    value: Option<Value>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mismatch> {
        let Some((key, value)) = self.map.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(Go { value: Value::String(key), name: None }).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Mismatch> {
        seed.deserialize(Go { value: self.value.take().unwrap_or_default(), name: None })
    }
}

/// An object whose keys are a struct's fields.
struct Fields {
    name: &'static str,
    /// In the order of the body, the last one first.
    left: Vec<(&'static str, Value)>,
    current: Option<(&'static str, Value)>,
}

impl Fields {
    /// Unknown keys and nulls are dropped; of keys that differ in case only, the last one counts.
    fn new(name: &'static str, fields: &'static [&'static str], map: Map<String, Value>) -> Fields {
        let mut left: Vec<(&'static str, Value)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(&key)) else {
                continue;
            };
            if !value.is_null() {
                left.retain(|(known, _)| known != field);
                left.push((field, value));
            }
        }
        left.reverse();
        Fields { name, left, current: None }
    }
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mismatch> {
        self.current = self.left.pop();
        let Some((field, _)) = &self.current else { return Ok(None) };
        seed.deserialize(serde::de::value::StrDeserializer::<Mismatch>::new(field)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Mismatch> {
        let (field, value) = self.current.take().unwrap_or_default();
        seed.deserialize(Go { value, name: None }).map_err(|error| error.inside(self.name, field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename = "api.Body")]
    struct Body {
        model: String,
        stream: Option<bool>,
        count: i64,
        lines: Lines,
        inner: Inner,
        helped: Helped,
        options: Map<String, Value>,
        any: Value,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename = "api.Lines")]
    struct Lines(Vec<String>);

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename = "api.Inner")]
    struct Inner {
        flag: bool,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename = "api.Alias~")]
    struct Helped {
        inner: Inner,
    }

    fn check(text: &str, expected: Result<Body, &str>) {
        let got = decode::<Body>(crate::json::parse(text.as_bytes()).unwrap());
        assert_eq!(
            got.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned),
            "{text}"
        );
    }

    #[test]
    fn keys_fold_and_nulls_are_left_alone() {
        let body = Body { model: "b".into(), stream: Some(true), count: 3, ..Body::default() };
        check(r#"{"MODEL":"a","Model":"b","Stream":true,"count":3,"x":1,"lines":null}"#, Ok(body));
        check("null", Ok(Body::default()));
        let lines = Lines(vec!["a".into(), String::new()]);
        check(r#"{"lines":["a",null]}"#, Ok(Body { lines, ..Body::default() }));
    }

    #[test]
    fn mismatches_in_gos_words() {
        check("[]", Err("json: cannot unmarshal array into Go value of type api.Body"));
        check(
            r#"{"model":3}"#,
            Err("json: cannot unmarshal number into Go struct field Body.model of type string"),
        );
        check(
            r#"{"stream":"y"}"#,
            Err("json: cannot unmarshal string into Go struct field Body.stream of type bool"),
        );
        check(
            r#"{"count":1.5}"#,
            Err("json: cannot unmarshal number 1.5 into Go struct field Body.count of type int"),
        );
        check(
            r#"{"lines":"x"}"#,
            Err("json: cannot unmarshal string into Go struct field Body.lines of type api.Lines"),
        );
        check(
            r#"{"lines":[1]}"#,
            Err("json: cannot unmarshal number into Go struct field Body.lines of type string"),
        );
        check(
            r#"{"inner":{"flag":1}}"#,
            Err("json: cannot unmarshal number into Go struct field Inner.inner.flag of type bool"),
        );
        check(
            r#"{"helped":{"inner":{"flag":1}}}"#,
            Err(
                "json: cannot unmarshal number into Go struct field Body.helped.inner.flag of type bool",
            ),
        );
        check(
            r#"{"helped":"x"}"#,
            Err("json: cannot unmarshal string into Go struct field Body.helped of type api.Alias"),
        );
        check(
            r#"{"options":[]}"#,
            Err(
                "json: cannot unmarshal array into Go struct field Body.options of type map[string]interface {}",
            ),
        );
    }
}
