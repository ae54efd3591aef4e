//! Replies drawn at random under a constraint, judged by a validator that knows nothing of how they came about.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::{Format, Tool, ToolChoice, ToolFunction};
use serde_json::{Value, json};

use super::*;
use crate::clock::processor_time;
use crate::random::Random;
use crate::{Error, Result, Text};

mod made;

/// A reply that is not finished by then is cut off.
const TOKENS_MAX: usize = 700;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// 500 tokens, byte-level.
fn text() -> Text {
    let own = |name: &str| (name.to_owned(), data().join("arch/qwen3").join(name));
    let tokenizer = data().join("arch/_tokenizers/125f2499ce34/tokenizer.json");
    let files: BTreeMap<String, PathBuf> = BTreeMap::from([
        ("tokenizer.json".to_owned(), tokenizer),
        own("config.json"),
        own("tokenizer_config.json"),
        own("generation_config.json"),
    ]);
    Text::load(&files).unwrap()
}

fn cases(name: &str) -> Vec<Value> {
    let path = data().join("text/schemas").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn wish(format: &Format) -> Wish<'_> {
    Wish { format, tools: &[], tool_choice: &ToolChoice::Auto, thinking: None, calls: None }
}

fn compile(vocabulary: &Vocabulary, format: &Format) -> Result<Grammar> {
    Ok(Grammar::compile(&wish(format), vocabulary)?.expect("a format"))
}

struct Reply {
    text: String,
    /// Whether it came to an end of its own.
    is_whole: bool,
    tokens: usize,
}

/// What a model without sense writes: any allowed token, those that close something a little more often.
fn written(grammar: &Grammar, text: &Text, random: &mut Random) -> Result<Reply> {
    let mut constraint = grammar.start();
    let mut stream = text.decoder();
    let mut reply = Reply { text: String::new(), is_whole: false, tokens: 0 };
    while reply.tokens < TOKENS_MAX {
        let mask = constraint.mask()?;
        let may_end = constraint.may_end();
        let allows_end = text.ends().iter().any(|end| mask.allows(*end));
        assert_eq!(may_end, allows_end, "after {}", reply.text);
        if may_end && (constraint.is_complete() || random.below(3) == 0) {
            reply.is_whole = true;
            break;
        }
        let ids: Vec<u32> = mask.ids().filter(|id| !text.ends().contains(id)).collect();
        if ids.is_empty() {
            reply.is_whole = true;
            break;
        }
        let closes = |id: &&u32| matches!(text.token_bytes(**id).first(), Some(b'"' | b'}' | b']'));
        let closing: Vec<u32> = ids.iter().filter(closes).copied().collect();
        let from = if random.below(3) == 0 && !closing.is_empty() { &closing } else { &ids };
        let token = from[random.below(from.len())];
        assert!(!text.tokenizer().is_special(token), "a special token is no text");
        constraint.accept(token)?;
        reply.text.push_str(&stream.push(token));
        reply.tokens += 1;
    }
    reply.text.push_str(&stream.finish());
    Ok(reply)
}

/// The reply may stop anywhere, but whole ones are judged; returns whether it was.
fn judged(name: &str, schema: &Value, reply: &Reply) -> bool {
    if !reply.is_whole {
        return false;
    }
    let value: Value = serde_json::from_str(&reply.text)
        .unwrap_or_else(|error| panic!("{name}: {error} in {}", reply.text));
    let options = jsonschema::options().should_validate_formats(true);
    let schema = &made::without_nullable(schema);
    let validator = options.build(schema).unwrap_or_else(|error| panic!("{name}: {error}"));
    if let Err(error) = validator.validate(&value) {
        panic!("{name}: {error} in {}", reply.text);
    }
    true
}

