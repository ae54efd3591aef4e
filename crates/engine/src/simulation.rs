//! The step loop under random arrivals, cancellations, slow readers and failing steps, without a model: whatever the
//! order, each reply is the one its prompt has alone, each request gets one last event, and no slot is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlx::Edit;
use protocol::{
    Engine, Event, FailureKind, FinishReason, Format, Input, Options, Outbox, Request, RequestId,
    Think, ToolChoice, Work,
};
use text::Text;
use text::constraint::{Grammar, Vocabulary, Wish};

use crate::sampling::Edits;
use crate::scripted::{self, ScriptedExecutor};
use crate::steps::Steps;

const CONTEXT: usize = 256;

fn text() -> Rc<Text> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/arch");
    let tokenizer = data.join("_tokenizers/125f2499ce34/tokenizer.json");
    let own = |name: &str| (name.to_owned(), data.join("qwen3").join(name));
    let files: BTreeMap<String, PathBuf> = BTreeMap::from([
        ("tokenizer.json".to_owned(), tokenizer),
        own("config.json"),
        own("tokenizer_config.json"),
        own("generation_config.json"),
    ]);
    Rc::new(Text::load(&files).unwrap())
}

/// SplitMix64: schedules are a function of their seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (((z ^ (z >> 27)) >> 11) % limit as u64) as usize
    }
}

#[derive(Default)]
struct Readers {
    events: HashMap<RequestId, Vec<Event>>,
    slow: HashSet<RequestId>,
}

impl Outbox for Readers {
    fn send(&mut self, id: RequestId, event: Event) {
        let events = self.events.entry(id).or_default();
        assert!(
            !events.last().is_some_and(Event::is_last),
            "an event after the last one of {id:?}"
        );
        events.push(event);
    }

    fn ready(&self, id: RequestId) -> bool {
        !self.slow.contains(&id)
    }
}

fn request(id: u64, prompt: &str, num_predict: i64, stop: &[&str]) -> Request {
    let stop = (!stop.is_empty()).then(|| stop.iter().map(|stop| (*stop).to_owned()).collect());
    Request {
        id: RequestId(id),
        input: Input::Raw { prompt: prompt.to_owned() },
        options: Options { num_predict: Some(num_predict), stop, ..Options::default() },
        format: protocol::Format::Free,
        think: Think::Unset,
        logprobs: None,
        tool_choice: protocol::ToolChoice::default(),
        render_only: false,
    }
}

/// What the scripted executor makes of a prompt, computed without any loop.
fn alone(text: &Text, prompt: &str, num_predict: usize) -> (String, FinishReason) {
    let input = Input::Raw { prompt: prompt.to_owned() };
    let mut tokens = text.encode_prompt(prompt, text.prompt_kind(&input)).unwrap();
    let limit = num_predict.min(CONTEXT - tokens.len());
    let mut stream = text.decoder();
    let mut reply = String::new();
    for _ in 0..limit {
        let token = scripted::next(&tokens);
        if token == scripted::END {
            return (reply + &stream.finish(), FinishReason::Stop);
        }
        tokens.push(token);
        reply.push_str(&stream.push(token));
    }
    (reply + &stream.finish(), FinishReason::Length)
}

fn reply(events: &[Event]) -> (String, Option<FinishReason>) {
    let mut content = String::new();
    let mut reason = None;
    for event in events {
        match event {
            Event::Delta(delta) => content.push_str(&delta.content),
            Event::Finished(usage) => reason = Some(usage.reason),
            _ => {}
        }
    }
    (content, reason)
}

fn run_to_end(steps: &mut Steps<ScriptedExecutor>, readers: &mut Readers) {
    for _ in 0..100_000 {
        if steps.step(readers) == Work::Idle {
            return;
        }
    }
    panic!("the loop does not come to an end");
}

