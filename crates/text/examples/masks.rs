//! What a form costs: time and memory of the vocabulary, of a grammar, and of the mask for each token, over a vocabulary of
//! 150,000 tokens made from a seed with the shape of real ones (words with and without a blank before them, code, runs of
//! blanks, digits, punctuation, three scripts).
//!
//! `cargo run --release -p text --example masks`

use std::collections::HashSet;
use std::time::{Duration, Instant};

use protocol::{Format, ToolChoice};
use serde_json::{Value, json};
use text::constraint::{Constraint, Grammar, Thinking, Vocabulary, Wish};
use text::{Files, Text};

const TOKENS: usize = 150_000;
const REPLIES: u64 = 6;
const REPLY_TOKENS_MAX: usize = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = Text::from_files(&Files::from_texts([("tokenizer.json", tokenizer())]))?;
    let before = resident_bytes();
    let start = Instant::now();
    let vocabulary = Vocabulary::new(&text, &[])?;
    let (took, bytes) = (start.elapsed(), resident_bytes().saturating_sub(before));
    println!("vocabulary of {}: {} ms, {} MiB", vocabulary.len(), took.as_millis(), bytes >> 20);
    let mut all = Vec::new();
    for (name, format) in formats()? {
        all.extend(measure(&name, &format, None, &text, &vocabulary)?);
    }
    report("all of them", Duration::ZERO, &mut all);
    let thinking =
        Thinking { open: String::new(), close: "</think>".to_owned(), inside: Vec::new() };
    let object = Format::Schema(json!({"type": "object"}));
    measure("thoughts", &object, Some(thinking), &text, &vocabulary)?;
    Ok(())
}

/// The schemas of the tests, and some other forms.
fn formats() -> Result<Vec<(String, Format)>, Box<dyn std::error::Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/text/schemas/accepted.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let schema = |case: &Value| (case["name"].to_string(), Format::Schema(case["schema"].clone()));
    let mut formats: Vec<(String, Format)> = cases.iter().map(schema).collect();
    formats.push(("json".to_owned(), Format::Json));
    formats.push(("a regex".to_owned(), Format::Regex("([A-Z][a-z]+ ){2,5}[0-9]{4}".to_owned())));
    let gbnf = "root ::= \"(\" root* \")\" | [a-z]+ [ ]";
    formats.push(("a recursive grammar".to_owned(), Format::Gbnf(gbnf.to_owned())));
    Ok(formats)
}

fn measure(
    name: &str,
    format: &Format,
    thinking: Option<Thinking>,
    text: &Text,
    vocabulary: &Vocabulary,
) -> text::Result<Vec<Duration>> {
    let tool_choice = &ToolChoice::Auto;
    let start = Instant::now();
    let wish = Wish { format, tools: &[], tool_choice, thinking, calls: None };
    let grammar = Grammar::compile(&wish, vocabulary)?;
    let compiled = start.elapsed();
    let mut times = Vec::new();
    for seed in 0..REPLIES {
        if let Some(grammar) = &grammar {
            times.extend(reply(grammar.start(), text, &mut Dice(seed))?);
        }
    }
    report(name, compiled, &mut times);
    Ok(times)
}

/// The time of each mask, the token before it taken in.
fn reply(mut reply: Constraint, text: &Text, dice: &mut Dice) -> text::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut token = None;
    while times.len() < REPLY_TOKENS_MAX {
        let start = Instant::now();
        if let Some(token) = token {
            reply.accept(token)?;
        }
        if reply.is_complete() {
            break;
        }
        let mask = reply.mask()?;
        times.push(start.elapsed());
        if reply.may_end() && dice.below(4) == 0 {
            break;
        }
        let ids: Vec<u32> = mask.ids().collect();
        let closes = |id: &&u32| matches!(text.token_bytes(**id).first(), Some(b'"' | b'}' | b']'));
        let closing: Vec<u32> = ids.iter().filter(closes).copied().collect();
        let from = if dice.below(4) == 0 && !closing.is_empty() { &closing } else { &ids };
        token = Some(from[dice.below(from.len())]);
    }
    Ok(times)
}

