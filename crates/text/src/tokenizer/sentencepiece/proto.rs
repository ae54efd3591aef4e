//! `tokenizer.model`: the message `ModelProto`, with the field numbers of `sentencepiece_model.proto`.

use super::super::protobuf::{Value, fields};
use super::{Algorithm, Kind, Model, Normalizer, Piece};

/// As in [`crate::pieces`]: more is no vocabulary.
const PIECES_MAX: usize = 1 << 22;

mod field {
    pub const PIECES: u64 = 1;
    pub const TRAINER: u64 = 2;
    pub const NORMALIZER: u64 = 3;
    pub mod piece {
        pub const TEXT: u64 = 1;
        pub const SCORE: u64 = 2;
        pub const TYPE: u64 = 3;
    }
    pub mod trainer {
        pub const MODEL_TYPE: u64 = 3;
        pub const WHITESPACE_AS_SUFFIX: u64 = 24;
        pub const BYTE_FALLBACK: u64 = 35;
    }
    pub mod normalizer {
        pub const CHARSMAP: u64 = 2;
        pub const ADD_DUMMY_PREFIX: u64 = 3;
        pub const REMOVE_EXTRA_WHITESPACES: u64 = 4;
        pub const ESCAPE_WHITESPACES: u64 = 5;
    }
}

pub(super) fn parse(message: &[u8]) -> Result<Model, String> {
    // The defaults of the message.
    let normalizer = Normalizer {
        charsmap: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
        whitespace_as_suffix: false,
    };
    let mut model = Model {
        pieces: Vec::new(),
        algorithm: Algorithm::Unigram,
        byte_fallback: false,
        normalizer,
    };
    for (number, value) in fields(message)? {
        match (number, value) {
            (field::PIECES, Value::Bytes(bytes)) => model.pieces.push(piece(bytes)?),
            (field::TRAINER, Value::Bytes(bytes)) => trainer(bytes, &mut model)?,
            (field::NORMALIZER, Value::Bytes(bytes)) => {
                normalization(bytes, &mut model.normalizer)?
            }
            _ => {}
        }
    }
    match model.pieces.len() {
        0 => Err("it holds no pieces".to_owned()),
        many if many > PIECES_MAX => {
            Err(format!("{many} pieces are over the limit of {PIECES_MAX}"))
        }
        _ => Ok(model),
    }
}

fn piece(message: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for (number, value) in fields(message)? {
        match number {
            field::piece::TEXT => piece.text = text(value)?,
            field::piece::SCORE => piece.score = value.float().unwrap_or_default(),
            field::piece::TYPE => piece.kind = Kind::from_number(value.number().unwrap_or(1)),
            _ => {}
        }
    }
    Ok(piece)
}

fn text(value: Value<'_>) -> Result<String, String> {
    let bytes = value.bytes().unwrap_or_default();
    String::from_utf8(bytes.to_vec()).map_err(|error| format!("a piece is no text: {error}"))
}

fn trainer(message: &[u8], model: &mut Model) -> Result<(), String> {
    for (number, value) in fields(message)? {
        match number {
            field::trainer::MODEL_TYPE => model.algorithm = algorithm(value.number().unwrap_or(1))?,
            field::trainer::WHITESPACE_AS_SUFFIX => {
                model.normalizer.whitespace_as_suffix = value.flag().unwrap_or(false);
            }
            field::trainer::BYTE_FALLBACK => model.byte_fallback = value.flag().unwrap_or(false),
            _ => {}
        }
    }
    Ok(())
}

fn algorithm(number: u64) -> Result<Algorithm, String> {
    match number {
        1 => Ok(Algorithm::Unigram),
        2 => Ok(Algorithm::Bpe),
        3 | 4 => Err("word and character models are not supported".to_owned()),
        number => Err(format!("model type {number} is unknown")),
    }
}

fn normalization(message: &[u8], normalizer: &mut Normalizer) -> Result<(), String> {
    for (number, value) in fields(message)? {
        let flag = value.flag().unwrap_or(true);
        match number {
            field::normalizer::CHARSMAP => {
                normalizer.charsmap = value.bytes().unwrap_or_default().to_vec();
            }
            field::normalizer::ADD_DUMMY_PREFIX => normalizer.add_dummy_prefix = flag,
            field::normalizer::REMOVE_EXTRA_WHITESPACES => {
                normalizer.remove_extra_whitespaces = flag
            }
            field::normalizer::ESCAPE_WHITESPACES => normalizer.escape_whitespaces = flag,
            _ => {}
        }
    }
    Ok(())
}
