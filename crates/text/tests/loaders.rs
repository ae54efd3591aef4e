//! Vocabularies of every kind against the libraries they belong to: `sentencepiece`, `tiktoken`, `tokenizers`,
//! `transformers` and `mistral-common` (`tests/reference/vocabularies.py`).

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use text::{Error, Files, GgufTokenizer, Specials, Tokenizer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/text/tokenizers")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn cases() -> Value {
    serde_json::from_slice(&read("cases.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    [field.as_slice(), content].concat()
}

/// The files of a case. Normalisation rules lie beside their models, which are messages that can be continued.
fn files(case: &Value) -> Files {
    let mut files = Files::default();
    let mut texts = Vec::new();
    for (name, source) in case["files"].as_object().unwrap() {
        let parts: Vec<&str> = match source {
            Value::Object(_) => {
                texts.push((name.clone(), source.to_string()));
                continue;
            }
            Value::Array(parts) => parts.iter().filter_map(Value::as_str).collect(),
            source => vec![source.as_str().unwrap()],
        };
        let content = read(parts[0]);
        let rules = parts.get(1).map(|rules| read(rules));
        if name.ends_with(".model") {
            let rules = rules.map(|rules| field(3, &field(2, &rules))).unwrap_or_default();
            files = files.with_binary(name, [content, rules].concat());
        } else {
            let mut text = String::from_utf8(content).unwrap();
            if let Some(rules) = rules {
                let mut metadata: Value = serde_json::from_str(&text).unwrap();
                metadata["precompiled_charsmap"] = json!(rules);
                text = metadata.to_string();
            }
            texts.push((name.clone(), text));
        }
    }
    texts.into_iter().fold(files, |files, (name, text)| files.with_text(name, text))
}

#[test]
fn texts_have_the_ids_that_their_libraries_give_them() {
    let cases = cases();
    let mut compared = 0;
    for (name, case) in cases["cases"].as_object().unwrap() {
        let tokenizer =
            Tokenizer::load(&files(case)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Some(texts) = case["texts"].as_object() else { continue };
        for (key, golden) in texts {
            let text = cases["texts"][key].as_str().unwrap();
            let bare = tokenizer.encode(text, false).unwrap();
            assert_eq!(bare, ids(&golden["bare"]), "{name}: {key}");
            // Python would write a begin token before one that the text has already.
            let has_begin = key == "special" || text.starts_with("<s>");
            if let Some(whole) = golden.get("whole").filter(|_| !has_begin) {
                assert_eq!(tokenizer.encode(text, true).unwrap(), ids(whole), "{name}: {key}");
            }
            check_decoded(&tokenizer, name, &bare, golden, &format!("{name}: {key}"));
            compared += 1;
        }
    }
    assert!(compared > 1500, "only {compared} texts");
}

/// Libraries decode a text of its own, we one that goes on: a blank before it may be ours alone. They differ among
/// themselves in what an unknown token is, and in how many marks stand for bytes that are no text.
#[track_caller]
fn check_decoded(tokenizer: &Tokenizer, name: &str, ids: &[u32], golden: &Value, case: &str) {
    let Some(golden) = golden["decoded"].as_str() else { return };
    let golden = golden.replace(" ⁇ ", "<unk>");
    let decoded = tokenizer.decode(ids, Specials::Show);
    if decoded.contains('\u{fffd}') || name.starts_with("words") || name.starts_with("gguf bert") {
        return;
    }
    let same = decoded == golden
        || decoded.strip_prefix(' ') == Some(&golden)
        // A blank is behind each word there, and one too many at the end.
        || name.contains("suffix") && decoded.trim() == golden.trim();
    assert!(same, "{case}: {decoded:?}, not {golden:?}");
}

/// A name of each kind, with the expressions of the reference under another engine.
#[test]
fn names_of_pre_tokenizers_stand_for_their_expressions() {
    let cases = cases();
    let texts: std::collections::BTreeMap<&str, &str> = cases["texts"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| !key.contains("special"))
        .map(|(key, text)| (key.as_str(), text.as_str().unwrap()))
        .collect();
    let joined = texts.into_values().collect::<Vec<_>>().join("\n \t ");
    let metadata: GgufTokenizer = serde_json::from_slice(&read("gpt2.ggml.json")).unwrap();
    let mut kinds = 0;
    for (name, case) in cases["cases"].as_object().unwrap() {
        let Some(pre) = case["pre"][0].as_str() else { continue };
        let metadata = GgufTokenizer { pre: Some(pre.to_owned()), ..metadata.clone() };
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        assert_eq!(tokenizer.encode(&joined, false).unwrap(), ids(&case["joined"]), "{name}");
        kinds += 1;
    }
    assert!(kinds > 28, "only {kinds} kinds");
    let unknown = GgufTokenizer { pre: Some("nobody's".to_owned()), ..metadata };
    assert!(matches!(Tokenizer::from_gguf(&unknown), Err(Error::BadFile { .. })));
}

/// Whether a vocabulary has a word for everything, and changes nothing.
fn is_lossless(name: &str) -> bool {
    let spelled = ["tiktoken", "tekken", "table gpt2", "table roberta"];
    let pieces = [
        "spm bpe-bytes",
        "spm unigram-bytes",
        "gguf bpe-bytes",
        "gguf unigram-bytes",
        "spm bpe-unused",
    ];
    spelled.iter().chain(&pieces).any(|kind| name.starts_with(kind))
}

#[test]
fn texts_come_back_bit_by_bit() {
    let cases = cases();
    let mut state = 5;
    for (name, case) in
        cases["cases"].as_object().unwrap().iter().filter(|(name, _)| is_lossless(name))
    {
        let tokenizer = Tokenizer::load(&files(case)).unwrap();
        for round in 0..150 {
            let text = random_text(&mut state, round);
            let ids = tokenizer.encode(&text, false).unwrap();
            let mut stream = tokenizer.stream(Specials::Show);
            let mut back: String = ids.iter().map(|id| stream.push(*id)).collect();
            back += &stream.finish();
            assert_eq!(back, tokenizer.decode(&ids, Specials::Show), "{name}");
            let text = if name.contains("spm") || name.contains("gguf") {
                text.replace('▁', " ")
            } else {
                text
            };
            let same = back == text || back.strip_prefix(' ') == Some(&text);
            assert!(same, "{name}: {back:?}, not {text:?}");
        }
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Every other text is of any characters at all.
fn random_text(state: &mut u64, round: u64) -> String {
    let letters: Vec<char> = "the and   ea\t\n\r=▁é字🙂\u{301}\u{200d}0129.,'-".chars().collect();
    let size = next(state) % 60;
    let character = |state: &mut u64| match round % 2 {
        0 => letters[next(state) as usize % letters.len()],
        _ => char::from_u32(next(state) as u32 % 0x11_0000).unwrap_or('x'),
    };
    (0..size).map(|_| character(state)).collect()
}

/// A megabyte of one character, and one of many languages, in vocabularies of every kind: the ids of their libraries.
/// What the crate `tokenizers` runs takes minutes unoptimised, and is that library: one text each is enough.
#[test]
fn a_megabyte_has_the_ids_that_its_library_gives_it() {
    let own = |name: &str| !name.starts_with("arch") || name.ends_with("125f2499ce34");
    let compared = check_large(|name, key| match own(name) {
        true => matches!(key, "字" | "corpus"),
        false => key == "字" && !name.ends_with("24cbd409e689"),
    });
    assert_eq!(compared, 7 * 2 + 3);
}

/// `cargo test --release -p text --test loaders -- --ignored`
#[test]
#[ignore = "takes minutes unoptimised"]
fn every_megabyte_has_the_ids_that_its_library_gives_it() {
    assert_eq!(check_large(|_, _| true), 11 * 8);
}

/// How many texts were compared.
fn check_large(is_wanted: impl Fn(&str, &str) -> bool) -> usize {
    let (cases, large) = (cases(), serde_json::from_slice::<Value>(&read("large.json")).unwrap());
    let arch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/arch/_tokenizers");
    let mut compared = 0;
    for (name, golden) in large["cases"].as_object().unwrap() {
        let files = match name.strip_prefix("arch ") {
            Some(folder) => {
                let file = std::fs::read_to_string(arch.join(folder).join("tokenizer.json"));
                Files::from_texts([("tokenizer.json", file.unwrap())])
            }
            None => files(&cases["cases"][name]),
        };
        let tokenizer = Tokenizer::load(&files).unwrap();
        let golden = golden.as_object().unwrap().iter();
        for (key, golden) in golden.filter(|(key, _)| is_wanted(name, key)) {
            let ids = tokenizer.encode(&large_text(key), false).unwrap();
            let found = json!({"tokens": ids.len(), "ids": fingerprint(&ids)});
            assert_eq!(&found, golden, "{name}: {key:?}");
            compared += 1;
        }
    }
    compared
}

/// As `large.py` makes it.
fn large_text(key: &str) -> String {
    const SIZE: usize = 1_000_000;
    match key {
        " " => " ".repeat(800_000),
        "corpus" => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/corpus.json");
            let corpus = std::fs::read_to_string(path).unwrap();
            let corpus: std::collections::BTreeMap<String, String> =
                serde_json::from_str(&corpus).unwrap();
            let texts = corpus.into_iter().filter(|(name, _)| !name.contains("special"));
            let joined = texts.map(|(_, text)| text).collect::<Vec<_>>().join("\n");
            format!("{joined}\n").repeat(SIZE / joined.len())
        }
        character => character.repeat(SIZE / character.len()),
    }
}

/// FNV-1a over the bytes of all ids.
fn fingerprint(ids: &[u32]) -> String {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let mixed = |value: u64, byte: u8| (value ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, mixed))
}

/// A run of one character has to take about as long for each byte whatever its length.
#[test]
fn long_runs_take_linear_time() {
    let cases = cases();
    let kinds = ["spm bpe-bytes", "spm unigram-bytes", "tiktoken cl100k_base.tiktoken", "tekken"];
    for name in kinds {
        let tokenizer = Tokenizer::load(&files(&cases["cases"][name])).unwrap();
        for character in ["=", "7", "é", "字", "x"] {
            let small = time(&tokenizer, &character.repeat((16 << 10) / character.len()));
            let large = time(&tokenizer, &character.repeat((1 << 20) / character.len()));
            // 64 times the text; quadratic would be 4,096 times the time.
            let limit = small.max(Duration::from_millis(5)) * 400;
            assert!(large < limit, "{name} {character}: {small:?}, then {large:?}");
        }
    }
}

/// Of this thread's processor, whoever else is on the machine.
fn time(tokenizer: &Tokenizer, text: &str) -> Duration {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let start = now();
    assert!(!tokenizer.encode(text, false).unwrap().is_empty());
    now() - start
}

/// Cuts and flips good files in many places; whatever comes of it, no panic.
#[test]
fn damaged_files_are_errors_or_work() {
    let mut state = 17;
    let mut failed = 0;
    for (name, source) in [
        ("tokenizer.model", "bpe-bytes.model"),
        ("spiece.model", "unigram-bytes.model"),
        ("x.tiktoken", "ranks.tiktoken"),
        ("tekken.json", "tekken.json"),
        ("vocab.txt", "words.txt"),
        ("tokenizer.ggml.json", "gpt2.ggml.json"),
        ("tokenizer.ggml.json", "bpe-bytes.ggml.json"),
        ("tokenizer.ggml.json", "bert-cased.ggml.json"),
    ] {
        let good = read(source);
        for round in 0..40 {
            let mut bytes = good.clone();
            let at = next(&mut state) as usize % bytes.len();
            match round % 3 {
                0 => bytes.truncate(at),
                1 => bytes[at] = next(&mut state) as u8,
                _ => drop(bytes.splice(at..at + 1, [next(&mut state) as u8, b'0', b'"'])),
            }
            let files = if name.ends_with(".model") {
                Files::default().with_binary(name, bytes)
            } else {
                Files::default().with_text(name, String::from_utf8_lossy(&bytes).into_owned())
            };
            match Tokenizer::load(&files) {
                Ok(tokenizer) => {
                    let ids =
                        tokenizer.encode("Some text, 123 日本 \u{0}", true).unwrap_or_default();
                    tokenizer.decode(&ids, Specials::Show);
                }
                Err(error) => {
                    assert!(!matches!(error, Error::Unreadable { .. }), "{name}: {error}");
                    failed += 1;
                }
            }
        }
    }
    assert!(failed > 100, "only {failed} were refused");
}

#[test]
fn absurd_metadata_is_refused() {
    let good: GgufTokenizer = serde_json::from_slice(&read("gpt2.ggml.json")).unwrap();
    for bad in [
        GgufTokenizer { tokens: Vec::new(), ..good.clone() },
        GgufTokenizer { model: "rwkv".to_owned(), ..good.clone() },
        GgufTokenizer { token_type: vec![1], ..good.clone() },
        GgufTokenizer { merges: vec!["alone".to_owned()], ..good.clone() },
        GgufTokenizer { model: "llama".to_owned(), ..good.clone() },
    ] {
        assert!(Tokenizer::from_gguf(&bad).is_err(), "{}", bad.model);
    }
    let far = GgufTokenizer {
        bos_token_id: Some(u32::MAX),
        eos_token_id: Some(u32::MAX),
        mask_token_id: Some(u32::MAX),
        ..good
    };
    assert!(Tokenizer::from_gguf(&far).unwrap().named("bos_token").is_none());
}

#[test]
fn end_tokens_of_gguf_files() {
    let good: GgufTokenizer = serde_json::from_slice(&read("gpt2.ggml.json")).unwrap();
    let size = good.tokens.len() as u32;
    let with = |texts: &[&str]| {
        let mut metadata = GgufTokenizer { eos_token_id: None, ..good.clone() };
        metadata.tokens.retain(|token| token != "<|endoftext|>");
        metadata.tokens.extend(texts.iter().map(|text| (*text).to_owned()));
        metadata.token_type = Vec::new();
        Tokenizer::from_gguf(&metadata).unwrap().ends().to_vec()
    };
    assert_eq!(with(&["<|im_end|>", "<|end|>"]), [size - 1, size]);
    assert_eq!(with(&["<|return|>", "<|end|>", "<|call|>"]), [size - 1, size + 1]);
    assert!(with(&["<x>"]).is_empty());
}