fn report(name: &str, compiled: Duration, times: &mut [Duration]) {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else { return };
    let at = |share: f64| times[(last as f64 * share) as usize].as_nanos() as f64 / 1e3;
    println!(
        "{name}: compiled in {:.2} ms; {} masks, median {:.1} µs, 90% {:.1}, 99% {:.1}, longest {:.1}",
        compiled.as_secs_f64() * 1e3,
        times.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

fn tokenizer() -> String {
    let mut vocab = serde_json::Map::new();
    for (id, token) in tokens().into_iter().enumerate() {
        vocab.insert(spelt(&token), id.into());
    }
    let end = vocab.len();
    json!({
        "added_tokens": [{"id": end, "content": "<|end|>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
    .to_string()
}

/// GPT-2's alphabet for bytes.
fn spelt(token: &[u8]) -> String {
    let plain = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others: Vec<u8> = (0..=255).filter(|byte| !plain(byte)).collect();
    let character = |byte: u8| match others.iter().position(|other| *other == byte) {
        Some(index) => char::from_u32(0x100 + index as u32).unwrap_or('?'),
        None => byte as char,
    };
    token.iter().map(|byte| character(*byte)).collect()
}

fn tokens() -> Vec<Vec<u8>> {
    let mut dice = Dice(1);
    let mut seen = HashSet::new();
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let mut add = |token: Vec<u8>| {
        if seen.insert(token.clone()) {
            tokens.push(token);
        }
        tokens.len()
    };
    for byte in 0..=255 {
        add(vec![byte]);
    }
    for length in 2..=90 {
        add(vec![b' '; length]);
        add([&b"\n"[..], &vec![b' '; length - 2]].concat());
        add(vec![b'\t'; length / 4 + 1]);
    }
    for number in 0..1000 {
        add(number.to_string().into_bytes());
    }
    while add(token(&mut dice).into_bytes()) < TOKENS {}
    tokens
}

/// Of a hundred tokens in a large vocabulary: some seventy words of Latin letters, half of them with a blank.
fn token(dice: &mut Dice) -> String {
    let blank = if dice.below(2) == 0 { " " } else { "" };
    match dice.below(100) {
        0..60 => format!("{blank}{}", word(dice)),
        60..68 => format!("{blank}{}{}", word(dice), capital(&word(dice))),
        68..74 => format!("{blank}{}_{}", word(dice), word(dice)),
        74..80 => punctuation(dice),
        80..90 => letters(dice, 0x430, 32, 2 + dice.clone().below(7), blank),
        _ => letters(dice, 0x4e00, 6000, 1 + dice.clone().below(3), ""),
    }
}

fn word(dice: &mut Dice) -> String {
    let parts = [
        "an", "er", "in", "th", "st", "re", "on", "ti", "co", "de", "la", "s", "e", "men", "ab",
        "ing", "tion", "pro", "un", "ly", "k", "vo", "qu", "y",
    ];
    let word: String = (0..1 + dice.below(4)).map(|_| parts[dice.below(parts.len())]).collect();
    if dice.below(4) == 0 { capital(&word) } else { word }
}

fn capital(word: &str) -> String {
    word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect()
}

fn punctuation(dice: &mut Dice) -> String {
    let marks = [
        "\"", ",", ":", "{", "}", "[", "]", " ", ".", "(", ")", ";", "\n", "-", "=", "/", "'",
        "\\", "<", ">", "#", "*",
    ];
    (0..2 + dice.below(4)).map(|_| marks[dice.below(marks.len())]).collect()
}

fn letters(dice: &mut Dice, first: u32, count: usize, length: usize, blank: &str) -> String {
    let letter = |dice: &mut Dice| char::from_u32(first + dice.below(count) as u32).unwrap_or('?');
    let letters: String = (0..length).map(|_| letter(dice)).collect();
    blank.to_owned() + &letters
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    resident.unwrap_or(0) * 4096
}

/// SplitMix64.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (((z ^ (z >> 27)) >> 11) % limit as u64) as usize
    }
}
