//! A template's text before it is compiled: brought into the form our engine knows, and kept from being so deeply
//! nested that compiling it would need more stack than there is.
//!
//! `{% generation %}` marks what the assistant wrote, for training. For rendering it is a block like any other, with
//! its own scope: a `with`. What a variable is set to goes through the filter [`HELD`], which bounds what variables
//! hold in all; what a loop goes through, through [`ITEMS`], which makes a list of a text's characters, so that the loop
//! knows its last one; `[::-1]` is the filter [`BACKWARDS`], because our engine gives up on an empty list there. Lines stay
//! where they are.

use std::borrow::Cow;

use crate::{Error, Result};

/// The largest published templates have about 30 KB.
const SOURCE_BYTES_MAX: usize = 256 << 10;

/// One tag's text without its strings; published ones have some hundred. Price: a stack frame or two for each byte.
const TAG_BYTES_MAX: usize = 4 << 10;

/// Enough for the limits above, several times over; only what is touched is ever backed by memory.
pub(super) const STACK_BYTES: usize = 64 << 20;

const BLOCKS: &[(&str, &str)] = &[("generation", "with"), ("endgeneration", "endwith")];

pub(super) fn prepare(source: &str) -> Result<String> {
    within("a chat template in bytes", source.len(), SOURCE_BYTES_MAX)?;
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = next_tag(rest) {
        out.push_str(&rest[..start]);
        let (length, bare) = tag_length(&rest[start..]);
        within("a tag of the chat template in bytes", bare, TAG_BYTES_MAX)?;
        push_tag(&mut out, &rest[start..start + length]);
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    Ok(out)
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<()> {
    if size > limit { Err(Error::TooLarge { what, size, limit }) } else { Ok(()) }
}

fn next_tag(text: &str) -> Option<usize> {
    text.bytes()
        .zip(text.bytes().skip(1))
        .position(|pair| matches!(pair, (b'{', b'{' | b'%' | b'#')))
}

/// Bytes of the tag that `text` begins with, and how many of them are in no string.
fn tag_length(text: &str) -> (usize, usize) {
    let bytes = text.as_bytes();
    if bytes[1] == b'#' {
        return (text.find("#}").map_or(text.len(), |end| end + 2), 0);
    }
    let closing: &[u8] = if bytes[1] == b'%' { b"%}" } else { b"}}" };
    let mut quote = None;
    let mut braces = 0_usize;
    let mut bare = 0;
    let mut at = 2;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, _) if braces == 0 && bytes[at..].starts_with(closing) => return (at + 2, bare),
            (None, byte) => {
                bare += 1;
                match byte {
                    b'\'' | b'"' => quote = Some(byte),
                    b'{' => braces += 1,
                    b'}' => braces = braces.saturating_sub(1),
                    _ => {}
                }
            }
        }
        at += 1;
    }
    (text.len(), bare)
}

/// The filter for what variables are set to.
pub(super) const HELD: &str = "ollmlx_held";

/// `set x = y` becomes `set x = (y)|held`.
fn bounded(tag: &str) -> Option<String> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let start = inside.trim_start_matches(is_filler);
    let names = start.strip_prefix("set")?.strip_prefix(char::is_whitespace)?;
    let sign = names.find('=').filter(|&at| !names[..at].contains(['\'', '"', '|', '(']))?;
    let value = &names[sign + 1..];
    let kept = value.trim_end_matches(is_filler);
    let (before, after) = (&tag[..tag.len() - value.len() - 2], &value[kept.len()..]);
    (!kept.trim().is_empty()).then(|| format!("{before}({kept})|{HELD}{after}%}}"))
}

/// The filter for what loops go through.
pub(super) const ITEMS: &str = "ollmlx_items";

/// `for x in y if z` becomes `for x in (y)|items if z`.
fn itemised(tag: &str) -> Option<String> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let names = inside.trim_start_matches(is_filler).strip_prefix("for")?;
    let names = names.strip_prefix(char::is_whitespace)?;
    let rest = &names[names.find(" in ")? + " in ".len()..];
    let kept = rest[..end_of_items(rest)].trim_end_matches(is_filler);
    let (before, after) = (&tag[..tag.len() - rest.len() - 2], &rest[kept.len()..]);
    (!kept.trim().is_empty()).then(|| format!("{before}({kept})|{ITEMS}{after}%}}"))
}

/// Where the loop's condition begins, or its word `recursive`, outside of strings and brackets.
fn end_of_items(text: &str) -> usize {
    let (mut quote, mut escaped, mut depth) = (None, false, 0_usize);
    let begins = |at: usize, word: &str| {
        let around = |c: char| !c.is_alphanumeric() && !matches!(c, '_' | '.');
        let before = text[..at].chars().next_back();
        text[at..]
            .strip_prefix(word)
            .is_some_and(|behind| behind.starts_with(around) || behind.is_empty())
            && before.is_some_and(around)
    };
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) if depth == 0 && (begins(at, "if") || begins(at, "recursive")) => return at,
            (None, _) => {}
        }
    }
    text.len()
}

/// The filter in place of `[::-1]`.
pub(super) const BACKWARDS: &str = "ollmlx_backwards";

const SLICE_BACKWARDS: &str = "[::-1]";

