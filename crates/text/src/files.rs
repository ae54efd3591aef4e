//! The few files of a model that concern text, read with limits; and their JSON, which is sometimes Python's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// The files this crate looks at, beside the vocabularies below. Further templates lie as
/// `additional_chat_templates/<name>.jinja`.
const NAMES: &[&str] = &[
    "tokenizer.json",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Directory of a repository's named templates.
pub(crate) const MORE_TEMPLATES: &str = "additional_chat_templates/";

/// Not looked at where there is a `tokenizer.json`, which says the same. Nor are tiktoken's ranks, which have any name
/// that ends in `.tiktoken`.
const OTHER_VOCABULARIES: &[&str] = &[
    "tokenizer.ggml.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tiktoken.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// How the names of tiktoken's rank files end.
pub(crate) const RANKS: &str = ".tiktoken";

/// How the names of files end that are no text.
const BINARY: &str = ".model";

/// The largest known tokenizers are about 35 MB. Price: a few times this while a hostile one is parsed.
const TOKENIZER_BYTES_MAX: usize = 256 << 20;

/// Everything else is a few hundred KB at most.
const FILE_BYTES_MAX: usize = 16 << 20;

/// Contents by name in the repository.
#[derive(Clone, Debug, Default)]
pub struct Files {
    texts: BTreeMap<String, String>,
    binaries: BTreeMap<String, Vec<u8>>,
}

impl Files {
    /// Reads those of `paths` that this crate looks at.
    pub fn open(paths: &BTreeMap<String, PathBuf>) -> Result<Files> {
        let whole = paths.contains_key("tokenizer.json");
        let mut files = Files::default();
        for (name, path) in paths.iter().filter(|(name, _)| is_known(name, whole)) {
            let bytes = read(name, path)?;
            if name.ends_with(BINARY) {
                files.binaries.insert(name.clone(), bytes);
            } else {
                let text =
                    String::from_utf8(bytes).map_err(|error| Error::bad_file(name, error))?;
                files.texts.insert(name.clone(), text);
            }
        }
        Ok(files)
    }

    pub fn from_texts<N, T>(texts: impl IntoIterator<Item = (N, T)>) -> Files
    where
        N: Into<String>,
        T: Into<String>,
    {
        let texts = texts.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
        Files { texts, ..Files::default() }
    }

    /// One more file.
    pub fn with_text(mut self, name: impl Into<String>, text: impl Into<String>) -> Files {
        self.texts.insert(name.into(), text.into());
        self
    }

    /// One more file, which is no text.
    pub fn with_binary(mut self, name: impl Into<String>, bytes: Vec<u8>) -> Files {
        self.binaries.insert(name.into(), bytes);
        self
    }

    /// Name and content of the first of `names` that is there.
    pub(crate) fn binary<'a>(&'a self, names: &[&'a str]) -> Option<(&'a str, &'a [u8])> {
        names.iter().find_map(|name| Some((*name, self.binaries.get(*name)?.as_slice())))
    }

    /// Name and content of a file of tiktoken's ranks.
    pub(crate) fn ranks(&self) -> Option<(&str, &str)> {
        let mut texts = self.texts.iter();
        let (name, text) = texts.find(|(name, _)| name.ends_with(RANKS))?;
        Some((name, text))
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// `Null` for a file that is not there.
    pub(crate) fn json(&self, name: &str) -> Result<Value> {
        let Some(text) = self.text(name) else { return Ok(Value::Null) };
        parse(text).map_err(|error| Error::bad_file(name, error))
    }

    /// Name and source of the templates that lie as files of their own.
    pub(crate) fn more_templates(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().filter_map(|(name, text)| Some((template_name(name)?, text.as_str())))
    }
}

fn template_name(file: &str) -> Option<&str> {
    file.strip_prefix(MORE_TEMPLATES)?.strip_suffix(".jinja")
}

/// Whether a model's file of this name in its repository is one that is read here.
pub fn reads(name: &str) -> bool {
    is_known(name, false)
}

fn is_known(name: &str, has_tokenizer: bool) -> bool {
    let vocabulary = is_other_vocabulary(name) && !has_tokenizer;
    vocabulary || NAMES.contains(&name) || template_name(name).is_some()
}

fn is_other_vocabulary(name: &str) -> bool {
    OTHER_VOCABULARIES.contains(&name) || is_ranks(name)
}

fn is_ranks(name: &str) -> bool {
    name.ends_with(RANKS) && !name.contains('/')
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>> {
    let unreadable =
        |why: std::io::Error| Error::Unreadable { file: name.to_owned(), why: why.to_string() };
    let large = name == "tokenizer.json" || is_other_vocabulary(name);
    let limit = if large { TOKENIZER_BYTES_MAX } else { FILE_BYTES_MAX };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > limit {
        return Err(Error::bad_file(name, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// JSON as Python writes it: `NaN` and `Infinity` are read as null.
fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).or_else(|error| {
        let plain = without_python_numbers(text);
        if plain == text { Err(error) } else { serde_json::from_str(&plain) }
    })
}

fn without_python_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Every second part of a text cut at its quotes is the inside of a string, if escaped quotes do not count.
    let mut rest = text;
    let mut in_string = false;
    while let Some(cut) = next_quote(rest, in_string) {
        push_part(&mut out, &rest[..cut], in_string);
        out.push('"');
        rest = &rest[cut + 1..];
        in_string = !in_string;
    }
    push_part(&mut out, rest, in_string);
    out
}

fn next_quote(text: &str, in_string: bool) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let is_quote = byte == b'"' && !escaped;
        escaped = in_string && byte == b'\\' && !escaped;
        is_quote
    })
}

fn push_part(out: &mut String, part: &str, in_string: bool) {
    if in_string {
        out.push_str(part);
    } else {
        let part = part.replace("-Infinity", "null").replace("Infinity", "null");
        out.push_str(&part.replace("NaN", "null"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let expected = expected.map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(Files::from_texts([("config.json", text)]).json("config.json").ok(), expected);
    }

    #[test]
    fn python_numbers_are_null() {
        check(r#"{"a": [1.5, Infinity]}"#, Some(r#"{"a": [1.5, null]}"#));
        check(
            r#"{"a": -Infinity, "b": NaN, "NaN\\": "Infinity\""}"#,
            Some(r#"{"a": null, "b": null, "NaN\\": "Infinity\""}"#),
        );
        check(r#"{"a": Infinit}"#, None);
        check("", None);
        check(&"[".repeat(100_000), None);
    }

    #[test]
    fn vocabularies_are_left_where_a_tokenizer_is() {
        for (name, alone, beside) in [
            ("config.json", true, true),
            ("tokenizer.model", true, false),
            ("qwen.tiktoken", true, false),
            ("sub/qwen.tiktoken", false, false),
            ("additional_chat_templates/rag.jinja", true, true),
            ("model.safetensors", false, false),
        ] {
            assert_eq!((is_known(name, false), is_known(name, true)), (alone, beside), "{name}");
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let dir = std::env::temp_dir().join(format!("text-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let binary = dir.join("config.json");
        std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
        let open = |path: PathBuf| Files::open(&BTreeMap::from([("config.json".to_owned(), path)]));
        let error = open(binary).unwrap_err();
        assert!(matches!(&error, Error::BadFile { file, .. } if file == "config.json"), "{error}");
        let error = open(dir.join("missing.json")).unwrap_err();
        assert!(matches!(&error, Error::Unreadable { .. }), "{error}");
        let error = open(dir.clone()).unwrap_err();
        assert!(matches!(&error, Error::Unreadable { .. }), "{error}");
        let huge = dir.join("huge.json");
        File::create(&huge).unwrap().set_len(FILE_BYTES_MAX as u64 + 1).unwrap();
        let error = open(huge).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
