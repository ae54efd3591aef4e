//! What templates expect of Python: methods of its types, tests and filters where Jinja2 differs from our engine, and
//! the functions transformers adds.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value, escape_formatter, filters,
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::scientific;
use super::source::{BACKWARDS, HELD, ITEMS};
use crate::tokenizer::TEXT_BYTES_MAX;

/// Where `strftime_now` gets the time from.
pub(super) type Clock = fn() -> jiff::Zoned;

/// What a template said through `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

pub(super) fn raised(error: &Error) -> Option<&Raised> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(raised) = error.downcast_ref() {
            return Some(raised);
        }
        cause = error.source();
    }
    None
}

/// The settings of transformers' Jinja2.
pub(super) fn environment(clock: Clock) -> Environment<'static> {
    let mut environment = Environment::new();
    // Fails for delimiters only.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", super::json::tojson);
    environment.add_filter("trim", trim);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("items", items);
    environment.add_filter("string", |value: &Value| text(value));
    environment.add_test("number", scientific::is_number);
    environment.add_test("float", scientific::is_float);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_filter(HELD, held);
    environment.add_filter(ITEMS, characters);
    environment.add_filter(BACKWARDS, filters::reverse);
    environment
        .add_filter("replace", |text: &str, old: &str, new: &str| replace(text, old, new, None));
    environment.set_formatter(|out, state, value| {
        count_held(state, value)?;
        match has_floats(value, 0) {
            true => out.write_str(&text(value)).map_err(Error::from),
            false => escape_formatter(out, state, value),
        }
    });
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| strftime(format, &clock()));
    environment
}

fn raise_exception(message: Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn strftime(format: &str, now: &jiff::Zoned) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|why| Error::new(ErrorKind::InvalidOperation, why.to_string()))
}

/// Strings, lists and maps alike have a length and elements.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined
    )
}

/// What is not there has no elements, but can be gone through.
fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// What is not there has no fields.
fn items(value: &Value) -> Result<Value, Error> {
    if value.is_undefined() { Ok(Value::from(Vec::<Value>::new())) } else { filters::items(value) }
}

/// Longer texts are gone through as they are. Price: some 50 bytes for each character.
const CHARACTERS_MAX: usize = 1 << 20;

/// What a loop goes through: a text as the list of its characters, all else as it is; Python has no loop over `None`.
fn characters(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        let why = "'NoneType' object is not iterable";
        return Err(Error::new(ErrorKind::InvalidOperation, why));
    }
    Ok(match value.as_str().filter(|text| text.len() <= CHARACTERS_MAX) {
        Some(text) => text.chars().map(|character| Value::from(character.to_string())).collect(),
        None => value,
    })
}

/// Nesting of values that hold floats. Price: stack.
const DEPTH_MAX: usize = 100;

/// Whether Python writes the value in other words than our engine does.
fn has_floats(value: &Value, depth: usize) -> bool {
    match value.kind() {
        ValueKind::Number => !value.is_integer(),
        ValueKind::Seq => {
            let mut items = value.try_iter().into_iter().flatten();
            depth < DEPTH_MAX && items.any(|item| has_floats(&item, depth + 1))
        }
        ValueKind::Map => {
            let mut keys = value.try_iter().into_iter().flatten();
            let field = |key: &Value| value.get_item(key).unwrap_or_default();
            depth < DEPTH_MAX && keys.any(|key| has_floats(&field(&key), depth + 1))
        }
        _ => false,
    }
}

/// What variables are set to and what is written, in all and in bytes: whole conversations many times over. Price:
/// memory.
const HELD_BYTES_MAX: usize = 256 << 20;

/// Bytes of a list's item, beside its text.
const ITEM_BYTES: usize = 32;

/// The filter that each variable's value goes through.
fn held(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    count_held(state, &value)?;
    Ok(value)
}

fn count_held(state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let items = || value.len().unwrap_or(0).saturating_mul(ITEM_BYTES);
    let bytes = value.as_str().map_or_else(items, str::len);
    let Held(sum) = state.get_or_insert_extension(Held(0));
    *sum = sum.saturating_add(bytes);
    if *sum > HELD_BYTES_MAX {
        let why = format!("{sum} bytes of values are over the limit of {HELD_BYTES_MAX}");
        return Err(Error::new(ErrorKind::InvalidOperation, why));
    }
    Ok(())
}

/// Counted during one rendering.
struct Held(usize);

/// `str.replace`; the result may not be larger than any text.
fn replace(text: &str, old: &str, new: &str, most: Option<usize>) -> Result<Value, Error> {
    let found = text.matches(old).count().min(most.unwrap_or(usize::MAX));
    let size = found.saturating_mul(new.len()).saturating_add(text.len());
    if size > TEXT_BYTES_MAX {
        let why = format!("a text of {size} bytes is over the limit of {TEXT_BYTES_MAX}");
        return Err(Error::new(ErrorKind::InvalidOperation, why));
    }
    Ok(Value::from(text.replacen(old, new, found)))
}

/// `str(value)`
fn text(value: &Value) -> String {
    if has_floats(value, 0) { repr(value) } else { value.to_string() }
}

