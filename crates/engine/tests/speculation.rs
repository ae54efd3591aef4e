//! Speculation with real models: `pocket`, its draft model and prompt lookup. Replies stay what they are, alone and in a
//! batch; what is accepted and what it brings is measured.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod last_bits;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use engine::Surroundings;
use fixtures::skills::QUESTIONS;
use last_bits::assert_alike;
use protocol::{
    Engine, Event, Format, Input, LoadModel, Message, ModelFiles, Options, Outbox, Request,
    RequestId, Role, Think, TokenLogprob, Work,
};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn files(folder: &Path) -> ModelFiles {
    ModelFiles::of_folder("pocket", folder).unwrap()
}

/// Who drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drafts {
    None,
    Model,
    Lookup,
}

/// `models` has both.
fn load(models: &Path, drafts: Drafts) -> Box<dyn Engine> {
    load_with(&models.join("pocket"), &models.join("pocket-draft"), drafts)
}

fn load_with(model: &Path, draft: &Path, drafts: Drafts) -> Box<dyn Engine> {
    let draft = (drafts == Drafts::Model).then(|| Box::new(files(draft)));
    let model = ModelFiles { draft, ..files(model) };
    let job = LoadModel { model, ..LoadModel::default() };
    let around = Surroundings {
        seed: 1,
        prompt_lookup: drafts == Drafts::Lookup,
        ..Surroundings::default()
    };
    engine::load(&job, &around, &mut |_, _| {}).unwrap().1
}

