//! Cutting a text into words by expressions, in linear time.
//!
//! Nearly all published expressions end in `\s+(?!\S)|\s+`: of a run of blanks the last one goes to the word behind
//! it. That look-ahead alone keeps them from an automaton; it is done by hand here, and everything else in one pass.

use regex::Regex;

use super::patterns::{self, THREES, THREES_OF_WORDS};

#[derive(Debug)]
pub(crate) struct Splits {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Automaton { regex: Regex, blanks: Blanks },
    Backtracking(Box<fancy_regex::Regex>),
    Threes { digits: Regex, of_words: bool },
}

/// What a run of blanks leaves to the word behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blanks {
    /// Nothing: the expression has no look-ahead.
    Taken,
    /// The last one.
    ButOne,
    /// The last one, if the run has no line end: those are matched by another part of the expression.
    ButOneInLine,
}

const LOOK_AHEADS: [&str; 3] = [r"|\s+(?!\S)|\s+", r"|\s+(?!\S)|\s", r"|\s+(?!\S)"];
const LINE_ENDS: [&str; 2] = [r"|\s*[\r\n]+|", r"|\s*[\r\n]|"];

impl Splits {
    pub(crate) fn new<'a>(steps: impl IntoIterator<Item = &'a str>) -> Result<Splits, String> {
        let steps = steps.into_iter().map(Step::new).collect::<Result<_, _>>()?;
        Ok(Splits { steps })
    }

    pub(crate) fn split<'a>(
        &self,
        text: &'a str,
        out: &mut dyn FnMut(&'a str),
    ) -> Result<(), String> {
        apply(&self.steps, text, out)
    }
}

/// Whether it is a name for what no expression can say.
pub(super) fn is_no_expression(step: &str) -> bool {
    matches!(step, THREES | THREES_OF_WORDS)
}

fn apply<'a>(steps: &[Step], text: &'a str, out: &mut dyn FnMut(&'a str)) -> Result<(), String> {
    let Some((step, later)) = steps.split_first() else {
        out(text);
        return Ok(());
    };
    let mut done = 0;
    step.each(text, &mut |start, end| {
        if done < start {
            apply(later, &text[done..start], out)?;
        }
        done = end;
        apply(later, &text[start..end], out)
    })?;
    if done < text.len() {
        apply(later, &text[done..], out)?;
    }
    Ok(())
}

/// Takes the place of a word.
type Sink<'s> = &'s mut dyn FnMut(usize, usize) -> Result<(), String>;

impl Step {
    fn new(pattern: &str) -> Result<Step, String> {
        let bad =
            |why: &dyn std::fmt::Display| format!("its expression `{pattern}` is none: {why}");
        match pattern {
            THREES => Ok(Step::Threes { digits: digits(r"\p{N}+")?, of_words: false }),
            THREES_OF_WORDS => Ok(Step::Threes { digits: digits(r"\d+")?, of_words: true }),
            _ => {
                // What else an expression says about blanks is known of published ones only.
                let (plain, blanks) = match patterns::is_known(pattern) {
                    true => without_look_ahead(pattern),
                    false => (pattern.to_owned(), Blanks::Taken),
                };
                match Regex::new(&plain) {
                    Ok(regex) if !is_possessive(pattern) => Ok(Step::Automaton { regex, blanks }),
                    _ => {
                        let regex = fancy_regex::Regex::new(pattern).map_err(|why| bad(&why))?;
                        Ok(Step::Backtracking(Box::new(regex)))
                    }
                }
            }
        }
    }

