//! A crowd on the trained model: requests of every kind arrive at random, are cancelled, have slow readers; with drafts and
//! without, with keys and values in full and in 8 bits. Each reply is what the same request gets alone: on the CPU to the bit;
//! on a GPU it errs no more than alone, measured by the same model in f32 (docs/decisions/0013-row-invariance.md). No page is
//! left over, and memory is afterwards what it was before.

#[path = "../tests/last_bits/distances.rs"]
mod distances;
#[path = "../tests/widened/mod.rs"]
mod widened;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use distances::distances;
use fixtures::skills::QUESTIONS;
use protocol::{
    Engine, Event, FinishReason, Format, Input, LoadModel, Message, ModelFiles, Options, Outbox,
    Request, RequestId, Role, Think, TokenLogprob,
};

use crate::executor::Executor;
use crate::forward::Forward;
use crate::load::{self, Surroundings};
use crate::pocket::{files, run_to_end};
use crate::simulation::Dice;
use crate::steps::Steps;

/// Of a reply.
const TOKENS_MAX: u32 = 60;

/// How an engine serves them.
#[derive(Clone, Copy, Debug, Default)]
struct Manner {
    kv_cache_type: Option<&'static str>,
    has_draft_model: bool,
    has_lookup: bool,
}

impl Manner {
    fn engine(self, model: ModelFiles) -> Steps<Forward> {
        let draft = self.has_draft_model.then(|| Box::new(files("pocket-draft")));
        let job = LoadModel {
            model: ModelFiles { draft, ..model },
            kv_cache_type: self.kv_cache_type.map(str::to_owned),
            ..LoadModel::default()
        };
        let around =
            Surroundings { seed: 1, prompt_lookup: self.has_lookup, ..Surroundings::default() };
        load::steps(&job, &around, &mut |_, _| {}).unwrap().1
    }
}

/// What a reader got.
#[derive(Clone, Debug, Default, PartialEq)]
struct Reply {
    thinking: String,
    content: String,
    logprobs: Vec<TokenLogprob>,
    end: Option<Result<(FinishReason, u32), String>>,
}

#[derive(Default)]
struct Readers {
    replies: HashMap<RequestId, Reply>,
    slow: HashSet<RequestId>,
}

impl Outbox for Readers {
    fn send(&mut self, id: RequestId, event: Event) {
        let reply = self.replies.entry(id).or_default();
        assert_eq!(reply.end, None, "an event after the last one of {id:?}");
        match event {
            Event::Delta(delta) => {
                reply.thinking += &delta.thinking;
                reply.content += &delta.content;
                reply.logprobs.extend(delta.logprobs);
            }
            Event::Finished(usage) => {
                reply.end = Some(Ok((usage.reason, usage.generated_tokens)));
            }
            Event::Failed(failure) => reply.end = Some(Err(failure.message)),
            Event::PromptRead { .. } | Event::Rendered { .. } => {}
        }
    }

    fn ready(&self, id: RequestId) -> bool {
        !self.slow.contains(&id)
    }
}

/// Nothing, less than a page, more than one, several.
fn system(kind: usize) -> String {
    "You know many things about rivers, trees, towns and birds. ".repeat([0, 2, 7, 25][kind])
}

fn input(dice: &mut Dice) -> Input {
    let question = QUESTIONS[dice.below(QUESTIONS.len())];
    let message = |role, content: String| Message { role, content, ..Message::default() };
    let system = system(dice.below(4));
    if dice.below(6) == 0 {
        return Input::Raw { prompt: format!("{system}{question}") };
    }
    let mut messages = Vec::new();
    if !system.is_empty() {
        messages.push(message(Role::System, system));
    }
    if dice.below(4) == 0 {
        messages.push(message(Role::User, QUESTIONS[dice.below(QUESTIONS.len())].to_owned()));
        messages.push(message(Role::Assistant, "I do not know.".to_owned()));
    }
    messages.push(message(Role::User, question.to_owned()));
    Input::chat(messages)
}

