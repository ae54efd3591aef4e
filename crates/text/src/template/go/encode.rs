//! JSON as Go's `encoding/json` writes it: no blanks, maps in the order of their keys, `<`, `>` and `&` escaped.

use super::value::{Field, Value};

/// Deeper values are refused. Price: stack.
const DEPTH_MAX: usize = 200;

/// `None`: the value cannot be JSON.
pub(in crate::template) fn json(value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write(value, &mut out, 0)?;
    Some(out)
}

fn write(value: &Value, out: &mut Vec<u8>, depth: usize) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    match value {
        Value::Invalid | Value::Interface(None) | Value::Pointer(_, None) => out.extend(b"null"),
        Value::Bool(flag) => out.extend(flag.to_string().bytes()),
        Value::Int(number) => out.extend(number.to_string().bytes()),
        Value::Byte(number) => out.extend(number.to_string().bytes()),
        Value::Float(number) => out.extend(float(*number)?.bytes()),
        Value::Text(text) => string(text, out),
        Value::Image(base64) => string(base64.as_bytes(), out),
        Value::Interface(Some(inside)) | Value::Pointer(_, Some(inside)) => {
            write(inside, out, depth + 1)?;
        }
        Value::Slice(slice) if slice.all.is_none() => out.extend(b"null"),
        Value::Slice(slice) if slice.ty.is_one_or_list() && slice.items().len() == 1 => {
            write(&slice.items()[0], out, depth + 1)?;
        }
        Value::Slice(slice) => {
            let items = slice.items().iter().map(|item| (None, item));
            sequence(b"[", items, b"]", out, depth)?;
        }
        Value::Map(map) if map.entries.is_none() => out.extend(b"null"),
        Value::Map(map) => {
            let entries = map.iter().map(|(key, value)| (Some(&**key), value));
            sequence(b"{", entries, b"}", out, depth)?;
        }
        Value::Struct(value) => match (value.shape.fields, &value.fields[..]) {
            // Kept in its own order.
            ([Field { public: false, .. }], [pairs]) => write(pairs, out, depth + 1)?,
            (fields, values) => {
                let shown = fields.iter().zip(values).filter(|(field, value)| {
                    field.public && !(field.omit_empty && is_empty(value))
                });
                let entries = shown.map(|(field, value)| (Some(field.json.as_bytes()), value));
                sequence(b"{", entries, b"}", out, depth)?;
            }
        },
        Value::Pairs(pairs) => {
            let entries = pairs.iter().filter_map(|(key, value)| match key {
                Value::Text(key) => Some((Some(&**key), value)),
                _ => None,
            });
            sequence(b"{", entries, b"}", out, depth)?;
        }
        Value::Complex(..) => return None,
    }
    Some(())
}

fn sequence<'v>(
    open: &[u8],
    entries: impl Iterator<Item = (Option<&'v [u8]>, &'v Value)>,
    close: &[u8],
    out: &mut Vec<u8>,
    depth: usize,
) -> Option<()> {
    out.extend(open);
    for (index, (key, value)) in entries.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if let Some(key) = key {
            string(key, out);
            out.push(b':');
        }
        write(value, out, depth + 1)?;
    }
    out.extend(close);
    Some(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Struct(_) => false,
        Value::Interface(inside) => inside.is_none(),
        other => !other.is_true(),
    }
}

/// As JavaScript writes numbers.
pub(crate) fn float(number: f64) -> Option<String> {
    let size = number.abs();
    match number.is_finite() {
        false => None,
        true if size != 0.0 && !(1e-6..1e21).contains(&size) => {
            let text = format!("{number:e}");
            Some(match text.split_once('e') {
                Some((digits, exponent)) if !exponent.starts_with('-') => {
                    format!("{digits}e+{exponent}")
                }
                _ => text,
            })
        }
        true => Some(number.to_string()),
    }
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        chunk.valid().chars().for_each(|character| escape(character, out));
        chunk.invalid().iter().for_each(|_| out.extend(b"\\ufffd"));
    }
    out.push(b'"');
}

fn escape(character: char, out: &mut Vec<u8>) {
    match character {
        '"' | '\\' => out.extend([b'\\', character as u8]),
        '\u{8}' => out.extend(b"\\b"),
        '\u{c}' => out.extend(b"\\f"),
        '\n' => out.extend(b"\\n"),
        '\r' => out.extend(b"\\r"),
        '\t' => out.extend(b"\\t"),
        '<' | '>' | '&' | '\u{0}'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
            out.extend(format!("\\u{:04x}", character as u32).bytes());
        }
        plain => out.extend(plain.encode_utf8(&mut [0; 4]).bytes()),
    }
}
