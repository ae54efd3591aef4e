//! `tokenizer.model` and its other names: a SentencePiece model, and what the classes of its users make of it: which
//! tokens stand around a text, and where a piece's id is not its place in the model.

use std::collections::BTreeMap;

use serde_json::Value;

use super::added::{Added, AddedToken};
use super::own::{self, Own, Prefixes, Shift};
use super::sentencepiece::{Algorithm, BLANK, Kind, Model, Piece, SentencePiece};
use super::{Around, Encoder, Loaded};
use crate::pieces::{Pieces, byte_token};
use crate::specials::added_tokens;
use crate::{Error, Files, Result};

pub(super) const FILES: &[&str] = &[
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    // Never SentencePiece, but told apart by its content like the others.
    "tiktoken.model",
];

/// Parts of class names, and what their users put around a text.
const STYLES: &[(&str, Style)] = &[
    ("xlm-roberta", Style::Sentence),
    ("camembert", Style::Sentence),
    ("barthez", Style::Sentence),
    ("t5", Style::End),
    ("pegasus", Style::End),
    ("nllb", Style::End),
    ("mbart", Style::End),
    ("udop", Style::End),
    ("deberta", Style::Classified),
    ("bigbird", Style::Classified),
    ("big_bird", Style::Classified),
    ("fnet", Style::Classified),
    ("rembert", Style::Classified),
];

/// Those lower texts, strip accents or replace quotes in code of their own, before the model.
const PREPARED: [&str; 4] = ["albert", "xlnet", "marian", "ernie-m"];

/// Users of fairseq's numbering.
const FAIRSEQ: [&str; 4] = ["xlm-roberta", "mbart", "nllb", "xglm"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A begin token, and an end token if the configuration asks for one.
    Begin,
    /// An end token.
    End,
    /// `<s>` and `</s>`.
    Sentence,
    /// `[CLS]` and `[SEP]`.
    Classified,
    Bare,
}

pub(super) fn load(
    name: &str,
    message: &[u8],
    files: &Files,
    named: &BTreeMap<String, String>,
) -> Result<Loaded> {
    let mut model = Model::parse(message).map_err(|why| Error::bad_file(name, why))?;
    let config = files.json("tokenizer_config.json")?;
    let class = class(&config, &files.json("config.json")?);
    if let Some(known) = PREPARED.iter().find(|known| class.contains(**known)) {
        let what = format!("a `{name}` of the class {known} without a `tokenizer.json`");
        return Err(Error::Unsupported { what: format!("{what} is not supported") });
    }
    if config["add_prefix_space"].as_bool() == Some(false) {
        model.normalizer.add_dummy_prefix = false;
    }
    let shift = FAIRSEQ.iter().any(|user| class.contains(user)).then(|| fairseq(&model));
    let find = |token: &str| {
        let place = model.pieces.iter().position(|piece| piece.text == token)? as u32;
        Some(shift.as_ref().map_or(place, |shift| shift.apply(place)))
    };
    let mut added = control_tokens(&model.pieces, shift.as_ref());
    if shift.is_some() {
        added.extend(fairseq_tokens(&model, &class));
    }
    merge(&mut added, added_tokens(files, find)?);
    let token = |name: &str, texts: &[&str]| {
        let texts = named.get(name).map(String::as_str).into_iter().chain(texts.iter().copied());
        texts.filter_map(|text| id_of(&added, text).or_else(|| find(text))).next()
    };
    let around = around(style(&class, model.algorithm), &config, &token);
    let ends = token("eos_token", &["</s>", "<eos>"]).into_iter().collect();
    let prefixes = match config["legacy"].as_bool() {
        Some(false) => Prefixes::First,
        _ => Prefixes::Each,
    };
    let loaded =
        assemble(&model, added, prefixes, shift).map_err(|error| error.or_bad_file(name))?;
    Ok(Loaded { around, ends, ..loaded })
}

/// What can go wrong before a file has a name.
pub(super) enum Fault {
    Why(String),
    Error(Error),
}

impl Fault {
    pub(super) fn or_bad_file(self, name: &str) -> Error {
        match self {
            Fault::Why(why) => Error::bad_file(name, why),
            Fault::Error(error) => error,
        }
    }
}

pub(super) fn assemble(
    model: &Model,
    added: Vec<AddedToken>,
    prefixes: Prefixes,
    shift: Option<Shift>,
) -> std::result::Result<Loaded, Fault> {
    let place = |id: usize| shift.as_ref().map_or(id as u32, |shift| shift.apply(id as u32));
    let mut spelled: Vec<(u32, Vec<u8>, bool)> = Vec::with_capacity(model.pieces.len());
    for (id, piece) in model.pieces.iter().enumerate() {
        spelled.push((
            place(id),
            bytes(piece),
            matches!(piece.kind, Kind::Control | Kind::Unknown),
        ));
    }
    let texts = added.iter().map(|token| (token.id, token.text.as_bytes().to_vec(), token.special));
    spelled.extend(texts);
    let pieces = Pieces::spelled(spelled).map_err(Fault::Error)?;
    let model = Box::new(SentencePiece::new(model).map_err(Fault::Why)?);
    let model = own::Model::SentencePiece { model, prefixes, shift };
    let encoder = Encoder::Own(Box::new(Own { added: vec![Added::new(added)], model }));
    Ok(Loaded { encoder, pieces, around: Around::default(), ends: Vec::new() })
}

