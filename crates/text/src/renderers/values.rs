//! Values written as Go writes them: its JSON, its `%v`, its quoted strings. All numbers are of 64-bit floating point.
//!
//! Nesting is bounded by who read the JSON.

use std::io::{self, Write};

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value};

use crate::template::go::{encode, float, literal};

/// What lies between the parts of a JSON text, and whether it may stand in HTML.
#[derive(Clone, Copy)]
struct Style {
    comma: &'static [u8],
    colon: &'static [u8],
    indent: &'static str,
    html: bool,
}

const COMPACT: Style = Style { comma: b",", colon: b":", indent: "", html: true };
const SPACED: Style = Style { comma: b", ", colon: b": ", ..COMPACT };
const INDENTED: Style = Style { comma: b",", colon: b": ", indent: "    ", ..COMPACT };

/// `{"a":[1,2]}`
pub(super) fn compact(value: &Value) -> String {
    write(value, COMPACT)
}

/// `{"a": [1, 2]}`
pub(super) fn spaced(value: &Value) -> String {
    write(value, SPACED)
}

/// The same, and `<`, `>`, `&` stay what they are.
pub(super) fn spaced_plain(value: &Value) -> String {
    write(value, Style { html: false, ..SPACED })
}

/// Over several lines, four blanks for each level.
pub(super) fn indented(value: &Value) -> String {
    write(value, INDENTED)
}

/// A call's arguments as an object in their own order.
pub(super) fn object(arguments: &IndexMap<String, Value>) -> Value {
    arguments.iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
}

/// Names in alphabetic order.
pub(super) fn by_name(arguments: &IndexMap<String, Value>) -> Vec<(&str, &Value)> {
    let mut pairs: Vec<_> = arguments.iter().map(|(name, value)| (name.as_str(), value)).collect();
    pairs.sort_by_key(|(name, _)| *name);
    pairs
}

/// The same of an object within.
pub(super) fn names(object: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut pairs: Vec<_> = object.iter().map(|(name, value)| (name.as_str(), value)).collect();
    pairs.sort_by_key(|(name, _)| *name);
    pairs
}

/// Go's upper case: a character that would become several stays.
pub(super) fn upper(text: &str) -> String {
    let single = |c: char| Some(c.to_uppercase()).filter(|upper| upper.len() == 1);
    text.chars().map(|c| single(c).and_then(|mut upper| upper.next()).unwrap_or(c)).collect()
}

/// All objects within in alphabetic order.
pub(super) fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(fields) => names(fields)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), sorted(value)))
            .collect(),
        simple => simple.clone(),
    }
}

/// An argument between tags: texts as they are, lists and objects as JSON.
pub(super) fn argument(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(_) | Value::Object(_) => compact(&sorted(value)),
        simple => printed(simple),
    }
}

/// Go's `%v`.
pub(super) fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => printed_number(number.as_f64().unwrap_or_default()),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(printed).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = names(fields)
                .into_iter()
                .map(|(name, value)| format!("{name}:{}", printed(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

/// A whole number without a point or an exponent, if it is one of 64 bits; else as `%v` has it.
pub(super) fn whole_or_printed(number: f64) -> String {
    let range = -(2_f64.powi(63))..2_f64.powi(63);
    if range.contains(&number) && number.fract() == 0.0 {
        return (number as i64).to_string();
    }
    printed_number(number)
}

fn printed_number(number: f64) -> String {
    float::format(number, 'g', None)
}

/// Go's quoted string: what cannot be seen is escaped.
pub(super) fn quoted(text: &str) -> String {
    literal::quote(text.as_bytes())
}

fn write(value: &Value, style: Style) -> String {
    let mut bytes = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut bytes, Go { style, depth: 0, filled: false });
    // Neither a value nor memory can fail here, and the formatter writes whole characters.
    let done = value.serialize(&mut serializer);
    debug_assert!(done.is_ok(), "a JSON value cannot be written: {done:?}");
    String::from_utf8(bytes).unwrap_or_default()
}

/// Go's way of writing JSON.
struct Go {
    style: Style,
    depth: usize,
    /// The object or list that was just closed or is open has something in it.
    filled: bool,
}

impl Go {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.new_line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.style.comma)?;
        }
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.style.indent.is_empty() {
            return Ok(());
        }
        writer.write_all(b"\n")?;
        writer.write_all(self.style.indent.repeat(self.depth).as_bytes())
    }
}

