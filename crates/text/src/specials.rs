//! Which tokens begin and end a text, gathered from all the files that may say so.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::tokenizer::added::AddedToken;
use crate::{Error, Files, Result};

/// Configurations that hold the one of the language model inside them.
const NESTED_CONFIGS: &[&str] = &["text_config", "llm_config", "language_config"];

/// The texts of a tokenizer's named tokens (`bos_token`, `eos_token`, `pad_token` …), as templates see them.
pub(crate) fn named_tokens(files: &Files) -> Result<BTreeMap<String, String>> {
    let mut named = BTreeMap::new();
    // The later file wins.
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let Value::Object(fields) = files.json(file)? else { continue };
        for (name, value) in fields.into_iter().filter(|(name, _)| name.ends_with("_token")) {
            if let Some(text) = token_text(&value) {
                named.insert(name, text.to_owned());
            }
        }
    }
    Ok(named)
}

/// Tokens beyond a vocabulary that has no place for them, and the special ones in it: `added_tokens_decoder` describes
/// them in full, the older `added_tokens.json` has texts and ids alone, named tokens only texts. `find` gives a token's
/// id in the vocabulary.
pub(crate) fn added_tokens(
    files: &Files,
    find: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<AddedToken>> {
    let mut added = BTreeMap::new();
    if let Value::Object(tokens) = files.json("added_tokens.json")? {
        for (text, id) in &tokens {
            let id = token_id(id).ok_or_else(|| no_id("added_tokens.json", text))?;
            added.insert(id, AddedToken { id, text: text.clone(), ..AddedToken::default() });
        }
    }
    let config = files.json("tokenizer_config.json")?;
    if let Some(tokens) = config["added_tokens_decoder"].as_object() {
        for (id, token) in tokens {
            let number = id.parse().map_err(|_| no_id("tokenizer_config.json", id))?;
            added.insert(number, described(number, token));
        }
    }
    for (text, description) in special_texts(files)? {
        let known = added.values_mut().find(|token| token.text == text);
        match (known, find(&text)) {
            (Some(token), _) => token.special = true,
            (None, Some(id)) => {
                let token = AddedToken { text, special: true, ..described(id, &description) };
                added.insert(id, token);
            }
            (None, None) => {}
        }
    }
    Ok(added.into_values().filter(|token| !token.text.is_empty()).collect())
}

fn no_id(file: &str, text: &str) -> Error {
    Error::bad_file(file, format!("`{text}` has no id"))
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn described(id: u32, token: &Value) -> AddedToken {
    let flag = |name: &str| token[name].as_bool().unwrap_or(false);
    AddedToken {
        id,
        text: token_text(token).unwrap_or_default().to_owned(),
        special: flag("special"),
        lstrip: flag("lstrip"),
        rstrip: flag("rstrip"),
        single_word: flag("single_word"),
        normalized: flag("normalized"),
    }
}

/// All named tokens, the additional ones too, each with what describes it.
fn special_texts(files: &Files) -> Result<Vec<(String, Value)>> {
    let mut texts = Vec::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let Value::Object(fields) = files.json(file)? else { continue };
        for (name, value) in fields {
            let values = match value {
                Value::Array(values)
                    if matches!(
                        name.as_str(),
                        "additional_special_tokens" | "extra_special_tokens"
                    ) =>
                {
                    values
                }
                value if name.ends_with("_token") => vec![value],
                _ => continue,
            };
            let named = values.into_iter().filter_map(|value| {
                let text = token_text(&value)?.to_owned();
                Some((text, value))
            });
            texts.extend(named);
        }
    }
    Ok(texts)
}

/// End tokens, ascending: whatever any file names as one. `find` gives a token's id. Ids beyond the vocabulary are
/// real in some published files, and never generated.
pub(crate) fn end_tokens(files: &Files, find: impl Fn(&str) -> Option<u32>) -> Result<Vec<u32>> {
    let mut ends = Vec::new();
    for file in ["generation_config.json", "config.json"] {
        let config = files.json(file)?;
        let nested = NESTED_CONFIGS.iter().filter_map(|name| config.get(name));
        for config in std::iter::once(&config).chain(nested) {
            collect(&config["eos_token_id"], &find, &mut ends);
        }
    }
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        collect(&files.json(file)?["eos_token"], &find, &mut ends);
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

fn collect(value: &Value, find: &impl Fn(&str) -> Option<u32>, ends: &mut Vec<u32>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, find, ends)),
        Value::Number(id) => ends.extend(id.as_u64().and_then(|id| u32::try_from(id).ok())),
        value => ends.extend(token_text(value).and_then(find)),
    }
}

/// Either the text itself or an added token's description.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[u32]) {
        let find = |text: &str| ["a", "<|im_end|>", "</s>"].iter().position(|known| *known == text);
        let find = |text: &str| find(text).map(|id| id as u32);
        let files = Files::from_texts(files.iter().copied());
        assert_eq!(end_tokens(&files, find).unwrap(), expected);
    }

    #[test]
    fn ends_are_the_union_of_all_files() {
        check(&[], &[]);
        check(&[("config.json", r#"{"eos_token_id": 7}"#)], &[7]);
        check(&[("config.json", r#"{"text_config": {"eos_token_id": [7, 5]}}"#)], &[5, 7]);
        check(
            &[
                ("generation_config.json", r#"{"eos_token_id": [9, 7, -1, null, 4294967296]}"#),
                ("config.json", r#"{"eos_token_id": 7}"#),
                ("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#),
                ("special_tokens_map.json", r#"{"eos_token": {"content": "</s>"}}"#),
            ],
            &[1, 2, 7, 9],
        );
        check(&[("tokenizer_config.json", r#"{"eos_token": "unknown"}"#)], &[]);
        check(&[("config.json", r#"[1, 2]"#)], &[]);
    }

    #[test]
    fn added_tokens_come_from_three_files() {
        let files = Files::from_texts([
            ("added_tokens.json", r#"{"<x>": 9, "<y>": 8}"#),
            ("special_tokens_map.json", r#"{"eos_token": {"content": "</s>", "rstrip": true}}"#),
            (
                "tokenizer_config.json",
                r#"{"added_tokens_decoder": {"8": {"content": "<y>", "lstrip": true}},
                    "additional_special_tokens": ["<x>", "<unknown>"], "bos_token": "a"}"#,
            ),
        ]);
        let find = |text: &str| ["a", "</s>"].iter().position(|known| *known == text);
        let tokens = added_tokens(&files, |text| find(text).map(|id| id as u32)).unwrap();
        let expected = [
            AddedToken::special(0, "a"),
            AddedToken { rstrip: true, ..AddedToken::special(1, "</s>") },
            AddedToken { lstrip: true, special: false, ..AddedToken::special(8, "<y>") },
            AddedToken::special(9, "<x>"),
        ];
        assert_eq!(tokens, expected);
        let files = Files::from_texts([("added_tokens.json", r#"{"<x>": "9"}"#)]);
        assert!(added_tokens(&files, |_| None).is_err());
    }

    #[test]
    fn tokens_have_their_names() {
        let files = Files::from_texts([
            ("special_tokens_map.json", r#"{"bos_token": "<s>", "pad_token": {"content": "<p>"}}"#),
            ("tokenizer_config.json", r#"{"bos_token": "<b>", "eos_token": null, "x": "y"}"#),
        ]);
        let named = named_tokens(&files).unwrap();
        let named: Vec<_> =
            named.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(named, [("bos_token", "<b>"), ("pad_token", "<p>")]);
    }
}
