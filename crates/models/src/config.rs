//! Reading config.json: every value is checked where it is read, and an error names the field with its path.
//!
//! Published files hold `NaN` and `Infinity`, which is not JSON, and `null` for "not set"; both are understood here.

use serde_json::{Map, Value};

use crate::cache::KvShape;
use crate::error::{Error, Result, config};

/// No size, count or length in a configuration is larger; products of two are checked where they are made.
const SIZE_MAX: i64 = 1 << 24;

/// An object of config.json: the whole, or one inside it.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    fields: &'a Map<String, Value>,
    /// Where it lies, for errors; empty for the whole.
    name: &'a str,
}

/// Parses the text of a config.json. Numbers that JSON lacks become strings, which no number's reader accepts.
pub fn parse(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(&quote_special_numbers(text))? {
        Value::Object(fields) => Ok(fields),
        _ => Err(config("{", "is expected: the file holds no object")),
    }
}

impl<'a> Section<'a> {
    pub fn whole(fields: &'a Map<String, Value>) -> Section<'a> {
        Section { fields, name: "" }
    }

    /// The value, where it is there and not null.
    fn value(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub fn has(&self, field: &str) -> bool {
        self.value(field).is_some()
    }

    /// Whether it is there and says something else than no.
    pub fn is_set(&self, field: &str) -> bool {
        self.value(field).is_some_and(|value| *value != Value::Bool(false))
    }

    /// An error about one of this section's fields.
    pub fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        let dot = if self.name.is_empty() { "" } else { "." };
        config(format!("{}{dot}{field}", self.name), reason)
    }

    fn required<T>(&self, field: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(field, "is missing"))
    }

    /// A count, size or length: a whole number from 1.
    pub fn size(&self, field: &str) -> Result<i32> {
        let size = self.optional_size(field)?;
        self.required(field, size)
    }

    pub fn size_or(&self, field: &str, default: i32) -> Result<i32> {
        Ok(self.optional_size(field)?.unwrap_or(default))
    }

    pub fn optional_size(&self, field: &str) -> Result<Option<i32>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_i64() {
            Some(size @ 1..=SIZE_MAX) => Ok(Some(size as i32)),
            _ => {
                Err(self
                    .error(field, format!("is {value}, not a whole number from 1 to {SIZE_MAX}")))
            }
        }
    }

    /// A finite number above zero.
    pub fn positive(&self, field: &str) -> Result<f32> {
        let number = self.optional_positive(field)?;
        self.required(field, number)
    }

    pub fn positive_or(&self, field: &str, default: f32) -> Result<f32> {
        Ok(self.optional_positive(field)?.unwrap_or(default))
    }

    pub fn optional_positive(&self, field: &str) -> Result<Option<f32>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_f64().map(|number| number as f32) {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.error(field, format!("is {value}, not a finite number above 0"))),
        }
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        let Some(value) = self.value(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(field, format!("is {value}, not true or false")))
    }

    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.error(field, format!("is {value}, not a text")))
    }

    pub fn section(&self, field: &'a str) -> Result<Option<Section<'a>>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_object() {
            Some(fields) => Ok(Some(Section { fields, name: field })),
            None => Err(self.error(field, format!("is {value}, not an object"))),
        }
    }

    /// A list of whole numbers from 0; empty where it is not there.
    pub fn indices(&self, field: &str) -> Result<Vec<i32>> {
        let Some(value) = self.value(field) else { return Ok(Vec::new()) };
        let index = |value: &Value| {
            value.as_i64().filter(|index| (0..=SIZE_MAX).contains(index)).map(|index| index as i32)
        };
        let list = value.as_array().and_then(|list| list.iter().map(index).collect());
        list.ok_or_else(|| self.error(field, format!("is {value}, not a list of whole numbers")))
    }

    /// Which of `kinds` each of `count` layers is: by the list `layer_types`, else by `usual`.
    pub fn layer_types(
        &self,
        count: i32,
        kinds: [&str; 2],
        usual: impl Fn(i32) -> usize,
    ) -> Result<Vec<usize>> {
        const FIELD: &str = "layer_types";
        let Some(value) = self.value(FIELD) else { return Ok((0..count).map(usual).collect()) };
        let kind = |value: &Value| kinds.iter().position(|kind| value.as_str() == Some(*kind));
        let list: Option<Vec<usize>> =
            value.as_array().and_then(|list| list.iter().map(kind).collect());
        let known = kinds.map(|kind| format!("`{kind}`")).join(" and ");
        match list {
            Some(list) if list.len() == count as usize => Ok(list),
            Some(list) => {
                Err(self.error(FIELD, format!("names {} layers, there are {count}", list.len())))
            }
            None => Err(self.error(FIELD, format!("is {value}, not a list of {known}"))),
        }
    }

    /// The first of the texts in a list, as `architectures` is one.
    pub fn first_text(&self, field: &str) -> Result<&'a str> {
        let first = self.value(field).and_then(|value| value.get(0)).and_then(Value::as_str);
        self.required(field, first)
    }

    /// The names of the fields that are objects.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter().filter(|(_, value)| value.is_object());
        fields.map(|(name, _)| name.as_str())
    }

    /// A text that may only have the one value that is implemented.
    pub fn only(&self, field: &str, known: &str) -> Result<()> {
        match self.text(field)? {
            Some(other) if other != known => Err(self
                .error(field, format!("is `{other}`; this architecture is known with `{known}`"))),
            _ => Ok(()),
        }
    }
}