#[test]
fn a_schedule_changes_no_reply() {
    let text = text();
    let words = ["the cat", " sat on", " a mat", " and saw", " the sea", " again"];
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut steps = Steps::new(ScriptedExecutor::new(), Rc::clone(&text), CONTEXT, 7);
        let mut readers = Readers::default();
        let mut expected = BTreeMap::new();
        let mut cancelled = HashSet::new();
        for id in 0..12 {
            let prompt: String =
                (0..1 + dice.below(8)).map(|_| words[dice.below(words.len())]).collect();
            let num_predict = 1 + dice.below(30);
            steps.submit(request(id, &prompt, num_predict as i64, &[]), &mut readers);
            expected.insert(RequestId(id), alone(&text, &prompt, num_predict));
            if dice.below(4) == 0 {
                readers.slow.insert(RequestId(id));
            }
            for _ in 0..dice.below(6) {
                steps.step(&mut readers);
            }
            let victim = RequestId(dice.below(12) as u64);
            let done = readers
                .events
                .get(&victim)
                .is_some_and(|events| events.last().is_some_and(Event::is_last));
            if dice.below(5) == 0 && victim.0 <= id && !done {
                steps.cancel(victim);
                cancelled.insert(victim);
            }
        }
        run_to_end(&mut steps, &mut readers);
        readers.slow.clear();
        run_to_end(&mut steps, &mut readers);
        for (id, (content, reason)) in &expected {
            let (got, got_reason) =
                readers.events.get(id).map_or((String::new(), None), |events| reply(events));
            if cancelled.contains(id) {
                assert!(content.starts_with(&got) && got_reason.is_none(), "seed {seed}, {id:?}");
            } else {
                assert_eq!((&got, got_reason), (content, Some(*reason)), "seed {seed}, {id:?}");
            }
        }
        assert_eq!(steps.sequences_open(), 0, "seed {seed}");
        assert_eq!(
            steps.executor().open_slots(),
            steps.slots_cached(),
            "seed {seed}: slots are lost"
        );
    }
}