fn format(dice: &mut Dice) -> Format {
    let person = serde_json::json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
        "required": ["name", "age"], "additionalProperties": false});
    match dice.below(10) {
        0 => Format::Json,
        1 => Format::Schema(person),
        2 => Format::Schema(serde_json::json!({"enum": ["red", "green", "blue"]})),
        3 => Format::Regex("[A-Z][a-z ]{5,60}[.]".to_owned()),
        _ => Format::Free,
    }
}

fn options(dice: &mut Dice) -> Options {
    // Without one, the seed depends on the order in which requests came.
    let seed = Some(dice.below(1000) as i64);
    let limit = Options {
        seed,
        num_predict: Some(1 + dice.below(TOKENS_MAX as usize) as i64),
        ..Options::default()
    };
    match dice.below(7) {
        0 | 1 => Options { temperature: Some(0.0), ..limit },
        2 => Options { temperature: Some(1.4), top_p: Some(1.0), ..limit },
        3 => Options { repeat_penalty: Some(1.3), presence_penalty: Some(0.3), ..limit },
        4 => Options { stop: Some(vec![" and".to_owned(), "7".to_owned()]), ..limit },
        5 => Options { min_p: Some(0.05), top_k: Some(7), ..limit },
        _ => limit,
    }
}

/// A function of its number.
fn request(number: u64) -> Request {
    let mut dice = Dice(number);
    let (input, format, options) = (input(&mut dice), format(&mut dice), options(&mut dice));
    let thinks = format == Format::Free && dice.below(3) == 0;
    let some = (dice.below(3) == 0).then(|| dice.below(4) as u8);
    // Where texts may part only log-probabilities tell whether they may; who asks for none is still among the others.
    let most = !number.is_multiple_of(4);
    Request {
        options,
        format,
        think: if thinks { Think::On } else { Think::Off },
        logprobs: if on_cpu() { some } else { most.then_some(5) },
        ..Request::new(RequestId(number), input)
    }
}

fn on_cpu() -> bool {
    mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
    mlx::device() == mlx::Device::Cpu
}

/// Nothing else in the batch, nothing in the tree, no drafts.
fn alone(
    numbers: std::ops::Range<u64>,
    kv_cache_type: Option<&'static str>,
    model: ModelFiles,
) -> Vec<Reply> {
    let mut steps = Manner { kv_cache_type, ..Manner::default() }.engine(model);
    let mut reply = |number| {
        let mut readers = Readers::default();
        steps.submit(request(number), &mut readers);
        run_to_end(&mut steps, &mut readers);
        steps.give_all_back();
        readers.replies.remove(&RequestId(number)).unwrap()
    };
    numbers.map(&mut reply).collect()
}

/// Serves them in a random order of events; who was cancelled.
fn serve(
    steps: &mut Steps<Forward>,
    readers: &mut Readers,
    numbers: std::ops::Range<u64>,
) -> HashSet<RequestId> {
    let mut dice = Dice(!numbers.start);
    let mut cancelled = HashSet::new();
    for number in numbers.clone() {
        steps.submit(request(number), readers);
        for _ in 0..dice.below(7) {
            steps.step(readers);
        }
        let mut some =
            || RequestId(number - dice.below(8.min((number - numbers.start) as usize + 1)) as u64);
        let (victim, slow) = (some(), some());
        let is_done = readers.replies.get(&victim).is_some_and(|reply| reply.end.is_some());
        match number % 6 {
            0 if !is_done => {
                steps.cancel(victim);
                cancelled.insert(victim);
            }
            1 => drop(readers.slow.insert(slow)),
            4 => readers.slow.clear(),
            _ => {}
        }
    }
    readers.slow.clear();
    run_to_end(steps, readers);
    cancelled
}

/// Nothing may be left of those that were served; what they left for others goes.
fn clean_up(steps: &mut Steps<Forward>) {
    assert_eq!(steps.sequences_open(), 0);
    assert_eq!(steps.executor().pages_in_use(), steps.tree().unused());
    steps.give_all_back();
    assert_eq!((steps.executor().pages_in_use(), steps.tree().states()), (0, 0));
    wait_for_rest();
    mlx::memory::clear_cache();
}

