//! A model's reply on the terminal while it comes in: words wrapped at the screen's edge, thinking set apart.
//!
//! Pure: [`Reply`] turns pieces of text into the bytes to write; the caller writes them.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub const GREY: &str = "\x1b[38;5;245m";
pub const BOLD: &str = "\x1b[1m";
pub const PLAIN: &str = "\x1b[0m";

/// Columns left free at the right edge.
const MARGIN: usize = 5;
/// Narrower screens are not wrapped for.
const WIDTH_MIN: usize = 10;

/// How a reply is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// The screen's columns, if words shall be wrapped.
    pub wrap_width: Option<usize>,
    /// Whether thinking is told from the answer by colour.
    pub colour: bool,
    pub hide_thinking: bool,
}

pub struct Reply {
    style: Style,
    wrap: Wrap,
    thinking: Thinking,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Thinking {
    Closed,
    /// Whether its text so far ends a line.
    Open {
        line_ended: bool,
    },
}

impl Reply {
    pub fn new(style: Style) -> Reply {
        Reply { style, wrap: Wrap::new(style.wrap_width), thinking: Thinking::Closed }
    }

    /// The bytes to write for one piece of a reply.
    pub fn piece(&mut self, thinking: &str, content: &str) -> String {
        let mut out = String::new();
        if !thinking.is_empty() && !self.style.hide_thinking {
            if self.thinking == Thinking::Closed {
                out.push_str(&self.opening());
            }
            self.thinking = Thinking::Open { line_ended: thinking.ends_with('\n') };
            self.wrap.push(thinking, &mut out);
        }
        if let Thinking::Open { line_ended } = self.thinking
            && !content.is_empty()
        {
            out.push_str(if line_ended { "" } else { "\n" });
            out.push_str(&self.closing());
            self.thinking = Thinking::Closed;
            self.wrap = Wrap::new(self.style.wrap_width);
        }
        self.wrap.push(content, &mut out);
        out
    }

    /// What a reply that ends here still needs: colour switched off.
    pub fn end(&self) -> &'static str {
        if self.style.colour && self.thinking != Thinking::Closed { PLAIN } else { "" }
    }

    fn opening(&self) -> String {
        match self.style.colour {
            true => format!("{GREY}{BOLD}Thinking...\n{PLAIN}{GREY}"),
            false => "Thinking...\n".to_owned(),
        }
    }

    fn closing(&self) -> String {
        match self.style.colour {
            true => format!("{GREY}{BOLD}...done thinking.\n\n{PLAIN}"),
            false => "...done thinking.\n\n".to_owned(),
        }
    }
}

/// Letters are written at once; when a word turns out too long for the line, it is wiped and written on the next.
struct Wrap {
    width: Option<usize>,
    column: usize,
    word: String,
}

impl Wrap {
    fn new(width: Option<usize>) -> Wrap {
        Wrap { width: width.filter(|width| *width >= WIDTH_MIN), column: 0, word: String::new() }
    }

    fn push(&mut self, text: &str, out: &mut String) {
        match self.width {
            None => out.push_str(text),
            Some(width) => text.chars().for_each(|letter| self.letter(letter, width, out)),
        }
    }

    fn letter(&mut self, letter: char, width: usize, out: &mut String) {
        let columns = letter.width().unwrap_or(0);
        if self.column + 1 > width - MARGIN && letter != '\n' {
            self.next_line(letter, columns, width, out);
            return;
        }
        out.push(letter);
        self.column += columns;
        match letter {
            '\n' | '\r' => {
                self.column = 0;
                self.word.clear();
            }
            ' ' | '\t' => self.word.clear(),
            _ if columns >= 2 => self.word.clear(),
            _ => self.word.push(letter),
        }
    }

