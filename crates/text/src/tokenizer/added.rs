//! Tokens that are cut out of a text before anything else looks at it: special ones, and those added to a vocabulary.
//!
//! Where several begin at one place the longest wins, and what it covers is looked at no more: the rules of the crate
//! `tokenizers`, for vocabularies that it cannot hold.

use std::sync::LazyLock;

use regex::Regex;

use super::trie::Trie;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub text: String,
    /// Left out of decoded text.
    pub special: bool,
    /// Takes the blanks before it.
    pub lstrip: bool,
    /// Takes the blanks behind it.
    pub rstrip: bool,
    /// Only between characters that are part of no word.
    pub single_word: bool,
    /// Looked for in the text as the normaliser leaves it.
    pub normalized: bool,
}

impl AddedToken {
    pub(crate) fn special(id: u32, text: impl Into<String>) -> AddedToken {
        AddedToken { id, text: text.into(), special: true, ..AddedToken::default() }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

#[derive(Debug, Default)]
pub(crate) struct Added {
    tokens: Vec<AddedToken>,
    trie: Trie,
}

impl Added {
    /// A text given twice belongs to its last token.
    pub(crate) fn new(tokens: Vec<AddedToken>) -> Added {
        let trie = Trie::new(tokens.iter().zip(0..).map(|(token, index)| (&token.text, index)));
        Added { tokens, trie }
    }

    pub(crate) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    pub(crate) fn split<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        // Up to here the text is given out; from `at` on it is searched.
        let (mut done, mut at) = (0, 0);
        while let Some((start, end, token)) = self.find(text, at) {
            at = end;
            if token.single_word && inside_a_word(text, start, end) {
                continue;
            }
            let start = if token.lstrip { text[..start].trim_end().len().max(done) } else { start };
            if done < start {
                parts.push(Part::Text(&text[done..start]));
            }
            parts.push(Part::Token(token.id));
            let rest = &text[end..];
            done = if token.rstrip { text.len() - rest.trim_start().len() } else { end };
        }
        if done < text.len() {
            parts.push(Part::Text(&text[done..]));
        }
        parts
    }

    fn find(&self, text: &str, from: usize) -> Option<(usize, usize, &AddedToken)> {
        if self.trie.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|start| {
            let (length, index) = self.trie.longest(&bytes[start..])?;
            Some((start, start + length, &self.tokens[index as usize]))
        })
    }
}

fn inside_a_word(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    before.into_iter().chain(text[end..].chars().next()).any(is_part_of_word)
}

/// As expressions have it: combining marks are, too.
fn is_part_of_word(character: char) -> bool {
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\w").ok());
    let found = |word: &Regex| word.is_match(character.encode_utf8(&mut [0; 4]));
    WORD.as_ref().is_some_and(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &str) -> AddedToken {
        AddedToken::special(id, text)
    }

    #[track_caller]
    fn check(tokens: &[AddedToken], text: &str, expected: &[Part<'_>]) {
        assert_eq!(Added::new(tokens.to_vec()).split(text), expected, "{text:?}");
    }

    #[test]
    fn tokens_are_cut_out() {
        use Part::{Text, Token};
        let tokens = [token(7, "<s>"), token(8, "<s><s>"), token(9, "é")];
        check(&tokens, "", &[]);
        check(&tokens, "a<s>b", &[Text("a"), Token(7), Text("b")]);
        check(&tokens, "<s><s><s>", &[Token(8), Token(7)]);
        check(&tokens, "<sé<s>", &[Text("<s"), Token(9), Token(7)]);
        check(&[], "<s>", &[Text("<s>")]);
    }

    #[test]
    fn blanks_and_words_beside_them() {
        use Part::{Text, Token};
        let left = AddedToken { lstrip: true, ..token(1, "<m>") };
        let right = AddedToken { rstrip: true, ..token(2, "<n>") };
        let word = AddedToken { single_word: true, ..token(3, "ab") };
        let tokens = [left, right, word];
        check(&tokens, "a \n<m> b", &[Text("a"), Token(1), Text(" b")]);
        check(&tokens, "a <n> \u{3000}b", &[Text("a "), Token(2), Text("b")]);
        check(&tokens, "<n>  <m>", &[Token(2), Token(1)]);
        check(&tokens, "ab cab abé ab_", &[Token(3), Text(" cab abé ab_")]);
        check(&tokens, "(ab)", &[Text("("), Token(3), Text(")")]);
    }
}
