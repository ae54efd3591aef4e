//! `tojson` as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`. No HTML escapes.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::scientific;

/// Deeper values are refused. Price: stack.
const DEPTH_MAX: usize = 200;

/// The filter: `tojson(ensure_ascii, indent, separators)`, each also by name, and `sort_keys` by name.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    separators: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let either = |given: Option<Value>, name: &str| match given {
        Some(value) => Ok::<_, Error>(Some(value)),
        None if named.has(name) => named.get::<Value>(name).map(Some),
        None => Ok(None),
    };
    let flag = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let ensure_ascii = flag(either(ensure_ascii, "ensure_ascii")?);
    let indent = indentation(either(indent, "indent")?)?;
    let separators = either(separators, "separators")?;
    let sort_keys = flag(either(None, "sort_keys")?);
    named.assert_all_used()?;
    let (item, key) = separators_of(separators, indent.is_some())?;
    let mut writer = Writer { out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn indentation(indent: Option<Value>) -> Result<Option<String>, Error> {
    let Some(indent) = indent.filter(|indent| !indent.is_none()) else { return Ok(None) };
    if let Some(text) = indent.as_str() {
        return Ok(Some(text.to_owned()));
    }
    let width = indent.as_i64().or(bool::try_from(indent).ok().map(i64::from));
    let width = width.ok_or_else(|| invalid("the indentation is no number"))?;
    Ok(Some(" ".repeat(width.clamp(0, 64) as usize)))
}

fn separators_of(given: Option<Value>, indented: bool) -> Result<(String, String), Error> {
    let Some(given) = given.filter(|given| !given.is_none()) else {
        return Ok((if indented { "," } else { ", " }.to_owned(), ": ".to_owned()));
    };
    let texts: Vec<String> = given.try_iter()?.map(|text| text.to_string()).collect();
    match <[String; 2]>::try_from(texts) {
        Ok([item, key]) => Ok((item, key)),
        Err(_) => Err(invalid("separators are two texts")),
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

struct Writer {
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(invalid("a value is nested too deeply to be written as JSON"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            kind => match scientific::written(value) {
                Some(number) => self.out.push_str(&number),
                None => return Err(invalid(format!("{kind} cannot be written as JSON"))),
            },
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.begin_item(empty, depth + 1);
            self.value(&item, depth + 1)?;
            empty = false;
        }
        self.end(empty, depth);
        self.out.push(']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let keys = value.try_iter()?.map(|key| Ok((key_text(&key)?, value.get_item(&key)?)));
        let mut fields = keys.collect::<Result<Vec<(String, Value)>, Error>>()?;
        if self.sort_keys {
            fields.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        let empty = fields.is_empty();
        for (index, (key, value)) in fields.into_iter().enumerate() {
            self.begin_item(index == 0, depth + 1);
            self.string(&key);
            self.out.push_str(&self.key);
            self.value(&value, depth + 1)?;
        }
        self.end(empty, depth);
        self.out.push('}');
        Ok(())
    }

    fn begin_item(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.push_str(&self.item);
        }
        self.new_line(depth);
    }

    fn end(&mut self, empty: bool, depth: usize) {
        if !empty {
            self.new_line(depth);
        }
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                plain if plain >= ' ' && (plain.is_ascii() || !self.ensure_ascii) => {
                    self.out.push(plain);
                }
                escaped => self.escape(escaped),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }
}

/// Python writes numbers, truth values and `None` as keys in their JSON form.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(number(key)),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        kind => Err(invalid(format!("{kind} is no key of a JSON object"))),
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => match number {
            number if number.is_nan() => "NaN".to_owned(),
            number if number.is_infinite() => {
                if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
            }
            number => super::python::float(number),
        },
        _ => value.to_string(),
    }
}
