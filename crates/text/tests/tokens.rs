//! Tokenizers against the Python package `tokenizers` (`tests/reference/make.py`), against the ids of the reference
//! checkpoints, and against files that are none.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::{Input, Message, Role, Think, Tool, ToolCall};
use serde_json::Value;
use text::{Error, Files, PromptKind, Specials, Text, Tokenizer};

fn arch() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/arch")
}

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn reference(name: &str) -> Value {
    json(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// All tokenizers of the reference checkpoints, by name.
fn tokenizers() -> BTreeMap<String, Tokenizer> {
    let entries = std::fs::read_dir(arch().join("_tokenizers")).unwrap();
    let tokenizers = entries.map(|entry| {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path().join("tokenizer.json")).unwrap();
        let files = Files::from_texts([("tokenizer.json", text)]);
        (entry.file_name().into_string().unwrap(), Tokenizer::load(&files).unwrap())
    });
    tokenizers.collect()
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn texts_have_the_ids_that_python_gives_them() {
    let tokenizers = tokenizers();
    let corpus = reference("corpus.json");
    let goldens = reference("tokens.json");
    let mut count = 0;
    for (case, golden) in goldens.as_object().unwrap() {
        let Some((name, text)) = case.split_once(": ") else { continue };
        let text = corpus[text].as_str().unwrap();
        let tokenizer = &tokenizers[name];
        let bare = tokenizer.encode(text, false).unwrap();
        assert_eq!(bare, ids(&golden["bare"]), "{case}");
        let whole = tokenizer.encode(text, true).unwrap();
        // Python would write a begin token before one that the text has already.
        if !case.ends_with(": special") {
            assert_eq!(whole, ids(&golden["whole"]), "{case}");
        }
        check_decoded(tokenizer, &bare, golden["decoded"].as_str().unwrap(), case);
        count += 1;
    }
    assert!(count > 250, "only {count} goldens");
}

/// Python decodes a text of its own, we one that goes on: a first blank may be ours alone.
#[track_caller]
fn check_decoded(tokenizer: &Tokenizer, ids: &[u32], golden: &str, case: &str) {
    let decoded = tokenizer.decode(ids, Specials::Show);
    let first = decoded.strip_prefix(' ').unwrap_or(&decoded);
    assert!(decoded == golden || first == golden, "{case}: {decoded:?}, not {golden:?}");
}

#[test]
fn any_tokens_decode_bit_by_bit_as_they_do_at_once() {
    let mut state = 3;
    for (name, tokenizer) in tokenizers() {
        for round in 0..300 {
            let size = tokenizer.vocab_size() as u64 + 3;
            let ids: Vec<u32> =
                (0..next(&mut state) % 40).map(|_| (next(&mut state) % size) as u32).collect();
            let specials = if round % 2 == 0 { Specials::Show } else { Specials::Skip };
            let shown =
                ids.iter().filter(|id| specials == Specials::Show || !tokenizer.is_special(**id));
            let bytes: Vec<u8> = shown.flat_map(|id| tokenizer.token_bytes(*id).to_vec()).collect();
            let mut stream = tokenizer.stream(specials);
            let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
            text += &stream.finish();
            assert_eq!(text, marked(&bytes), "{name} {ids:?}");
        }
    }
}

/// The whole at once: one U+FFFD for each byte that is in no character.
fn marked(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while !bytes.is_empty() {
        let whole = (1..=4.min(bytes.len())).find_map(|end| {
            std::str::from_utf8(&bytes[..end]).ok().map(|character| (character, end))
        });
        let (character, end) = whole.unwrap_or(("\u{fffd}", 1));
        text.push_str(character);
        bytes = &bytes[end..];
    }
    text
}

#[test]
fn texts_come_back() {
    let corpus = reference("corpus.json");
    for (name, tokenizer) in tokenizers() {
        // The others normalise texts, or have no word for some.
        if matches!(name.as_str(), "4cb2cb494574" | "24cbd409e689") {
            continue;
        }
        for (case, text) in corpus.as_object().unwrap() {
            // Behind each special token the next text begins with a blank of SentencePiece.
            if name == "79133e752830" && case.starts_with("special") {
                continue;
            }
            let text = text.as_str().unwrap();
            let back = tokenizer.decode(&tokenizer.encode(text, false).unwrap(), Specials::Show);
            // SentencePiece writes a blank before a text, and one character for a blank of its own.
            let same = |back: &str| {
                back == text || (case == "sentencepiece" && back == text.replace('▁', " "))
            };
            assert!(
                same(&back) || back.strip_prefix(' ').is_some_and(same),
                "{name} {case}: {back:?}"
            );
        }
    }
}

/// The files of a reference checkpoint, its tokenizer's too.
fn fixture(name: &str) -> BTreeMap<String, PathBuf> {
    let tokenizer = json(arch().join(name).join("weights.json"))["tokenizer"].clone();
    let tokenizer = tokenizer.as_str().map(|hash| arch().join("_tokenizers").join(hash));
    let directories = [Some(arch().join(name)), tokenizer];
    let files = directories.into_iter().flatten().flat_map(|dir| std::fs::read_dir(dir).unwrap());
    files
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), file.path()))
        .collect()
}

