//! The functions that TEMPLATEs have beyond Go's.

use crate::template::go::value::Value;
use crate::template::go::{Function, Param, Signature, encode};

use super::shapes;

pub(super) static FUNCTIONS: &[Function] = &[
    Function { name: "json", signature: ANYTHING, run: json },
    Function { name: "currentDate", signature: TEXTS, run: |_| Ok(day(0)) },
    Function { name: "yesterdayDate", signature: TEXTS, run: |_| Ok(day(1)) },
    Function { name: "toTypeScriptType", signature: ANYTHING, run: type_script },
];

const ANYTHING: Signature = Signature { fixed: &[Param::Any], rest: None };

/// A format may be given; nobody looks at it.
const TEXTS: Signature = Signature { fixed: &[], rest: Some(Param::Text) };

fn json(args: &[Value]) -> Result<Value, String> {
    Ok(Value::text(encode::json(&args[0]).unwrap_or_default()))
}

fn day(days_ago: i64) -> Value {
    let today = jiff::Zoned::now().date();
    let day = today.checked_sub(jiff::Span::new().days(days_ago)).unwrap_or(today);
    Value::text(day.to_string())
}

fn type_script(args: &[Value]) -> Result<Value, String> {
    Ok(Value::text(shapes::type_script(&args[0])))
}
