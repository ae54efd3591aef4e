//! Byte-level `tokenizer.json`s in our own byte-pair encoding, which is some ten times as fast as the library's, and read
//! in a third of its time.
//!
//! Only a description of which every part is known here is taken; the library gets all others, and says what is wrong with
//! them. Both give the same ids and pieces.

use std::collections::BTreeSet;
use std::fmt;

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::added::{Added, AddedToken};
use super::bytepair::{BytePair, Joins, pair};
use super::own::{Model, Own};
use super::patterns::GPT2;
use super::splits::{Splits, is_no_expression};
use super::{Around, Encoder, Loaded, library};
use crate::pieces::{Pieces, byte_level_bytes, spell_byte_level};

#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<Token>,
    model: Bpe,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type")]
    kind: String,
    vocab: FxHashMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
struct Token {
    id: u32,
    content: String,
    special: bool,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
    normalized: bool,
}

/// Two tokens: as a list, or in one text with a blank between.
struct Merge(String, String);

pub(super) fn load(source: &str) -> Option<Loaded> {
    let description: Description = serde_json::from_str(source).ok()?;
    let composed = match &description.normalizer {
        Value::Null => false,
        normalizer if normalizer["type"] == "NFC" => true,
        _ => return None,
    };
    if description.model.kind != "BPE" || !spells_bytes(&description.decoder) {
        return None;
    }
    let steps = steps(&description.pre_tokenizer)?;
    let splits = Splits::new(steps.iter().map(String::as_str)).ok()?;
    let added = added(description.added_tokens, &description.model.vocab)?;
    let stages = stages(&added, composed)?;
    let (tokens, joins) = vocabulary(&description.model)?;
    let pieces = pieces(&description.model.vocab, &added)?;
    let around = around(&description.post_processor)?;
    let whole_words = description.model.ignore_merges;
    let model = Model::BytePair(BytePair { splits, composed, whole_words, tokens, joins });
    let encoder = Encoder::Own(Box::new(Own { added: stages, model }));
    Some(Loaded { encoder, pieces, around, ends: Vec::new() })
}

fn spells_bytes(decoder: &Value) -> bool {
    let all = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
    all.iter().any(|decoder| decoder["type"] == "ByteLevel")
}

/// What the library puts around a text depends on no vocabulary.
fn around(post_processor: &Value) -> Option<Around> {
    if post_processor.is_null() {
        return Some(Around::default());
    }
    let model = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
    let small = json!({"post_processor": post_processor, "model": model});
    library::around(&small.to_string()).ok()
}

/// The expressions that cut a text, if all that is done to it besides is spelling its bytes.
fn steps(pre_tokenizer: &Value) -> Option<Vec<String>> {
    let alone = std::slice::from_ref(pre_tokenizer);
    let all = pre_tokenizer["pretokenizers"].as_array().map_or(alone, Vec::as_slice);
    let (last, before) = all.split_last()?;
    let mut steps: Vec<String> = before.iter().map(step).collect::<Option<_>>()?;
    if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
        return None;
    }
    let cuts = last.get("use_regex").map_or(Some(true), Value::as_bool)?;
    steps.extend(cuts.then(|| GPT2.to_owned()));
    Some(steps)
}

fn step(pre_tokenizer: &Value) -> Option<String> {
    match pre_tokenizer["type"].as_str()? {
        "Split" if pre_tokenizer["behavior"] == "Isolated" && pre_tokenizer["invert"] == false => {
            let pattern = &pre_tokenizer["pattern"];
            let text = || pattern["String"].as_str().map(regex::escape);
            let regex = pattern["Regex"].as_str().filter(|regex| !is_no_expression(regex));
            regex.map(str::to_owned).or_else(text)
        }
        "Digits" if pre_tokenizer["individual_digits"] == true => Some(r"\p{N}".to_owned()),
        "Digits" => Some(r"\p{N}+".to_owned()),
        _ => None,
    }
}

/// With the ids that the library gives them: their own if the vocabulary has them, else those behind it.
fn added(described: Vec<Token>, vocab: &FxHashMap<String, u32>) -> Option<Vec<AddedToken>> {
    let mut texts = BTreeSet::new();
    let mut next = u32::try_from(vocab.len()).ok()?;
    let mut added = Vec::with_capacity(described.len());
    for token in described {
        let id = vocab.get(&token.content).copied().unwrap_or(next);
        if id != token.id || token.content.is_empty() || !texts.insert(token.content.clone()) {
            return None;
        }
        next = next.max(id.checked_add(1)?);
        let Token { id, content: text, special, lstrip, rstrip, single_word, normalized } = token;
        added.push(AddedToken { id, text, special, lstrip, rstrip, single_word, normalized });
    }
    Some(added)
}

