//! Words of a Go template: text, and what stands between `{{` and `}}`. Keeps Go's positions, lines and messages.

/// What a word is. The order matters: all behind `Keyword` are keywords.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Error,
    Bool,
    /// Any other printable ASCII character, as the comma.
    Char,
    CharConstant,
    Complex,
    Assign,
    Declare,
    Eof,
    Field,
    Identifier,
    LeftDelim,
    LeftParen,
    Number,
    Pipe,
    RawString,
    RightDelim,
    RightParen,
    Space,
    String,
    Text,
    Variable,
    Keyword,
    Block,
    Break,
    Continue,
    Dot,
    Define,
    Else,
    End,
    If,
    Nil,
    Range,
    Template,
    With,
}

const KEYWORDS: &[(&str, Kind)] = &[
    ("block", Kind::Block),
    ("break", Kind::Break),
    ("continue", Kind::Continue),
    ("define", Kind::Define),
    ("else", Kind::Else),
    ("end", Kind::End),
    ("if", Kind::If),
    ("nil", Kind::Nil),
    ("range", Kind::Range),
    ("template", Kind::Template),
    ("with", Kind::With),
];

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub kind: Kind,
    pub pos: usize,
    pub text: String,
    pub line: usize,
}

const LEFT: &str = "{{";
const RIGHT: &str = "}}";
const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

pub(super) struct Lexer<'a> {
    input: &'a str,
    pos: usize,
    start: usize,
    line: usize,
    start_line: usize,
    parens: usize,
    inside: bool,
}