#[test]
fn a_failing_step_costs_only_its_sequences() {
    let text = text();
    let mut executor = ScriptedExecutor::new();
    executor.fail_after = Some(3);
    let mut steps = Steps::new(executor, Rc::clone(&text), CONTEXT, 7);
    let mut readers = Readers::default();
    steps.submit(request(1, "the cat sat", 20, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    let failed = readers.events[&RequestId(1)].last();
    assert!(
        matches!(failed, Some(Event::Failed(failure)) if failure.kind == FailureKind::NoRoom),
        "{failed:?}"
    );
    steps.submit(request(2, "the cat sat", 20, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    assert_eq!(reply(&readers.events[&RequestId(2)]).0, alone(&text, "the cat sat", 20).0);
    assert_eq!(steps.executor().open_slots(), steps.slots_cached());
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let text = text();
    let mut steps = Steps::new(ScriptedExecutor::new(), Rc::clone(&text), CONTEXT, 7);
    let mut readers = Readers::default();
    let first = "the cat sat on a mat and saw the sea";
    steps.submit(request(1, first, 10, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    let second = first.to_owned() + " again and again";
    steps.submit(request(2, &second, 10, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    let Some(Event::Finished(usage)) = readers.events[&RequestId(2)].last() else {
        panic!("not finished")
    };
    assert!(usage.cached_tokens as usize + 8 > usage.prompt_tokens as usize / 2, "{usage:?}");
    assert!(usage.cached_tokens > 0 && usage.cached_tokens < usage.prompt_tokens, "{usage:?}");
}

#[test]
fn a_stop_string_ends_the_reply_before_it() {
    let text = text();
    let (whole, _) = alone(&text, "the cat", 40);
    let middle = whole.char_indices().nth(whole.chars().count() / 2).unwrap().0;
    let stop: String = whole[middle..].chars().take(3).collect();
    let mut steps = Steps::new(ScriptedExecutor::new(), Rc::clone(&text), CONTEXT, 7);
    let mut readers = Readers::default();
    steps.submit(request(1, "the cat", 40, &[&stop]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    let (got, reason) = reply(&readers.events[&RequestId(1)]);
    assert_eq!(got, whole[..whole.find(&stop).unwrap()]);
    assert_eq!(reason, Some(FinishReason::Stop));
}

#[test]
fn prompts_that_do_not_fit_are_refused() {
    let text = text();
    let mut steps = Steps::new(ScriptedExecutor::new(), Rc::clone(&text), CONTEXT, 7);
    let mut readers = Readers::default();
    steps.submit(request(1, "", 1, &[]), &mut readers);
    steps.submit(request(2, &"the cat ".repeat(CONTEXT), 1, &[]), &mut readers);
    for (id, words) in
        [(1, "empty prompt"), (2, "exceeds the model's maximum context length (256 tokens)")]
    {
        let Some(Event::Failed(failure)) = readers.events[&RequestId(id)].last() else {
            panic!("{id} not refused")
        };
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    assert_eq!(steps.step(&mut readers), Work::Idle);
}

fn formed(id: u64, prompt: &str, num_predict: i64, format: &Format) -> Request {
    Request { format: format.clone(), ..request(id, prompt, num_predict, &[]) }
}

fn forms() -> Vec<Format> {
    let schema = serde_json::json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 6}, "size": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "size"], "additionalProperties": false});
    vec![
        Format::Free,
        Format::Json,
        Format::Schema(schema),
        Format::Schema(serde_json::json!({"enum": ["red", "green"]})),
        Format::Regex("[a-f]{3}(-[0-9]{2})*".to_owned()),
    ]
}

/// What the scripted executor makes of a prompt and a form, computed without any loop.
fn alone_in_form(
    text: &Text,
    grammar: Option<&Grammar>,
    prompt: &str,
    num_predict: usize,
) -> (String, FinishReason) {
    let Some(grammar) = grammar else { return alone(text, prompt, num_predict) };
    let mut constraint = grammar.start();
    let input = Input::Raw { prompt: prompt.to_owned() };
    let mut tokens = text.encode_prompt(prompt, text.prompt_kind(&input)).unwrap();
    let mut stream = text.decoder();
    let mut reply = String::new();
    for _ in 0..num_predict.min(CONTEXT - tokens.len()) {
        let token = scripted::next_of(&tokens, &constraint.mask().unwrap());
        if token == scripted::END {
            return (reply + &stream.finish(), FinishReason::Stop);
        }
        tokens.push(token);
        constraint.accept(token).unwrap();
        reply.push_str(&stream.push(token));
        if constraint.is_complete() {
            return (reply + &stream.finish(), FinishReason::Stop);
        }
    }
    (reply + &stream.finish(), FinishReason::Length)
}

#[test]
fn forms_are_kept_whoever_else_is_in_the_batch() {
    let text = text();
    let vocabulary = Vocabulary::new(&text, &[]).unwrap();
    let words = ["the cat", " sat on", " a mat", " and saw", " the sea", " again"];
    let forms = forms();
    let tool_choice = &ToolChoice::Auto;
    let wish = |format| Wish { format, tools: &[], tool_choice, thinking: None, calls: None };
    let grammars: Vec<Option<Grammar>> =
        forms.iter().map(|form| Grammar::compile(&wish(form), &vocabulary).unwrap()).collect();
    let mut stopped = 0;
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let mut steps = Steps::new(ScriptedExecutor::new(), Rc::clone(&text), CONTEXT, 7);
        let mut readers = Readers::default();
        let mut expected = BTreeMap::new();
        let mut cancelled = HashSet::new();
        for id in 0..10 {
            let prompt: String =
                (0..1 + dice.below(8)).map(|_| words[dice.below(words.len())]).collect();
            let (num_predict, form) = (1 + dice.below(60), dice.below(forms.len()));
            steps.submit(formed(id, &prompt, num_predict as i64, &forms[form]), &mut readers);
            let reply = alone_in_form(&text, grammars[form].as_ref(), &prompt, num_predict);
            expected.insert(RequestId(id), reply);
            for _ in 0..dice.below(6) {
                steps.step(&mut readers);
            }
            let victim = RequestId(dice.below(10) as u64);
            let events = readers.events.get(&victim);
            let done = events.is_some_and(|events| events.last().is_some_and(Event::is_last));
            if dice.below(6) == 0 && victim.0 <= id && !done {
                steps.cancel(victim);
                cancelled.insert(victim);
            }
        }
        run_to_end(&mut steps, &mut readers);
        for (id, (content, reason)) in expected.iter().filter(|(id, _)| !cancelled.contains(id)) {
            let (got, got_reason) = reply(&readers.events[id]);
            assert_eq!((&got, got_reason), (content, Some(*reason)), "seed {seed}, {id:?}");
            stopped += usize::from(*reason == FinishReason::Stop);
        }
        assert_eq!(steps.sequences_open(), 0, "seed {seed}");
        assert_eq!(steps.executor().open_slots(), steps.slots_cached(), "seed {seed}");
    }
    assert!(stopped > 50, "only {stopped} replies came to an end of their own");
}

#[test]
fn a_form_that_cannot_be_kept_is_refused_before_anything_is_computed() {
    let mut steps = Steps::new(ScriptedExecutor::new(), text(), CONTEXT, 7);
    let mut readers = Readers::default();
    let unknown = Format::Schema(serde_json::json!({"not": {"type": "string"}}));
    steps.submit(formed(1, "the cat", 10, &unknown), &mut readers);
    let required = Request { tool_choice: ToolChoice::Required, ..request(2, "the", 9, &[]) };
    steps.submit(required, &mut readers);
    for (id, words) in [(1, "the keyword `not` is not supported"), (2, "tool")] {
        let Some(Event::Failed(failure)) = readers.events[&RequestId(id)].last() else {
            panic!("{id} not refused")
        };
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    assert_eq!((steps.step(&mut readers), steps.executor().computed), (Work::Idle, 0));
}

/// Each of these options is told the tokens of prompt and reply up to the one before, whoever else is in the batch.
#[test]
fn penalties_see_all_tokens_before_a_draw() {
    const LAST: usize = 5;
    let text = text();
    let words = ["the cat", " sat on", " a mat", " and saw", " the sea", " again"];
    let options = |num_predict: usize, penalised: bool| Options {
        num_predict: Some(num_predict as i64),
        presence_penalty: penalised.then_some(0.5),
        frequency_penalty: penalised.then_some(0.25),
        repeat_last_n: Some(LAST as i64),
        ..Options::default()
    };
    let alone = |prompt: &str, num_predict: usize| {
        let input = Input::Raw { prompt: prompt.to_owned() };
        let mut tokens = text.encode_prompt(prompt, text.prompt_kind(&input)).unwrap();
        let mut reply = Vec::new();
        for _ in 0..num_predict {
            let last = &tokens[tokens.len().saturating_sub(LAST)..];
            let count = |token: &u32| last.iter().filter(|known| *known == token).count();
            let edit = |token: &u32| Edit {
                token: *token,
                bias: 0.0,
                repeat: 1.0,
                minus: 0.5 + 0.25 * count(token) as f32,
            };
            let distinct: BTreeSet<u32> = last.iter().copied().collect();
            let edits = Edits { tokens: distinct.iter().map(edit).collect(), mask: None };
            let token = scripted::drawn(&tokens, &edits);
            if token == scripted::END {
                break;
            }
            tokens.push(token);
            reply.push(token);
        }
        let mut stream = text.decoder();
        let content: String = reply.iter().map(|token| stream.push(*token)).collect();
        content + &stream.finish()
    };
    for seed in 0..50 {
        let mut dice = Dice(seed);
        let mut steps = Steps::new(ScriptedExecutor::new(), Rc::clone(&text), CONTEXT, 7);
        let mut readers = Readers::default();
        let mut expected = BTreeMap::new();
        for id in 0..8 {
            let prompt: String =
                (0..1 + dice.below(8)).map(|_| words[dice.below(words.len())]).collect();
            let (num_predict, penalised) = (1 + dice.below(30), dice.below(3) > 0);
            let options = options(num_predict, penalised);
            steps.submit(Request { options, ..request(id, &prompt, 1, &[]) }, &mut readers);
            let reply = match penalised {
                true => alone(&prompt, num_predict),
                false => self::alone(&text, &prompt, num_predict).0,
            };
            expected.insert(RequestId(id), reply);
            for _ in 0..dice.below(6) {
                steps.step(&mut readers);
            }
        }
        run_to_end(&mut steps, &mut readers);
        for (id, content) in &expected {
            assert_eq!(&reply(&readers.events[id]).0, content, "seed {seed}, {id:?}");
        }
    }
}