/// Draws replies of each schema; nearly all come to an end.
fn check_schemas(cases: &[(String, Value)], replies: usize) {
    let text = text();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let mut whole = 0;
    for (index, (name, schema)) in cases.iter().enumerate() {
        let grammar = compile(&vocabulary, &Format::Schema(schema.clone()))
            .unwrap_or_else(|error| panic!("{name}: {error}: {schema}"));
        let mut own = 0;
        for round in 0..replies {
            let mut random = Random((index * 1000 + round) as u64);
            let reply = written(&grammar, &text, &mut random)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            own += usize::from(judged(name, schema, &reply));
        }
        assert!(own > 0, "{name}: no reply came to an end");
        whole += own;
    }
    let all = cases.len() * replies;
    assert!(whole * 10 > all * 8, "only {whole} of {all} replies came to an end");
}

#[test]
fn replies_fit_their_schemas() {
    let cases: Vec<(String, Value)> = cases("accepted.json")
        .into_iter()
        .map(|case| (case["name"].to_string(), case["schema"].clone()))
        .collect();
    check_schemas(&cases, 8);
}

#[test]
fn replies_fit_schemas_made_at_random() {
    let cases: Vec<(String, Value)> =
        (0..120).map(|seed| (format!("made {seed}"), made::schema(seed))).collect();
    check_schemas(&cases, 3);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let text = text();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    for case in cases("refused.json") {
        let refused = compile(&vocabulary, &Format::Schema(case["schema"].clone()));
        let Err(error) = refused else { panic!("{} is not refused", case["name"]) };
        let why = case["why"].as_str().unwrap();
        assert!(matches!(error, Error::Format { .. }), "{}: {error}", case["name"]);
        assert!(error.to_string().contains(why), "{}: {error}", case["name"]);
        let early = check(&Format::Schema(case["schema"].clone()), &[], &ToolChoice::Auto);
        assert_eq!(early, Err(error), "{}: without a model", case["name"]);
    }
}

/// What every model would refuse is refused without one; what only some would is not.
#[test]
fn forms_are_judged_without_a_model() {
    let tools = tools();
    let format = |format: Format| check(&format, &tools, &ToolChoice::Auto);
    let call = |choice: &ToolChoice, tools: &[Tool]| check(&Format::Free, tools, choice);
    for case in cases("accepted.json") {
        assert_eq!(format(Format::Schema(case["schema"].clone())), Ok(()), "{}", case["name"]);
    }
    for good in [
        format(Format::Free),
        format(Format::Json),
        format(Format::Regex("(é|字)+".to_owned())),
        format(Format::Gbnf("root ::= \"a\" root?".to_owned())),
        call(&ToolChoice::Required, &tools),
        call(&ToolChoice::Named("weather".to_owned()), &tools),
        call(&ToolChoice::None, &[]),
    ] {
        assert_eq!(good, Ok(()));
    }
    let mut strange = tools.clone();
    strange[0].function.parameters = json!({"properties": {"x": {"type": "colour"}}});
    for (bad, why) in [
        (format(Format::Regex("a(b".to_owned())), ""),
        (format(Format::Lark("begin: \"a\"".to_owned())), "start"),
        (format(Format::Gbnf("rot ::= \"a\"".to_owned())), "no rule `root`"),
        (call(&ToolChoice::Required, &[]), "no tools"),
        (call(&ToolChoice::Named("nowhere".to_owned()), &tools), "`nowhere`"),
        (call(&ToolChoice::Required, &strange), "tool `weather`"),
    ] {
        let error = bad.unwrap_err();
        assert!(
            matches!(error, Error::Format { .. }) && error.to_string().contains(why),
            "{error}"
        );
    }
}

/// Which texts a grammar takes as a whole, one byte-level token after the other.
fn check_texts(format: Format, taken: &[&str], not_taken: &[&str]) {
    let text = text();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let grammar = compile(&vocabulary, &format).unwrap();
    let takes = |given: &str| {
        let mut constraint = grammar.start();
        for id in text.tokenizer().encode(given, false).unwrap() {
            if !constraint.mask().unwrap().allows(id) {
                return false;
            }
            constraint.accept(id).unwrap();
        }
        constraint.may_end()
    };
    taken.iter().for_each(|given| assert!(takes(given), "{format:?} does not take {given:?}"));
    not_taken.iter().for_each(|given| assert!(!takes(given), "{format:?} takes {given:?}"));
}

