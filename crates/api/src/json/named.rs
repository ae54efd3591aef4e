//! Lists and maps that know how Go calls them, for error texts.

use std::marker::PhantomData;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, Visitor};

/// What a list of these is called: `[]api.Message`.
pub(crate) trait Listed {
    const LIST: &'static str;
}

impl Listed for String {
    const LIST: &'static str = "[]string";
}

impl Listed for i64 {
    const LIST: &'static str = "[]int";
}

#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct List<T>(pub Vec<T>);

impl<T> List<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List(Vec::new())
    }
}

impl<'de, T: Deserialize<'de> + Listed> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<List<T>, D::Error> {
        from.deserialize_newtype_struct(T::LIST, Inside(PhantomData)).map(List)
    }
}

struct Inside<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Inside<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Vec<T>, D::Error> {
        Vec::deserialize(from)
    }
}

/// Texts by name, in the order of the body.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename = "map[string]string")]
pub(crate) struct Texts(pub IndexMap<String, String>);