    fn next_line(&mut self, letter: char, columns: usize, width: usize, out: &mut String) {
        let word_columns = self.word.width();
        if letter == ' ' {
            // The blank becomes the line's end.
            out.push('\n');
            self.column = 0;
            self.word.clear();
            return;
        }
        if word_columns > width - 2 * MARGIN {
            // A word as long as a line is broken where it is.
            let _ = write!(out, "\n{letter}");
            self.word.clear();
            self.column = columns;
            return;
        }
        if word_columns > 0 {
            let _ = write!(out, "\x1b[{word_columns}D");
        }
        let _ = write!(out, "\x1b[K\n{}{letter}", self.word);
        self.column = word_columns + columns;
        if columns >= 2 { self.word.clear() } else { self.word.push(letter) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { wrap_width: None, colour: false, hide_thinking: false };

    fn check(style: Style, pieces: &[(&str, &str)], expected: &str) {
        let mut reply = Reply::new(style);
        let mut out: String =
            pieces.iter().map(|(thinking, content)| reply.piece(thinking, content)).collect();
        out.push_str(reply.end());
        assert_eq!(out, expected, "{pieces:?}");
    }

    #[test]
    fn thinking_is_set_apart() {
        let pieces = [("Well", ""), (", hm", ""), ("", "Yes"), ("", ".")];
        check(STYLE, &pieces, "Thinking...\nWell, hm\n...done thinking.\n\nYes.");
        check(STYLE, &[("A\n", "B")], "Thinking...\nA\n...done thinking.\n\nB");
        check(Style { hide_thinking: true, ..STYLE }, &pieces, "Yes.");
        let grey = Style { colour: true, ..STYLE };
        let head = "\x1b[38;5;245m\x1b[1mThinking...\n\x1b[0m\x1b[38;5;245m";
        let tail = "\n\x1b[38;5;245m\x1b[1m...done thinking.\n\n\x1b[0m";
        check(grey, &pieces, &format!("{head}Well, hm{tail}Yes."));
        check(grey, &[("cut off", "")], &format!("{head}cut off\x1b[0m"));
    }

    #[test]
    fn words_are_wrapped() {
        let style = Style { wrap_width: Some(15), ..STYLE };
        check(style, &[("", "aaa bbb cc dd")], "aaa bbb cc\ndd");
        check(style, &[("", "aaa bbb c"), ("", "cc dd")], "aaa bbb cc\x1b[2D\x1b[K\nccc dd");
        check(style, &[("", "aaa bbb cccc")], "aaa bbb cc\x1b[2D\x1b[K\ncccc");
        check(style, &[("", "short\nlines\nstay")], "short\nlines\nstay");
        check(style, &[("", "abcdefghijklmnop")], "abcdefghij\nklmnop");
        check(
            Style { wrap_width: Some(9), ..STYLE },
            &[("", "abc def ghi jkl")],
            "abc def ghi jkl",
        );
    }

    #[test]
    fn what_is_shown_is_what_was_said() {
        let text = "the quick brown fox jumps over a lazy dog and 漢字漢字漢字漢字 too ".repeat(9);
        for width in [10, 12, 40, 79] {
            let mut reply = Reply::new(Style { wrap_width: Some(width), ..STYLE });
            let out = reply.piece("", &text);
            let shown = screen(&out);
            assert!(shown.iter().all(|line| line.width() <= width), "{width}: {shown:?}");
            let words = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(words(&shown.join(" ")), words(&text), "{width}");
        }
    }

    /// A terminal that knows the few sequences used.
    fn screen(out: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut rest = out;
        while let Some(letter) = rest.chars().next() {
            let line = lines.last_mut().unwrap();
            if let Some(sequence) = rest.strip_prefix("\x1b[") {
                let end = sequence.find(|c: char| c.is_alphabetic()).unwrap();
                if let "D" = &sequence[end..=end] {
                    for _ in 0..sequence[..end].parse::<usize>().unwrap() {
                        line.pop();
                    }
                }
                rest = &sequence[end + 1..];
                continue;
            }
            if letter == '\n' {
                lines.push(String::new())
            } else {
                line.push(letter)
            }
            rest = &rest[letter.len_utf8()..];
        }
        lines
    }
}
