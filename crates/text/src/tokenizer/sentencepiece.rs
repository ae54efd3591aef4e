//! SentencePiece models: what normalises a text, which pieces there are, and how a text is cut into them.
//!
//! A model comes as `tokenizer.model` (a protobuf message) or from GGUF metadata; both fill [`Model`]. What is
//! computed from it is what the library of that name computes, which differs from its imitations as merge rules in
//! ties, in user-defined pieces and in the normalisation rules.

mod bpe;
mod charsmap;
mod proto;
mod unigram;

use rustc_hash::FxHashMap;

use super::trie::Trie;
use charsmap::Charsmap;

/// U+2581, what a blank is written as in pieces.
pub(crate) const BLANK: &[u8] = "\u{2581}".as_bytes();

/// Rules may make a text longer. Price: 30 bytes of working memory for each.
const NORMALIZED_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// The numbers of the protobuf message, which are also those of GGUF.
    pub(crate) fn from_number(number: u64) -> Kind {
        match number {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Bpe,
    Unigram,
}

#[derive(Clone, Debug)]
pub(crate) struct Normalizer {
    pub charsmap: Vec<u8>,
    /// A blank before the text, or behind it where blanks are suffixes.
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
    pub whitespace_as_suffix: bool,
}

/// A model as its file describes it.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub pieces: Vec<Piece>,
    pub algorithm: Algorithm,
    pub byte_fallback: bool,
    pub normalizer: Normalizer,
}

impl Model {
    pub(crate) fn parse(message: &[u8]) -> Result<Model, String> {
        proto::parse(message)
    }
}

/// The pieces, ready for search.
#[derive(Debug)]
struct Vocabulary {
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    /// Pieces that text can become: normal, user-defined and unused ones.
    ids: FxHashMap<Box<[u8]>, u32>,
    /// All others, whose texts a piece may have too: these win.
    reserved: FxHashMap<Box<[u8]>, u32>,
    /// Those of `ids` that are used, for Unigram alone.
    matched: Trie,
    user_defined: Trie,
    longest_piece_bytes: usize,
    /// No piece goes on behind a blank that follows something else.
    has_words: bool,
    lowest_score: f32,
}

#[derive(Debug)]
pub(crate) struct SentencePiece {
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    normalizer: Normalizer,
    charsmap: Charsmap,
    unknown: u32,
    /// Ids of the 256 byte pieces, where characters without a piece become bytes.
    byte_ids: Option<Vec<u32>>,
}

impl SentencePiece {
    pub(crate) fn new(model: &Model) -> Result<SentencePiece, String> {
        let unknown = model.pieces.iter().position(|piece| piece.kind == Kind::Unknown);
        let byte_ids = model.byte_fallback.then(|| byte_ids(&model.pieces)).transpose()?;
        if unknown.is_none() && byte_ids.is_none() {
            return Err("it has no piece for what is unknown".to_owned());
        }
        Ok(SentencePiece {
            vocabulary: Vocabulary::new(&model.pieces, model.algorithm)?,
            algorithm: model.algorithm,
            charsmap: Charsmap::parse(&model.normalizer.charsmap)?,
            normalizer: Normalizer { charsmap: Vec::new(), ..model.normalizer.clone() },
            unknown: unknown.unwrap_or(0) as u32,
            byte_ids,
        })
    }

    /// `with_prefix` is false where the text goes on from one that had its blank.
    pub(crate) fn encode(
        &self,
        text: &str,
        with_prefix: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        let text = self.normalize(text.as_bytes(), with_prefix)?;
        let mut was_unknown = false;
        let mut push = |piece: &[u8], id: Option<u32>| {
            let known = id.filter(|id| self.vocabulary.kind(*id) != Kind::Unknown);
            match (known, &self.byte_ids) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => ids.extend(piece.iter().map(|byte| bytes[*byte as usize])),
                // A run of unknown characters is one token.
                (None, None) if was_unknown => {}
                (None, None) => ids.push(self.unknown),
            }
            was_unknown = known.is_none();
        };
        match self.algorithm {
            Algorithm::Bpe => bpe::split(&self.vocabulary, &text, &mut |piece| {
                push(piece, self.vocabulary.id(piece));
            }),
            Algorithm::Unigram => unigram::split(&self.vocabulary, &text, &mut push),
        }
        Ok(())
    }

    pub(crate) fn token_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token.as_bytes())
    }

    fn normalize(&self, text: &[u8], with_prefix: bool) -> Result<Vec<u8>, String> {
        let mut rest = text;
        if self.normalizer.remove_extra_whitespaces {
            while let Some((taken, b" ")) = self.replaced(rest) {
                rest = &rest[taken..];
            }
        }
        let mut out = Vec::with_capacity(text.len() + text.len() / 2 + BLANK.len());
        if rest.is_empty() {
            return Ok(out);
        }
        let prefix = self.normalizer.add_dummy_prefix && with_prefix;
        if prefix && !self.normalizer.whitespace_as_suffix {
            self.push(b" ", &mut out);
        }
        self.normalize_rest(rest, &mut out)?;
        if self.normalizer.remove_extra_whitespaces {
            let blank: &[u8] = if self.normalizer.escape_whitespaces { BLANK } else { b" " };
            while out.ends_with(blank) {
                out.truncate(out.len() - blank.len());
            }
        }
        if prefix && self.normalizer.whitespace_as_suffix {
            self.push(b" ", &mut out);
        }
        Ok(out)
    }

    fn normalize_rest(&self, mut rest: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let once = self.normalizer.remove_extra_whitespaces;
        let mut after_blank = once;
        while let Some((taken, mut replacement)) = self.replaced(rest) {
            if after_blank {
                replacement = replacement.trim_prefix_blanks();
            }
            if !replacement.is_empty() {
                self.push(replacement, out);
                after_blank = once && replacement.ends_with(b" ");
            }
            rest = &rest[taken..];
            if out.len() > NORMALIZED_BYTES_MAX {
                return Err(format!("normalised it has more than {NORMALIZED_BYTES_MAX} bytes"));
            }
        }
        Ok(())
    }

    fn push(&self, text: &[u8], out: &mut Vec<u8>) {
        for byte in text {
            match byte {
                b' ' if self.normalizer.escape_whitespaces => out.extend_from_slice(BLANK),
                byte => out.push(*byte),
            }
        }
    }

    /// What the beginning of a text becomes, and how many of its bytes that is; nothing at the text's end.
    fn replaced<'a>(&'a self, text: &'a [u8]) -> Option<(usize, &'a [u8])> {
        if text.is_empty() {
            return None;
        }
        if let Some((bytes, _)) = self.vocabulary.user_defined.longest(text) {
            return Some((bytes, &text[..bytes]));
        }
        self.charsmap.replace(text).or_else(|| {
            let bytes = character_bytes(text);
            // Only rules that end inside a character lead to such a place.
            let whole = std::str::from_utf8(&text[..bytes]).is_ok();
            Some(if whole { (bytes, &text[..bytes]) } else { (1, "\u{fffd}".as_bytes()) })
        })
    }
}