enum Step {
    Emit(Item),
    Text,
    Comment,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(input: &'a str) -> Lexer<'a> {
        Lexer { input, pos: 0, start: 0, line: 1, start_line: 1, parens: 0, inside: false }
    }

    pub(super) fn item(&mut self) -> Item {
        if self.inside {
            return self.action();
        }
        loop {
            let step = self.text();
            let step = if let Step::Comment = step { self.comment() } else { step };
            if let Step::Emit(item) = step {
                return item;
            }
        }
    }

    fn rest(&self) -> &'a str {
        &self.input[self.pos..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.pos += character.len_utf8();
        self.line += usize::from(character == '\n');
        Some(character)
    }

    fn accept(&mut self, is: impl Fn(char) -> bool) -> bool {
        let fits = self.peek().is_some_and(is);
        if fits {
            self.next();
        }
        fits
    }

    fn accept_run(&mut self, is: impl Fn(char) -> bool + Copy) {
        while self.accept(is) {}
    }

    fn this(&mut self, kind: Kind) -> Item {
        let text = self.input[self.start..self.pos].to_owned();
        let item = Item { kind, pos: self.start, text, line: self.start_line };
        self.start = self.pos;
        self.start_line = self.line;
        item
    }

    /// Goes on behind `bytes`, which are no part of any word.
    fn skip(&mut self, bytes: usize) {
        self.pos += bytes;
        self.line += lines(&self.input[self.start..self.pos]);
        self.start = self.pos;
        self.start_line = self.line;
    }

    fn error(&mut self, text: impl Into<String>) -> Item {
        let item =
            Item { kind: Kind::Error, pos: self.start, text: text.into(), line: self.start_line };
        (self.input, self.pos, self.start) = ("", 0, 0);
        item
    }

    fn text(&mut self) -> Step {
        let Some(length) = self.rest().find(LEFT) else {
            self.pos = self.input.len();
            if self.pos > self.start {
                self.line += lines(&self.input[self.start..self.pos]);
                return Step::Emit(self.this(Kind::Text));
            }
            return Step::Emit(self.end());
        };
        if length > 0 {
            let text = &self.rest()[..length];
            let trims = begins_trimmed(&self.rest()[length + LEFT.len()..]);
            let kept = if trims { text.trim_end_matches(SPACES).len() } else { length };
            self.pos += kept;
            self.line += lines(&text[..kept]);
            let item = self.this(Kind::Text);
            self.skip(length - kept);
            if kept > 0 {
                return Step::Emit(item);
            }
        }
        self.left()
    }

    fn end(&mut self) -> Item {
        Item { kind: Kind::Eof, pos: self.pos, text: "EOF".to_owned(), line: self.start_line }
    }

    fn left(&mut self) -> Step {
        self.pos += LEFT.len();
        let marker = if begins_trimmed(self.rest()) { 2 } else { 0 };
        if self.rest()[marker..].starts_with("/*") {
            self.skip(marker);
            return Step::Comment;
        }
        let item = self.this(Kind::LeftDelim);
        self.inside = true;
        self.parens = 0;
        self.skip(marker);
        Step::Emit(item)
    }

    fn comment(&mut self) -> Step {
        let Some(length) = self.rest()[2..].find("*/") else {
            return Step::Emit(self.error("unclosed comment"));
        };
        self.skip(2 + length + 2);
        match self.at_right() {
            Some(trims) => {
                let length = RIGHT.len() + if trims { 2 } else { 0 };
                self.skip(length);
                self.skip(if trims { leading_blanks(self.rest()) } else { 0 });
                Step::Text
            }
            None => Step::Emit(self.error("comment ends before closing delimiter")),
        }
    }

    /// Whether the closing delimiter is next, and whether it trims.
    fn at_right(&self) -> Option<bool> {
        let rest = self.rest();
        if ends_trimmed(rest) && rest[2..].starts_with(RIGHT) {
            return Some(true);
        }
        rest.starts_with(RIGHT).then_some(false)
    }

    fn right(&mut self, trims: bool) -> Item {
        if trims {
            self.skip(2);
        }
        self.pos += RIGHT.len();
        let item = self.this(Kind::RightDelim);
        if trims {
            self.skip(leading_blanks(self.rest()));
        }
        self.inside = false;
        item
    }

    fn action(&mut self) -> Item {
        if let Some(trims) = self.at_right() {
            return match self.parens {
                0 => self.right(trims),
                _ => self.error("unclosed left paren"),
            };
        }
        let Some(character) = self.next() else { return self.error("unclosed action") };
        match character {
            ' ' | '\t' | '\r' | '\n' => self.space(),
            '=' => self.this(Kind::Assign),
            ':' if self.next() == Some('=') => self.this(Kind::Declare),
            ':' => self.error("expected :="),
            '|' => self.this(Kind::Pipe),
            '"' => self.quoted('"', Kind::String, "unterminated quoted string"),
            '\'' => self.quoted('\'', Kind::CharConstant, "unterminated character constant"),
            '`' => self.raw(),
            '$' if self.at_terminator() => self.this(Kind::Variable),
            '$' => self.name(Kind::Variable),
            '.' if self.peek().is_some_and(|next| !next.is_ascii_digit()) => self.field(),
            '.' | '+' | '-' | '0'..='9' => self.number(character),
            '(' => {
                self.parens += 1;
                self.this(Kind::LeftParen)
            }
            ')' if self.parens == 0 => self.error("unexpected right paren"),
            ')' => {
                self.parens -= 1;
                self.this(Kind::RightParen)
            }
            word if is_word(word) => self.word(),
            plain if plain.is_ascii_graphic() => self.this(Kind::Char),
            odd => {
                let odd = unicode(odd);
                self.error(format!("unrecognized character in action: {odd}"))
            }
        }
    }

    /// The first blank is taken. One that belongs to ` -}}` is left to the delimiter.
    fn space(&mut self) -> Item {
        self.accept_run(is_space);
        let before = self.pos - 1;
        let rest = &self.input[before..];
        if ends_trimmed(rest) && rest[2..].starts_with(RIGHT) {
            self.line -= lines(&rest[..1]);
            self.pos = before;
            if self.pos == self.start {
                return self.right(true);
            }
        }
        self.this(Kind::Space)
    }

    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Item {
        loop {
            match self.next() {
                Some('\\') if !matches!(self.next(), None | Some('\n')) => {}
                Some(end) if end == quote => return self.this(kind),
                None | Some('\n' | '\\') => return self.error(unterminated),
                Some(_) => {}
            }
        }
    }

    fn raw(&mut self) -> Item {
        loop {
            match self.next() {
                None => return self.error("unterminated raw quoted string"),
                Some('`') => return self.this(Kind::RawString),
                Some(_) => {}
            }
        }
    }

    fn field(&mut self) -> Item {
        if self.at_terminator() {
            return self.this(Kind::Dot);
        }
        self.name(Kind::Field)
    }

    fn name(&mut self, kind: Kind) -> Item {
        self.accept_run(is_word);
        match self.at_terminator() {
            true => self.this(kind),
            false => self.bad_character(),
        }
    }

    fn bad_character(&mut self) -> Item {
        let odd = self.peek().map(unicode).unwrap_or_default();
        self.error(format!("bad character {odd}"))
    }

    fn word(&mut self) -> Item {
        self.accept_run(is_word);
        if !self.at_terminator() {
            return self.bad_character();
        }
        let word = &self.input[self.start..self.pos];
        let keyword = KEYWORDS.iter().find(|(name, _)| *name == word);
        self.this(match (keyword, word) {
            (Some((_, keyword)), _) => *keyword,
            (None, "true" | "false") => Kind::Bool,
            (None, _) => Kind::Identifier,
        })
    }

    fn at_terminator(&self) -> bool {
        match self.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(_) => self.rest().starts_with(RIGHT),
        }
    }

