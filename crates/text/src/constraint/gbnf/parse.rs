//! Reads the rules.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use super::{DEPTH_MAX, Node, Rules};
use crate::{Error, Result};

/// Of one repetition.
const TIMES_MAX: u32 = 10_000;

pub(super) fn rules(source: &str) -> Result<Rules> {
    let mut reader =
        Reader { rest: source.chars().peekable(), line: 1, names: HashMap::new(), depth: 0 };
    let mut bodies: Vec<Option<Node>> = Vec::new();
    reader.skip(true);
    while reader.rest.peek().is_some() {
        let name = reader.name()?;
        let index = reader.index(&name);
        reader.skip(false);
        for expected in "::=".chars() {
            reader.expect(expected)?;
        }
        reader.skip(true);
        let body = reader.choice(false)?;
        bodies.resize(reader.names.len().max(bodies.len()), None);
        if bodies[index].replace(body).is_some() {
            return Err(reader.error(&format!("the rule `{name}` is there twice")));
        }
        reader.skip(true);
    }
    bodies.resize(reader.names.len(), None);
    let Some(root) = reader.names.get("root").copied() else {
        return Err(Error::format("the grammar has no rule `root`"));
    };
    let missing = reader.names.iter().find(|(_, index)| bodies[**index].is_none());
    if let Some((name, _)) = missing {
        return Err(Error::format(format!("the grammar has no rule `{name}`")));
    }
    let mut names: Vec<(String, usize)> = reader.names.into_iter().collect();
    names.sort_by_key(|(_, index)| *index);
    Ok(Rules {
        bodies: bodies.into_iter().flatten().collect(),
        names: names.into_iter().map(|(name, _)| name).collect(),
        root,
    })
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    names: HashMap<String, usize>,
    depth: usize,
}

impl Reader<'_> {
    fn choice(&mut self, nested: bool) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error("it is nested too deeply"));
        }
        let mut options = vec![self.sequence(nested)?];
        while self.rest.peek() == Some(&'|') {
            self.next();
            self.skip(true);
            options.push(self.sequence(nested)?);
        }
        self.depth -= 1;
        Ok(match options.len() {
            1 => options.remove(0),
            _ => Node::Choice(options),
        })
    }

    fn sequence(&mut self, nested: bool) -> Result<Node> {
        let mut parts = Vec::new();
        while let Some(part) = self.part()? {
            parts.push(self.repeated(part)?);
            self.skip(nested);
        }
        Ok(Node::Sequence(parts))
    }

    fn part(&mut self) -> Result<Option<Node>> {
        let Some(next) = self.rest.peek().copied() else { return Ok(None) };
        Ok(Some(match next {
            '"' => self.literal()?,
            '[' => self.class()?,
            '.' => {
                self.next();
                Node::Any
            }
            '(' => {
                self.next();
                self.skip(true);
                let inner = self.choice(true)?;
                self.expect(')')?;
                inner
            }
            '<' | '!' => return Err(self.error("tokens by name or number are not supported")),
            _ if is_of_name(next) => {
                let name = self.name()?;
                Node::Rule(self.index(&name))
            }
            _ => return Ok(None),
        }))
    }

    fn repeated(&mut self, part: Node) -> Result<Node> {
        let mut part = part;
        loop {
            let (least, most) = match self.rest.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.times()?,
                _ => return Ok(part),
            };
            self.next();
            part = Node::Repeat { node: Box::new(part), least, most };
        }
    }

    /// `{m}`, `{m,}` or `{m,n}`, up to the closing brace.
    fn times(&mut self) -> Result<(u32, Option<u32>)> {
        self.next();
        let least = self.number()?;
        if self.rest.peek() != Some(&',') {
            return self.closed((least, Some(least)));
        }
        self.next();
        let most = if self.rest.peek() == Some(&'}') { None } else { Some(self.number()?) };
        if most.is_some_and(|most| most < least) {
            return Err(self.error("a repetition ends before it begins"));
        }
        self.closed((least, most))
    }

    fn closed(&mut self, times: (u32, Option<u32>)) -> Result<(u32, Option<u32>)> {
        match self.rest.peek() {
            Some('}') => Ok(times),
            _ => Err(self.error("`}` is missing")),
        }
    }

    fn number(&mut self) -> Result<u32> {
        let mut digits = String::new();
        while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        let number = digits.parse().ok().filter(|number| *number <= TIMES_MAX);
        number.ok_or_else(|| self.error(&format!("a repetition is a number up to {TIMES_MAX}")))
    }

    fn literal(&mut self) -> Result<Node> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(Node::Text(text)),
                Some('\\') => text.push(self.escaped()?),
                Some('\n') | None => return Err(self.error("a text is not closed")),
                Some(other) => text.push(other),
            }
        }
    }

    fn class(&mut self) -> Result<Node> {
        self.next();
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        loop {
            let from = match self.next() {
                Some(']') if ranges.is_empty() => {
                    return Err(self.error("a class of characters is empty"));
                }
                Some(']') => return Ok(Node::Class { negated, ranges }),
                Some(other) => self.character(other)?,
                None => return Err(self.error("a class of characters is not closed")),
            };
            let is_range = self.rest.peek() == Some(&'-')
                && self.rest.clone().nth(1).is_some_and(|next| next != ']');
            let to = match is_range {
                true => {
                    self.next();
                    let next = self.next().unwrap_or(']');
                    self.character(next)?
                }
                false => from,
            };
            if to < from {
                return Err(self.error("a range of characters ends before it begins"));
            }
            ranges.push((from, to));
        }
    }

    fn character(&mut self, first: char) -> Result<char> {
        if first == '\\' { self.escaped() } else { Ok(first) }
    }

    fn escaped(&mut self) -> Result<char> {
        let length = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(other @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(other),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err(self.error("an unknown escape")),
        };
        let digits: String = (0..length).filter_map(|_| self.next()).collect();
        let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == length);
        code.and_then(char::from_u32).ok_or_else(|| self.error("an escape that is no character"))
    }

    fn name(&mut self) -> Result<String> {
        let mut name = String::new();
        while let Some(next) = self.rest.next_if(|next| is_of_name(*next)) {
            name.push(next);
        }
        if name.is_empty() { Err(self.error("the name of a rule is missing")) } else { Ok(name) }
    }

    fn index(&mut self, name: &str) -> usize {
        let next = self.names.len();
        *self.names.entry(name.to_owned()).or_insert(next)
    }

    fn expect(&mut self, expected: char) -> Result<()> {
        match self.rest.peek() == Some(&expected) {
            true => {
                self.next();
                Ok(())
            }
            false => Err(self.error(&format!("`{expected}` is missing"))),
        }
    }

    /// Blanks and comments, and line breaks where the rule goes on.
    fn skip(&mut self, lines: bool) {
        while let Some(next) = self.rest.peek().copied() {
            match next {
                ' ' | '\t' => drop(self.next()),
                '\n' | '\r' if lines => drop(self.next()),
                '#' => while self.rest.next_if(|next| *next != '\n').is_some() {},
                _ => return,
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn error(&self, what: &str) -> Error {
        Error::format(format!("line {} of the grammar: {what}", self.line))
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}