/// A GPU lets go of a step some time after it is read, on a thread of its own.
fn wait_for_rest() {
    let bytes = Cell::new(mlx::memory::active_bytes());
    let rests = || {
        std::thread::sleep(Duration::from_millis(10));
        bytes.replace(mlx::memory::active_bytes()) == bytes.get()
    };
    let rested = (0..100).any(|_| on_cpu() || (0..5).all(|_| rests()));
    assert!(rested, "memory does not come to rest");
}

/// `pocket` with weights in f32, in which it then computes.
fn in_f32() -> tempfile::TempDir {
    let (source, folder) = (files("pocket"), tempfile::tempdir().unwrap());
    for (name, path) in &source.files {
        std::fs::copy(path, folder.path().join(name)).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    std::fs::copy(&source.tensors[0], &weights).unwrap();
    widened::widen(&weights);
    folder
}

/// What is computed in bf16, held against f32: how far each position is off alone and in a crowd, and how far these two
/// are from each other. As long as the replies say the same.
#[derive(Default)]
struct Errors {
    alone: Vec<f32>,
    crowd: Vec<f32>,
    apart: Vec<f32>,
}

impl Errors {
    fn add(&mut self, got: &Reply, alone: &Reply, exact: &Reply) {
        self.alone.extend(distances(&alone.logprobs, &exact.logprobs));
        self.crowd.extend(distances(&got.logprobs, &exact.logprobs));
        self.apart.extend(distances(&got.logprobs, &alone.logprobs));
    }

    /// A crowd changes the order of additions, and so which way a value is rounded, not how far: the mean error stays (a
    /// tenth more, and what so few tokens leave to chance), and nobody is further from himself alone than two of the
    /// largest errors.
    fn check(&self, what: &str) {
        let [alone, crowd, apart] =
            [&self.alone, &self.crowd, &self.apart].map(|all| Mean::of(all));
        let tokens = self.alone.len();
        eprintln!("{what}, {tokens} tokens: alone {alone:?}, crowd {crowd:?}, apart {apart:?}");
        let chance = 3.0 * alone.deviation.hypot(crowd.deviation);
        assert!(crowd.mean <= alone.mean * 1.1 + chance, "{what}: a crowd errs more");
        assert!(apart.most <= alone.most * 2.0, "{what}: somebody errs more in a crowd");
    }
}

#[derive(Debug)]
struct Mean {
    mean: f32,
    /// Of the mean.
    deviation: f32,
    most: f32,
}

impl Mean {
    fn of(values: &[f32]) -> Mean {
        assert!(values.len() > 1, "nobody asked for log-probabilities");
        let count = values.len() as f32;
        let mean = values.iter().sum::<f32>() / count;
        let squares: f32 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0) / count).sqrt();
        Mean { mean, deviation, most: values.iter().copied().fold(0.0, f32::max) }
    }
}

/// Served to the end, beside others and alone.
fn assert_same(what: &str, got: &Reply, expected: &Reply) {
    if on_cpu() {
        assert_eq!(got, expected, "{what}");
        return;
    }
    assert_ended(what, got);
    match (&got.end, &expected.end) {
        (Some(Ok(_)), Some(Ok(_))) => {}
        (end, expected) => assert_eq!(end, expected, "{what}"),
    }
    let ids = |reply: &Reply| reply.logprobs.iter().map(|x| x.chosen.id).collect::<Vec<_>>();
    if !ids(got).is_empty() && ids(got) == ids(expected) {
        let texts = |reply: &Reply| [reply.thinking.clone(), reply.content.clone()];
        assert_eq!(texts(got), texts(expected), "{what}: the tokens are the same");
    }
}

/// As far as it came: it was cancelled.
fn assert_begins(what: &str, got: &Reply, expected: &Reply) {
    if on_cpu() {
        let begins = expected.content.starts_with(&got.content)
            && expected.thinking.starts_with(&got.thinking)
            && expected.logprobs.starts_with(&got.logprobs);
        assert!(begins, "{what}: {got:?}, not {expected:?}");
    } else {
        assert_ended(what, got);
    }
}

