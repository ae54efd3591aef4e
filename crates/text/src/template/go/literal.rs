//! Go's literals: strings with their escapes, both ways, and numbers, which have no type before they are used.

/// What `%q` does: double quotes, escapes for what is not printable.
pub(crate) fn quote(bytes: &[u8]) -> String {
    quote_with(bytes, '"', false)
}

pub(super) fn quote_with(bytes: &[u8], quote: char, ascii: bool) -> String {
    let mut out = String::from(quote);
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|character| escape(&mut out, character, quote, ascii));
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out.push(quote);
    out
}

fn escape(out: &mut String, character: char, quote: char, ascii: bool) {
    let code = character as u32;
    match character {
        _ if character == quote || character == '\\' => out.extend(['\\', character]),
        _ if is_print(character) && (!ascii || character.is_ascii()) => out.push(character),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        _ if code < 0x20 || code == 0x7f => out.push_str(&format!("\\x{code:02x}")),
        _ if code < 0x10000 => out.push_str(&format!("\\u{code:04x}")),
        _ => out.push_str(&format!("\\U{code:08x}")),
    }
}

/// Letters, marks, numbers, punctuation, symbols and the blank.
pub(super) fn is_print(character: char) -> bool {
    if character.is_ascii() {
        return character == ' ' || character.is_ascii_graphic();
    }
    // The standard library shows what it takes for printable only in this way.
    let pair: String = ['x', character].into_iter().collect();
    pair.escape_debug().last() == Some(character)
}

/// The value of a literal in quotes of any of the three kinds.
pub(super) fn unquote(literal: &str) -> Option<Vec<u8>> {
    let quote = literal.bytes().next()?;
    let inside = literal.get(1..)?.strip_suffix(char::from(quote))?;
    if quote == b'`' {
        return Some(inside.bytes().filter(|&byte| byte != b'\r').collect());
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while !rest.is_empty() {
        let (value, tail) = unquote_char(rest, quote)?;
        match value {
            Char::Byte(byte) => out.push(byte),
            Char::Rune(rune) => out.extend(rune.to_string().into_bytes()),
        }
        rest = tail;
    }
    Some(out)
}

enum Char {
    /// `\x` and octal escapes in strings stand for bytes.
    Byte(u8),
    Rune(char),
}

/// The number that a character in single quotes stands for, or Go's message.
fn char_constant(literal: &str) -> Result<i64, String> {
    let (value, tail) = unquote_char(&literal[1..], b'\'').ok_or("invalid syntax")?;
    if tail != "'" {
        return Err(format!("malformed character constant: {literal}"));
    }
    Ok(match value {
        Char::Byte(byte) => byte.into(),
        Char::Rune(rune) => rune as i64,
    })
}

fn unquote_char(text: &str, quote: u8) -> Option<(Char, &str)> {
    let mut characters = text.chars();
    let first = characters.next()?;
    if first == char::from(quote) || first == '\n' {
        return None;
    }
    if first != '\\' {
        return Some((Char::Rune(first), characters.as_str()));
    }
    let kind = characters.next()?;
    let rest = characters.as_str();
    let simple = match kind {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' => '\\',
        '\'' | '"' if kind == char::from(quote) => kind,
        'x' => return code(rest, 2, 16).and_then(byte),
        'u' => return code(rest, 4, 16).and_then(rune),
        'U' => return code(rest, 8, 16).and_then(rune),
        '0'..='7' => return code(&text[1..], 3, 8).and_then(byte),
        _ => return None,
    };
    Some((Char::Rune(simple), rest))
}

fn code(text: &str, digits: usize, radix: u32) -> Option<(u32, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    let plain = number.chars().all(|digit| digit.is_digit(radix));
    Some((u32::from_str_radix(number, radix).ok().filter(|_| plain)?, rest))
}

fn byte((code, rest): (u32, &str)) -> Option<(Char, &str)> {
    Some((Char::Byte(u8::try_from(code).ok()?), rest))
}

fn rune((code, rest): (u32, &str)) -> Option<(Char, &str)> {
    Some((Char::Rune(char::from_u32(code)?), rest))
}

/// A number literal: all that it can be.
#[derive(Clone, Debug, Default)]
pub(in crate::template) struct Number {
    pub text: String,
    pub int: Option<i64>,
    pub uint: Option<u64>,
    pub float: Option<f64>,
    pub complex: Option<(f64, f64)>,
}

impl Number {
    pub(super) fn character(text: &str) -> Result<Number, String> {
        let code = char_constant(text)?;
        Ok(Number {
            text: text.to_owned(),
            int: Some(code),
            uint: u64::try_from(code).ok(),
            float: Some(code as f64),
            complex: None,
        })
    }

    pub(super) fn complex(text: &str) -> Result<Number, String> {
        let illegal = || "syntax error scanning complex number".to_owned();
        let inside = text.strip_suffix('i').ok_or_else(illegal)?;
        let signs = inside.char_indices().filter(|&(at, c)| {
            let after = inside[..at].chars().next_back();
            at > 0 && matches!(c, '+' | '-') && !after.is_some_and(|c| "eEpP".contains(c))
        });
        let at = signs.map(|(at, _)| at).next_back().ok_or_else(illegal)?;
        let part = |text: &str| parse_float(text).ok_or_else(illegal);
        Ok(Number::of_complex(text, part(&inside[..at])?, part(&inside[at..])?))
    }

    pub(super) fn real(text: &str) -> Result<Number, String> {
        if let Some(imaginary) = text.strip_suffix('i').and_then(parse_float) {
            return Ok(Number::of_complex(text, 0.0, imaginary));
        }
        let mut number = Number { text: text.to_owned(), ..Number::default() };
        number.uint = parse_uint(text);
        number.int = parse_int(text);
        if number.int == Some(0) {
            number.uint = Some(0);
        }
        number.float = number.int.map(|int| int as f64).or(number.uint.map(|uint| uint as f64));
        if number.float.is_none()
            && let Some(float) = parse_float(text)
        {
            if !text.contains(['.', 'e', 'E', 'p', 'P']) {
                return Err(format!("integer overflow: {}", quote(text.as_bytes())));
            }
            number.float = Some(float);
            number.int = whole(float);
            number.uint = whole_unsigned(float);
        }
        match number.float {
            Some(_) => Ok(number),
            None => Err(format!("illegal number syntax: {}", quote(text.as_bytes()))),
        }
    }

    fn of_complex(text: &str, real: f64, imaginary: f64) -> Number {
        let float = (imaginary == 0.0).then_some(real);
        Number {
            text: text.to_owned(),
            int: float.and_then(whole),
            uint: float.and_then(whole_unsigned),
            float,
            complex: Some((real, imaginary)),
        }
    }
}

fn whole(float: f64) -> Option<i64> {
    Some(float as i64).filter(|&int| int as f64 == float && int != i64::MAX)
}

fn whole_unsigned(float: f64) -> Option<u64> {
    Some(float as u64).filter(|&int| int as f64 == float && int != u64::MAX)
}

fn parse_int(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(positive) => 0_i64.checked_sub_unsigned(parse_uint(positive)?),
        None => i64::try_from(parse_uint(text.strip_prefix('+').unwrap_or(text))?).ok(),
    }
}

