//! JSON in exactly the bytes Go's encoder writes: digests of models are digests of these bytes.

use serde::Serialize;
use serde_json::{Number, Value};

/// One document and its newline. Plain data whose keys are texts always encodes.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string(value).unwrap_or_default();
    let mut escaped = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // These occur in texts only, so the place need not be looked at.
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped.push('\n');
    escaped.into_bytes()
}

/// Go has no `1.0`: a whole number has no point.
pub(crate) fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(whole(number)),
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, whole_numbers(value))).collect()
        }
        other => other,
    }
}

/// Up to 2^53 every whole `f64` is exactly this integer.
fn whole(number: Number) -> Number {
    let exact = |value: &f64| value.fract() == 0.0 && value.abs() < (1u64 << 53) as f64;
    match number.as_f64().filter(|_| number.is_f64()).filter(exact) {
        Some(value) => Number::from(value as i64),
        None => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value, expected: &str) {
        let text = String::from_utf8(encode(&whole_numbers(value))).unwrap();
        assert_eq!(text, format!("{expected}\n"));
    }

    #[test]
    fn bytes_of_go() {
        check(json!({"stop": ["<|a|>", "&"]}), r#"{"stop":["\u003c|a|\u003e","\u0026"]}"#);
        check(json!([1.0, 0.7, -2.0, 5]), "[1,0.7,-2,5]");
        check(json!("é\u{2028}\n\"\u{1}"), "\"é\\u2028\\n\\\"\\u0001\"");
    }
}