/// The heads of grouped-query attention, under the names most configurations use.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    pub head_dim: i32,
}

impl Heads {
    /// `head_dim` may be absent: then the hidden size is divided.
    pub fn read(config: &Section<'_>) -> Result<Heads> {
        let count = config.size("num_attention_heads")?;
        let groups = config.size_or("num_key_value_heads", count)?;
        let head_dim = match config.optional_size("head_dim")? {
            Some(size) => size,
            None => divided(config, count)?,
        };
        Heads::checked(config, count, groups, head_dim)
    }

    /// All may be absent, and are as in `usual` then.
    pub fn read_or(config: &Section<'_>, usual: Heads) -> Result<Heads> {
        let count = config.size_or("num_attention_heads", usual.num_attention_heads)?;
        let groups = config.size_or("num_key_value_heads", usual.num_key_value_heads)?;
        let head_dim = config.size_or("head_dim", usual.head_dim)?;
        Heads::checked(config, count, groups, head_dim)
    }

    fn checked(config: &Section<'_>, count: i32, groups: i32, head_dim: i32) -> Result<Heads> {
        if count % groups != 0 {
            let reason =
                format!("is {groups}, which does not divide the {count} of `num_attention_heads`");
            return Err(config.error("num_key_value_heads", reason));
        }
        if count.checked_mul(head_dim).is_none() {
            let reason =
                format!("is {head_dim}; times {count} heads is more than a tensor can hold");
            return Err(config.error("head_dim", reason));
        }
        Ok(Heads { num_attention_heads: count, num_key_value_heads: groups, head_dim })
    }

    /// What is remembered of a position.
    pub fn key_value(&self) -> KvShape {
        KvShape::new(self.num_key_value_heads, self.head_dim)
    }

    /// Of all queries of a row.
    pub fn query_width(&self) -> i32 {
        self.num_attention_heads * self.head_dim
    }

    /// Of all keys of a row, and of all values.
    pub fn key_width(&self) -> i32 {
        self.num_key_value_heads * self.head_dim
    }

    /// 1/√head_dim, the usual scale of attention's scores.
    pub fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }
}

fn divided(config: &Section<'_>, heads: i32) -> Result<i32> {
    let hidden = config.size("hidden_size")?;
    if hidden % heads == 0 {
        return Ok(hidden / heads);
    }
    let reason = format!("is {heads}, which does not divide the {hidden} of `hidden_size`");
    Err(config.error("num_attention_heads", reason))
}