    /// Every match that is not empty.
    fn each(&self, text: &str, sink: Sink<'_>) -> Result<(), String> {
        let mut from = 0;
        match self {
            Step::Automaton { regex, blanks } => {
                while let Some((start, end)) = next_match(regex, text, from) {
                    from = blanks.end(&text[start..end], &text[end..], start);
                    sink(start, from)?;
                }
            }
            Step::Backtracking(regex) => {
                while let Some((start, end)) = next_by_backtracking(regex, text, from)? {
                    sink(start, end)?;
                    from = end;
                }
            }
            Step::Threes { digits, of_words } => {
                let runs = digits.find_iter(text);
                for run in runs.filter(|run| !of_words || !goes_on(&text[run.end()..])) {
                    threes(run.as_str(), &mut |start, end| {
                        sink(run.start() + start, run.start() + end)
                    })?;
                }
            }
        }
        Ok(())
    }
}

fn digits(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|why| why.to_string())
}

fn without_look_ahead(pattern: &str) -> (String, Blanks) {
    let body = LOOK_AHEADS.iter().find_map(|suffix| pattern.strip_suffix(suffix));
    match body {
        Some(body) => {
            let plain = format!(r"{body}|\s+");
            let has_line_ends = LINE_ENDS.iter().any(|part| plain.contains(part));
            (plain, if has_line_ends { Blanks::ButOneInLine } else { Blanks::ButOne })
        }
        None => (pattern.to_owned(), Blanks::Taken),
    }
}

/// Whether a quantifier gives nothing back, like `x++`: to an automaton it would be a quantifier of a quantifier.
fn is_possessive(pattern: &str) -> bool {
    let mut before = None;
    let mut classes = 0;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                // The braces of a property belong to it.
                if matches!(characters.next(), Some('p' | 'P' | 'x' | 'u'))
                    && characters.peek() == Some(&'{')
                {
                    characters.find(|character| *character == '}');
                }
                before = None;
                continue;
            }
            '[' => classes += 1,
            ']' if classes > 0 => classes -= 1,
            '+' if classes == 0 && matches!(before, Some('?' | '*' | '+' | '}')) => return true,
            _ => {}
        }
        before = (classes == 0).then_some(character);
    }
    false
}

impl Blanks {
    /// Where a match that starts at `start` ends, for what lies before and behind the end of the longest one.
    fn end(self, matched: &str, behind: &str, start: usize) -> usize {
        let end = start + matched.len();
        if self == Blanks::Taken || behind.is_empty() {
            return end;
        }
        let last = matched.chars().next_back().unwrap_or('x');
        let by_line_ends = self == Blanks::ButOneInLine && matches!(last, '\r' | '\n');
        let rest = matched.len() - last.len_utf8();
        if rest > 0 && !by_line_ends && last.is_whitespace() && is_blank(matched) {
            return start + rest;
        }
        end
    }
}

fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

fn next_match(regex: &Regex, text: &str, from: usize) -> Option<(usize, usize)> {
    let found = regex.find_at(text, from)?;
    if found.is_empty() {
        // Only an odd expression of a model's file matches nothing.
        let next = text[from..].chars().next()?;
        return next_match_nonempty(regex, text, from + next.len_utf8());
    }
    Some((found.start(), found.end()))
}

fn next_match_nonempty(regex: &Regex, text: &str, from: usize) -> Option<(usize, usize)> {
    let mut all = regex.find_iter(&text[from..]).filter(|found| !found.is_empty());
    all.next().map(|found| (from + found.start(), from + found.end()))
}

fn next_by_backtracking(
    regex: &fancy_regex::Regex,
    text: &str,
    from: usize,
) -> Result<Option<(usize, usize)>, String> {
    let mut at = from;
    while at <= text.len() {
        let found = regex.find_from_pos(text, at).map_err(|why| why.to_string())?;
        let Some(found) = found else { return Ok(None) };
        if found.start() < found.end() {
            return Ok(Some((found.start(), found.end())));
        }
        let Some(next) = text[found.start()..].chars().next() else { return Ok(None) };
        at = found.start() + next.len_utf8();
    }
    Ok(None)
}