#[test]
fn regular_expressions() {
    let format = Format::Regex(r"(yes|no)(, (because|since) [a-z ]+/\d)?".to_owned());
    check_texts(
        format,
        &["yes", "no", "yes, because of it/7"],
        &["", "maybe", "yes,", "yes, because", "yes, because of it/x", "yesno"],
    );
}

#[test]
fn grammars_in_lark() {
    let source = "start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/\n%ignore / /\n";
    check_texts(Format::Lark(source.to_owned()), &["1+22+3", "1 + 2"], &["", "1+", "+1"]);
}

#[test]
fn grammars_of_llama_cpp() {
    let flat = "# three words\nroot ::= word (\" \" word){1,2} end?\nword ::= [a-z]+ | \"\\\"\" [^\"\\n]* \"\\\"\"\nend ::= [.!?] |\n  \"…\"\n";
    check_texts(
        Format::Gbnf(flat.to_owned()),
        &["the cat", "the \"C A T\" sat…", "the cat sat!"],
        &["the", "the  cat", "The cat", "the cat sat on"],
    );
    // The class takes what the text behind it needs: a lexer that takes the longest word would lose it.
    let nested = "root ::= \"(\" root \")\" | [a-z]* \"end\"";
    check_texts(
        Format::Gbnf(nested.to_owned()),
        &["end", "((end))", "(weekend)", "endend"],
        &["", "(end", "(week)", "()"],
    );
    let json = concat!(
        "root ::= object\nvalue ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n",
        "object ::= \"{\" ws ( string \":\" ws value (\",\" ws string \":\" ws value)* )? \"}\" ws\n",
        "array ::= \"[\" ws ( value (\",\" ws value)* )? \"]\" ws\n",
        "string ::= \"\\\"\" ( [^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}) )* \"\\\"\" ws\n",
        "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ws\nws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n",
    );
    check_texts(
        Format::Gbnf(json.to_owned()),
        &["{}", "{\"a\": [1, -2.5, \"x\\n\", {\"b\":null}]} "],
        &["[]", "{\"a\"}", "{\"a\": 01}", "{\"a\": tru}"],
    );
}

#[test]
fn grammars_that_cannot_be_used_say_why() {
    let text = text();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    for (format, why) in [
        (Format::Regex("a(b".to_owned()), ""),
        (Format::Regex("a(?=b)".to_owned()), ""),
        (Format::Lark("begin: \"a\"".to_owned()), "start"),
        (Format::Lark("start: %json {\"type\": \"strin\"}".to_owned()), ""),
        (Format::Gbnf("rot ::= \"a\"".to_owned()), "no rule `root`"),
        (Format::Gbnf("root ::= word".to_owned()), "no rule `word`"),
        (
            Format::Gbnf("root ::= \"a\nb\"".to_owned()),
            "line 2 of the grammar: a text is not closed",
        ),
        (Format::Gbnf("root ::= [z-a]".to_owned()), "ends before it begins"),
        (Format::Gbnf("root ::= \"a\"{3,2}".to_owned()), "ends before it begins"),
        (Format::Gbnf("root ::= <think>".to_owned()), "tokens by name"),
        (
            Format::Gbnf("root ::= \"a\" root".to_owned()),
            "the rule `root` of the grammar never ends",
        ),
        (Format::Gbnf(format!("root ::= {}\"a\"{}", "(".repeat(300), ")".repeat(300))), "nested"),
        (Format::Regex("a".repeat(200 << 10)), "over the limit"),
    ] {
        let error = compile(&vocabulary, &format).err();
        let error = error.unwrap_or_else(|| panic!("{format:?} is not refused")).to_string();
        assert!(error.contains(why), "{format:?}: {error}");
    }
}

const THINKING: (&str, &str) = ("<think>", "</think>");

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool {
        kind: "function".to_owned(),
        function: ToolFunction { name: name.to_owned(), description: String::new(), parameters },
    };
    let city = json!({"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"], "additionalProperties": false});
    vec![tool("weather", city), tool("now", Value::Null)]
}

