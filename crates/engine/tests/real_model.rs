//! The engine with real models: a talkative one without sense, and the reference checkpoints.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod last_bits;
mod widened;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engine::Surroundings;
use last_bits::assert_alike;
use protocol::{
    Engine, Event, FinishReason, Format, Input, LoadModel, LoadedModel, ModelFiles, Options,
    Outbox, Request, RequestId, Think, TokenLogprob, Usage, Work,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path) -> ModelFiles {
    ModelFiles::of_folder("test", folder).unwrap()
}

fn load(folder: &Path) -> (LoadedModel, Box<dyn Engine>) {
    let job = LoadModel { model: files(folder), ..LoadModel::default() };
    engine::load(&job, &Surroundings { seed: 1, ..Surroundings::default() }, &mut |_, _| {})
        .unwrap()
}

fn babble() -> Box<dyn Engine> {
    load(&root().join("testdata/babble")).1
}

#[derive(Default)]
struct Reader {
    replies: HashMap<RequestId, Reply>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Reply {
    text: String,
    logprobs: Vec<TokenLogprob>,
    usage: Option<Usage>,
    failure: Option<String>,
}

impl Outbox for Reader {
    fn send(&mut self, id: RequestId, event: Event) {
        let reply = self.replies.entry(id).or_default();
        match event {
            Event::Delta(delta) => {
                reply.text += &delta.content;
                reply.logprobs.extend(delta.logprobs);
            }
            Event::Finished(usage) => reply.usage = Some(usage),
            Event::Failed(failure) => reply.failure = Some(failure.message),
            Event::PromptRead { .. } | Event::Rendered { .. } => {}
        }
    }

    fn ready(&self, _: RequestId) -> bool {
        true
    }
}

fn greedy(num_predict: i64) -> Options {
    Options { temperature: Some(0.0), num_predict: Some(num_predict), ..Options::default() }
}

fn request(id: u64, prompt: &str, options: Options) -> Request {
    Request { options, ..Request::raw(RequestId(id), prompt) }
}

fn serve(engine: &mut dyn Engine, requests: Vec<Request>) -> HashMap<RequestId, Reply> {
    let mut reader = Reader::default();
    for request in requests {
        engine.submit(request, &mut reader);
    }
    while engine.step(&mut reader) == Work::More {}
    reader.replies
}

fn one(engine: &mut dyn Engine, request: Request) -> Reply {
    let id = request.id;
    let reply = serve(engine, vec![request]).remove(&id).unwrap();
    assert_eq!(reply.failure, None);
    reply
}

const PROMPTS: [&str; 4] =
    ["What can you do?", "The cat", "My young friend walks with", "No star turns. A teacher"];

/// So many of the most probable tokens come with each, for [`assert_alike`].
fn open_about(request: Request) -> Request {
    Request { logprobs: Some(5), ..request }
}

#[test]
fn a_batch_changes_no_reply() {
    let ask = |i: u64| open_about(request(i, PROMPTS[i as usize], greedy(40)));
    let alone: Vec<Reply> = (0..4).map(|i| one(&mut *babble(), ask(i))).collect();
    let together = serve(&mut *babble(), (0..4).map(ask).collect());
    for (index, alone) in alone.iter().enumerate() {
        assert!(!alone.text.is_empty());
        let reply = &together[&RequestId(index as u64)];
        assert_alike(PROMPTS[index], &reply.logprobs, &alone.logprobs);
    }
}

#[test]
fn what_is_cached_is_what_would_be_computed() {
    let mut engine = babble();
    let first = one(&mut *engine, request(1, PROMPTS[2], greedy(40)));
    let longer = format!("{}{} The wind", PROMPTS[2], first.text);
    let cached = one(&mut *engine, open_about(request(2, &longer, greedy(40))));
    let fresh = one(&mut *babble(), open_about(request(3, &longer, greedy(40))));
    assert_alike("cached", &cached.logprobs, &fresh.logprobs);
    let (cached, fresh) = (cached.usage.unwrap(), fresh.usage.unwrap());
    assert!(cached.cached_tokens > first.usage.unwrap().prompt_tokens, "{cached:?}");
    assert_eq!((fresh.cached_tokens, fresh.prompt_tokens), (0, cached.prompt_tokens));
    // The same prompt once more: all but its last token is there.
    let again = one(&mut *engine, request(4, &longer, greedy(40)));
    assert_eq!(again.usage.unwrap().cached_tokens, cached.prompt_tokens - 1);
}

#[test]
fn a_seed_fixes_the_text_whatever_the_batch() {
    let seeded = |id, seed| {
        let options = Options { seed: Some(seed), num_predict: Some(60), ..Options::default() };
        open_about(request(id, PROMPTS[0], options))
    };
    let mut engine = babble();
    let alone = one(&mut *engine, seeded(1, 5));
    let again = one(&mut *engine, seeded(2, 5));
    assert_alike("again", &again.logprobs, &alone.logprobs);
    assert_ne!(one(&mut *engine, seeded(3, 6)).text, alone.text);
    let together = serve(&mut *engine, vec![seeded(4, 9), seeded(5, 5), seeded(6, 8)]);
    assert_alike("together", &together[&RequestId(5)].logprobs, &alone.logprobs);
}

#[test]
fn replies_end_where_they_should() {
    let mut engine = babble();
    let whole = one(&mut *engine, request(1, PROMPTS[1], greedy(30)));
    let usage = whole.usage.unwrap();
    assert_eq!((usage.reason, usage.generated_tokens), (FinishReason::Length, 30));
    let stop = whole.text.split_whitespace().nth(5).unwrap().to_owned();
    let options = Options { stop: Some(vec![stop.clone()]), ..greedy(30) };
    let stopped = one(&mut *engine, request(2, PROMPTS[1], options));
    assert_eq!(stopped.text, whole.text[..whole.text.find(&stop).unwrap()]);
    assert_eq!((stopped.usage.unwrap().stop, usage.stop), (Some(stop), None));
    // Nothing limits it but its own end token.
    let seeded = Options { seed: Some(3), ..Options::default() };
    let own_end = one(&mut *engine, request(3, PROMPTS[1], seeded)).usage.unwrap();
    assert_eq!(own_end.reason, FinishReason::Stop);
}

#[test]
fn logprobs_come_with_every_token() {
    let mut engine = babble();
    let asked = Request { logprobs: Some(3), ..request(1, PROMPTS[0], greedy(20)) };
    let reply = one(&mut *engine, asked);
    assert_eq!(reply.logprobs.len(), 20);
    let bytes: Vec<u8> =
        reply.logprobs.iter().flat_map(|token| token.chosen.bytes.clone()).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), reply.text);
    for token in &reply.logprobs {
        assert_eq!(token.top.len(), 3);
        assert_eq!(
            (token.top[0].id, token.top[0].logprob),
            (token.chosen.id, token.chosen.logprob)
        );
        assert!(token.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        assert!(token.top.iter().map(|choice| choice.logprob.exp()).sum::<f32>() <= 1.0001);
    }
}