/// Tokens that are looked for in the normalised text are looked for after all others there.
fn stages(added: &[AddedToken], normalizes: bool) -> Option<Vec<Added>> {
    let (normalized, plain): (Vec<_>, Vec<_>) =
        added.iter().cloned().partition(|token| token.normalized);
    if normalizes && !normalized.is_empty() {
        return None;
    }
    let stages = [plain, normalized].into_iter().filter(|tokens| !tokens.is_empty());
    Some(stages.map(Added::new).collect())
}

type Tokens = FxHashMap<Box<[u8]>, u32>;

fn vocabulary(model: &Bpe) -> Option<(Tokens, Joins)> {
    let is_plain = |affix: &Option<String>| affix.as_ref().is_none_or(String::is_empty);
    let draws = model.dropout.is_some_and(|dropout| dropout > 0.0);
    let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    if draws || !affixes.into_iter().all(is_plain) {
        return None;
    }
    let ids = &model.vocab;
    // A token with another character can only be an added one.
    let spelled = ids
        .iter()
        .filter_map(|(token, id)| Some((byte_level_bytes(token)?.into_boxed_slice(), *id)));
    let tokens: Tokens = spelled.collect();
    if !(0..=u8::MAX).all(|byte| tokens.contains_key(&[byte][..])) {
        return None;
    }
    let mut joins = FxHashMap::default();
    let mut whole = String::new();
    for (Merge(left, right), rank) in model.merges.iter().zip(0..) {
        whole.clear();
        whole.extend([left.as_str(), right]);
        joins.insert(pair(*ids.get(left)?, *ids.get(right)?), (rank, *ids.get(&whole)?));
    }
    Some((tokens, Joins::Pairs(joins)))
}