/// Random replies of a wish, whole ones only.
fn replies(wish: &Wish<'_>, count: u64) -> Vec<String> {
    let text = text();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let grammar = Grammar::compile(wish, &vocabulary).unwrap().unwrap();
    let drawn = (0..count).map(|seed| written(&grammar, &text, &mut Random(seed)).unwrap());
    let whole: Vec<String> = drawn.filter(|reply| reply.is_whole).map(|reply| reply.text).collect();
    assert!(!whole.is_empty());
    whole
}

#[test]
fn calls_fit_their_tools() {
    let tools = tools();
    for (choice, names) in [
        (ToolChoice::Required, &["weather", "now"][..]),
        (ToolChoice::Named("weather".to_owned()), &["weather"]),
    ] {
        let wish = Wish {
            format: &Format::Free,
            tools: &tools,
            tool_choice: &choice,
            thinking: None,
            calls: Some(CallSyntax::hermes()),
        };
        for reply in replies(&wish, 12) {
            let inner = reply.strip_prefix("<tool_call>\n").unwrap();
            let inner = inner.strip_suffix("\n</tool_call>").unwrap();
            let calls: Vec<&str> = inner.split("\n</tool_call>\n<tool_call>\n").collect();
            assert!(calls.len() == 1 || choice == ToolChoice::Required, "{reply}");
            for call in calls {
                let call: Value = serde_json::from_str(call).unwrap();
                assert!(names.contains(&call["name"].as_str().unwrap()), "{reply}");
                let city = call["arguments"]["city"].as_str();
                let fits = call["name"] == "now" || matches!(city, Some("Oslo" | "Rome"));
                assert!(fits && call["arguments"].is_object(), "{reply}");
            }
        }
    }
}

#[test]
fn a_call_that_cannot_be_required_is_refused() {
    let (text, tools) = (text(), tools());
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let hermes = Some(CallSyntax::hermes());
    let missing = ToolChoice::Named("nowhere".to_owned());
    for (tools, choice, calls, why) in [
        (&tools[..], &missing, hermes.clone(), "`nowhere`"),
        (&[], &ToolChoice::Required, hermes, "no tools"),
        (&tools, &ToolChoice::Required, None, "it is not known how"),
    ] {
        let wish =
            Wish { format: &Format::Free, tools, tool_choice: choice, thinking: None, calls };
        let error = Grammar::compile(&wish, &vocabulary).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn an_answer_follows_the_thoughts() {
    let (open, close) = THINKING;
    for open in [open, ""] {
        let thinking =
            Thinking { open: open.to_owned(), close: close.to_owned(), inside: Vec::new() };
        let format = Format::Schema(json!({"enum": ["yes", "no"]}));
        let wish = Wish { thinking: Some(thinking), ..wish(&format) };
        // Random thoughts close by chance only: the model here closes them when it is told to.
        let text = text();
        let vocabulary = Vocabulary::new(&text, &[]).unwrap();
        let grammar = Grammar::compile(&wish, &vocabulary).unwrap().unwrap();
        if !open.is_empty() {
            check_answer(&grammar, &text);
        }
        for given in ["{\"no\"", " a < b </thin king>\n", "</", ""] {
            check_thoughts(&grammar, &text, open, given, close);
        }
    }
}

/// A model that may think need not.
fn check_answer(grammar: &Grammar, text: &Text) {
    let mut constraint = grammar.start();
    for id in text.tokenizer().encode("\"no\"", false).unwrap() {
        assert!(constraint.mask().unwrap().allows(id));
        constraint.accept(id).unwrap();
    }
    assert!(constraint.may_end());
}

fn check_thoughts(grammar: &Grammar, text: &Text, open: &str, thoughts: &str, close: &str) {
    let mut constraint = grammar.start();
    let whole = format!("{open}{thoughts}{close}");
    let mut rest = whole.as_bytes();
    while !rest.is_empty() {
        assert!(!constraint.may_end());
        let mask = constraint.mask().unwrap();
        assert!(text.ends().iter().all(|end| !mask.allows(*end)), "thoughts end with their tag");
        let writes = |id: &u32| rest.starts_with(text.token_bytes(*id));
        let token = mask.ids().filter(writes).max_by_key(|id| text.token_bytes(*id).len());
        let token = token.unwrap_or_else(|| panic!("{whole:?} cannot go on with {rest:?}"));
        constraint.accept(token).unwrap();
        rest = &rest[text.token_bytes(token).len()..];
    }
    let mask = constraint.mask().unwrap();
    for id in mask.ids() {
        let first = text.token_bytes(id)[0];
        assert!(first == b'"' || first.is_ascii_whitespace(), "{id} after the thoughts");
    }
    let answer = text.tokenizer().encode("\n\n\"yes\"", false).unwrap();
    for id in answer {
        assert!(constraint.mask().unwrap().allows(id));
        constraint.accept(id).unwrap();
    }
    assert!(constraint.may_end());
}

/// A tag that is a special token closes the thoughts, though it is no text elsewhere.
#[test]
fn tags_may_be_special_tokens() {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false})
    };
    let tokenizer = json!({
        "added_tokens": [special(3, "<open>"), special(4, "<close>"), special(5, "<other>")],
        "model": {"type": "BPE", "vocab": {"a": 0, "1": 1, "<": 2}, "merges": []},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    });
    let files = crate::Files::from_texts([("tokenizer.json", tokenizer.to_string())]);
    let text = Text::from_files(&files).unwrap();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let thinking =
        Thinking { open: "<open>".to_owned(), close: "<close>".to_owned(), inside: Vec::new() };
    let format = Format::Schema(json!({"const": 1}));
    let wish = Wish { thinking: Some(thinking), ..wish(&format) };
    let mut reply = Grammar::compile(&wish, &vocabulary).unwrap().unwrap().start();
    for (allowed, drawn) in
        [(&[1, 3][..], 3), (&[0, 1, 2, 3, 4], 0), (&[0, 1, 2, 3, 4], 4), (&[1], 1)]
    {
        assert_eq!(reply.mask().unwrap().ids().collect::<Vec<_>>(), allowed);
        reply.accept(drawn).unwrap();
    }
    assert!(reply.may_end());
}