fn assert_ended(what: &str, got: &Reply) {
    if let Some(Ok((_, tokens))) = &got.end {
        assert!(*tokens <= TOKENS_MAX, "{what}: {tokens} tokens");
    }
}

/// After each quarter of a crowd: what MLX and our pages have, and the whole process. Other tests' is among it.
struct Memory {
    ours: Vec<usize>,
    process: Vec<usize>,
}

/// What the process has in memory, as the system counts it.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Serves them in four parts.
fn check(manner: Manner, numbers: std::ops::Range<u64>) -> Memory {
    let start = Instant::now();
    let expected = alone(numbers.clone(), manner.kv_cache_type, files("pocket"));
    let alone_time = start.elapsed();
    let exact = (!on_cpu()).then(|| {
        let folder = in_f32();
        let model = ModelFiles::of_folder("pocket in f32", folder.path()).unwrap();
        alone(numbers.clone(), manner.kv_cache_type, model)
    });
    let mut errors = Errors::default();
    let start = Instant::now();
    let mut steps = manner.engine(files("pocket"));
    let mut memory = Memory { ours: Vec::new(), process: Vec::new() };
    let (mut served, mut tokens) = (0, 0);
    let quarter = (numbers.end - numbers.start).div_ceil(4);
    for from in numbers.clone().step_by(quarter as usize) {
        let part = from..numbers.end.min(from + quarter);
        let mut readers = Readers::default();
        let cancelled = serve(&mut steps, &mut readers, part.clone());
        for number in part {
            let index = (number - numbers.start) as usize;
            let expected = &expected[index];
            let got = readers.replies.remove(&RequestId(number)).unwrap_or_default();
            let what = format!("{manner:?}, {:?}", request(number));
            if let Some(exact) = &exact {
                errors.add(&got, expected, &exact[index]);
            }
            if cancelled.contains(&RequestId(number)) && got.end.is_none() {
                assert_begins(&what, &got, expected);
            } else {
                assert_same(&what, &got, expected);
                served += 1;
                tokens += got.end.map_or(0, |end| end.map_or(0, |(_, tokens)| tokens));
            }
        }
        assert!(readers.replies.is_empty(), "replies nobody asked for");
        assert!(mlx::memory::active_bytes() > 0, "pages are counted");
        clean_up(&mut steps);
        memory.ours.push(mlx::memory::active_bytes());
        memory.process.push(resident_bytes());
    }
    eprintln!(
        "{manner:?}: {served} of {} replies, {tokens} tokens, alone {alone_time:.1?}, together {:.1?}",
        expected.len(),
        start.elapsed(),
    );
    if exact.is_some() {
        errors.check(&format!("{manner:?}"));
    }
    memory
}

/// So many each.
fn crowds(count: u64) -> Vec<Memory> {
    let q8 = Some("q8_0");
    let manners = [
        Manner::default(),
        Manner { has_draft_model: true, ..Manner::default() },
        Manner { has_lookup: true, ..Manner::default() },
        Manner { kv_cache_type: q8, has_draft_model: true, has_lookup: true },
    ];
    let part = |(part, manner)| check(manner, part * count..(part + 1) * count);
    (0..).zip(manners).map(part).collect()
}

#[test]
fn a_crowd_gets_what_each_would_get_alone() {
    let _ = crowds(12);
}

/// `cargo test --release -p engine --lib a_thousand -- --ignored --nocapture`
#[test]
#[ignore = "minutes; the same with a thousand requests"]
fn a_thousand_requests_get_what_each_would_get_alone() {
    for Memory { ours, process } in crowds(250) {
        eprintln!("bytes after each quarter: {ours:?}, of the process {process:?}");
        assert!(ours.iter().all(|bytes| *bytes == ours[0]), "{ours:?}");
        // Tables and buffers grow to what they need in the first two quarters.
        assert!(process[3] <= process[1] + process[1] / 10, "{process:?}");
    }
}