    /// `first` is taken already.
    fn number(&mut self, first: char) -> Item {
        self.pos -= first.len_utf8();
        if !self.scan_number() {
            return self.bad_number();
        }
        if !matches!(self.peek(), Some('+' | '-')) {
            return self.this(Kind::Number);
        }
        if self.scan_number() && self.input[..self.pos].ends_with('i') {
            return self.this(Kind::Complex);
        }
        self.bad_number()
    }

    fn bad_number(&mut self) -> Item {
        let number = super::literal::quote(&self.input.as_bytes()[self.start..self.pos]);
        self.error(format!("bad number syntax: {number}"))
    }

    fn scan_number(&mut self) -> bool {
        let one_of = |set: &'static str| move |character: char| set.contains(character);
        self.accept(one_of("+-"));
        let mut digits = "0123456789_";
        if self.accept(one_of("0")) {
            if self.accept(one_of("xX")) {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept(one_of("oO")) {
                digits = "01234567_";
            } else if self.accept(one_of("bB")) {
                digits = "01_";
            }
        }
        self.accept_run(one_of(digits));
        if self.accept(one_of(".")) {
            self.accept_run(one_of(digits));
        }
        let exponent = match digits.len() {
            11 => "eE",
            23 => "pP",
            _ => "",
        };
        if self.accept(one_of(exponent)) {
            self.accept(one_of("+-"));
            self.accept_run(one_of("0123456789_"));
        }
        self.accept(one_of("i"));
        !self.accept(is_word)
    }
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|&byte| byte == b'\n').count()
}

fn is_space(character: char) -> bool {
    SPACES.contains(&character)
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

fn leading_blanks(text: &str) -> usize {
    text.len() - text.trim_start_matches(SPACES).len()
}

fn begins_trimmed(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| rest.starts_with(SPACES))
}

fn ends_trimmed(text: &str) -> bool {
    text.strip_prefix(SPACES).is_some_and(|rest| rest.starts_with('-'))
}

/// As Go's `%#U` writes it.
fn unicode(character: char) -> String {
    let code = format!("U+{:04X}", character as u32);
    if super::literal::is_print(character) { format!("{code} '{character}'") } else { code }
}
