//! Tokens to text, one by one: what a client sees while a reply grows.
//!
//! A character is given out when its last byte is there. Bytes that cannot be UTF-8 become one U+FFFD each, which is
//! what Go's JSON encoder makes of them and hence what Ollama's clients know. Each byte is looked at once.
//!
//! A stream continues a text (the prompt), so a first token keeps its leading blank.

use std::str::from_utf8;
use std::sync::Arc;

use crate::pieces::Pieces;

/// What becomes of special tokens in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    Skip,
    Show,
}

#[derive(Clone, Debug)]
pub struct Stream {
    pieces: Arc<Pieces>,
    specials: Specials,
    /// Special tokens that are shown nevertheless.
    shown: Vec<u32>,
    /// The beginning of a character: at most three bytes between two calls.
    held: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(pieces: Arc<Pieces>, specials: Specials) -> Stream {
        Stream { pieces, specials, shown: Vec::new(), held: Vec::new() }
    }

    /// The same, with these tokens shown.
    pub(crate) fn showing(self, shown: Vec<u32>) -> Stream {
        Stream { shown, ..self }
    }

    /// The text that this token completes; empty while a character is incomplete. An id that is no token is silent.
    pub fn push(&mut self, id: u32) -> String {
        let is_hidden = self.specials == Specials::Skip && self.pieces.is_special(id);
        if is_hidden && !self.shown.contains(&id) {
            return String::new();
        }
        self.held.extend_from_slice(self.pieces.bytes(id));
        take_whole(&mut self.held)
    }

    /// What is still held back, at the end of a reply. Ready for another reply afterwards.
    pub fn finish(&mut self) -> String {
        "\u{fffd}".repeat(std::mem::take(&mut self.held).len())
    }
}

/// Takes all but an incomplete character at the end.
fn take_whole(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut start = 0;
    while start < held.len() {
        match from_utf8(&held[start..]) {
            Ok(rest) => {
                text.push_str(rest);
                start = held.len();
            }
            Err(error) => {
                let end = start + error.valid_up_to();
                text.push_str(from_utf8(&held[start..end]).unwrap_or_default());
                start = end;
                let Some(invalid) = error.error_len() else { break };
                text.extend(std::iter::repeat_n('\u{fffd}', invalid));
                start += invalid;
            }
        }
    }
    held.drain(..start);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the bytes in every way of cutting them in two, and one by one.
    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        for cut in 0..=bytes.len() {
            let parts = [&bytes[..cut], &bytes[cut..]];
            assert_eq!(decode(&parts), expected, "cut at {cut}");
        }
        assert_eq!(decode(&bytes.chunks(1).collect::<Vec<_>>()), expected);
    }

    fn decode(parts: &[&[u8]]) -> String {
        let mut held = Vec::new();
        let mut text = String::new();
        for part in parts {
            held.extend_from_slice(part);
            text += &take_whole(&mut held);
            assert!(held.len() <= 3, "{} bytes are held", held.len());
        }
        text + &"\u{fffd}".repeat(held.len())
    }

    #[test]
    fn characters_stay_whole() {
        check("añ日😀!".as_bytes(), "añ日😀!");
        check(b"", "");
    }

    #[test]
    fn invalid_bytes_become_one_mark_each() {
        check(b"a\xffb", "a\u{fffd}b");
        check(b"\xe6\x97x", "\u{fffd}\u{fffd}x");
        check(b"\xf0\x9f\x98", "\u{fffd}\u{fffd}\u{fffd}");
        check(b"\xc0\xaf\xed\xa0\x80\xf5", &"\u{fffd}".repeat(6));
        check(b"\xe6\xe6\x97\xa5", "\u{fffd}日");
    }
}
