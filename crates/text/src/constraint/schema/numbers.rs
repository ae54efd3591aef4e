//! Bounds of numbers: one dialect for all drafts, and bounds where a schema has none.

use std::collections::BTreeSet;

use serde_json::{Number, Value, json};

use super::read::{Fields, short};
use crate::{Error, Result};

/// Whole numbers have at most this value: 18 digits. (It is a 64-bit float, and a 64-bit integer.)
const WHOLE_MAX: f64 = 1e18;

/// Digits of `multipleOf` as a whole number. Price: a state of the lexer for each remainder.
const MULTIPLE_MAX: u64 = 10_000;

/// All of them in one schema multiplied: where several hold at once, they hold as their least common multiple.
const MULTIPLES_PRODUCT_MAX: u64 = 100_000_000;

/// The multiples that a schema asks for stay within what the grammar compiler can count.
pub(super) fn check_multiples(multiples: &BTreeSet<String>) -> Result<()> {
    let numbers = multiples.iter().filter_map(|text| text.parse().ok().map(digits));
    let product = numbers.fold(1u64, u64::saturating_mul);
    match product > MULTIPLES_PRODUCT_MAX {
        true => Err(Error::format("`multipleOf` stands there with too many large numbers")),
        false => Ok(()),
    }
}

/// 0.25 has the digits 25, and so has 25.
fn digits(value: f64) -> u64 {
    let text: String = value.to_string().chars().filter(char::is_ascii_digit).collect();
    text.parse().unwrap_or(u64::MAX)
}

pub(super) fn keyword(
    name: &str,
    value: &Value,
    siblings: &Fields,
    out: &mut Fields,
) -> Result<()> {
    // Draft 4 says with a boolean that the bound itself is excluded.
    if let (Value::Bool(excludes), "exclusiveMinimum" | "exclusiveMaximum") = (value, name) {
        let bound = if name.ends_with("Minimum") { "minimum" } else { "maximum" };
        if let (true, Some(value)) = (excludes, siblings.get(bound)) {
            out.insert(name.to_owned(), bounded(bound, number(bound, value)?)?);
        }
        return Ok(());
    }
    let given = number(name, value)?;
    if name == "multipleOf" {
        if given <= 0.0 {
            return Err(Error::format(format!("`multipleOf` is above 0, not {given}")));
        }
        if digits(given) > MULTIPLE_MAX {
            let why =
                format!("`multipleOf` of {given}: more than {MULTIPLE_MAX}, decimals counted");
            return Err(Error::format(why));
        }
        out.insert(name.to_owned(), value.clone());
        return Ok(());
    }
    out.insert(name.to_owned(), bounded(name, given)?);
    Ok(())
}

/// Whole numbers end somewhere.
pub(super) fn bound(fields: &mut Fields) {
    let is_whole = match fields.get("type") {
        Some(Value::String(name)) => name == "integer",
        Some(Value::Array(names)) => names.contains(&json!("integer")),
        _ => false,
    };
    if !is_whole {
        return;
    }
    for (own, exclusive, value) in
        [("minimum", "exclusiveMinimum", -WHOLE_MAX), ("maximum", "exclusiveMaximum", WHOLE_MAX)]
    {
        if !fields.contains_key(own) && !fields.contains_key(exclusive) {
            fields.insert(own.to_owned(), json!(value as i64));
        }
    }
}

/// What fits the nearer bound fits the one that was given; a bound beyond all whole numbers leaves nothing.
fn bounded(name: &str, value: f64) -> Result<Value> {
    let is_lower = name.ends_with("inimum");
    let near = if is_lower { value.max(-WHOLE_MAX) } else { value.min(WHOLE_MAX) };
    if near.abs() > WHOLE_MAX {
        let why = format!("`{name}` of {value}: numbers beyond {WHOLE_MAX} are not supported");
        return Err(Error::format(why));
    }
    Ok(match near.fract() == 0.0 {
        true => json!(near as i64),
        false => Number::from_f64(near).map_or(Value::Null, Value::Number),
    })
}

fn number(name: &str, value: &Value) -> Result<f64> {
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| Error::format(format!("`{name}` is a number, not `{}`", short(value))))
}
