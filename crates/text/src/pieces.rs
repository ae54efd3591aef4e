//! The bytes each token stands for, so that decoding is a matter of appending.
//!
//! Byte-level vocabularies spell bytes as characters; SentencePiece ones have tokens like `<0xE6>` for bytes that are
//! no text of their own. For all other tokens the tokenizer's decoder is asked once, between two neighbours, as
//! decoders treat the first and the last token of a text in ways that do not belong to the token.

use tokenizers::{Decoder, DecoderWrapper, Tokenizer};

use crate::{Error, Result};

/// The largest known vocabularies have 262,144 tokens. Price: about 12 bytes for each id.
const TOKENS_MAX: usize = 1 << 22;

/// Any text that no decoder changes.
const NEIGHBOUR: &str = "x";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    /// Token `id` is `bytes[starts[id]..starts[id + 1]]`.
    starts: Vec<usize>,
    special: Vec<bool>,
}

impl Pieces {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Pieces> {
        let size = tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        if size > TOKENS_MAX {
            return Err(Error::TooLarge { what: "a vocabulary", size, limit: TOKENS_MAX });
        }
        let mut pieces = Pieces { bytes: Vec::new(), starts: vec![0], special: vec![false; size] };
        let speller = Speller::new(tokenizer);
        let added = tokenizer.get_added_tokens_decoder();
        for id in 0..size as u32 {
            if let Some(token) = tokenizer.id_to_token(id) {
                let added = added.get(&id);
                pieces.special[id as usize] = added.is_some_and(|token| token.special);
                speller.spell(&token, added.is_some(), &mut pieces.bytes);
            }
            pieces.starts.push(pieces.bytes.len());
        }
        Ok(pieces)
    }

    /// From each token's id, its bytes and whether it is special, in any order. Ids may be left out.
    pub(crate) fn spelled<B: AsRef<[u8]>>(tokens: Vec<(u32, B, bool)>) -> Result<Pieces> {
        let size = tokens.iter().map(|(id, ..)| *id as usize + 1).max().unwrap_or(0);
        if size > TOKENS_MAX {
            return Err(Error::TooLarge { what: "a vocabulary", size, limit: TOKENS_MAX });
        }
        let mut by_id: Vec<Option<&[u8]>> = vec![None; size];
        let mut special = vec![false; size];
        for (id, bytes, is_special) in &tokens {
            by_id[*id as usize] = Some(bytes.as_ref());
            special[*id as usize] = *is_special;
        }
        let mut pieces = Pieces { bytes: Vec::new(), starts: vec![0], special };
        for bytes in by_id {
            pieces.bytes.extend_from_slice(bytes.unwrap_or_default());
            pieces.starts.push(pieces.bytes.len());
        }
        Ok(pieces)
    }

    pub(crate) fn len(&self) -> usize {
        self.special.len()
    }

    /// Empty for an id that is no token.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start..*end],
            _ => &[],
        }
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

/// How a vocabulary writes its tokens.
enum Speller<'a> {
    ByteLevel,
    Decoded(Decoded<'a>),
}

struct Decoded<'a> {
    decoder: Option<&'a DecoderWrapper>,
    /// Bytes of their own are `<0xNN>`.
    byte_fallback: bool,
    /// What the decoder makes of a neighbour that is the last token.
    last: String,
}

impl Speller<'_> {
    fn new(tokenizer: &Tokenizer) -> Speller<'_> {
        let decoder = tokenizer.get_decoder();
        if decoder.is_some_and(|decoder| holds(decoder, &is_byte_level)) {
            return Speller::ByteLevel;
        }
        let byte_fallback = decoder.is_some_and(|decoder| holds(decoder, &is_byte_fallback));
        let pair = decode(decoder, &[NEIGHBOUR, NEIGHBOUR]).unwrap_or_default();
        let last = pair.strip_prefix(NEIGHBOUR).unwrap_or(NEIGHBOUR).to_owned();
        Speller::Decoded(Decoded { decoder, byte_fallback, last })
    }

    fn spell(&self, token: &str, added: bool, out: &mut Vec<u8>) {
        match self {
            // Added tokens are matched in the text as they are written.
            Speller::ByteLevel if added => out.extend_from_slice(token.as_bytes()),
            Speller::ByteLevel => spell_byte_level(token, out),
            Speller::Decoded(decoded) => match byte_token(token) {
                Some(byte) if decoded.byte_fallback => out.push(byte),
                _ => out.extend_from_slice(decoded.text(token).as_bytes()),
            },
        }
    }
}

impl Decoded<'_> {
    fn text(&self, token: &str) -> String {
        let between = || {
            let all = decode(self.decoder, &[NEIGHBOUR, token, NEIGHBOUR])?;
            Some(all.strip_prefix(NEIGHBOUR)?.strip_suffix(&self.last)?.to_owned())
        };
        between().unwrap_or_else(|| token.to_owned())
    }
}

fn decode(decoder: Option<&DecoderWrapper>, tokens: &[&str]) -> Option<String> {
    match decoder {
        Some(decoder) => {
            decoder.decode(tokens.iter().map(|token| (*token).to_owned()).collect()).ok()
        }
        None => Some(tokens.join(" ")),
    }
}

fn holds(decoder: &DecoderWrapper, wanted: &dyn Fn(&DecoderWrapper) -> bool) -> bool {
    match decoder {
        DecoderWrapper::Sequence(all) => all.get_decoders().iter().any(|one| holds(one, wanted)),
        one => wanted(one),
    }
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    matches!(decoder, DecoderWrapper::ByteLevel(_))
}

fn is_byte_fallback(decoder: &DecoderWrapper) -> bool {
    matches!(decoder, DecoderWrapper::ByteFallback(_))
}

pub(crate) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || digits.starts_with('+') {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// A token with a character that spells no byte stands for itself.
pub(crate) fn spell_byte_level(token: &str, out: &mut Vec<u8>) {
    match byte_level_bytes(token) {
        Some(bytes) => out.extend(bytes),
        None => out.extend_from_slice(token.as_bytes()),
    }
}

/// What a token of GPT-2's alphabet spells; nothing for one with another character.
pub(crate) fn byte_level_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// GPT-2's alphabet: printable Latin-1 characters are their own byte, the other 68 bytes follow from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let code = character as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(token: &str, expected: &[u8]) {
        let mut bytes = b"before".to_vec();
        spell_byte_level(token, &mut bytes);
        assert_eq!(&bytes[6..], expected, "{token}");
    }

    #[test]
    fn byte_level_alphabet_has_every_byte_once() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(|code| byte_of(char::from_u32(code)?)).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        check("Ġthe", b" the");
        check("ĊĠ", b"\n ");
        check("æĹ¥", "日".as_bytes());
        check("<｜end｜>", "<｜end｜>".as_bytes());
        check("ł", &[0xa0]);
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_token("<0xE6>"), Some(0xe6));
        for text in ["<0xE>", "<0xEEE>", "<0x+1>", "0xE6", "<0xé>", "<0xGG>", ""] {
            assert_eq!(byte_token(text), None, "{text}");
        }
    }
}