#[test]
fn a_cancelled_request_leaves_at_once_and_loses_nothing() {
    let mut engine = babble();
    let mut reader = Reader::default();
    engine.submit(request(1, PROMPTS[0], greedy(4000)), &mut reader);
    for _ in 0..20 {
        assert_eq!(engine.step(&mut reader), Work::More);
    }
    engine.cancel(RequestId(1));
    let before = reader.replies[&RequestId(1)].text.len();
    while engine.step(&mut reader) == Work::More {}
    assert_eq!(reader.replies[&RequestId(1)].text.len(), before);
    let reply = one(&mut *engine, request(2, PROMPTS[0], greedy(10)));
    assert!(reply.usage.unwrap().cached_tokens > 0, "what was computed is there for others");
}

#[test]
fn a_long_prompt_goes_in_chunks() {
    let long = "The young teacher walks with a soft song. ".repeat(280);
    let reply = one(&mut *babble(), request(1, &long, greedy(8)));
    let usage = reply.usage.unwrap();
    assert!(usage.prompt_tokens > 2048 && usage.generated_tokens == 8, "{usage:?}");
    let too_long = long.repeat(2);
    let refused = serve(&mut *babble(), vec![request(1, &too_long, greedy(8))]);
    let message = refused[&RequestId(1)].failure.clone().unwrap();
    assert!(
        message.contains("exceeds the model's maximum context length (4096 tokens)"),
        "{message}"
    );
}

/// Through the whole engine, prompt to text, the reference's own continuation comes out, token by token.
#[test]
fn reference_checkpoints_continue_as_transformers_does() {
    let names =
        ["gemma3", "llama", "llama-bias", "llama3-rope", "llama-yarn", "qwen3", "qwen3-next"];
    for name in names {
        let folder = tempfile::tempdir().unwrap();
        let fixture = fixtures::arch(name);
        fixtures::materialise(&fixture, folder.path()).unwrap();
        widened::widen(&folder.path().join("model.safetensors"));
        let reference = fixtures::Reference::read(&fixture).unwrap();
        let tolerance = f64::from(reference.tolerance.unwrap().f32);
        let mut engine = load(folder.path()).1;
        for (index, prompt) in reference.prompts.iter().enumerate() {
            let wanted = prompt.greedy.as_ref().unwrap();
            let request =
                Request { logprobs: Some(0), ..request(index as u64, &prompt.text, greedy(24)) };
            let reply = one(&mut *engine, request);
            let ids: Vec<u32> = reply.logprobs.iter().map(|token| token.chosen.id).collect();
            assert_eq!(ids, wanted.ids, "{name}, prompt {index}");
            for (token, logprob) in reply.logprobs.iter().zip(&wanted.logprobs) {
                let off = (f64::from(token.chosen.logprob) - f64::from(*logprob)).abs();
                assert!(off <= tolerance, "{name}, prompt {index}: off by {off}");
            }
        }
    }
}

