//! Gemma 4: thoughts as `<|channel>thought … <channel|>` wherever they come, calls as
//! `<|tool_call>call:name{key:value}<tool_call|>` with texts between `<|"|>`.
//!
//! The notation is nearly JSON. Where a value's quotes are not as they should be, the tool's schema tells what is meant.

use protocol::ToolCall;
use serde_json::{Map, Value};

use super::calls;
use super::declared::{Declared, types};
use super::shape::{Calls, Shape, Start, Thoughts};

pub(super) const PRESERVED: &[&str] =
    &["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", QUOTE];

const QUOTE: &str = "<|\"|>";

/// Deeper values are no call. Price: a stack frame each.
const DEPTH_MAX: usize = 64;

pub(super) fn shape(start: Start, hidden: bool) -> Shape {
    let thoughts = Thoughts::between("<|channel>", "<channel|>");
    let thoughts = Thoughts { label: "thought\n", anywhere: true, hidden, ..thoughts };
    Shape::of(vec![calls_in_tags()]).thinking(thoughts, start)
}

pub(super) fn calls_in_tags() -> Calls {
    Calls::between("<|tool_call>", "<tool_call|>", call)
        .beginning(&["call:"])
        .followed_by(["<tool_call|>", "<|tool_response>"])
}

fn call(inside: &str, declared: &Declared) -> Option<Vec<ToolCall>> {
    let inside = inside.trim_start().strip_prefix("call:")?;
    let (name, _) = inside.split_once('{')?;
    let text = inside[name.len()..].trim_end();
    let name = Some(name.trim()).filter(|name| !name.is_empty())?;
    let read = |repairs| Text { rest: text, tool: name, declared, repairs }.all();
    Some(vec![calls::call(name, read(false).or_else(|| read(true))?)])
}

struct Text<'a> {
    rest: &'a str,
    tool: &'a str,
    declared: &'a Declared,
    /// Whether missing or wrong quotes and a missing last brace are put right.
    repairs: bool,
}

