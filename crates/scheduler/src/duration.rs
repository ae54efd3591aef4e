//! Durations in Go's notation (`1h30m`, `300ms`), which clients send and expect, with Go's error texts.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit { unit: String, text: String },
    /// A JSON value that is neither a number nor a text; named in Go's words.
    #[error("Unsupported type: '{0}'")]
    UnsupportedType(&'static str),
}

/// Nanoseconds, negative ones too.
pub fn parse(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let part;
        (part, rest) = parse_part(rest, text)?;
        total = total.checked_add(part).filter(|&sum| sum <= 1 << 63).ok_or_else(invalid)?;
    }
    match negative {
        // The most negative value has no positive twin.
        true => Ok(0i64.wrapping_sub_unsigned(total)),
        false => i64::try_from(total).map_err(|_| invalid()),
    }
}

/// One number with its unit, and what follows. `text` is the whole, for messages.
fn parse_part<'a>(part: &'a str, text: &str) -> Result<(u64, &'a str), DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (whole, rest) = split_digits(part);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_bytes = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_bytes);
    if unit.is_empty() {
        return Err(DurationError::MissingUnit(text.to_owned()));
    }
    let scale = nanos_of(unit).ok_or_else(|| DurationError::UnknownUnit {
        unit: unit.to_owned(),
        text: text.to_owned(),
    })?;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let nanos = whole.checked_mul(scale).filter(|&nanos| nanos <= 1 << 63).ok_or_else(invalid)?;
    Ok((nanos + fraction_nanos(fraction, scale), rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// More than 18 digits are below any nanosecond.
fn fraction_nanos(digits: &str, scale: u64) -> u64 {
    let digits = &digits[..digits.len().min(18)];
    let value: u64 = digits.parse().unwrap_or(0);
    (u128::from(value) * u128::from(scale) / 10u128.pow(digits.len() as u32)) as u64
}

fn nanos_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// As Go prints it: `1h30m0s`, `1.5s`, `300ms`, `0s`.
pub fn print(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn decimal(nanos: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let fraction = format!("{:0digits$}", nanos % unit);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}", nanos / unit)
}

/// Go's quoting in these messages: what is not printable ASCII is written byte by byte.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='\u{7f}' => quoted.push(c),
            _ => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes);
                bytes[..c.len_utf8()]
                    .iter()
                    .for_each(|byte| quoted.push_str(&format!("\\x{byte:02x}")));
            }
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<i64, &str>) {
        assert_eq!(parse(text).map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn parsing() {
        const SECOND: i64 = 1_000_000_000;
        check("0", Ok(0));
        check("5m", Ok(300 * SECOND));
        check("1h30m", Ok(5400 * SECOND));
        check("300ms", Ok(300_000_000));
        check("-1.5h", Ok(-5400 * SECOND));
        check("+.5s", Ok(SECOND / 2));
        check("1.s", Ok(SECOND));
        check("7us", Ok(7000));
        check("7µs", Ok(7000));
        check("1.0000000000000000000000000000001s", Ok(SECOND));
        check("9223372036854775807ns", Ok(i64::MAX));
        check("-9223372036854775808ns", Ok(i64::MIN));
        for bad in
            ["", "-", "soon", ".s", "9223372036854775808ns", "99999999999999999999s", "3000000h"]
        {
            check(bad, Err(&format!("time: invalid duration \"{bad}\"")));
        }
        check("10", Err("time: missing unit in duration \"10\""));
        check("1h30", Err("time: missing unit in duration \"1h30\""));
        check("3x", Err("time: unknown unit \"x\" in duration \"3x\""));
        check("3 s", Err("time: unknown unit \" s\" in duration \"3 s\""));
        check("\"ü\n", Err("time: invalid duration \"\\\"\\xc3\\xbc\\x0a\""));
    }

    #[test]
    fn printing() {
        for text in
            ["0s", "1ns", "1.5µs", "300ms", "1s", "1.5s", "5m0s", "1h30m0s", "24h0m0.000000001s"]
        {
            let nanos = parse(text).unwrap() as u64;
            assert_eq!(print(Duration::from_nanos(nanos)), text);
        }
    }
}
