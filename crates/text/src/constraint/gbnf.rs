//! Grammars in llama.cpp's syntax, told in Lark's.
//!
//! That syntax knows characters only, Lark has a lexer that takes the longest word. So a grammar without recursion
//! becomes one regular expression, which has no words; any other is told character by character. Both are exact.

mod parse;

use std::fmt::Write;

use crate::{Error, Result};

/// The regular expression of a grammar without recursion; a longer one is told character by character.
const REGEX_BYTES_MAX: usize = 32 << 10;

/// Whatever the rules multiply to.
const LARK_BYTES_MAX: usize = 1 << 20;

/// Rules within rules.
const DEPTH_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    /// Characters from and to, or all others.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    Any,
    /// By its place among the rules.
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat {
        node: Box<Node>,
        least: u32,
        most: Option<u32>,
    },
}

struct Rules {
    /// By their place; `root` is one of them.
    bodies: Vec<Node>,
    names: Vec<String>,
    root: usize,
}

pub(super) fn to_lark(source: &str) -> Result<String> {
    let rules = parse::rules(source)?;
    rules.check_ends()?;
    let mut regex = String::new();
    if rules.write_regex(&rules.bodies[rules.root], 0, &mut regex) {
        return Ok(format!("start: /{regex}/\n"));
    }
    let mut lark = format!("start: r{}\n", rules.root);
    for (index, body) in rules.bodies.iter().enumerate() {
        let _ = write!(lark, "r{index}: ");
        write_rule(body, &mut lark);
        lark.push('\n');
        if lark.len() > LARK_BYTES_MAX {
            let (what, size) = ("a grammar written out in bytes", lark.len());
            return Err(Error::TooLarge { what, size, limit: LARK_BYTES_MAX });
        }
    }
    Ok(lark)
}

impl Rules {
    /// A rule that never ends would be entered and never left.
    fn check_ends(&self) -> Result<()> {
        let mut ending = vec![false; self.bodies.len()];
        loop {
            let now: Vec<bool> = self.bodies.iter().map(|body| ends(body, &ending)).collect();
            if now == ending {
                break;
            }
            ending = now;
        }
        match ending.iter().position(|ends| !ends) {
            Some(index) => {
                let name = &self.names[index];
                Err(Error::format(format!("the rule `{name}` of the grammar never ends")))
            }
            None => Ok(()),
        }
    }

    /// False when it is too long, or has no end.
    fn write_regex(&self, node: &Node, depth: usize, out: &mut String) -> bool {
        if depth > DEPTH_MAX || out.len() > REGEX_BYTES_MAX {
            return false;
        }
        match node {
            Node::Rule(index) => self.write_group(&self.bodies[*index], depth, out),
            Node::Sequence(parts) => {
                parts.iter().all(|part| self.write_regex(part, depth + 1, out))
            }
            Node::Choice(options) => {
                out.push_str("(?:");
                let all = options.iter().enumerate().all(|(index, option)| {
                    out.push_str(if index == 0 { "" } else { "|" });
                    self.write_regex(option, depth + 1, out)
                });
                out.push(')');
                all
            }
            Node::Repeat { node, least, most } => {
                let written = self.write_group(node, depth, out);
                out.push_str(&times(*least, *most));
                written
            }
            Node::Text(text) => {
                text.chars().for_each(|character| write_char(character, out));
                true
            }
            Node::Class { negated, ranges } => {
                write_class(*negated, ranges, out);
                true
            }
            Node::Any => {
                out.push_str("(?s:.)");
                true
            }
        }
    }

    fn write_group(&self, node: &Node, depth: usize, out: &mut String) -> bool {
        out.push_str("(?:");
        let written = self.write_regex(node, depth + 1, out);
        out.push(')');
        written
    }
}

fn ends(node: &Node, ending: &[bool]) -> bool {
    match node {
        Node::Text(_) | Node::Class { .. } | Node::Any => true,
        Node::Rule(index) => ending[*index],
        Node::Sequence(parts) => parts.iter().all(|part| ends(part, ending)),
        Node::Choice(options) => options.iter().any(|option| ends(option, ending)),
        Node::Repeat { node, least, .. } => *least == 0 || ends(node, ending),
    }
}

/// Each terminal is one character, so that the lexer has nothing to decide.
fn write_rule(node: &Node, out: &mut String) {
    match node {
        Node::Text(text) if text.is_empty() => out.push_str("\"\""),
        Node::Text(text) => {
            for character in text.chars() {
                out.push('/');
                write_char(character, out);
                out.push_str("/ ");
            }
        }
        Node::Class { negated, ranges } => {
            out.push('/');
            write_class(*negated, ranges, out);
            out.push('/');
        }
        Node::Any => out.push_str("/(?s:.)/"),
        Node::Rule(index) => {
            let _ = write!(out, "r{index}");
        }
        Node::Sequence(parts) if parts.is_empty() => out.push_str("\"\""),
        Node::Sequence(parts) => parts.iter().for_each(|part| {
            write_rule(part, out);
            out.push(' ');
        }),
        Node::Choice(options) => {
            out.push('(');
            for (index, option) in options.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { " | " });
                write_rule(option, out);
            }
            out.push(')');
        }
        Node::Repeat { node, least, most } => {
            out.push('(');
            write_rule(node, out);
            out.push(')');
            out.push_str(&times(*least, *most));
        }
    }
}

fn times(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

fn write_class(negated: bool, ranges: &[(char, char)], out: &mut String) {
    out.push_str(if negated { "[^" } else { "[" });
    for (from, to) in ranges {
        write_char(*from, out);
        if from != to {
            out.push('-');
            write_char(*to, out);
        }
    }
    out.push(']');
}

/// Letters and digits as they are, all others by number: nothing then has a meaning of its own.
fn write_char(character: char, out: &mut String) {
    if character.is_ascii_alphanumeric() {
        out.push(character);
    } else {
        let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
    }
}
