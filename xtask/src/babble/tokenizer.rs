//! A byte-level BPE vocabulary that holds every byte, every word of the grammar and the steps between: any text can be
//! encoded, and a word of the grammar is one token.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::grammar::{GRAMMAR, Kind, spelling};

pub const END_OF_TEXT: &str = "<|endoftext|>";
pub const START_OF_TURN: &str = "<|im_start|>";
pub const END_OF_TURN: &str = "<|im_end|>";

/// With whether decoding leaves them out.
const ADDED: &[(&str, bool)] = &[
    (END_OF_TEXT, true),
    (START_OF_TURN, true),
    (END_OF_TURN, true),
    ("<think>", false),
    ("</think>", false),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<tool_response>", false),
    ("</tool_response>", false),
];

/// Letters with a mark, numbers, blanks and the rest, as GPT-2 and its heirs cut a text before merging.
const SPLIT: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

pub struct Vocabulary {
    tokens: Vec<String>,
    ids: BTreeMap<String, usize>,
    merges: Vec<[String; 2]>,
    kinds: Vec<Option<Kind>>,
}

impl Vocabulary {
    pub fn new() -> Vocabulary {
        let mut all = Vocabulary {
            tokens: Vec::new(),
            ids: BTreeMap::new(),
            merges: Vec::new(),
            kinds: Vec::new(),
        };
        (0..=255).for_each(|byte| all.add(byte_character(byte).to_string()));
        for rule in GRAMMAR {
            for word in rule.words.split_whitespace() {
                let id = all.spell(&spelling(rule.kind, word));
                all.kinds[id] = Some(rule.kind);
            }
        }
        ADDED.iter().for_each(|(token, _)| all.add((*token).to_owned()));
        let end = all.id(END_OF_TURN);
        all.kinds[end] = Some(Kind::End);
        all
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn id(&self, token: &str) -> usize {
        self.ids[token]
    }

    /// The kind of word a token is; `None` is never written.
    pub fn kind(&self, id: usize) -> Option<Kind> {
        self.kinds[id]
    }

    /// How a text goes on after a token: behind letters as behind a noun.
    pub fn kind_before(&self, id: usize) -> Kind {
        let token = self.tokens[id].as_str();
        let unwritten = match token {
            "!" | "?" => Kind::Stop,
            "Ċ" => Kind::Opening,
            _ if ADDED.iter().any(|(added, _)| *added == token) => Kind::Opening,
            _ => Kind::Actor,
        };
        self.kinds[id].unwrap_or(unwritten)
    }

    pub fn file(&self) -> Value {
        let added = self.len() - ADDED.len();
        let vocabulary: serde_json::Map<String, Value> = self.tokens[..added]
            .iter()
            .enumerate()
            .map(|(id, token)| (token.clone(), json!(id)))
            .collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": ADDED.iter().map(|(token, special)| self.added_token(token, *special)).collect::<Vec<_>>(),
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
                byte_level(),
            ]},
            "post_processor": null,
            "decoder": byte_level(),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocabulary,
                "merges": self.merges,
            },
        })
    }

    fn added_token(&self, token: &str, special: bool) -> Value {
        json!({
            "id": self.id(token), "content": token, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    }

    fn add(&mut self, token: String) {
        self.ids.insert(token.clone(), self.tokens.len());
        self.tokens.push(token);
        self.kinds.push(None);
    }

    /// Merges a word letter by letter from its beginning. A blank before a capital is merged last, with the whole word:
    /// the merges of the bare word come first and would be in its way.
    fn spell(&mut self, token: &str) -> usize {
        let bare = token.strip_prefix('Ġ').filter(|bare| bare.starts_with(char::is_uppercase));
        match bare {
            Some(bare) => {
                self.spell(bare);
                self.merge("Ġ", bare);
            }
            None => {
                for (end, character) in token.char_indices().skip(1) {
                    self.merge(&token[..end], character.to_string().as_str());
                }
            }
        }
        self.id(token)
    }

    fn merge(&mut self, left: &str, right: &str) {
        let whole = format!("{left}{right}");
        if !self.ids.contains_key(&whole) {
            self.merges.push([left.to_owned(), right.to_owned()]);
            self.add(whole);
        }
    }
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// The alphabet of byte-level vocabularies: printable Latin-1 stands for itself, all else follows from U+0100 on.
fn byte_character(byte: u8) -> char {
    let is_plain = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if is_plain(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|byte| !is_plain(*byte)).count();
    char::from_u32(0x100 + before as u32).unwrap_or('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_word_is_a_token() {
        let vocabulary = Vocabulary::new();
        assert_eq!(
            (byte_character(b' '), byte_character(b'\n'), byte_character(0xad)),
            ('Ġ', 'Ċ', 'Ń')
        );
        assert_eq!(vocabulary.kind(vocabulary.id("Ġcat")), Some(Kind::Actor));
        assert_eq!(vocabulary.kind(vocabulary.id("The")), Some(Kind::First));
        assert_eq!(vocabulary.kind(vocabulary.id("ĠThe")), Some(Kind::Begin));
        assert_eq!(vocabulary.kind(vocabulary.id("Ġca")), None);
        assert_eq!(vocabulary.kind_before(vocabulary.id("Ċ")), Kind::Opening);
        assert_eq!(vocabulary.ids.len(), vocabulary.tokens.len(), "a token stands twice");
    }

    #[test]
    fn every_merge_is_of_tokens_that_are_there() {
        let vocabulary = Vocabulary::new();
        for (index, [left, right]) in vocabulary.merges.iter().enumerate() {
            let whole = vocabulary.id(&format!("{left}{right}"));
            assert!(vocabulary.id(left) < whole && vocabulary.id(right) < whole, "merge {index}");
        }
    }
}