impl Text<'_> {
    fn all(mut self) -> Option<Map<String, Value>> {
        let fields = self.map(DEPTH_MAX)?;
        self.rest.trim().is_empty().then_some(fields)
    }

    fn map(&mut self, depth: usize) -> Option<Map<String, Value>> {
        self.eat("{");
        let mut fields = Map::new();
        loop {
            self.blanks();
            if self.eat("}") || (self.repairs && self.rest.is_empty()) {
                return Some(fields);
            }
            let key = self.key()?;
            self.blanks();
            if !self.eat(":") {
                return None;
            }
            fields.insert(key.clone(), self.value(&key, depth)?);
            self.blanks();
            let ends = self.rest.starts_with('}') || (self.repairs && self.rest.is_empty());
            if !ends && !self.eat(",") {
                return None;
            }
        }
    }

    fn key(&mut self) -> Option<String> {
        if self.eat(QUOTE) {
            return self.upto(QUOTE);
        }
        if self.rest.starts_with('"') {
            return self.json().and_then(|value| value.as_str().map(str::to_owned));
        }
        let end = self.rest.find(|c: char| !is_name(c)).unwrap_or(self.rest.len());
        let (key, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(key.to_owned()).filter(|key| !key.is_empty())
    }

    fn value(&mut self, key: &str, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        let before = self.rest;
        self.blanks();
        if self.eat(QUOTE) {
            let text = self.upto(QUOTE);
            return text.or_else(|| self.last_text()).map(Value::from);
        }
        match self.rest.chars().next() {
            Some('{') => return self.map(depth).map(Value::Object),
            Some('[') => return self.list(key, depth),
            Some('\'') if self.repairs => {
                if let Some(text) = self.single_quoted() {
                    return Some(Value::from(text));
                }
            }
            _ => {}
        }
        self.json().filter(|_| self.ends_here()).or_else(|| {
            self.rest = before;
            self.bare_text(key).map(Value::from)
        })
    }

    fn list(&mut self, key: &str, depth: usize) -> Option<Value> {
        self.eat("[");
        let mut values = Vec::new();
        loop {
            self.blanks();
            if self.eat("]") {
                return Some(Value::Array(values));
            }
            values.push(self.value(key, depth)?);
            self.blanks();
            if !self.eat(",") && !self.rest.starts_with(']') {
                return None;
            }
        }
    }

    /// A number, a constant or a quoted text.
    fn json(&mut self) -> Option<Value> {
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<Value>();
        let value = values.next()?.ok()?;
        self.rest = &self.rest[values.byte_offset()..];
        Some(value)
    }

    fn ends_here(&self) -> bool {
        let rest = self.rest.trim_start();
        rest.starts_with([',', '}', ']']) || rest.is_empty()
    }

    fn upto(&mut self, end: &str) -> Option<String> {
        let (text, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        Some(text.to_owned())
    }

    /// A text whose closing mark is missing: it goes to the end, or to what closes the object there.
    fn last_text(&mut self) -> Option<String> {
        if !self.repairs {
            return None;
        }
        let rest = self.rest.trim_end();
        let text = rest.strip_suffix(['}', ']']).unwrap_or(rest);
        self.rest = &self.rest[text.len()..];
        Some(text.to_owned())
    }

    /// As Python writes it; a closing mark may follow that was none.
    fn single_quoted(&mut self) -> Option<String> {
        let inside = &self.rest[1..];
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '\'' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        let text = inside[..end].to_owned();
        self.rest = &inside[end + 1..];
        self.eat(QUOTE);
        Some(text)
    }

    /// A text without any quotes, where the schema says that it is one: to the next declared key, or to the end.
    fn bare_text(&mut self, key: &str) -> Option<String> {
        let mut properties = self.declared.properties(self.tool);
        let schema = properties.find(|(known, _)| *known == key).map(|(_, schema)| schema)?;
        let is_text = types(schema).iter().any(|kind| kind.eq_ignore_ascii_case("string"));
        if !self.repairs || !is_text {
            return None;
        }
        let commas = self.rest.match_indices(',').map(|(at, _)| at);
        let trimmed = self.rest.trim_end();
        let end = commas.into_iter().find(|at| self.is_declared_key(&self.rest[at + 1..]));
        let end = end.unwrap_or(trimmed.strip_suffix('}').unwrap_or(trimmed).len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(text.to_owned())
    }

    fn is_declared_key(&self, text: &str) -> bool {
        let Some((key, _)) = text.split_once(':') else { return false };
        self.declared.properties(self.tool).any(|(known, _)| known == key.trim())
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, text: &str) -> bool {
        let behind = self.rest.strip_prefix(text);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }
}

fn is_name(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{told, tools};
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let calls = call(inside, &Declared::new(&tools()));
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn the_notation() {
        check(
            "call:get_weather{city:<|\"|>Oslo, {x}<|\"|>,days:3, metric : true}",
            Some(r#"get_weather{"city":"Oslo, {x}","days":3,"metric":true}"#),
        );
        check("call:now{}", Some("now{}"));
        check(
            "call:f{a:[1,<|\"|>x<|\"|>,{b:null}],\"c d\":\"e\\n\",g:{h:-2.5}}",
            Some(r#"f{"a":[1,"x",{"b":null}],"c d":"e\n","g":{"h":-2.5}}"#),
        );
        for none in ["", "now{}", "call:now", "call:{}", "call:f{a}", "call:f{a:x}", "call:f{a:1}x"]
        {
            check(none, None);
        }
    }

    #[test]
    fn quotes_are_put_right() {
        let oslo = Some(r#"get_weather{"city":"Oslo"}"#);
        check("call:get_weather{city:'Oslo'}", oslo);
        check("call:get_weather{city:'Oslo'<|\"|>}", oslo);
        check("call:get_weather{city:<|\"|>Oslo}", oslo);
        check("call:get_weather{city:<|\"|>Oslo", oslo);
        check("call:get_weather{city:Oslo}", oslo);
        check(
            "call:get_weather{city:Oslo, Norway,days:3}",
            Some(r#"get_weather{"city":"Oslo, Norway","days":3}"#),
        );
        check(&format!("call:f{{a:{}", "[".repeat(10_000)), None);
    }
}