fn formed(id: u64, prompt: &str, options: Options, format: Format) -> Request {
    Request { format, ..request(id, prompt, options) }
}

/// Each sequence has its own form, or none; the model draws nonsense, and at a high temperature.
#[test]
fn forms_are_kept_in_a_batch_and_change_nobody_else() {
    let color = serde_json::json!({"enum": ["red", "green", "blue"]});
    let point = serde_json::json!({"type": "object", "properties": {
        "x": {"type": "integer", "minimum": -9, "maximum": 9}, "on": {"type": "boolean"}},
        "required": ["x", "on"], "additionalProperties": false});
    let forms = [
        Format::Schema(color.clone()),
        Format::Free,
        Format::Schema(point.clone()),
        Format::Regex("[a-z]{4}( [a-z]{2})?".to_owned()),
        Format::Gbnf("root ::= \"(\" root \")\" | \"x\"".to_owned()),
    ];
    let hot = |seed| Options {
        temperature: Some(1.8),
        num_predict: Some(80),
        seed: Some(seed),
        ..Options::default()
    };
    let ask = |id: u64| {
        let form = &forms[id as usize % forms.len()];
        open_about(formed(id, PROMPTS[id as usize % PROMPTS.len()], hot(id as i64), form.clone()))
    };
    let mut engine = babble();
    let together = serve(&mut *engine, (0..15).map(ask).collect());
    for id in 0..15 {
        let reply = &together[&RequestId(id)];
        assert_eq!(reply.failure, None);
        let alone = one(&mut *engine, ask(id));
        assert_alike(&format!("{id}"), &reply.logprobs, &alone.logprobs);
        let json = || serde_json::from_str::<serde_json::Value>(&reply.text).ok();
        let ended = reply.usage.as_ref().unwrap().reason == FinishReason::Stop;
        let fits = match id % 5 {
            0 => json().is_some_and(|value| color["enum"].as_array().unwrap().contains(&value)),
            2 => json().is_some_and(|value| value["x"].is_i64() && value["on"].is_boolean()),
            3 => matches!(reply.text.len(), 4 | 7),
            4 => reply.text.trim_matches(['(', ')']) == "x",
            _ => true,
        };
        assert!(fits || !ended, "{id}: {}", reply.text);
        assert!(ended || id % 5 == 1 || id % 5 == 4, "{id} does not end: {}", reply.text);
    }
}

#[test]
fn logprobs_of_a_form_are_those_of_the_raw_logits() {
    let mut engine = babble();
    let format = Format::Regex("[0-9]{3}".to_owned());
    let asked = Request { logprobs: Some(3), ..formed(1, PROMPTS[1], greedy(10), format) };
    let reply = one(&mut *engine, asked);
    assert_eq!(
        (reply.text.len(), reply.logprobs.len()),
        (3, reply.usage.unwrap().generated_tokens as usize)
    );
    let free = Request { logprobs: Some(3), ..request(2, PROMPTS[1], greedy(1)) };
    let free = one(&mut *engine, free);
    // What the model would have liked to say comes before what it may.
    assert_eq!(reply.logprobs[0].top, free.logprobs[0].top);
    assert!(reply.logprobs[0].chosen.logprob <= reply.logprobs[0].top[0].logprob);
}

#[test]
fn thoughts_come_before_the_form() {
    let mut engine = babble();
    let message = protocol::Message { content: "a color".to_owned(), ..Default::default() };
    let format = Format::Schema(serde_json::json!({"enum": ["red", "green"]}));
    let input = Input::chat(vec![message]);
    for (think, prompt_closes) in [(Think::Off, true), (Think::On, false)] {
        let asked =
            Request { input: input.clone(), think, ..formed(1, "", greedy(60), format.clone()) };
        let reply = one(&mut *engine, asked);
        let answer = reply.text.rsplit("</think>").next().unwrap().trim();
        let ended = reply.usage.unwrap().reason == FinishReason::Stop;
        assert!(!ended || matches!(answer, "\"red\"" | "\"green\""), "{}", reply.text);
        assert!(!prompt_closes || (ended && !reply.text.contains('<')), "{}", reply.text);
    }
}
