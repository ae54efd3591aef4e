//! Where a JSON value ends in text that is still growing.

/// Looks at each byte once, however the text grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    /// Bytes that were looked at.
    at: usize,
    /// Whether text came before the value; a bracket in it, as of a tag, is none of the value's.
    is_behind_text: bool,
    /// Brackets and braces that are open, innermost last.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// Right behind an opening brace, where only a key or its end may follow.
    at_key: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonEnd {
    /// The byte behind the value.
    At(usize),
    Missing,
    /// What is there cannot be JSON.
    Never,
}

/// Deeper values are taken for text. Price: a byte each.
const DEPTH_MAX: usize = 512;

impl Scan {
    /// For text before which these brackets stand.
    pub fn after(brackets: &str) -> Scan {
        let mut scan = Scan::default();
        scan.end(brackets);
        scan.at = 0;
        scan
    }

    /// The end of the first value in braces, or in brackets if nothing stands before them. `text` is the text of
    /// the call before, and more.
    pub fn end(&mut self, text: &str) -> JsonEnd {
        for (index, byte) in text.bytes().enumerate().skip(self.at) {
            self.at = index + 1;
            if self.in_string {
                self.inside(byte);
                continue;
            }
            if self.at_key && !byte.is_ascii_whitespace() {
                self.at_key = false;
                if !matches!(byte, b'"' | b'}') {
                    return JsonEnd::Never;
                }
            }
            match byte {
                b'"' => self.in_string = !self.open.is_empty(),
                b'[' if self.open.is_empty() && self.is_behind_text => {}
                b'{' | b'[' if self.open.len() == DEPTH_MAX => return JsonEnd::Never,
                b'{' | b'[' => {
                    self.open.push(byte);
                    self.at_key = byte == b'{';
                }
                b'}' | b']' if !self.open.is_empty() => {
                    // Both closing characters stand two behind the opening ones.
                    if self.open.pop() != Some(byte - 2) {
                        return JsonEnd::Never;
                    }
                    if self.open.is_empty() {
                        return JsonEnd::At(self.at);
                    }
                }
                _ => self.is_behind_text |= !byte.is_ascii_whitespace(),
            }
        }
        JsonEnd::Missing
    }

    fn inside(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: JsonEnd) {
        assert_eq!(Scan::default().end(text), expected, "{text}");
        let mut scan = Scan::default();
        let mut ends = text.char_indices().map(|(at, c)| scan.end(&text[..at + c.len_utf8()]));
        let last = ends.find(|end| *end != JsonEnd::Missing).unwrap_or(JsonEnd::Missing);
        assert_eq!(last, expected, "{text}, one by one");
    }

    #[test]
    fn values_end_where_they_end() {
        check("", JsonEnd::Missing);
        check("{}", JsonEnd::At(2));
        check(" f: {\"a}\\\"\": [1, {\"b\": {}}]} x", JsonEnd::At(28));
        check("[1, [2, \"]\"]]]", JsonEnd::At(13));
        check("{\"a\": [1}", JsonEnd::Never);
        check("{ x }", JsonEnd::Never);
        check("{ \n", JsonEnd::Missing);
        check("it's \"} [é] {\"a\": 1} ]", JsonEnd::At(21));
        check("\n[é, {\"a\": 1}] ]", JsonEnd::At(15));
        check(&"[".repeat(100_000), JsonEnd::Never);
    }

    #[test]
    fn an_opening_brace_may_be_known() {
        assert_eq!(Scan::after("{").end("\"a\": 1}"), JsonEnd::At(7));
        assert_eq!(Scan::after("{").end("a: 1}"), JsonEnd::Never);
        assert_eq!(Scan::after("").end("{}"), JsonEnd::At(2));
    }
}
