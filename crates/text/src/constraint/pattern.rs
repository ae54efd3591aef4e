//! Regular expressions of JSON Schema are ECMAScript's; the grammar compiler reads Rust's. Where the two spell the same
//! differently the spelling is changed, and what only one of them knows is refused.

use crate::{Error, Result};

/// A pattern in bytes.
const PATTERN_BYTES_MAX: usize = 8 << 10;

pub(super) fn ecma(pattern: &str) -> Result<String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        let (what, size) = ("a pattern in bytes", pattern.len());
        return Err(Error::TooLarge { what, size, limit: PATTERN_BYTES_MAX });
    }
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    // Inside `[…]`, and whether it has just begun.
    let mut class: Option<bool> = None;
    while let Some(character) = rest.next() {
        let begins = class == Some(true);
        class = class.map(|_| false);
        match (character, class) {
            ('\\', _) => escape(rest.next(), class.is_some(), pattern, &mut out)?,
            ('[', None) => {
                class = Some(true);
                out.push('[');
            }
            ('^', Some(_)) if begins => out.push('^'),
            (']', Some(_)) => {
                class = None;
                out.push(']');
            }
            // A class within a class, and the operators on classes, are Rust's alone.
            ('[' | '&' | '~', Some(_)) => out.extend(['\\', character]),
            ('-', Some(_)) if rest.peek() == Some(&'-') => return Err(unknown(pattern, "--")),
            ('.', None) => out.push_str(r"[^\n\r\u{2028}\u{2029}]"),
            ('(', None) if rest.peek() == Some(&'?') => {
                out.push('(');
                group(&mut rest, pattern, &mut out)?;
            }
            (other, _) => out.push(other),
        }
    }
    Ok(out)
}

/// Only groups that group, with a name or without.
fn group(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    pattern: &str,
    out: &mut String,
) -> Result<()> {
    rest.next();
    match rest.next() {
        Some(':') => out.push_str("?:"),
        Some('<') if rest.peek().is_some_and(|next| *next != '=' && *next != '!') => {
            rest.by_ref().take_while(|next| *next != '>').for_each(drop);
        }
        Some(other) => return Err(unknown(pattern, &format!("(?{other}"))),
        None => return Err(unknown(pattern, "(?")),
    }
    Ok(())
}

fn escape(next: Option<char>, in_class: bool, pattern: &str, out: &mut String) -> Result<()> {
    match next {
        Some('/') => out.push('/'),
        Some('b') if in_class => out.push_str(r"\x08"),
        Some('0') => out.push_str(r"\x00"),
        Some('s') if in_class => out.push_str(SPACES),
        Some('s') => out.push_str(&format!("[{SPACES}]")),
        Some(other @ ('b' | 'B' | '1'..='9' | 'k' | 'c' | 'A' | 'z' | 'Z')) => {
            return Err(unknown(pattern, &format!("\\{other}")));
        }
        // What has no meaning of its own means itself.
        Some(other) if other.is_ascii_alphanumeric() || is_meta(other) => {
            out.extend(['\\', other]);
        }
        Some(other) => out.push(other),
        None => return Err(unknown(pattern, "\\")),
    }
    Ok(())
}

/// What both sides count as white space.
const SPACES: &str = " \\t\\n\\r\\x0b\\x0c\\u{a0}";

fn is_meta(character: char) -> bool {
    r"\.+*?()|[]{}^$#&-~".contains(character)
}

fn unknown(pattern: &str, part: &str) -> Error {
    Error::format(format!("the pattern `{pattern}` uses `{part}`, which is not supported"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, expected: Option<&str>) {
        assert_eq!(ecma(pattern).ok().as_deref(), expected, "{pattern}");
    }

    #[test]
    fn what_is_spelt_differently() {
        check(r"^a\/b$", Some("^a/b$"));
        check(r"[[a&~]", Some(r"[\[a\&\~]"));
        check(r"[^\]x]", Some(r"[^\]x]"));
        check("a.b", Some(r"a[^\n\r\u{2028}\u{2029}]b"));
        check("[.]", Some("[.]"));
        check("(?:a)(?<year>b)", Some("(?:a)(b)"));
        check(r"\d{2}\-\_", Some(r"\d{2}\-_"));
    }

    #[test]
    fn what_is_refused() {
        for pattern in ["(?=a)", "(?!a)", "(?<=a)", "(?i)a", r"\bword", r"(a)\1", "[a--b]", "a\\"] {
            check(pattern, None);
        }
    }
}
