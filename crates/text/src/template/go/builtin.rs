//! The functions that every Go template has.

use super::call::{Param, Signature};
use super::escape;
use super::exec::printable;
use super::print::{print, printf, println};
use super::sink::Sink;
use super::value::Value;
use super::{Function, compare};

/// Of one function's result.
const RESULT_BYTES_MAX: usize = 16 << 20;

/// `and` and `or` are the evaluator's own, as they do not look at all their arguments; and `call`, which finds nothing
/// to call: no value of ours is a function.
pub(super) const NAMES: &[&str] = &[
    "and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf",
    "println", "urlquery", "eq", "ge", "gt", "le", "lt", "ne",
];

const ONE: &[Param] = &[Param::Value];
const TWO: &[Param] = &[Param::Value, Param::Value];

const fn function(
    name: &'static str,
    fixed: &'static [Param],
    rest: Option<Param>,
    run: fn(&[Value]) -> Result<Value, String>,
) -> Function {
    Function { name, signature: Signature { fixed, rest }, run }
}

static FUNCTIONS: &[Function] = &[
    function("html", &[], Some(Param::Any), |args| escaped(args, escape::html)),
    function("index", ONE, Some(Param::Value), index),
    function("slice", ONE, Some(Param::Value), slice),
    function("js", &[], Some(Param::Any), |args| escaped(args, escape::js)),
    function("len", ONE, None, length),
    function("not", ONE, None, |args| Ok(Value::Bool(!args[0].bare().is_true()))),
    function("print", &[], Some(Param::Any), |args| made(|sink| print(sink, &bare(args)))),
    function("printf", &[Param::Text], Some(Param::Any), |args| {
        let format = if let Value::Text(format) = &args[0] { &**format } else { &[] };
        made(|sink| printf(sink, format, &bare(&args[1..])))
    }),
    function("println", &[], Some(Param::Any), |args| made(|sink| println(sink, &bare(args)))),
    function("urlquery", &[], Some(Param::Any), |args| escaped(args, escape::url_query)),
    function("eq", ONE, Some(Param::Value), |args| compare::eq(args).map(Value::Bool)),
    function("ne", TWO, None, |args| compare::eq(args).map(|equal| Value::Bool(!equal))),
    function("lt", TWO, None, |args| compare::lt(args).map(Value::Bool)),
    function("le", TWO, None, |args| compare::le(args).map(Value::Bool)),
    function("gt", TWO, None, |args| compare::le(args).map(|le| Value::Bool(!le))),
    function("ge", TWO, None, |args| compare::lt(args).map(|lt| Value::Bool(!lt))),
];

pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

fn bare(args: &[Value]) -> Vec<Value> {
    args.iter().map(Value::bare).collect()
}

fn made(write: impl FnOnce(&mut Sink)) -> Result<Value, String> {
    let mut sink = Sink::new(RESULT_BYTES_MAX);
    write(&mut sink);
    match sink.refused {
        Some(size) => {
            Err(format!("a result of {size} bytes is over the limit of {RESULT_BYTES_MAX}"))
        }
        None => Ok(Value::text(sink.bytes)),
    }
}

/// A single string as it is, anything else as it is printed.
fn escaped(args: &[Value], escape: fn(&[u8], &mut Sink)) -> Result<Value, String> {
    let args = bare(args);
    let text = match &args[..] {
        [Value::Text(text)] => text.to_vec(),
        _ => {
            let shown: Vec<Value> =
                args.iter().map(|arg| printable(arg).unwrap_or_else(|| arg.clone())).collect();
            match made(|sink| print(sink, &shown))? {
                Value::Text(text) => text.to_vec(),
                _ => Vec::new(),
            }
        }
    };
    made(|sink| escape(&text, sink))
}

fn length(args: &[Value]) -> Result<Value, String> {
    let (item, is_nil) = args[0].target();
    if is_nil {
        return Err("len of nil pointer".to_owned());
    }
    let length = match &item {
        Value::Slice(slice) => slice.items().len(),
        Value::Map(map) => map.len(),
        Value::Text(text) => text.len(),
        Value::Invalid => {
            return Err("reflect: call of reflect.Value.Type on zero Value".to_owned());
        }
        other => return Err(format!("len of type {}", other.type_text())),
    };
    Ok(Value::Int(length as i64))
}

fn index(args: &[Value]) -> Result<Value, String> {
    let mut item = args[0].bare();
    if let Value::Invalid = item {
        return Err("index of untyped nil".to_owned());
    }
    for index in &args[1..] {
        let index = index.bare();
        let (target, is_nil) = item.target();
        if is_nil {
            return Err("index of nil pointer".to_owned());
        }
        item = match &target {
            Value::Slice(slice) => {
                let at = position(&index, slice.items().len())?;
                let found = slice.items().get(at).cloned();
                found.ok_or("reflect: slice index out of range")?
            }
            Value::Text(text) => {
                let at = position(&index, text.len())?;
                Value::Byte(*text.get(at).ok_or("reflect: string index out of range")?)
            }
            Value::Map(map) => {
                let Value::Text(key) = &index else { return Err(no_key(&index)) };
                map.get(key).cloned().unwrap_or_else(|| map.ty.item().zero())
            }
            other => return Err(format!("can't index item of type {}", other.type_text())),
        };
    }
    Ok(item)
}

fn no_key(index: &Value) -> String {
    match index.type_name() {
        None => "value is nil; should be of type string".to_owned(),
        Some(name) => format!("value has type {name}; should be string"),
    }
}

fn position(index: &Value, most: usize) -> Result<usize, String> {
    let number = match index {
        Value::Int(number) => *number,
        Value::Byte(number) => i64::from(*number),
        Value::Invalid => return Err("cannot index slice/array with nil".to_owned()),
        other => {
            return Err(format!("cannot index slice/array with type {}", other.type_text()));
        }
    };
    let fits = usize::try_from(number).ok().filter(|&number| number <= most);
    fits.ok_or_else(|| format!("index out of range: {number}"))
}

fn slice(args: &[Value]) -> Result<Value, String> {
    let (item, indexes) = (args[0].bare(), &args[1..]);
    if let Value::Invalid = item {
        return Err("slice of untyped nil".to_owned());
    }
    let (item, is_nil) = item.target();
    if is_nil {
        return Err("slice of nil pointer".to_owned());
    }
    if indexes.len() > 3 {
        return Err(format!("too many slice indexes: {}", indexes.len()));
    }
    let (length, room) = match &item {
        Value::Text(_) if indexes.len() == 3 => {
            return Err("cannot 3-index slice a string".to_owned());
        }
        Value::Text(text) => (text.len(), text.len()),
        Value::Slice(slice) => (slice.items().len(), slice.room()),
        other => return Err(format!("can't slice item of type {}", other.type_text())),
    };
    let mut at = [0, length, room];
    for (slot, index) in at.iter_mut().zip(indexes) {
        *slot = position(index, room)?;
    }
    for pair in at[..indexes.len().max(2)].windows(2) {
        if pair[0] > pair[1] {
            return Err(format!("invalid slice index: {} > {}", pair[0], pair[1]));
        }
    }
    Ok(match &item {
        Value::Slice(slice) => Value::Slice(slice.cut(at[0], at[1])),
        Value::Text(text) => Value::text(&text[at[0]..at[1]]),
        _ => item,
    })
}