/// Added tokens are matched in the text as they are written.
fn pieces(vocab: &FxHashMap<String, u32>, added: &[AddedToken]) -> Option<Pieces> {
    let spell = |token: &str| {
        let mut bytes = Vec::with_capacity(token.len());
        spell_byte_level(token, &mut bytes);
        bytes
    };
    let mut all: Vec<(u32, Vec<u8>, bool)> =
        vocab.iter().map(|(token, id)| (*id, spell(token), false)).collect();
    all.extend(added.iter().map(|token| (token.id, token.text.clone().into(), token.special)));
    Pieces::spelled(all).ok()
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Merge, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
        let (left, right) = text.split_once(' ').ok_or_else(|| E::custom("one token"))?;
        Ok(Merge(left.to_owned(), right.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<Merge, A::Error> {
        let mut token = || tokens.next_element()?.ok_or_else(|| A::Error::custom("one token"));
        let merge = Merge(token()?, token()?);
        match tokens.next_element::<IgnoredAny>()? {
            None => Ok(merge),
            Some(_) => Err(A::Error::custom("three tokens")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokenizers::Tokenizer;

    use super::*;
    use crate::random::Random;

    /// A vocabulary of all bytes and some words.
    fn described() -> Value {
        let letters = (0..0x144).filter_map(char::from_u32).map(String::from);
        let bytes = letters.filter(|letter| byte_level_bytes(letter).is_some());
        let words = ["th", "the", "Ġthe", "ing", "in", "Ġa", "ĠĠ"].map(str::to_owned);
        let vocab: serde_json::Map<String, Value> =
            bytes.chain(words).zip(0..).map(|(token, id)| (token, json!(id))).collect();
        let split = json!({"type": "Split", "pattern": {"Regex": super::super::patterns::QWEN2},
            "behavior": "Isolated", "invert": false});
        let spell = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let token = |id: u32, content: &str| {
            json!({"id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        };
        json!({
            "added_tokens": [token(263, "<|user|>"), token(256, "th")],
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, spell]},
            "decoder": spell,
            "model": {"type": "BPE", "vocab": vocab, "merges": ["t h", "th e", "Ġ the", "i n", "in g", "Ġ a", "Ġ Ġ"]},
        })
    }

    fn both(source: &str) -> (Tokenizer, Option<Own>) {
        let library: Tokenizer = source.parse().unwrap();
        let Some(Loaded { encoder, pieces, around, .. }) = load(source) else {
            return (library, None);
        };
        assert_eq!(pieces, Pieces::new(&library).unwrap());
        assert_eq!(around, library::around(source).unwrap());
        match encoder {
            Encoder::Own(own) => (library, Some(*own)),
            Encoder::Library(_) => panic!("it is not ours"),
        }
    }

    #[track_caller]
    fn check_same(library: &Tokenizer, own: &Own, text: &str) {
        let expected = library.encode_fast(text, false).unwrap();
        assert_eq!(own.encode(text).unwrap(), expected.get_ids(), "{text:?}");
    }

    /// All that may differ, in texts made at random.
    fn check_random(library: &Tokenizer, own: &Own, rounds: usize) {
        let mut random = Random(rounds as u64);
        let letters: Vec<char> =
            "the inga  é字🙂\u{301}\u{200d}\n\r\t\u{a0}\u{3000}0129½٣.,'’sS-_<|user>&\u{0}"
                .chars()
                .collect();
        for _ in 0..rounds {
            let letter = |random: &mut Random| match random.below(8) {
                0 => char::from_u32(random.below(0x11_0000) as u32).unwrap_or('x'),
                _ => letters[random.below(letters.len())],
            };
            let mut text: String = (0..random.below(60)).map(|_| letter(&mut random)).collect();
            if random.below(3) == 0 {
                text.insert_str(0, "th <|user|> ");
            }
            check_same(library, own, &text);
        }
    }

    #[test]
    fn every_known_description_gives_the_librarys_ids() {
        let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
        let change = |change: &dyn Fn(&mut Value)| {
            let mut described = described();
            change(&mut described);
            described
        };
        let last = |steps: &mut Value| {
            steps["pre_tokenizer"]["pretokenizers"].as_array_mut().unwrap().pop()
        };
        for description in [
            described(),
            change(&|all| all["normalizer"] = json!({"type": "NFC"})),
            change(&|all| all["model"]["ignore_merges"] = json!(true)),
            change(&|all| all["pre_tokenizer"]["pretokenizers"][0] = digits(true)),
            change(&|all| all["pre_tokenizer"]["pretokenizers"][0] = digits(false)),
            change(&|all| {
                all["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"String": "a."})
            }),
            change(&|all| {
                all["pre_tokenizer"] = last(all).unwrap();
                all["pre_tokenizer"]["use_regex"] = json!(true);
            }),
            change(&|all| all["added_tokens"][0]["normalized"] = json!(true)),
            change(&|all| {
                all["added_tokens"][0]["lstrip"] = json!(true);
                all["added_tokens"][0]["rstrip"] = json!(true);
                all["added_tokens"][1]["single_word"] = json!(true);
            }),
        ] {
            let (library, own) = both(&description.to_string());
            let own = own.unwrap_or_else(|| panic!("{description} is not taken"));
            check_random(&library, &own, 400);
        }
    }

    #[test]
    fn what_is_not_known_is_left_to_the_library() {
        let byte_level = "pretokenizers";
        for (path, value) in [
            ("/normalizer", json!({"type": "Lowercase"})),
            ("/model/dropout", json!(0.1)),
            ("/model/end_of_word_suffix", json!("</w>")),
            ("/model/vocab", json!({"t": 0, "h": 1, "th": 2})),
            ("/pre_tokenizer", json!(null)),
            ("/pre_tokenizer", json!({"type": "Sequence", byte_level: []})),
            ("/pre_tokenizer/pretokenizers/0/behavior", json!("MergedWithNext")),
            ("/pre_tokenizer/pretokenizers/0/invert", json!(true)),
            ("/pre_tokenizer/pretokenizers/0", json!({"type": "Whitespace"})),
            ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true)),
            ("/decoder", json!({"type": "Fuse"})),
            ("/added_tokens/0/id", json!(300)),
            ("/added_tokens/1/content", json!("<|user|>")),
        ] {
            let mut description = described();
            if path == "/model/vocab" {
                description["model"]["merges"] = json!(["t h"]);
            }
            match description.pointer_mut(path) {
                Some(place) => *place = value,
                None => {
                    let name = path.rsplit('/').next().unwrap();
                    description["model"][name] = value;
                }
            }
            assert!(both(&description.to_string()).1.is_none(), "{path}");
        }
        let mut normalized = described();
        normalized["normalizer"] = json!({"type": "NFC"});
        normalized["added_tokens"][0]["normalized"] = json!(true);
        assert!(both(&normalized.to_string()).1.is_none());
    }

    /// The tokenizers of the reference checkpoints and of the model that comes with the program, on texts of many
    /// languages.
    #[test]
    fn tokenizers_of_checkpoints_give_the_librarys_ids() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let corpus = std::fs::read_to_string(root.join("crates/text/tests/reference/corpus.json"));
        let corpus: std::collections::BTreeMap<String, String> =
            serde_json::from_str(&corpus.unwrap()).unwrap();
        let fixtures = std::fs::read_dir(root.join("testdata/arch/_tokenizers")).unwrap();
        let folders = fixtures.map(|folder| folder.unwrap().path());
        let mut taken = 0;
        for folder in folders.chain([root.join("models/pocket")]) {
            let source = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
            let (library, Some(own)) = both(&source) else { continue };
            corpus.values().for_each(|text| check_same(&library, &own, text));
            let all: Vec<&str> = corpus.values().map(String::as_str).collect();
            check_same(&library, &own, &all.join("\n \t"));
            check_random(&library, &own, 300);
            taken += 1;
        }
        assert!(taken >= 5, "only {taken} are byte-level");
    }
}