/// Other messages may come before the one that is the answer; its header is the sign.
#[test]
fn an_answer_has_a_header_in_harmony() {
    let names =
        ["<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|return|>"];
    let added: Vec<Value> = (4..)
        .zip(names)
        .map(|(id, content)| {
            json!({"id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let tokenizer = json!({
        "added_tokens": added,
        "model": {"type": "BPE", "vocab": {"analysis": 0, "final": 1, "a": 2, "1": 3}, "merges": []},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    });
    let config = json!({"eos_token": "<|return|>"});
    let files = crate::Files::from_texts([
        ("tokenizer.json", tokenizer.to_string()),
        ("tokenizer_config.json", config.to_string()),
    ]);
    let text = Text::from_files(&files).unwrap().with_parser(Some("harmony"), None);
    let input = protocol::Input::chat(Vec::new());
    let prompt = "<|start|>assistant";
    let think = protocol::Think::On;
    let thinking = Thinking::of(&text.parser(&input, &think, prompt), prompt, &think);
    let format = Format::Schema(json!({"const": 1}));
    let wish = Wish { thinking, ..wish(&format) };
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let mut reply = Grammar::compile(&wish, &vocabulary).unwrap().unwrap().start();
    let free: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];
    // <|channel|>analysis<|message|>a1<|end|><|start|>a<|channel|>final<|message|>1
    for (allowed, drawn) in [
        (free, 6),
        (free, 0),
        (free, 7),
        (free, 2),
        (free, 3),
        (free, 5),
        (free, 4),
        (free, 2),
        (free, 6),
        (free, 1),
        (free, 7),
        (&[3], 3),
    ] {
        assert!(!reply.may_end());
        assert_eq!(reply.mask().unwrap().ids().collect::<Vec<_>>(), allowed);
        reply.accept(drawn).unwrap();
    }
    assert!(reply.may_end());
}

/// Another kind of vocabulary: single bytes are tokens of their own.
#[test]
fn a_token_that_closes_the_thoughts_says_nothing_more() {
    let vocab =
        ["a", "<", "/t>", "/t>x", "/t>Ċ", "</t>b", "</", "t>", "t>\"", "\"", "1", "<t>", "x</t>y"];
    let ids: serde_json::Map<String, Value> =
        vocab.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "model": {"type": "BPE", "vocab": ids, "merges": []},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    });
    let files = crate::Files::from_texts([("tokenizer.json", tokenizer.to_string())]);
    let text = Text::from_files(&files).unwrap();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let thinking = Thinking { open: String::new(), close: "</t>".to_owned(), inside: Vec::new() };
    let format = Format::Schema(json!({"const": 1}));
    let wish = Wish { thinking: Some(thinking), ..wish(&format) };
    let grammar = Grammar::compile(&wish, &vocabulary).unwrap().unwrap();
    let check = |before: &[u32], forbidden: &[&str]| {
        let mut constraint = grammar.start();
        before.iter().for_each(|id| constraint.accept(*id).unwrap());
        let mask = constraint.mask().unwrap();
        let is_missing = |id: &usize| !mask.allows(*id as u32);
        let missing: Vec<&str> = (0..vocab.len()).filter(is_missing).map(|id| vocab[id]).collect();
        assert_eq!(missing, forbidden, "after {before:?}");
    };
    check(&[0], &["</t>b", "x</t>y"]);
    check(&[1], &["/t>x", "</t>b", "x</t>y"]);
    check(&[6], &["</t>b", "t>\"", "x</t>y"]);
}