/// Puts quotes around `NaN`, `Infinity` and `-Infinity` where they stand outside of strings.
fn quote_special_numbers(text: &str) -> String {
    let (mut out, mut rest, mut in_string) = (String::with_capacity(text.len()), text, false);
    while let Some(next) = rest.chars().next() {
        let special =
            ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word));
        let taken = match (in_string, next, special) {
            (false, _, Some(word)) => {
                out.extend(["\"", word, "\""]);
                rest = &rest[word.len()..];
                continue;
            }
            (true, '\\', _) => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            (_, '"', _) => {
                in_string = !in_string;
                1
            }
            _ => next.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str, read: impl Fn(Section<'_>) -> Result<()>) -> String {
        let fields = parse(text).unwrap();
        read(Section::whole(&fields)).unwrap_err().to_string()
    }

    fn check(text: &str, read: impl Fn(Section<'_>) -> Result<()>, expected: &str) {
        assert_eq!(message(text, read), format!("config.json: {expected}"));
    }

    #[test]
    fn absurd_values_are_named() {
        let size = |s: Section<'_>| s.size("n").map(drop);
        check("{}", size, "`n` is missing");
        check(r#"{"n": null}"#, size, "`n` is missing");
        for value in ["0", "-1", "1e99", "2.5", "\"3\"", "16777217", "NaN", "true"] {
            let text = format!("{{\"n\": {value}}}");
            assert!(message(&text, size).contains("`n` is "), "{value}");
        }
        let positive = |s: Section<'_>| s.positive("theta").map(drop);
        check(r#"{"theta": NaN}"#, positive, "`theta` is \"NaN\", not a finite number above 0");
        check(
            r#"{"theta": -Infinity}"#,
            positive,
            "`theta` is \"-Infinity\", not a finite number above 0",
        );
        check(r#"{"theta": 0}"#, positive, "`theta` is 0, not a finite number above 0");
        check(r#"{"theta": 1e300}"#, positive, "`theta` is 1e+300, not a finite number above 0");
        check(r#"{"b": 1}"#, |s| s.flag("b", false).map(drop), "`b` is 1, not true or false");
        check(r#"{"s": []}"#, |s| s.section("s").map(drop), "`s` is [], not an object");
        let nested = |s: Section<'_>| s.section("rope")?.unwrap().size("n").map(drop);
        check(
            r#"{"rope": {"n": 0}}"#,
            nested,
            "`rope.n` is 0, not a whole number from 1 to 16777216",
        );
        check(
            r#"{"act": "gelu"}"#,
            |s| s.only("act", "silu"),
            "`act` is `gelu`; this architecture is known with `silu`",
        );
    }

    #[test]
    fn heads_that_do_not_divide_are_named() {
        let heads = |s: Section<'_>| Heads::read(&s).map(drop);
        check(
            r#"{"num_attention_heads": 4, "num_key_value_heads": 3, "head_dim": 8}"#,
            heads,
            "`num_key_value_heads` is 3, which does not divide the 4 of `num_attention_heads`",
        );
        check(
            r#"{"num_attention_heads": 3, "hidden_size": 64}"#,
            heads,
            "`num_attention_heads` is 3, which does not divide the 64 of `hidden_size`",
        );
        check(
            r#"{"num_attention_heads": 1048576, "head_dim": 1048576}"#,
            heads,
            "`head_dim` is 1048576; times 1048576 heads is more than a tensor can hold",
        );
    }

    #[test]
    fn kinds_of_layers_are_listed_or_usual() {
        let read = |text: &str| {
            let fields = parse(text).unwrap();
            let kinds = Section::whole(&fields).layer_types(3, ["a", "b"], |i| i as usize % 2);
            kinds.map_err(|error| error.to_string())
        };
        assert_eq!(read("{}"), Ok(vec![0, 1, 0]));
        assert_eq!(read(r#"{"layer_types": ["b", "b", "a"]}"#), Ok(vec![1, 1, 0]));
        let wrong = |text, expected| {
            assert_eq!(read(text), Err(format!("config.json: `layer_types` {expected}")));
        };
        wrong(r#"{"layer_types": ["a"]}"#, "names 1 layers, there are 3");
        wrong(r#"{"layer_types": ["c"]}"#, r#"is ["c"], not a list of `a` and `b`"#);
    }

    #[test]
    fn special_numbers_are_quoted_outside_of_strings_only() {
        let quoted = quote_special_numbers(r#"{"é NaN \" Infinity": [NaN, -Infinity, 1, "NaN"]}"#);
        assert_eq!(quoted, r#"{"é NaN \" Infinity": ["NaN", "-Infinity", 1, "NaN"]}"#);
        assert_eq!(quote_special_numbers("\"\\"), "\"\\");
    }

    #[test]
    fn a_file_that_is_no_object_is_an_error() {
        assert!(parse("[1]").is_err());
        assert!(parse("{\"a\": ").is_err());
        assert!(parse("").is_err());
    }
}