/// `x[::-1]` becomes `x|backwards`, which binds as tightly as long as nothing of the same rank follows.
fn turned(tag: &str) -> Cow<'_, str> {
    if tag.starts_with("{#") || !tag.contains(SLICE_BACKWARDS) {
        return Cow::Borrowed(tag);
    }
    let (mut out, mut quote, mut at) = (String::new(), None, 0);
    while let Some(character) = tag[at..].chars().next() {
        let behind = tag[at..].strip_prefix(SLICE_BACKWARDS);
        if quote.is_none() && behind.is_some_and(|rest| !rest.starts_with(['[', '.', '('])) {
            out = out + "|" + BACKWARDS;
            at += SLICE_BACKWARDS.len();
            continue;
        }
        let mut length = character.len_utf8();
        match quote {
            Some(_) if character == '\\' => {
                length += tag[at + length..].chars().next().map_or(0, char::len_utf8);
            }
            Some(open) if open == character => quote = None,
            None if matches!(character, '\'' | '"') => quote = Some(character),
            _ => {}
        }
        out.push_str(&tag[at..at + length]);
        at += length;
    }
    Cow::Owned(out)
}

fn push_tag(out: &mut String, tag: &str) {
    let tag = &*turned(tag);
    if let Some(changed) = bounded(tag).or_else(|| itemised(tag)) {
        return out.push_str(&changed);
    }
    let inside = tag.strip_prefix("{%").and_then(|inside| inside.strip_suffix("%}"));
    let word = inside.map(|inside| inside.trim_matches(is_filler)).unwrap_or_default();
    match BLOCKS.iter().find(|(name, _)| *name == word) {
        Some((name, replacement)) => out.push_str(&tag.replacen(name, replacement, 1)),
        None => out.push_str(tag),
    }
}

/// White space and its control characters.
fn is_filler(character: char) -> bool {
    matches!(character, '-' | '+') || character.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(prepare(source).unwrap(), expected);
    }

    #[test]
    fn only_generation_blocks_change() {
        check("a{%- generation -%}b{% endgeneration%}c", "a{%- with -%}b{% endwith%}c");
        check("{%\n generation\n%}", "{%\n with\n%}");
        for same in [
            "{% generation_x %} generation {%",
            "{{ '{% generation %}' }}{# {% generation %} #}",
            "{{ {'a': {}}}}{{ \"}}\\\"\" }}é",
            "{",
            "{{",
            "{{ 'é\\",
            "",
        ] {
            check(same, same);
        }
        check("a\r\nb\rc", "a\nb\nc");
    }

    #[test]
    fn what_variables_hold_is_counted() {
        check("{% set a = 1 %}", "{% set a =( 1)|ollmlx_held %}");
        check("{%- set ns.a = 'x' ~ '=' -%}", "{%- set ns.a =( 'x' ~ '=')|ollmlx_held -%}");
        check("{%set a,b=c if d else e%}", "{%set a,b=(c if d else e)|ollmlx_held%}");
        check("{% set a =\n [1,\n 2]\n%}", "{% set a =(\n [1,\n 2])|ollmlx_held\n%}");
        for same in ["{% set a %}", "{% set a | upper %}", "{% set a = %}", "{% setting = 1 %}"] {
            check(same, same);
        }
    }

    #[test]
    fn loops_go_through_items() {
        check("{% for a in b %}", "{% for a in (b)|ollmlx_items %}");
        check("{%- for a, b in c['if x'] -%}", "{%- for a, b in (c['if x'])|ollmlx_items -%}");
        check("{% for a in b if a.if %}", "{% for a in (b)|ollmlx_items if a.if %}");
        check(
            "{% for a in (b if c else d) if e %}",
            "{% for a in ((b if c else d))|ollmlx_items if e %}",
        );
        check("{% for a in b recursive %}", "{% for a in (b)|ollmlx_items recursive %}");
        check("{% for a in b.if_x | list %}", "{% for a in (b.if_x | list)|ollmlx_items %}");
        for same in ["{% for a in %}", "{% for %}", "{% format = 1 %}"] {
            check(same, same);
        }
    }

    #[test]
    fn lists_are_turned_round() {
        check("{{ a.b[::-1] }}", "{{ a.b|ollmlx_backwards }}");
        check("{% for a in b[::-1] %}", "{% for a in (b|ollmlx_backwards)|ollmlx_items %}");
        check("{{ 'é\\'[::-1]' ~ a[::-1] }}", "{{ 'é\\'[::-1]' ~ a|ollmlx_backwards }}");
        for same in ["{{ a[::-1][0] }}", "{{ a[::-1].b }}", "{# a[::-1] #}", "[::-1]", "{{ '\\"] {
            check(same, same);
        }
    }

    #[test]
    fn only_code_counts() {
        check(
            &format!("{{{{ '{0}' }}}}{0}", "x".repeat(100_000)),
            &format!("{{{{ '{0}' }}}}{0}", "x".repeat(100_000)),
        );
        for hostile in [
            format!("{{{{ {}1 }}}}", "-".repeat(TAG_BYTES_MAX)),
            format!("{{{{ {{'a': {{}}}} + {} }}}}", "1+".repeat(TAG_BYTES_MAX)),
            "x".repeat(SOURCE_BYTES_MAX + 1),
        ] {
            assert!(matches!(prepare(&hostile), Err(Error::TooLarge { .. })));
        }
    }
}
