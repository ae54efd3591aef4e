//! Calls written as Python writes them: `f(a="x", b=[1, None])`, one per line or in a list.

use protocol::ToolCall;
use serde_json::{Map, Value};

use super::calls;
use super::declared::Declared;

/// Deeper values are no call. Price: a stack frame each.
const DEPTH_MAX: usize = 64;

/// Calls one after the other, with commas or lines between them, in a list or not.
pub(super) fn python(inside: &str, _: &Declared) -> Option<Vec<ToolCall>> {
    let mut text = Text { rest: inside.trim() };
    if text.rest.starts_with('[') && text.rest.ends_with(']') {
        text.rest = &text.rest[1..text.rest.len() - 1];
    }
    let mut calls = Vec::new();
    loop {
        text.skip(|c| c.is_whitespace() || c == ',');
        if text.rest.is_empty() {
            return (!calls.is_empty()).then_some(calls);
        }
        calls.push(text.call()?);
    }
}

struct Text<'a> {
    rest: &'a str,
}

impl Text<'_> {
    fn call(&mut self) -> Option<ToolCall> {
        let name = self.name(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | ':'));
        self.blanks();
        if name.is_empty() || !self.eat('(') {
            return None;
        }
        let mut arguments = Map::new();
        loop {
            self.skip(|c| c.is_whitespace() || c == ',');
            if self.eat(')') {
                return Some(calls::call(&name, arguments));
            }
            let key = self.name(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
            self.blanks();
            if key.is_empty() || !self.eat('=') {
                return None;
            }
            arguments.insert(key, self.value(DEPTH_MAX)?);
            self.blanks();
            if !self.rest.starts_with([',', ')']) {
                return None;
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.blanks();
        let depth = depth.checked_sub(1)?;
        match self.rest.chars().next()? {
            quote @ ('"' | '\'') => self.string(quote).map(Value::from),
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '{' => self.map(depth),
            _ => Some(self.word()),
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        self.eat(open);
        let mut values = Vec::new();
        loop {
            self.blanks();
            if self.eat(close) {
                return Some(Value::Array(values));
            }
            values.push(self.value(depth)?);
            self.blanks();
            if !self.eat(',') && !self.rest.starts_with(close) {
                return None;
            }
        }
    }

    fn map(&mut self, depth: usize) -> Option<Value> {
        self.eat('{');
        let mut fields = Map::new();
        loop {
            self.blanks();
            if self.eat('}') {
                return Some(Value::Object(fields));
            }
            let key = match self.rest.chars().next()? {
                quote @ ('"' | '\'') => self.string(quote)?,
                _ => self.name(|c| !matches!(c, ':' | ',' | '}')).trim().to_owned(),
            };
            self.blanks();
            if !self.eat(':') {
                return None;
            }
            fields.insert(key, self.value(depth)?);
            self.blanks();
            if !self.eat(',') && !self.rest.starts_with('}') {
                return None;
            }
        }
    }

    /// A constant, a number, or a text without quotes.
    fn word(&mut self) -> Value {
        let word = self.name(|c| !matches!(c, ',' | ')' | ']' | '}'));
        let word = word.trim();
        match word {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" | "nil" => Value::Null,
            _ => number(word).unwrap_or_else(|| Value::from(word)),
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        self.eat(quote);
        let mut text = String::new();
        loop {
            let next = self.next()?;
            match next {
                '\\' => {
                    let escaped = self.next()?;
                    self.escape(escaped, &mut text);
                }
                _ if next == quote => return Some(text),
                _ => text.push(next),
            }
        }
    }

    /// What Python does not know stays as it is.
    fn escape(&mut self, escaped: char, text: &mut String) {
        let simple = match escaped {
            'n' => Some('\n'),
            't' => Some('\t'),
            'r' => Some('\r'),
            'a' => Some('\x07'),
            'b' => Some('\x08'),
            'f' => Some('\x0c'),
            'v' => Some('\x0b'),
            '\\' | '"' | '\'' => Some(escaped),
            '\n' => return,
            'x' => self.code(2),
            'u' => self.code(4),
            'U' => self.code(8),
            _ => None,
        };
        match simple {
            Some(character) => text.push(character),
            None => text.extend(['\\', escaped]),
        }
    }

    fn code(&mut self, digits: usize) -> Option<char> {
        let code =
            self.rest.get(..digits).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let character = char::from_u32(u32::from_str_radix(code, 16).ok()?)?;
        self.rest = &self.rest[digits..];
        Some(character)
    }

    fn name(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_owned()
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(unwanted);
    }

    fn eat(&mut self, character: char) -> bool {
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }
}

fn number(word: &str) -> Option<Value> {
    if let Ok(number) = word.parse::<i64>() {
        return Some(Value::from(number));
    }
    let is_number = word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    let number = word.parse::<f64>().ok().filter(|number| is_number && number.is_finite())?;
    Some(Value::from(number))
}

#[cfg(test)]
mod tests {
    use super::super::testing::told;
    use super::*;

    #[track_caller]
    fn check(inside: &str, expected: Option<&str>) {
        let calls = python(inside, &Declared::default());
        assert_eq!(calls.map(|calls| told(&calls)).as_deref(), expected, "{inside}");
    }

    #[test]
    fn calls_as_python_writes_them() {
        check("f()", Some("f{}"));
        check("[f(a='x', b=\"y\"), g(c=1)]", Some(r#"f{"a":"x","b":"y"} g{"c":1}"#));
        check("f(a=1)\n g.h(b=-2.5)\n", Some(r#"f{"a":1} g.h{"b":-2.5}"#));
        check(
            "f(a=True, b=None, c=[1, 'x', (2,)], d={'k': {\"l\": false}, m: 3},)",
            Some(r#"f{"a":true,"b":null,"c":[1,"x",[2]],"d":{"k":{"l":false},"m":3}}"#),
        );
        check(
            r#"f(a='it\'s \n\x41\u00e9 \d', b="a, (b) = [c]")"#,
            Some(r#"f{"a":"it's \nAé \\d","b":"a, (b) = [c]"}"#),
        );
        check("f(a=plain text, b=nan)", Some(r#"f{"a":"plain text","b":"nan"}"#));
        for none in [
            "",
            "f",
            "f(",
            "f(a)",
            "f(a=)x",
            "f(a='x)",
            "(a=1)",
            "f(a=1) and so on",
            "f(a=[1)",
            "[]",
        ] {
            check(none, None);
        }
        check(&format!("f(a={})", "[".repeat(10_000)), None);
    }
}