/// Thousands more: `cargo test --release -p text constraint -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn replies_fit_thousands_of_schemas_made_at_random() {
    let cases: Vec<(String, Value)> =
        (1000..4000).map(|seed| (format!("made {seed}"), made::schema(seed))).collect();
    check_schemas(&cases, 6);
}

/// Whatever a client sends, the answer comes soon: the engine's other replies wait for it.
#[test]
fn hostile_forms_cost_little() {
    let text = text();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let choices: Vec<Value> =
        (0..6).map(|n| json!({"properties": {format!("p{n}"): {"type": "integer"}}})).collect();
    let product: Vec<Value> = (0..12).map(|_| json!({"anyOf": choices})).collect();
    let names: Vec<String> = (0..20_000).map(|n| format!("value {n}")).collect();
    let nested = (0..60).fold(json!({}), |inner, _| json!({"type": "array", "items": inner}));
    let schemas = [
        json!({"type": "array", "items": {"type": "string"}, "minItems": 100_000_000}),
        json!({"type": "array", "items": {"type": "string"}, "maxItems": 9_000_000_000_000u64}),
        json!({"type": "string", "maxLength": 1_000_000_000_000u64}),
        json!({"type": "string", "minLength": 100_000}),
        json!({"type": "string", "pattern": "^((a|b)*c){1000}$"}),
        json!({"type": "string", "pattern": "^(([a-z]{1,500}){1,500}){1,500}$"}),
        json!({"type": "string", "pattern": "[a-z].*[0-9].*[A-Z].*", "minLength": 200}),
        json!({"type": "integer", "multipleOf": 999_999_937}),
        json!({"allOf": product}),
        json!({"enum": names}),
        nested,
    ];
    let formats = schemas.into_iter().map(Format::Schema).chain([
        Format::Regex("((a{1,100}){1,100}){1,100}".to_owned()),
        Format::Regex("(a|aa)*".repeat(500)),
        Format::Gbnf("root ::= ((\"a\" | root){100}){100}".to_owned()),
        Format::Gbnf(format!("root ::= {}", "\"abc\" [a-z]? ".repeat(5000))),
        Format::Lark(format!("start: {}", "/[a-z]*/ ".repeat(3000))),
    ]);
    for format in formats {
        let start = processor_time();
        let words = match compile(&vocabulary, &format) {
            Ok(grammar) => {
                let reply = written(&grammar, &text, &mut Random(1));
                reply
                    .map(|reply| reply.tokens.to_string())
                    .unwrap_or_else(|error| error.to_string())
            }
            Err(error) => error.to_string(),
        };
        let (took, format) = (processor_time() - start, format!("{format:?}"));
        let shown: String = format.chars().take(90).collect();
        println!("{:>6} ms {shown}: {words}", took.as_millis());
        assert!(took.as_secs() < 20, "{shown} took {took:?}");
    }
}
