//! Reads the first JSON value of a text; errors carry Go's words.

use serde_json::{Map, Number, Value};

/// How deep arrays and objects may nest. Reading and dropping a value are recursive: a level costs some hundred
/// bytes of stack. (Go stops at 10,000; no client comes near either.)
const DEPTH_MAX: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SyntaxError {
    /// Nothing but white space.
    #[error("EOF")]
    Empty,
    #[error("unexpected EOF")]
    Truncated,
    #[error("invalid character {} {context}", quote_byte(*found))]
    Unexpected { found: u8, context: String },
    #[error("json: cannot unmarshal number {0} into Go value of type float64")]
    NumberRange(String),
    #[error("exceeded max depth")]
    TooDeep,
}

/// The first value; whatever follows it is not looked at.
pub(crate) fn parse(text: &[u8]) -> Result<Value, SyntaxError> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    match reader.after_space() {
        None => Err(SyntaxError::Empty),
        Some(_) => reader.value(),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    /// The next byte that is no white space, not consumed.
    fn after_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn need(&mut self) -> Result<u8, SyntaxError> {
        self.after_space().ok_or(SyntaxError::Truncated)
    }

    fn peek(&self) -> Result<u8, SyntaxError> {
        self.text.get(self.at).copied().ok_or(SyntaxError::Truncated)
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        match self.need()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => Ok(Value::String(self.string()?)),
            b't' => self.literal("true", Value::Bool(true)),
            b'f' => self.literal("false", Value::Bool(false)),
            b'n' => self.literal("null", Value::Null),
            b'-' | b'0'..=b'9' => self.number(),
            found => Err(unexpected(found, "looking for beginning of value")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(SyntaxError::TooDeep);
        }
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        let mut map = Map::new();
        if self.need()? == b'}' {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            match self.need()? {
                b'"' => {}
                found => {
                    return Err(unexpected(found, "looking for beginning of object key string"));
                }
            }
            let key = self.string()?;
            match self.need()? {
                b':' => self.at += 1,
                found => return Err(unexpected(found, "after object key")),
            }
            let value = self.value()?;
            map.insert(key, value);
            match self.need()? {
                b',' => self.at += 1,
                b'}' => break,
                found => return Err(unexpected(found, "after object key:value pair")),
            }
        }
        self.at += 1;
        Ok(Value::Object(map))
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        let mut list = Vec::new();
        if self.need()? == b']' {
            self.at += 1;
            return Ok(Value::Array(list));
        }
        loop {
            list.push(self.value()?);
            match self.need()? {
                b',' => self.at += 1,
                b']' => break,
                found => return Err(unexpected(found, "after array element")),
            }
        }
        self.at += 1;
        Ok(Value::Array(list))
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, SyntaxError> {
        for expected in word.bytes() {
            let found = self.peek()?;
            if found != expected {
                let expected = char::from(expected);
                return Err(unexpected(
                    found,
                    format!("in literal {word} (expecting '{expected}')"),
                ));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let start = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            found => return Err(unexpected(found, "in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let b'+' | b'-' = self.peek()? {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        number(&String::from_utf8_lossy(&self.text[start..self.at]))
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Result<(), SyntaxError> {
        let found = self.peek()?;
        if !found.is_ascii_digit() {
            return Err(unexpected(found, context));
        }
        self.digits();
        Ok(())
    }

    /// At the opening quote. Bytes that are no UTF-8 and halves of surrogate pairs become U+FFFD.
    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let run = self.at;
            while !matches!(self.peek()?, b'"' | b'\\' | 0..=0x1f) {
                self.at += 1;
            }
            out.extend_from_slice(&self.text[run..self.at]);
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
                found => return Err(unexpected(found, "in string literal")),
            }
        }
        self.at += 1;
        Ok(String::from_utf8(out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// After the backslash.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let found = self.peek()?;
        self.at += 1;
        out.push(match found {
            b'"' | b'\\' | b'/' => found,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut buffer = [0; 4];
                out.extend_from_slice(self.unicode()?.encode_utf8(&mut buffer).as_bytes());
                return Ok(());
            }
            _ => return Err(unexpected(found, "in string escape code")),
        });
        Ok(())
    }

    /// After `\u`; takes the second half of a surrogate pair along.
    fn unicode(&mut self) -> Result<char, SyntaxError> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if self.text.get(self.at..self.at + 2) != Some(b"\\u") {
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        let back = self.at;
        self.at += 2;
        let second = self.hex4()?;
        if !(0xdc00..0xe000).contains(&second) {
            self.at = back;
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let found = self.peek()?;
            let digit = char::from(found)
                .to_digit(16)
                .ok_or_else(|| unexpected(found, "in \\u hexadecimal character escape"))?;
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

fn unexpected(found: u8, context: impl Into<String>) -> SyntaxError {
    SyntaxError::Unexpected { found, context: context.into() }
}

fn number(literal: &str) -> Result<Value, SyntaxError> {
    let whole = literal
        .parse::<i64>()
        .map(Number::from)
        .or_else(|_| literal.parse::<u64>().map(Number::from));
    if let Ok(whole) = whole {
        return Ok(Value::Number(whole));
    }
    let float = literal.parse::<f64>().ok().and_then(Number::from_f64);
    float.map(Value::Number).ok_or_else(|| SyntaxError::NumberRange(literal.to_owned()))
}

/// A byte as Go's scanner shows it.
fn quote_byte(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => {
            let quoted = super::quote(&char::from(byte).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: Result<Value, &str>) {
        let got = parse(text.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn values() {
        check(
            r#" {"a":[1,-2.5,1e3,true,null],"b":{}} trailing"#,
            Ok(json!({"a":[1,-2.5,1000.0,true,null],"b":{}})),
        );
        check(r#""\u00e9\ud83d\ude00\n\/""#, Ok(json!("é😀\n/")));
        check(r#""\ud83dx\ude00""#, Ok(json!("\u{fffd}x\u{fffd}")));
        check("18446744073709551615", Ok(json!(18446744073709551615u64)));
        check(r#"{"a":1,"a":2}"#, Ok(json!({"a":2})));
        assert_eq!(parse(b"\"\xff\"").unwrap(), json!("\u{fffd}"));
    }

    #[test]
    fn errors_in_gos_words() {
        check("", Err("EOF"));
        check(" \n", Err("EOF"));
        check("{", Err("unexpected EOF"));
        check(r#"{"model":"tiny","#, Err("unexpected EOF"));
        check(r#""abc"#, Err("unexpected EOF"));
        check("nonsense", Err("invalid character 'o' in literal null (expecting 'u')"));
        check("x", Err("invalid character 'x' looking for beginning of value"));
        check("{x", Err("invalid character 'x' looking for beginning of object key string"));
        check(r#"{"a" 1}"#, Err("invalid character '1' after object key"));
        check(r#"{"a":1 2}"#, Err("invalid character '2' after object key:value pair"));
        check(r#"{"a":01}"#, Err("invalid character '1' after object key:value pair"));
        check("[1 2]", Err("invalid character '2' after array element"));
        check("[1,]", Err("invalid character ']' looking for beginning of value"));
        check("-x", Err("invalid character 'x' in numeric literal"));
        check("1.x", Err("invalid character 'x' after decimal point in numeric literal"));
        check("1ex", Err("invalid character 'x' in exponent of numeric literal"));
        check("\"\n\"", Err(r"invalid character '\n' in string literal"));
        check(r#""\x""#, Err("invalid character 'x' in string escape code"));
        check(r#""\u12g4""#, Err(r"invalid character 'g' in \u hexadecimal character escape"));
        check("'", Err(r"invalid character '\'' looking for beginning of value"));
        check("é", Err("invalid character 'Ã' looking for beginning of value"));
        check(&"[".repeat(10_000), Err("exceeded max depth"));
        check("1e999", Err("json: cannot unmarshal number 1e999 into Go value of type float64"));
    }
}
