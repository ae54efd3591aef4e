//! Writes JSON byte for byte as Go's encoder does.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// Compact, in the order of the fields.
pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let written = value.serialize(&mut Serializer::with_formatter(&mut out, Go));
    // Our own types have text keys and a vector takes every byte.
    written.unwrap_or_else(|error| panic!("an answer that is no JSON: {error}"));
    out
}

/// [`to_vec`] with a newline behind it.
pub(crate) fn to_line<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = to_vec(value);
    out.push(b'\n');
    out
}

pub(crate) fn to_text<T: Serialize + ?Sized>(value: &T) -> String {
    String::from_utf8_lossy(&to_vec(value)).into_owned()
}

struct Go;

impl Formatter for Go {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn write_f32<W: ?Sized + Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        writer.write_all(float32(value).as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        writer.write_all(match escape {
            CharEscape::Quote => b"\\\"",
            CharEscape::ReverseSolidus => b"\\\\",
            CharEscape::Solidus => b"/",
            CharEscape::Backspace => b"\\b",
            CharEscape::FormFeed => b"\\f",
            CharEscape::LineFeed => b"\\n",
            CharEscape::CarriageReturn => b"\\r",
            CharEscape::Tab => b"\\t",
            CharEscape::AsciiControl(byte) => return write!(writer, "\\u{byte:04x}"),
        })
    }

    /// What is harmless in JSON but not in a page of HTML or a line of JavaScript.
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, tail) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let found = tail.chars().next().unwrap_or_default();
            write!(writer, "\\u{:04x}", found as u32)?;
            rest = &tail[found.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Shortest digits that read back the same; exponents only for the very small and the very large.
fn float(value: f64) -> String {
    notation(value == 0.0 || (1e-6..1e21).contains(&value.abs()), value, value)
}

fn float32(value: f32) -> String {
    notation(value == 0.0 || (1e-6..1e21).contains(&value.abs()), value, value)
}

fn notation(
    plain: bool,
    value: impl std::fmt::Display,
    scientific: impl std::fmt::LowerExp,
) -> String {
    if plain {
        return value.to_string();
    }
    // Go always writes the sign of an exponent.
    let text = format!("{scientific:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: impl Serialize, expected: &str) {
        assert_eq!(to_text(&value), expected);
    }

    #[test]
    fn text_is_escaped_as_go_does() {
        check(
            "<|im_start|> & é \u{2028}\u{2029}",
            "\"\\u003c|im_start|\\u003e \\u0026 é \\u2028\\u2029\"",
        );
        check(
            "a\"b\\c/\u{8}\u{c}\n\r\t\u{1}\u{7f}",
            "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\u{7f}\"",
        );
        check(json!({"<": "x"}), "{\"\\u003c\":\"x\"}");
    }

    #[test]
    fn numbers_look_as_go_prints_them() {
        check(f64::from(-1.210_401_8_f32), "-1.2104017734527588");
        check(1.0, "1");
        check(0.00001, "0.00001");
        check(1e-7, "1e-7");
        check(1e21, "1e+21");
        check(123456789.0, "123456789");
        check(0.0, "0");
        check(0.7f32, "0.7");
        check(json!([1, -2, 3.5]), "[1,-2,3.5]");
    }
}
