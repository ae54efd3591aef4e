//! What the flags of `run` ask for, checked and in the request's words.

use serde_json::{Map, Value, json};

use super::Args;
use crate::fault::{Told, told};

/// What a request says besides model and prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    pub keep_alive: Option<Value>,
    pub format: Option<Value>,
    pub think: Option<Value>,
    pub options: Map<String, Value>,
}

impl Wishes {
    pub fn add_to(&self, body: &mut Map<String, Value>) {
        let named =
            [("keep_alive", &self.keep_alive), ("format", &self.format), ("think", &self.think)];
        for (key, value) in named {
            if let Some(value) = value {
                body.insert(key.to_owned(), value.clone());
            }
        }
        if !self.options.is_empty() {
            body.insert("options".to_owned(), Value::Object(self.options.clone()));
        }
    }
}

impl Wishes {
    pub fn of(args: &Args) -> Result<Wishes, Told> {
        Ok(Wishes {
            keep_alive: args
                .keepalive
                .as_deref()
                .filter(|text| !text.is_empty())
                .map(keep_alive)
                .transpose()?,
            format: args
                .format
                .as_deref()
                .filter(|text| !text.is_empty())
                .map(format_wish)
                .transpose()?,
            think: args.think.as_deref().map(think).transpose()?,
            options: Map::new(),
        })
    }
}

/// A duration; a negative one means for ever.
fn keep_alive(text: &str) -> Result<Value, Told> {
    let nanos = scheduler::duration::parse(text).map_err(|error| {
        told(error.to_string()).hint("a duration is a number with its unit, like `10m` or `1h30m`")
    })?;
    Ok(if nanos < 0 { json!(-1) } else { json!(text) })
}

/// `json`, or a JSON schema.
fn format_wish(text: &str) -> Result<Value, Told> {
    if text == "json" {
        return Ok(json!(text));
    }
    serde_json::from_str(text).map_err(|error| {
        told(format!("--format is neither `json` nor a JSON schema: {error}"))
            .hint("in a shell, put a schema in single quotes")
    })
}

fn think(text: &str) -> Result<Value, Told> {
    match text {
        "" | "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        "high" | "medium" | "low" | "max" => Ok(text.into()),
        _ => Err(told(format!(
            "invalid value for --think: {text:?} (must be true, false, high, medium, low, or max)"
        ))),
    }
}

/// What only embedding models care for.
#[derive(Clone, Copy)]
pub struct Extent {
    pub truncate: Option<bool>,
    pub dimensions: u32,
}

impl Extent {
    pub fn of(args: &Args) -> Result<Extent, Told> {
        let refuse = |text: &str, flag: &str, function: &str| {
            told(format!(
                "invalid argument {text:?} for \"--{flag}\" flag: strconv.{function}: parsing {text:?}: invalid syntax"
            ))
        };
        let truncate = match args.truncate.as_deref() {
            None => None,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Some(false),
            Some(other) => return Err(refuse(other, "truncate", "ParseBool")),
        };
        let dimensions = args.dimensions.as_deref().unwrap_or("0");
        let dimensions =
            dimensions.parse().map_err(|_| refuse(dimensions, "dimensions", "ParseInt"))?;
        Ok(Extent { truncate, dimensions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_checked() {
        let check = |got: Result<Value, Told>, expected: Result<Value, &str>| {
            assert_eq!(got.map_err(|told| told.message), expected.map_err(str::to_owned));
        };
        check(think("true"), Ok(json!(true)));
        check(think("high"), Ok(json!("high")));
        let bad =
            "invalid value for --think: \"lots\" (must be true, false, high, medium, low, or max)";
        check(think("lots"), Err(bad));
        check(keep_alive("2m"), Ok(json!("2m")));
        check(keep_alive("-1s"), Ok(json!(-1)));
        check(keep_alive("soon"), Err("time: invalid duration \"soon\""));
        check(format_wish("json"), Ok(json!("json")));
        check(format_wish("{\"type\":\"object\"}"), Ok(json!({"type": "object"})));
        let bad = "--format is neither `json` nor a JSON schema: expected value at line 1 column 1";
        check(format_wish("xml"), Err(bad));
    }
}