#[test]
fn reference_prompts_have_their_ids() {
    let mut prompts = 0;
    let mut items = 0;
    for entry in std::fs::read_dir(arch()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !arch().join(&name).join("weights.json").exists() {
            continue;
        }
        let text = Text::load(&fixture(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let reference = json(arch().join(&name).join("reference.json"));
        let check = |entry: &Value, kind: PromptKind| {
            let prompt = entry["text"].as_str().unwrap();
            assert_eq!(
                text.encode_prompt(prompt, kind).unwrap(),
                ids(&entry["ids"]),
                "{name} {prompt:?}"
            );
        };
        if reference["kind"] == "causal" {
            for prompt in reference["prompts"].as_array().unwrap() {
                check(prompt, PromptKind::Plain);
                prompts += 1;
            }
            assert!(!text.ends().is_empty(), "{name} has no end token");
        }
        if reference["kind"] == "embed" {
            for item in reference["items"].as_array().unwrap() {
                check(item, PromptKind::Embedding);
                items += 1;
            }
        }
    }
    assert!(prompts > 180 && items > 15, "only {prompts} prompts and {items} items");
}

#[test]
fn the_model_that_comes_with_the_program_loads() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    let files = files.map(|file| (file.file_name().into_string().unwrap(), file.path())).collect();
    let pocket = Text::load(&files).unwrap();
    assert!(!pocket.ends().is_empty() && pocket.template().is_some());
    for text in reference("corpus.json").as_object().unwrap().values().filter_map(Value::as_str) {
        let ids = pocket.encode_prompt(text, PromptKind::Plain).unwrap();
        assert_eq!(pocket.tokenizer().decode(&ids, Specials::Show), text);
    }
    let sentence =
        pocket.encode_prompt("The small cat sees a golden garden.", PromptKind::Plain).unwrap();
    assert!(sentence.len() <= 16, "{sentence:?}");
}

/// Its template, written out by the program that made its training texts.
#[test]
fn the_model_that_comes_with_the_program_reads_what_it_was_trained_on() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket");
    let prompts = json(directory.join("heldout/rendered.json"));
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    let files = files.map(|file| (file.file_name().into_string().unwrap(), file.path())).collect();
    let pocket = Text::load(&files).unwrap();
    let call = |call: &Value| ToolCall {
        id: None,
        name: call["function"]["name"].as_str().unwrap().to_owned(),
        arguments: serde_json::from_value(call["function"]["arguments"].clone()).unwrap(),
    };
    let message = |message: &Value| Message {
        role: Role::parse(message["role"].as_str().unwrap()),
        content: message["content"].as_str().unwrap().to_owned(),
        thinking: message["reasoning_content"].as_str().map(str::to_owned),
        tool_calls: message["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        ..Message::default()
    };
    let mut tools_seen = 0;
    for prompt in prompts.as_array().unwrap() {
        let messages = prompt["messages"].as_array().unwrap().iter().map(message).collect();
        let tools = prompt.get("tools").cloned().unwrap_or_default();
        let tools: Option<Vec<Tool>> = serde_json::from_value(tools).unwrap();
        let tools = tools.unwrap_or_default();
        tools_seen += tools.len();
        let think = if prompt["think"] == true { Think::On } else { Think::Off };
        let input = Input::Chat { messages, tools, template: None };
        assert_eq!(pocket.render(&input, &think).unwrap(), prompt["text"].as_str().unwrap());
    }
    assert!(tools_seen > 5, "{tools_seen}");
}

#[test]
fn end_tokens_are_those_of_all_files() {
    let ends = |name: &str| Text::load(&fixture(name)).unwrap().ends().to_vec();
    assert_eq!(ends("qwen3"), [500]);
    let config = json(arch().join("gemma3/generation_config.json"));
    let named: Vec<u32> = match &config["eos_token_id"] {
        Value::Array(list) => list.iter().map(|id| id.as_u64().unwrap() as u32).collect(),
        id => vec![id.as_u64().unwrap() as u32],
    };
    let ends = ends("gemma3");
    assert!(named.iter().all(|id| ends.contains(id)), "{ends:?} lacks some of {named:?}");
}

#[test]
fn texts_have_limits() {
    let tokenizers = tokenizers();
    let tokenizer = &tokenizers["125f2499ce34"];
    for text in ["x".repeat(17 << 20), format!("a{}b", " ".repeat(950_000))] {
        let error = tokenizer.encode(&text, false).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    let many_runs = "\u{3000}x".repeat(230_000);
    assert!(tokenizer.encode(&many_runs, false).unwrap().len() > 460_000);
}

/// Cuts and flips a good file in many places; whatever comes of it, no panic.
#[test]
fn damaged_files_are_errors_or_work() {
    let mut state = 11;
    let mut failed = 0;
    for entry in std::fs::read_dir(arch().join("_tokenizers")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path().join("tokenizer.json")).unwrap();
        for round in 0..60 {
            let at = (next(&mut state) % text.len() as u64) as usize;
            let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let damaged = match round % 3 {
                0 => text[..at].to_owned(),
                1 => format!("{}7{}", &text[..at], &text[at..]),
                _ => {
                    text[..at].to_owned()
                        + text[at..].trim_start_matches(|c: char| c.is_alphanumeric() || c == '"')
                }
            };
            let files = Files::from_texts([("tokenizer.json", damaged)]);
            match Tokenizer::load(&files) {
                Err(Error::BadFile { file, .. }) => {
                    assert_eq!(file, "tokenizer.json");
                    failed += 1;
                }
                Err(Error::TooLarge { .. }) => failed += 1,
                Err(other) => panic!("{other:?}"),
                Ok(tokenizer) => drop(tokenizer.encode("Some text, 123 日本 \u{0}", true)),
            }
        }
    }
    assert!(failed > 100, "only {failed} were refused");
}

#[test]
fn absurd_files_are_errors() {
    let good =
        std::fs::read_to_string(arch().join("_tokenizers/125f2499ce34/tokenizer.json")).unwrap();
    let with = |name: &str, text: &str| {
        Text::from_files(&Files::from_texts([("tokenizer.json", good.as_str()), (name, text)]))
    };
    for text in
        ["", "null", "[]", "{}", "7", "{\"model\": {\"type\": \"BPE\"}}", &"[".repeat(1 << 20)]
    {
        let error = with("tokenizer.json", text).unwrap_err();
        assert!(matches!(error, Error::BadFile { .. }), "{text:.20}: {error}");
    }
    let error = Text::from_files(&Files::default()).unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ] {
        let error = with(name, "{\"eos_token\": ").unwrap_err();
        assert!(matches!(&error, Error::BadFile { file, .. } if file == name), "{error}");
        for odd in [
            "null",
            "[]",
            "7",
            "\"x\"",
            "{\"eos_token_id\": {}, \"eos_token\": [{}], \"bos_token\": 7}",
        ] {
            with(name, odd).unwrap_or_else(|error| panic!("{name} {odd}: {error}"));
        }
    }
    let far = good.replacen("\"id\":496", "\"id\":4294967295", 1).replacen(
        "\"id\": 496",
        "\"id\": 4294967295",
        1,
    );
    assert_ne!(far, good);
    let _ = with("tokenizer.json", &far).map(|text| assert!(text.vocab_size() < 1 << 23));
}