fn bytes(piece: &Piece) -> Vec<u8> {
    match (piece.kind, byte_token(&piece.text)) {
        (Kind::Byte, Some(byte)) => vec![byte],
        (Kind::Control | Kind::Unknown, _) => piece.text.as_bytes().to_vec(),
        _ => {
            let blank = std::str::from_utf8(BLANK).unwrap_or_default();
            piece.text.replace(blank, " ").into_bytes()
        }
    }
}

/// What the model itself calls no text.
pub(super) fn control_tokens(pieces: &[Piece], shift: Option<&Shift>) -> Vec<AddedToken> {
    let control = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| matches!(piece.kind, Kind::Control | Kind::Unknown));
    let place = |id: usize| shift.map_or(id as u32, |shift| shift.apply(id as u32));
    control.map(|(id, piece)| AddedToken::special(place(id), piece.text.clone())).collect()
}

fn merge(added: &mut Vec<AddedToken>, described: Vec<AddedToken>) {
    added.retain(|token| described.iter().all(|other| other.id != token.id));
    added.extend(described);
}

fn id_of(added: &[AddedToken], text: &str) -> Option<u32> {
    added.iter().find(|token| token.text == text).map(|token| token.id)
}

/// In lower case, without its last word: `xlm-roberta` for `XLMRobertaTokenizerFast` and for that model type.
fn class(tokenizer_config: &Value, config: &Value) -> String {
    let class = tokenizer_config["tokenizer_class"]
        .as_str()
        .filter(|class| !matches!(*class, "PreTrainedTokenizerFast" | "TokenizersBackend"));
    let name = class.or(config["model_type"].as_str()).unwrap_or_default();
    name.to_lowercase().replace("xlmroberta", "xlm-roberta").replace("tokenizer", "")
}

fn style(class: &str, algorithm: Algorithm) -> Style {
    let known = STYLES.iter().find(|(part, _)| class.contains(part));
    match (known, algorithm) {
        (Some((_, style)), _) => *style,
        (None, Algorithm::Bpe) => Style::Begin,
        (None, Algorithm::Unigram) if class.is_empty() => Style::Bare,
        (None, Algorithm::Unigram) => Style::Begin,
    }
}

fn around(style: Style, config: &Value, token: &dyn Fn(&str, &[&str]) -> Option<u32>) -> Around {
    let wants = |name: &str, default: bool| config[name].as_bool().unwrap_or(default);
    let begin = || token("bos_token", &["<s>", "<bos>"]);
    let end = || token("eos_token", &["</s>", "<eos>"]);
    let (before, after) = match style {
        Style::Begin | Style::Bare => (
            wants("add_bos_token", style == Style::Begin).then(begin).flatten(),
            wants("add_eos_token", false).then(end).flatten(),
        ),
        Style::End => (None, end()),
        Style::Sentence => (begin(), end()),
        Style::Classified => (token("cls_token", &["[CLS]"]), token("sep_token", &["[SEP]"])),
    };
    Around { before: before.into_iter().collect(), after: after.into_iter().collect() }
}

/// `<s>`, `<pad>`, `</s>`, `<unk>`, and then the pieces but for the first three.
fn fairseq(model: &Model) -> Shift {
    let place = |text: &str| model.pieces.iter().position(|piece| piece.text == text);
    let moved = [("<s>", 0), ("</s>", 2), ("<unk>", 3)];
    let moved = moved.into_iter().filter_map(|(text, to)| Some((place(text)? as u32, to)));
    Shift { by: 1, moved: moved.collect() }
}

fn fairseq_tokens(model: &Model, class: &str) -> Vec<AddedToken> {
    let mut tokens = vec![AddedToken::special(1, "<pad>")];
    if class.contains("xlm-roberta") {
        let id = model.pieces.len() as u32 + 1;
        tokens.push(AddedToken { lstrip: true, ..AddedToken::special(id, "<mask>") });
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(tokenizer_config: Value, config: Value, algorithm: Algorithm, expected: Style) {
        let class = class(&tokenizer_config, &config);
        assert_eq!(style(&class, algorithm), expected, "{class}");
    }

    #[test]
    fn classes_have_their_styles() {
        let none = || json!({});
        check(none(), none(), Algorithm::Bpe, Style::Begin);
        check(none(), none(), Algorithm::Unigram, Style::Bare);
        check(none(), json!({"model_type": "t5"}), Algorithm::Unigram, Style::End);
        check(none(), json!({"model_type": "umt5"}), Algorithm::Unigram, Style::End);
        let class = |name: &str| json!({"tokenizer_class": name});
        check(class("LlamaTokenizer"), none(), Algorithm::Unigram, Style::Begin);
        check(class("XLMRobertaTokenizerFast"), none(), Algorithm::Unigram, Style::Sentence);
        let xlm = json!({"model_type": "xlm-roberta"});
        check(class("PreTrainedTokenizerFast"), xlm, Algorithm::Unigram, Style::Sentence);
        check(class("DebertaV2Tokenizer"), none(), Algorithm::Unigram, Style::Classified);
    }
}