trait TrimPrefixBlanks {
    fn trim_prefix_blanks(&self) -> &Self;
}

impl TrimPrefixBlanks for [u8] {
    fn trim_prefix_blanks(&self) -> &[u8] {
        let start = self.iter().position(|byte| *byte != b' ').unwrap_or(self.len());
        &self[start..]
    }
}

impl Vocabulary {
    fn new(pieces: &[Piece], algorithm: Algorithm) -> Result<Vocabulary, String> {
        let normal = || pieces.iter().filter(|piece| piece.kind == Kind::Normal);
        // User-defined ones are cut out before.
        let normal_or_unused = || {
            let joined = |piece: &&Piece| matches!(piece.kind, Kind::Normal | Kind::Unused);
            pieces.iter().filter(joined)
        };
        let score = match algorithm {
            Algorithm::Unigram => unigram::score,
            // Zero has one sign only: it takes part in an order.
            Algorithm::Bpe => |piece: &Piece| piece.score + 0.0,
        };
        let tried = |kinds: &'static [Kind]| {
            let numbered = pieces.iter().zip(0..);
            Trie::new(
                numbered
                    .filter(|(piece, _)| kinds.contains(&piece.kind))
                    .map(|(piece, id)| (piece.text.as_bytes(), id)),
            )
        };
        let mut vocabulary = Vocabulary {
            scores: pieces.iter().map(score).collect(),
            kinds: pieces.iter().map(|piece| piece.kind).collect(),
            ids: FxHashMap::default(),
            reserved: FxHashMap::default(),
            matched: match algorithm {
                Algorithm::Unigram => tried(&[Kind::Normal, Kind::UserDefined]),
                Algorithm::Bpe => Trie::default(),
            },
            user_defined: tried(&[Kind::UserDefined]),
            longest_piece_bytes: pieces.iter().map(|piece| piece.text.len()).max().unwrap_or(0),
            has_words: !normal_or_unused().any(|piece| spans_words(&piece.text)),
            lowest_score: normal().map(|piece| piece.score).fold(f32::MAX, f32::min),
        };
        for (id, piece) in pieces.iter().enumerate() {
            vocabulary.insert(id as u32, piece)?;
        }
        Ok(vocabulary)
    }

    fn insert(&mut self, id: u32, piece: &Piece) -> Result<(), String> {
        let text = piece.text.as_bytes();
        if text.is_empty() {
            return Err(format!("piece {id} is empty"));
        }
        let searched = matches!(piece.kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
        let ids = if searched { &mut self.ids } else { &mut self.reserved };
        if let Some(other) = ids.insert(text.into(), id) {
            return Err(format!("pieces {other} and {id} are both `{}`", piece.text));
        }
        Ok(())
    }

    fn id(&self, piece: &[u8]) -> Option<u32> {
        self.reserved.get(piece).or_else(|| self.ids.get(piece)).copied()
    }

    /// What two neighbours may become.
    fn joined(&self, piece: &[u8]) -> Option<u32> {
        (piece.len() <= self.longest_piece_bytes).then(|| self.ids.get(piece).copied())?
    }

    fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    fn score(&self, id: u32) -> f32 {
        self.scores[id as usize]
    }
}

fn spans_words(piece: &str) -> bool {
    piece.trim_start_matches('\u{2581}').contains('\u{2581}')
}

fn byte_ids(pieces: &[Piece]) -> Result<Vec<u32>, String> {
    let mut ids = vec![None; 256];
    for (id, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.kind == Kind::Byte) {
        let byte = crate::pieces::byte_token(&piece.text)
            .ok_or_else(|| format!("`{}` is no byte", piece.text))?;
        ids[byte as usize] = Some(id as u32);
    }
    let ids: Option<Vec<u32>> = ids.into_iter().collect();
    ids.ok_or_else(|| "it lacks some of the 256 byte pieces".to_owned())
}

/// By its first byte alone, as anything may follow it.
fn character_bytes(text: &[u8]) -> usize {
    let bytes = match text[0] >> 4 {
        0..=0xb => 1,
        0xc | 0xd => 2,
        0xe => 3,
        _ => 4,
    };
    bytes.min(text.len())
}