/// The base is told by the prefix, blanks of digits are underscores. No sign.
fn parse_uint(text: &str) -> Option<u64> {
    if !underscores_fit(text) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let digits: String = digits.chars().filter(|&digit| digit != '_').collect();
    let plain = digits.chars().all(|digit| digit.is_digit(radix));
    u64::from_str_radix(&digits, radix).ok().filter(|_| plain)
}

/// Each stands between digits, or behind the base's prefix.
fn underscores_fit(text: &str) -> bool {
    if !text.contains('_') {
        return true;
    }
    let text = text.trim_start_matches(['+', '-']);
    let bytes = text.as_bytes();
    let prefixed = bytes.len() >= 2 && bytes[0] == b'0' && b"xXoObB".contains(&bytes[1]);
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let based = |at: usize| prefixed && at == 2;
    (0..bytes.len()).filter(|&at| bytes[at] == b'_').all(|at| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        (is_digit(before) || based(at)) && is_digit(bytes.get(at + 1))
    })
}

fn parse_float(text: &str) -> Option<f64> {
    if !underscores_fit(text) {
        return None;
    }
    let plain: String = text.chars().filter(|&digit| digit != '_').collect();
    let (sign, number) = match plain.strip_prefix('-') {
        Some(number) => (-1.0, number),
        None => (1.0, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let float = match number.get(..2) {
        Some("0x" | "0X") => hex_float(&number[2..])?,
        _ if number.starts_with(|c: char| c.is_ascii_digit() || c == '.') => number.parse().ok()?,
        _ => return None,
    };
    Some(sign * float).filter(|float| float.is_finite())
}

/// `1.8p3`: exact as long as the digits fit the mantissa.
fn hex_float(text: &str) -> Option<f64> {
    let (digits, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    let mantissa = u64::from_str_radix(&all, 16).ok()?;
    let exponent: i32 = exponent.parse().ok()?;
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
    Some(mantissa as f64 * 2_f64.powi(shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_there_and_back() {
        let check = |literal: &str, value: Option<&[u8]>| {
            assert_eq!(unquote(literal).as_deref(), value, "{literal}");
        };
        check(r#""a\n\t\"\\é\u00e9\x41\101""#, Some("a\n\t\"\\éé\x41\x41".as_bytes()));
        check(r#""\xff""#, Some(&[0xff]));
        check("`a\r\\n`", Some(b"a\\n"));
        for bad in [r#""\q""#, r#""\'""#, r#""\ud800""#, r#""\400""#, "\"", r#""\x4""#, "'"] {
            check(bad, None);
        }
        let back = |bytes: &[u8], literal: &str| assert_eq!(quote(bytes), literal);
        back("é\u{7f}\u{200b}\"\\\u{1f600}\n".as_bytes(), "\"é\\x7f\\u200b\\\"\\\\😀\\n\"");
        back(b"\xffa", "\"\\xffa\"");
    }

    #[test]
    fn numbers_are_all_they_can_be() {
        let check = |text: &str, int: Option<i64>, float: Option<f64>| {
            let number = Number::real(text).unwrap_or_default();
            assert_eq!((number.int, number.float), (int, float), "{text}");
        };
        check("1_000", Some(1000), Some(1000.0));
        check("0x1F", Some(31), Some(31.0));
        check("-0b11", Some(-3), Some(-3.0));
        check("017", Some(15), Some(15.0));
        check("1e3", Some(1000), Some(1000.0));
        check(".5", None, Some(0.5));
        check("0x1p-2", None, Some(0.25));
        check("18446744073709551615", None, Some(18446744073709551615.0));
        for bad in ["1__0", "_1", "1e400", "0xg", "99999999999999999999", "089"] {
            check(bad, None, None);
        }
    }
}