/// One to three digits, and then three each to the end.
fn threes(run: &str, sink: Sink<'_>) -> Result<(), String> {
    let ends: Vec<usize> = run.char_indices().map(|(at, digit)| at + digit.len_utf8()).collect();
    let first = (ends.len() + 2) % 3;
    let mut start = 0;
    for end in ends[first..].iter().step_by(3) {
        sink(start, *end)?;
        start = *end;
    }
    Ok(())
}

fn goes_on(behind: &str) -> bool {
    let next = behind.chars().next();
    next.is_some_and(|next| next.is_alphanumeric() || next == '_')
}

#[cfg(test)]
mod tests {
    use super::super::patterns::{GPT2, LLAMA3};
    use super::*;

    fn cut(steps: &[&str], text: &str) -> Vec<String> {
        let mut words = Vec::new();
        Splits::new(steps.iter().copied())
            .unwrap()
            .split(text, &mut |word| words.push(word.to_owned()))
            .unwrap();
        words
    }

    #[track_caller]
    fn check(steps: &[&str], text: &str, expected: &[&str]) {
        assert_eq!(cut(steps, text), expected, "{text:?}");
    }

    #[test]
    fn the_last_blank_goes_to_the_word() {
        check(&[GPT2], "a  b", &["a", " ", " b"]);
        check(&[GPT2], "a \n b\t", &["a", " \n", " b", "\t"]);
        check(&[LLAMA3], "a \n  b ", &["a", " \n", " ", " b", " "]);
        check(&[LLAMA3], "12345 don'T", &["123", "45", " don", "'T"]);
    }

    /// Blanks in fours are another word than a run of them.
    #[test]
    fn expressions_of_nobody_else_are_searched_as_they_are() {
        check(&[r"\s{4}|\S+|\s+(?!\S)|\s+"], "a        b", &["a", "    ", "    ", "b"]);
        check(&[r"\S+|\s+(?!\S)|\s+"], "a   b", &["a", "  ", " ", "b"]);
    }

    #[test]
    fn possessive_expressions_are_found() {
        for possessive in [r"a++", r"x|\p{L}++", r"[ab]?+c", r"\p{N}{1,3}+", r"(a)*+"] {
            assert!(is_possessive(possessive), "{possessive}");
        }
        for plain in [r"\p{L}+", r"[*+]+", r"[\]?+]", r"\++", r"a{2}", GPT2, LLAMA3] {
            assert!(!is_possessive(plain), "{plain}");
        }
    }

    #[test]
    fn digits_in_threes() {
        check(&[THREES], "x1234567y12", &["x", "1", "234", "567", "y", "12"]);
        check(&[THREES_OF_WORDS], "1234x 123456", &["1234x ", "123", "456"]);
        check(&[THREES], "123456", &["123", "456"]);
        let long = "7".repeat(1 << 20);
        assert_eq!(cut(&[r"\p{N}+", THREES], &long).len(), (1 << 20) / 3 + 1);
    }

    /// Against the expression itself, searched by backtracking.
    #[test]
    fn an_automaton_finds_the_same_words() {
        let mut random = crate::random::Random(9);
        let alphabet: Vec<char> = " \n\r\t\u{3000}\u{a0}aZé字1½'s.…\u{301}/_".chars().collect();
        let mut seen = std::collections::BTreeSet::new();
        for (name, pre) in patterns::all() {
            let steps = pre.steps.iter().filter(|step| !step.starts_with("threes"));
            for pattern in steps.filter(|step| seen.insert(**step)).collect::<Vec<_>>() {
                let fast = Step::new(pattern).unwrap();
                let slow = Step::Backtracking(Box::new(fancy_regex::Regex::new(pattern).unwrap()));
                for _ in 0..60 {
                    let text: String =
                        (0..40).map(|_| alphabet[random.below(alphabet.len())]).collect();
                    let words = |step: &Step| {
                        let mut words = Vec::new();
                        apply(std::slice::from_ref(step), &text, &mut |word| words.push(word))
                            .unwrap();
                        words
                    };
                    assert_eq!(words(&fast), words(&slow), "{name} {text:?}");
                }
            }
        }
    }
}