impl Formatter for Go {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.style.colon)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, number: f64) -> io::Result<()> {
        // JSON has no number that is not finite.
        writer.write_all(encode::float(number).unwrap_or_default().as_bytes())
    }

    fn write_i64<W: ?Sized + Write>(&mut self, writer: &mut W, number: i64) -> io::Result<()> {
        self.write_f64(writer, number as f64)
    }

    fn write_u64<W: ?Sized + Write>(&mut self, writer: &mut W, number: u64) -> io::Result<()> {
        self.write_f64(writer, number as f64)
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let html = self.style.html;
        let special = |c: char| {
            matches!(c, '\u{2028}' | '\u{2029}') || (html && matches!(c, '<' | '>' | '&'))
        };
        for piece in text.split_inclusive(special) {
            let last = piece.chars().next_back().filter(|last| special(*last));
            let plain = piece.len() - last.map_or(0, char::len_utf8);
            writer.write_all(&piece.as_bytes()[..plain])?;
            if let Some(last) = last {
                write!(writer, "\\u{:04x}", u32::from(last))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(write: fn(&Value) -> String, value: Value, expected: &str) {
        assert_eq!(write(&value), expected);
    }

    #[test]
    fn json_is_that_of_go() {
        let value =
            json!({"b": [], "a": {"<é\u{2028}>": "&\"\\\n\u{8}\u{1}\u{7f}"}, "c": [{}, [1]]});
        check(
            compact,
            value.clone(),
            r#"{"b":[],"a":{"\u003cé\u2028\u003e":"\u0026\"\\\n\b\u0001"},"c":[{},[1]]}"#
                .replace(r"\x7f", "\x7f")
                .as_str(),
        );
        check(spaced, json!({"a": [1, ","], "b": ":"}), r#"{"a": [1, ","], "b": ":"}"#);
        check(spaced_plain, json!(["<&>\u{2029}"]), r#"["<&>\u2029"]"#);
        check(
            indented,
            json!({"a": [], "b": [{"c": {}}, 1]}),
            "{\n    \"a\": [],\n    \"b\": [\n        {\n            \"c\": {}\n        },\n        1\n    ]\n}",
        );
        check(
            |value| compact(&sorted(value)),
            json!([{"b": 1, "a": {"d": 1, "c": 2}}]),
            r#"[{"a":{"c":2,"d":1},"b":1}]"#,
        );
    }

    #[test]
    fn numbers_are_those_of_go() {
        for (number, print, json) in [
            (0.0001, "0.0001", "0.0001"),
            (0.00001, "1e-05", "0.00001"),
            (123_456.0, "123456", "123456"),
            (1_234_567.0, "1.234567e+06", "1234567"),
            (1e20, "1e+20", "100000000000000000000"),
            (1e21, "1e+21", "1e+21"),
            (-123_456_789.5, "-1.234567895e+08", "-123456789.5"),
            (1.5e300, "1.5e+300", "1.5e+300"),
            (5e-324, "5e-324", "5e-324"),
            (1e-7, "1e-07", "1e-7"),
            (-0.0, "-0", "-0"),
        ] {
            check(printed, json!(number), print);
            check(compact, json!(number), json);
        }
        check(compact, json!([9_007_199_254_740_993_u64, -3]), "[9007199254740992,-3]");
        assert_eq!(whole_or_printed(-1_234_567.0), "-1234567");
        assert_eq!(whole_or_printed(9_223_372_036_854_775_808.0), "9.223372036854776e+18");
        assert_eq!(whole_or_printed(0.5), "0.5");
    }

    #[test]
    fn values_print_as_in_go() {
        check(printed, json!({"b": null, "a": [true, "x", []]}), "map[a:[true x []] b:<nil>]");
        check(argument, json!({"b": 1, "a": "<"}), r#"{"a":"\u003c","b":1}"#);
        check(argument, Value::Null, "null");
        check(argument, json!("<"), "<");
        let text =
            "a'\"\\\u{a0}\u{200b}\u{301}é\u{1f600}\u{e0001}\u{7f}\u{1}\u{2028}\u{fffd}\u{378}\u{b}";
        let expected = concat!(
            r#""a'\"\\\u00a0\u200b"#,
            "\u{301}é\u{1f600}",
            r"\U000e0001\x7f\x01\u2028",
            "\u{fffd}",
            r#"\u0378\v""#
        );
        assert_eq!(quoted(text), expected);
    }
}
