//! `eq` and its siblings: what can be compared with what, and how.

use std::rc::Rc;

use super::print::shown;
use super::value::Value;

const BAD_TYPE: &str = "invalid type for comparison";

/// What values of several types have in common.
#[derive(Clone, PartialEq)]
enum Basic {
    Bool(bool),
    /// Signed and not are told apart, and compare all the same.
    Int(i64),
    Uint(u64),
    Float(f64),
    Complex(f64, f64),
    Text(Rc<[u8]>),
}

impl Basic {
    fn of(value: &Value) -> Option<Basic> {
        Some(match value {
            Value::Bool(flag) => Basic::Bool(*flag),
            Value::Int(number) => Basic::Int(*number),
            Value::Byte(number) => Basic::Uint((*number).into()),
            Value::Float(number) => Basic::Float(*number),
            Value::Complex(real, imaginary) => Basic::Complex(*real, *imaginary),
            Value::Text(text) => Basic::Text(text.clone()),
            _ => return None,
        })
    }

    /// Both as a number, if they are whole ones of the two kinds.
    fn mixed(&self, other: &Basic) -> Option<(i128, i128)> {
        match (self, other) {
            (Basic::Int(a), Basic::Uint(b)) => Some((i128::from(*a), i128::from(*b))),
            (Basic::Uint(a), Basic::Int(b)) => Some((i128::from(*a), i128::from(*b))),
            _ => None,
        }
    }
}

fn same_kind(a: &Basic, b: &Basic) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// Whether the first equals any of the others.
pub(super) fn eq(args: &[Value]) -> Result<bool, String> {
    let Some((first, others)) = args.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Err("missing argument for comparison".to_owned());
    };
    let first = first.bare();
    for other in others {
        if equal(&first, &other.bare())? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (Basic::of(a), Basic::of(b)) {
        (None, None) => equal_others(a, b),
        (Some(a), Some(b)) if same_kind(&a, &b) => Ok(a == b),
        (x, y) => {
            let mixed = x.zip(y).and_then(|(x, y)| x.mixed(&y));
            match mixed {
                Some((x, y)) => Ok(x == y),
                None if matches!(a, Value::Invalid) || matches!(b, Value::Invalid) => Ok(false),
                None => Err(incompatible(a, b)),
            }
        }
    }
}

fn incompatible(a: &Value, b: &Value) -> String {
    format!("incompatible types for comparison: {} and {}", a.type_text(), b.type_text())
}

fn equal_others(a: &Value, b: &Value) -> Result<bool, String> {
    let nothing = |value: &Value| matches!(value, Value::Invalid);
    let kind = |value: &Value| std::mem::discriminant(&value.expanded());
    if !nothing(a) && !nothing(b) && kind(a) != kind(b) {
        return Err(format!(
            "non-comparable types {}: {}, {}: {}",
            shown(a, 's'),
            a.type_text(),
            b.type_text(),
            shown(b, 'v')
        ));
    }
    if a.is_nil() || b.is_nil() {
        return Ok(a.is_nil() == b.is_nil());
    }
    if !b.is_comparable() {
        return Err(format!("non-comparable type {}: {}", shown(b, 's'), b.type_text()));
    }
    Ok(identical(a, b))
}

fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Pointer(_, Some(a)), Value::Pointer(_, Some(b))) => Rc::ptr_eq(a, b),
        (Value::Struct(a), Value::Struct(b)) => {
            let mut fields = a.fields.iter().zip(b.fields.iter());
            a.shape.name == b.shape.name && fields.all(|(a, b)| identical(&a.bare(), &b.bare()))
        }
        _ => Basic::of(a) == Basic::of(b) && (Basic::of(a).is_some() || a.is_nil() && b.is_nil()),
    }
}

pub(super) fn lt(args: &[Value]) -> Result<bool, String> {
    let basic = |value: &Value| Basic::of(value).ok_or_else(|| BAD_TYPE.to_owned());
    let (a, b) = (args[0].bare(), args[1].bare());
    let (x, y) = (basic(&a)?, basic(&b)?);
    if let Some((x, y)) = x.mixed(&y) {
        return Ok(x < y);
    }
    match (&x, &y) {
        (Basic::Int(x), Basic::Int(y)) => Ok(x < y),
        (Basic::Uint(x), Basic::Uint(y)) => Ok(x < y),
        (Basic::Float(x), Basic::Float(y)) => Ok(x < y),
        (Basic::Text(x), Basic::Text(y)) => Ok(x < y),
        (x, y) if same_kind(x, y) => Err(BAD_TYPE.to_owned()),
        _ => Err(incompatible(&a, &b)),
    }
}

pub(super) fn le(args: &[Value]) -> Result<bool, String> {
    Ok(lt(args)? || eq(args)?)
}