fn repr(value: &Value) -> String {
    if !has_floats(value, 0) {
        return format!("{value:?}");
    }
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Map => {
            let field = |key: Value| {
                format!("{key:?}: {}", repr(&value.get_item(&key).unwrap_or_default()))
            };
            format!("{{{}}}", items().map(field).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Seq => {
            let shown: Vec<String> = items().map(|item| repr(&item)).collect();
            match (value.downcast_object_ref::<Tuple>(), &shown[..]) {
                (Some(_), [one]) => format!("({one},)"),
                (Some(_), _) => format!("({})", shown.join(", ")),
                (None, _) => format!("[{}]", shown.join(", ")),
            }
        }
        _ => f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float),
    }
}

/// What is not there has no elements.
fn length(value: &Value) -> Result<Value, Error> {
    if value.is_undefined() { Ok(Value::from(0)) } else { filters::length(value).map(Value::from) }
}

fn trim(text: &Value, characters: Option<&str>) -> String {
    let text = text.to_string();
    strip(&text, characters, true, true).to_owned()
}

/// `str.isspace` of one character.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `repr` of a finite float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || number == 0.0 {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Methods our engine has not, or has with other results.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.as_str().map(|text| string_method(text, name, args)) {
        Some(Ok(Some(result))) => Ok(result),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => unknown_method_callback(state, value, name, args),
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" => strip_args(text, args, true, true)?,
        "lstrip" => strip_args(text, args, true, false)?,
        "rstrip" => strip_args(text, args, false, true)?,
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => splitlines(text, args)?,
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
            replace(text, old, new, most.and_then(|most| usize::try_from(most).ok()))?
        }
        "partition" => partition(text, args, false)?,
        "rpartition" => partition(text, args, true)?,
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "isspace" => all(text, args, is_space)?,
        "isalpha" => all(text, args, char::is_alphabetic)?,
        "isalnum" => all(text, args, char::is_alphanumeric)?,
        "isdigit" | "isnumeric" | "isdecimal" => all(text, args, char::is_numeric)?,
        "islower" => cased(text, args, char::is_lowercase, char::is_uppercase)?,
        "isupper" => cased(text, args, char::is_uppercase, char::is_lowercase)?,
        _ => return Ok(None),
    }))
}

fn strip_args(text: &str, args: &[Value], start: bool, end: bool) -> Result<Value, Error> {
    let (characters,): (Option<&str>,) = from_args(args)?;
    Ok(Value::from(strip(text, characters, start, end)))
}

fn strip<'a>(text: &'a str, characters: Option<&str>, start: bool, end: bool) -> &'a str {
    let unwanted = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => is_space(character),
    };
    let text = if start { text.trim_start_matches(unwanted) } else { text };
    if end { text.trim_end_matches(unwanted) } else { text }
}

/// `split(sep=None, maxsplit=-1)`, from the front or from the back.
fn split(text: &str, args: &[Value], from_back: bool) -> Result<Value, Error> {
    let (separator, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        None if named.has("sep") => Some(named.get::<Value>("sep")?),
        separator => separator,
    };
    let most = match most {
        None if named.has("maxsplit") => named.get::<i64>("maxsplit")?,
        most => most.unwrap_or(-1),
    };
    named.assert_all_used()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let parts = match separator.as_ref().filter(|separator| !separator.is_none()) {
        None => split_blanks(text, most, from_back),
        Some(separator) => split_by(text, separator.as_str().unwrap_or_default(), most, from_back)?,
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_by<'a>(
    text: &'a str,
    separator: &str,
    most: usize,
    from_back: bool,
) -> Result<Vec<&'a str>, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "a separator is a text"));
    }
    let most = most.saturating_add(1);
    Ok(if from_back {
        let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
        parts.reverse();
        parts
    } else {
        text.splitn(most, separator).collect()
    })
}

fn split_blanks(text: &str, most: usize, from_back: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, !from_back, from_back);
    while !rest.is_empty() {
        let cut = if from_back {
            rest.rsplit_once(is_space).map(|(rest, part)| (part, rest))
        } else {
            rest.split_once(is_space)
        };
        let Some((part, more)) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        parts.push(part);
        rest = strip(more, None, !from_back, from_back);
    }
    if from_back {
        parts.reverse();
    }
    parts
}

fn splitlines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep,): (Option<bool>,) = from_args(args)?;
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ends_line) {
        let ending = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(1, char::len_utf8)
        };
        let line = if keep.unwrap_or(false) { &rest[..end + ending] } else { &rest[..end] };
        lines.push(Value::from(line));
        rest = &rest[end + ending..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    Ok(Value::from(lines))
}

fn ends_line(character: char) -> bool {
    matches!(
        character,
        '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// The part before, the separator, the part behind; all of it on one side if the separator is not there.
fn partition(text: &str, args: &[Value], from_back: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    let cut = if from_back { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, behind)) => [before, separator, behind],
        None if from_back => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// Python's answers about an empty text are all no.
fn all(text: &str, args: &[Value], is: impl Fn(char) -> bool) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(Value::from(!text.is_empty() && text.chars().all(is)))
}

fn cased(
    text: &str,
    args: &[Value],
    wanted: impl Fn(char) -> bool,
    unwanted: impl Fn(char) -> bool,
) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(Value::from(text.chars().any(wanted) && !text.chars().any(unwanted)))
}