fn request(id: u64, question: &str, think: bool, options: &Options) -> Request {
    let message = Message { role: Role::User, content: question.to_owned(), ..Message::default() };
    Request {
        options: options.clone(),
        think: if think { Think::On } else { Think::Off },
        ..Request::new(RequestId(id), Input::chat(vec![message]))
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Reply {
    thinking: String,
    content: String,
    tokens: u32,
    logprobs: Vec<TokenLogprob>,
}

#[derive(Default)]
struct Reader {
    replies: BTreeMap<u64, Reply>,
    first: Option<Instant>,
    /// Each is a token, or several.
    deltas: usize,
    is_slow: bool,
}

impl Outbox for Reader {
    fn send(&mut self, id: RequestId, event: Event) {
        let reply = self.replies.entry(id.0).or_default();
        match event {
            Event::Delta(delta) => {
                self.deltas += 1;
                reply.thinking += &delta.thinking;
                reply.content += &delta.content;
                reply.logprobs.extend(delta.logprobs);
            }
            Event::Finished(usage) => reply.tokens = usage.generated_tokens,
            Event::PromptRead { .. } => self.first = Some(Instant::now()),
            Event::Failed(failure) => panic!("{failure:?}"),
            Event::Rendered { .. } => {}
        }
    }

    fn ready(&self, _: RequestId) -> bool {
        !self.is_slow
    }
}

/// The replies, and the time from the last prompt's end.
fn serve(engine: &mut dyn Engine, requests: Vec<Request>) -> (Reader, Duration) {
    let mut reader = Reader::default();
    requests.into_iter().for_each(|request| engine.submit(request, &mut reader));
    while engine.step(&mut reader) == Work::More {}
    let time = reader.first.map_or(Duration::ZERO, |first| first.elapsed());
    (reader, time)
}

fn all_options() -> Vec<Options> {
    let limit = Options { num_predict: Some(100), ..Options::default() };
    let seeded = |seed| Options { seed: Some(seed), ..limit.clone() };
    vec![
        Options { temperature: Some(0.0), ..limit.clone() },
        seeded(5),
        Options { temperature: Some(1.4), top_p: Some(1.0), ..seeded(6) },
        Options { repeat_penalty: Some(1.3), presence_penalty: Some(0.3), ..seeded(7) },
        Options { stop: Some(vec![" and".to_owned(), "7".to_owned()]), ..seeded(8) },
        Options { draft_num_predict: Some(2), ..seeded(9) },
    ]
}

fn requests() -> Vec<Request> {
    let options = all_options();
    let mut requests = Vec::new();
    for (at, question) in QUESTIONS.iter().take(6).enumerate() {
        for (number, one) in options.iter().enumerate() {
            let id = (at * options.len() + number) as u64;
            // Where texts may part only log-probabilities tell whether they may.
            let logprobs = (number % 2 == 0 || !on_cpu()).then_some(5);
            let format = match (at + number) % 7 {
                0 => Format::Regex("[A-Z][a-z ]{5,60}[.]".to_owned()),
                3 => Format::Json,
                _ => Format::Free,
            };
            let think = at % 2 == 0 && format == Format::Free;
            requests.push(Request { logprobs, format, ..request(id, question, think, one) });
        }
    }
    requests
}

fn on_cpu() -> bool {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
    mlx::device() == mlx::Device::Cpu
}

#[track_caller]
fn compare(what: &str, found: &Reply, expected: &Reply) {
    assert_alike(what, &found.logprobs, &expected.logprobs);
    assert!(!on_cpu() || found == expected, "{what}: {found:?}, not {expected:?}");
}

fn check(drafts: Drafts) {
    let models = models();
    let mut plain = load(&models, Drafts::None);
    let alone: Vec<_> = requests()
        .into_iter()
        .flat_map(|request| serve(&mut *plain, vec![request]).0.replies)
        .collect();
    let mut engine = load(&models, drafts);
    for (request, (id, expected)) in requests().into_iter().zip(&alone) {
        let got = serve(&mut *engine, vec![request.clone()]).0.replies;
        compare(&format!("{drafts:?}: {request:?}"), &got[id], expected);
    }
    for group in requests().chunks(5) {
        let got = serve(&mut *engine, group.to_vec()).0.replies;
        for request in group {
            let (_, expected) = &alone[request.id.0 as usize];
            let what = format!("{drafts:?}, in a batch: {request:?}");
            compare(&what, &got[&request.id.0], expected);
        }
    }
}

#[test]
fn a_draft_model_changes_no_reply() {
    check(Drafts::Model);
}

#[test]
fn prompt_lookup_changes_no_reply() {
    check(Drafts::Lookup);
}

/// Adds up what the log says of drafts.
#[derive(Default)]
struct Log {
    drafted: AtomicU64,
    accepted: AtomicU64,
}

struct Listener(Arc<Log>);

impl Log {
    /// The one of this process.
    fn get() -> Arc<Log> {
        static LOG: LazyLock<Arc<Log>> = LazyLock::new(|| {
            let log = Arc::new(Log::default());
            tracing::subscriber::set_global_default(Listener(Arc::clone(&log))).unwrap();
            log
        });
        Arc::clone(&LOG)
    }

    /// Drafted and accepted tokens since the last time.
    fn take(&self) -> (u64, u64) {
        (self.drafted.swap(0, Ordering::Relaxed), self.accepted.swap(0, Ordering::Relaxed))
    }
}

impl tracing::field::Visit for &Log {
    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        match field.name() {
            "drafted" => drop(self.drafted.fetch_add(value, Ordering::Relaxed)),
            "accepted" => drop(self.accepted.fetch_add(value, Ordering::Relaxed)),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("engine::speculation")
    }

    /// Each draft is told of by itself, and once more when its sequence ends.
    fn event(&self, event: &tracing::Event<'_>) {
        if *event.metadata().level() == tracing::Level::TRACE {
            event.record(&mut &*self.0);
        }
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Of each skill some held-out cases that have no tools.
fn heldout() -> BTreeMap<String, Vec<(Vec<Message>, bool)>> {
    let mut skills = BTreeMap::new();
    for entry in std::fs::read_dir(models().join("pocket/heldout")).unwrap() {
        let path = entry.unwrap().path();
        let skill = path.file_stem().unwrap().to_string_lossy().into_owned();
        let lines = std::fs::read_to_string(&path).unwrap();
        let cases = lines.lines().step_by(6).filter_map(|line| {
            let case: serde_json::Value = serde_json::from_str(line).ok()?;
            let messages = case["messages"].as_array()?.iter().map(|message| {
                let role = serde_json::from_value(message["role"].clone()).ok()?;
                let content = message["content"].as_str()?.to_owned();
                let is_plain = message.get("tool_calls").is_none();
                is_plain.then(|| Message { role, content, ..Message::default() })
            });
            let messages = messages.collect::<Option<Vec<Message>>>()?;
            case.get("tools").is_none().then(|| (messages, case["think"] == true))
        });
        let cases: Vec<_> = cases.collect();
        if path.extension().is_some_and(|end| end == "jsonl") && !cases.is_empty() {
            skills.insert(skill, cases);
        }
    }
    skills
}

/// One cell of the table: tokens, how many in a second, and how many of the drafted ones were accepted.
fn measured(
    cases: &[(Vec<Message>, bool)],
    options: &Options,
    drafts: Drafts,
    log: &Log,
) -> (u32, String) {
    let mut engine = load(&models(), drafts);
    let (mut time, mut tokens) = (Duration::ZERO, 0);
    for (id, (messages, think)) in (0..).zip(cases) {
        let input = Input::chat(messages.clone());
        let ask = Request { input, ..request(id, "", *think, options) };
        let (reader, took) = serve(&mut *engine, vec![ask]);
        time += took;
        tokens += reader.replies.values().map(|reply| reply.tokens).sum::<u32>();
    }
    let mut cell = format!("{:.0}", f64::from(tokens) / time.as_secs_f64());
    let (drafted, accepted) = log.take();
    if drafted > 0 {
        let share = 100.0 * accepted as f64 / drafted as f64;
        cell += &format!(" ({share:.0} % of {drafted})");
    }
    (tokens, cell)
}

/// Tokens a second, and how many of the drafted tokens were accepted.
/// `cargo test --release -p engine --test speculation what -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_speculation_brings() {
    let log = Log::get();
    let greedy = Options { temperature: Some(0.0), num_predict: Some(200), ..Options::default() };
    let sampled = Options { seed: Some(1), num_predict: Some(200), ..Options::default() };
    println!(
        "| skill | options | tokens | plain | draft model | prompt lookup |\n|---|---|---|---|---|---|"
    );
    for (skill, cases) in heldout() {
        for (name, options) in [("greedy", &greedy), ("sampled", &sampled)] {
            let [(tokens, plain), (_, draft), (_, lookup)] =
                [Drafts::None, Drafts::Model, Drafts::Lookup]
                    .map(|drafts| measured(&cases, options, drafts, &log));
            println!("| {skill} | {name} | {tokens} | {plain} | {draft} | {lookup} |");
        }
    }
}

/// A draft model for this one that knows nothing: its weights are drawn at random.
fn ignorant_draft(target: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(target.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [
        ("num_hidden_layers", 2),
        ("hidden_size", 256),
        ("intermediate_size", 512),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
    ] {
        config[key] = value.into();
    }
    config.as_object_mut().unwrap().remove("quantization");
    let encoding = fixtures::Encoding::Affine { bits: 4, group_size: 64 };
    fixtures::random_checkpoint(&config.to_string(), 2, folder.path(), encoding).unwrap();
    folder
}

/// Tokens of a block. Price: in each block one step is asked for while none is under way, on both sides.
const BLOCK_TOKENS: usize = 16;

/// An engine that works now and then, and the reply that it is at.
struct Side {
    engine: Box<dyn Engine>,
    reader: Reader,
}

impl Side {
    fn start(&mut self, request: Request) {
        self.reader = Reader::default();
        self.engine.submit(request, &mut self.reader);
        self.go_on(1);
    }

    /// Until the reply has so many tokens or is whole, and nothing is under way: a slow reader makes the engine rest.
    fn go_on(&mut self, tokens: usize) -> Duration {
        let Side { engine, reader } = self;
        let start = Instant::now();
        reader.is_slow = false;
        while reader.deltas < tokens && engine.step(reader) == Work::More {}
        reader.is_slow = true;
        while engine.step(reader) == Work::More {}
        start.elapsed()
    }

    fn is_done(&self) -> bool {
        self.reader.replies.values().all(|reply| reply.tokens > 0)
    }
}

/// The same few tokens of a reply, without drafts and with them.
#[derive(Clone, Copy)]
struct Pair {
    plain: Duration,
    drafting: Duration,
    drafted: u64,
    accepted: u64,
}

/// One reply of both sides in turns, so that a machine which changes its speed changes it for both. Prompts do not count.
fn in_turns(sides: &mut [Side; 2], request: &Request, log: &Log) -> Vec<Pair> {
    sides.iter_mut().for_each(|side| side.start(request.clone()));
    let mut pairs = Vec::new();
    while !sides.iter().all(Side::is_done) {
        let tokens = 1 + (pairs.len() + 1) * BLOCK_TOKENS;
        let first = pairs.len() % 2;
        let mut times = [Duration::ZERO; 2];
        for at in [first, 1 - first] {
            times[at] = sides[at].go_on(tokens);
        }
        let (drafted, accepted) = log.take();
        pairs.push(Pair { plain: times[0], drafting: times[1], drafted, accepted });
    }
    assert_eq!(sides[0].reader.replies, sides[1].reader.replies);
    pairs
}

/// Tokens a second with drafts, in those without: all of the time, as a few probes are what bad drafts cost.
fn gain(
    name: &str,
    engines: [Box<dyn Engine>; 2],
    replies: u64,
    ask: &dyn Fn(u64, Options) -> Request,
) -> f64 {
    const TOKENS: i64 = 241;
    let log = Log::get();
    let mut sides = engines.map(|engine| Side { engine, reader: Reader::default() });
    let options = |id: u64, tokens| Options {
        seed: Some(id as i64),
        temperature: Some(1.0),
        num_predict: Some(tokens),
        ..Options::default()
    };
    let cold = Options { draft_num_predict: Some(0), ..options(0, 33) };
    in_turns(&mut sides, &ask(0, cold), &log);
    let (mut pairs, mut tokens) = (Vec::new(), 0);
    for id in 1..=replies {
        pairs.extend(in_turns(&mut sides, &ask(id, options(id, TOKENS)), &log));
        // The first came with the prompt.
        tokens += sides[0].reader.replies[&id].tokens - 1;
    }
    let (gain, least, most) = with_interval(&pairs);
    let with_drafts = pairs.iter().filter(|pair| pair.drafted > 0).count();
    let sum = |of: fn(&Pair) -> u64| pairs.iter().map(of).sum::<u64>();
    println!(
        "| {name} | {gain:.3} | {least:.3} to {most:.3} | {tokens} | {with_drafts} of {} | {} of {} |",
        pairs.len(),
        sum(|pair| pair.accepted),
        sum(|pair| pair.drafted),
    );
    gain
}

/// All time without drafts in all time with them, and where nine of ten lie that are made of as many pairs drawn of these.
fn with_interval(pairs: &[Pair]) -> (f64, f64, f64) {
    const DRAWS: usize = 1000;
    let ratio = |pairs: &[Pair]| {
        let [plain, drafting]: [Duration; 2] =
            [|pair: &Pair| pair.plain, |pair: &Pair| pair.drafting]
                .map(|of| pairs.iter().map(of).sum());
        plain.as_secs_f64() / drafting.as_secs_f64()
    };
    let mut dice = 1u64;
    let mut any = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pairs[(dice >> 33) as usize % pairs.len()]
    };
    let mut drawn: Vec<f64> =
        (0..DRAWS).map(|_| ratio(&pairs.iter().map(|_| any()).collect::<Vec<_>>())).collect();
    drawn.sort_by(f64::total_cmp);
    (ratio(pairs), drawn[DRAWS / 20], drawn[DRAWS - 1 - DRAWS / 20])
}

/// Whoever drafts, and however badly: replies take hardly longer than without.
/// `cargo test --release -p engine --test speculation bad -- --ignored --nocapture`; `cargo xtask bench serving` makes the
/// larger checkpoint.
#[test]
#[ignore = "minutes; a measurement"]
fn bad_drafts_cost_hardly_anything() {
    Log::get();
    let large = models().join("../target/bench/qwen3-0.6b-4-words");
    println!("| model, who drafts | gain | 90 % | tokens | blocks with drafts | accepted |");
    println!("|---|---|---|---|---|---|");
    let mut gains = Vec::new();
    // Where steps are short a burst of somebody else's work takes many of them: more tokens.
    let small = models().join("pocket");
    for (name, folder, word, replies) in [("0.6B", large, 9000, 8), ("`pocket`", small, 1000, 16)] {
        let draft = ignorant_draft(&folder);
        let ask = |id: u64, options: Options| {
            let prompt: String =
                (0..60).map(|at| format!("w{} ", 9000 + id * 101 + at * 7)).collect();
            Request { input: Input::Raw { prompt }, ..request(id, "", false, &options) }
        };
        // In a random order: what followed a run of three is found always, and wrong three times in four.
        let four_words = |id: u64, options: Options| {
            let four = (word..word + 4).map(|word| (word, 1000.0)).collect();
            let wild = Options { temperature: Some(8.0), top_k: Some(4), ..options };
            ask(id, Options { logit_bias: Some(four), top_p: Some(1.0), ..wild })
        };
        let engines =
            |drafts| [Drafts::None, drafts].map(|who| load_with(&folder, draft.path(), who));
        let model = format!("{name}, a draft model of random weights");
        gains.push(gain(&model, engines(Drafts::Model), replies, &ask));
        let lookup = format!("{name}, prompt lookup");
        gains.push(gain(&lookup, engines(Drafts::Lookup), replies, &four_words));
    }
    assert!(gains.iter().all(|gain| *gain >= 0.97), "{gains:?}");
}
