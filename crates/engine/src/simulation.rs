//! The step loop under random arrivals, cancellations, slow readers and failing steps, without a model: whatever the
//! order, each reply is the one its prompt has alone, each request gets one last event, and no slot is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use mlx::Edit;
use protocol::{
    Engine, Event, Failure, FailureKind, FinishReason, Format, Input, Options, Outbox, Request,
    RequestId, ToolChoice, Work,
};
use text::Text;
use text::constraint::{Grammar, Vocabulary, Wish};

use crate::executor::Executor;
use crate::forms::Forms;
use crate::sampling::Edits;
use crate::scripted::{self, Moods, Script, ScriptedExecutor, Summary};
use crate::steps::{Settings, Steps};

pub(crate) const CONTEXT: usize = 256;

pub(crate) fn text() -> Rc<Text> {
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
pub(crate) struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (((z ^ (z >> 27)) >> 11) % limit as u64) as usize
    }
}

#[derive(Default)]
pub(crate) struct Readers {
    pub events: HashMap<RequestId, Vec<Event>>,
    pub slow: HashSet<RequestId>,
}

impl Readers {
    pub fn is_done(&self, id: RequestId) -> bool {
        self.events.get(&id).is_some_and(|events| events.last().is_some_and(Event::is_last))
    }

    fn failures(&self) -> HashSet<RequestId> {
        let failed = |events: &Vec<Event>| matches!(events.last(), Some(Event::Failed(_)));
        self.events.iter().filter(|(_, events)| failed(events)).map(|(id, _)| *id).collect()
    }

    fn failure(&self, id: u64) -> &Failure {
        match self.events[&RequestId(id)].last() {
            Some(Event::Failed(failure)) => failure,
            other => panic!("{id} did not fail: {other:?}"),
        }
    }
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

pub(crate) fn request(id: u64, prompt: &str, num_predict: i64, stop: &[&str]) -> Request {
    let stop = (!stop.is_empty()).then(|| stop.iter().map(|stop| (*stop).to_owned()).collect());
    Request {
        options: Options { num_predict: Some(num_predict), stop, ..Options::default() },
        ..Request::raw(RequestId(id), prompt)
    }
}

/// A prompt's.
pub(crate) fn tokens(text: &Text, prompt: &str) -> Vec<u32> {
    let input = Input::Raw { prompt: prompt.to_owned() };
    text.encode_prompt(prompt, text.prompt_kind(&input)).unwrap()
}

pub(crate) fn alone(text: &Text, prompt: &str, num_predict: usize) -> (String, FinishReason) {
    alone_within(text, tokens(text, prompt), num_predict, CONTEXT, None).unwrap()
}

/// What the scripted executor makes of a prompt, computed without any loop; nothing if the prompt fills the context. A full
/// context shifts if it is said how much of it is kept.
pub(crate) fn alone_within(
    text: &Text,
    mut tokens: Vec<u32>,
    num_predict: usize,
    context: usize,
    keep: Option<usize>,
) -> Option<(String, FinishReason)> {
    let room = context.checked_sub(tokens.len()).filter(|room| *room > 0)?;
    let limit = num_predict.min(if keep.is_some() { 10 * context } else { room });
    let mut history = Summary::of(&tokens);
    let mut stream = text.decoder();
    let mut reply = String::new();
    for _ in 0..limit {
        let token = history.next();
        if token == scripted::END {
            return Some((reply + &stream.finish(), FinishReason::Stop));
        }
        tokens.push(token);
        history = history.with(token);
        reply.push_str(&stream.push(token));
        if let Some(keep) = keep.filter(|_| tokens.len() == context) {
            tokens.drain(keep..keep + ((context - keep) / 2).max(1));
            history = Summary::of(&tokens);
        }
    }
    Some((reply + &stream.finish(), FinishReason::Length))
}

pub(crate) fn reply(events: &[Event]) -> (String, Option<FinishReason>) {
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

/// Now and then one of the first `newest + 1` of `count` requests is cancelled, if it is not done.
pub(crate) fn cancel_sometimes(
    (dice, newest, count): (&mut Dice, u64, usize),
    steps: &mut Steps<ScriptedExecutor>,
    readers: &Readers,
    cancelled: &mut HashSet<RequestId>,
) {
    let victim = RequestId(dice.below(count) as u64);
    if dice.below(6) == 0 && victim.0 <= newest && !readers.is_done(victim) {
        steps.cancel(victim);
        cancelled.insert(victim);
    }
}

pub(crate) fn run_to_end(steps: &mut Steps<ScriptedExecutor>, readers: &mut Readers) {
    for _ in 0..100_000 {
        if steps.step(readers) == Work::Idle {
            return;
        }
    }
    panic!("the loop does not come to an end");
}

/// Those that failed at once, for they would never fit.
fn refused(readers: &Readers) -> HashSet<RequestId> {
    let at_once = |events: &Vec<Event>| matches!(&events[..], [Event::Failed(_)]);
    readers.events.iter().filter(|(_, events)| at_once(events)).map(|(id, _)| *id).collect()
}

/// No slot is left, and all pages are the tree's.
#[track_caller]
pub(crate) fn check_pages(steps: &mut Steps<ScriptedExecutor>) {
    assert_eq!((steps.sequences_open(), steps.executor().open_slots()), (0, 0));
    assert_eq!(steps.executor().pages_in_use(), steps.tree().unused());
    steps.give_all_back();
    assert_eq!(
        (steps.executor().pages_in_use(), steps.tree().unused(), steps.tree().states()),
        (0, 0, 0)
    );
}

/// What may happen in a schedule.
#[derive(Clone, Copy, Debug)]
struct Chances {
    script: Script,
    requests: usize,
    cancels: bool,
    slow_readers: bool,
    failures: bool,
    /// Every step that can be is parted.
    is_late: bool,
}

impl Chances {
    fn of(dice: &mut Dice) -> Chances {
        let script = Script {
            page_tokens: [4, 8, 16][dice.below(3)],
            is_recurrent: dice.below(3) == 0,
            window: [None, None, Some(6), Some(20)][dice.below(4)],
            budget_pages: [16, 24, 40, 100_000][dice.below(4)],
            lane_pages: dice.below(2),
            ..Script::default()
        };
        let chances = Chances {
            script,
            requests: 4 + dice.below(12),
            cancels: dice.below(2) == 0,
            slow_readers: dice.below(2) == 0,
            failures: dice.below(3) == 0,
            is_late: false,
        };
        // Rows are dear, so that many a step is parted.
        let row_time = Duration::from_millis([5, 15, 40][dice.below(3)]);
        let moods = [Moods::Steady, Moods::Changing(dice.below(1000) as u64)][dice.below(2)];
        let shares_cores = dice.below(3) > 0;
        let parts = shares_cores && dice.below(4) > 0;
        let script = Script { shares_cores, parts, row_time, moods, ..script };
        Chances { script, is_late: dice.below(4) == 0, ..chances }
    }

    /// Whether nothing is ever given up.
    fn is_roomy(&self) -> bool {
        let Script { budget_pages, is_recurrent, window, .. } = self.script;
        budget_pages > 1000 && !is_recurrent && window.is_none()
    }

    /// Between two tokens, where that can be promised: where a step without prompts takes nearly no time.
    fn gap_max(&self) -> Duration {
        let Script { row_time, parts, moods, .. } = self.script;
        match moods {
            _ if self.is_late || row_time > Duration::from_millis(5) => Duration::MAX,
            Moods::Steady => Duration::from_millis(400),
            // What is left of a step may take twice as long as it did, and so may the last rows.
            Moods::Changing(_) if parts => Duration::from_millis(450),
            Moods::Changing(_) => Duration::MAX,
        }
    }

    /// The longest sequence that there is room for.
    fn context(&self) -> usize {
        let states = if self.script.is_recurrent { 2 * scripted::STATE_PAGES } else { 0 };
        let pages = (self.script.budget_pages - states) / (1 + self.script.lane_pages);
        CONTEXT.min(pages * self.script.page_tokens)
    }
}

/// Prompts that share beginnings, and now and then go on from an earlier reply.
fn prompt(dice: &mut Dice, earlier: &[String]) -> String {
    match dice.below(4) {
        0 if !earlier.is_empty() => {
            let count = 1 + dice.below(4);
            earlier[dice.below(earlier.len())].clone() + &some_words(dice, count)
        }
        1 => WORDS.concat().repeat(2) + &some_words(dice, 2),
        _ => {
            let count = 1 + dice.below(8);
            some_words(dice, count)
        }
    }
}

/// What these prompts and their replies come to if what they share is computed once, but for what is not worth keeping or
/// waiting for, and a row for each reply that ended while it was computed.
fn most_computed(readers: &Readers, mut prompts: Vec<Vec<u32>>) -> usize {
    let replies = readers.events.values().map(|events| match events.last() {
        Some(Event::Finished(usage)) => usage.generated_tokens as usize + 1,
        _ => 0,
    });
    prompts.sort();
    let own = |index: usize| match index {
        0 => prompts[0].len(),
        _ => prompts[index].len() - crate::prefix::shared(&prompts[index - 1], &prompts[index]),
    };
    (0..prompts.len()).map(own).sum::<usize>() + replies.sum::<usize>() + prompts.len() * 8
}

/// What happened in schedules.
#[derive(Clone, Copy, Debug, Default)]
struct Happened {
    /// How often somebody stepped back or began anew.
    back: usize,
    steps: usize,
    /// Of those, how many were parted.
    parted: usize,
}

/// One schedule.
fn play(seed: u64, text: &Rc<Text>, forms: &mut Option<Forms>) -> Happened {
    let mut dice = Dice(seed);
    let chances = Chances::of(&mut dice);
    let executor = ScriptedExecutor::with(chances.script);
    let settings = Settings { running_max: 1 + dice.below(8), ..Settings::new(CONTEXT, 7) };
    let mut steps = Steps::with_forms(executor, Rc::clone(text), forms.take().unwrap(), settings);
    if chances.is_late {
        steps.be_late();
    }
    let mut readers = Readers::default();
    let (mut expected, mut cancelled) = (BTreeMap::new(), HashSet::new());
    let (mut texts, mut prompts, mut shifts) = (Vec::new(), Vec::new(), false);
    for id in 0..chances.requests as u64 {
        let prompt = prompt(&mut dice, &texts);
        let num_predict = [Some(1 + dice.below(30)), None][usize::from(dice.below(3) == 0)];
        let wish = num_predict.map_or(-1, |number| number as i64);
        let keep = (dice.below(8) == 0).then(|| dice.below(9));
        shifts |= keep.is_some();
        let mut request = request(id, &prompt, wish, &[]);
        request.options.num_keep = keep.map(|keep| keep as i64);
        request.options.shift = keep.map(|_| true);
        steps.submit(request, &mut readers);
        let longest = num_predict.unwrap_or(usize::MAX);
        let own = tokens(text, &prompt);
        let reply = alone_within(text, own.clone(), longest, chances.context(), keep);
        prompts.push(own);
        texts.extend(reply.iter().map(|(reply, _)| prompt.clone() + reply));
        expected.insert(RequestId(id), reply);
        if chances.slow_readers && dice.below(3) == 0 {
            readers.slow.insert(RequestId(id));
        }
        if chances.failures && dice.below(6) == 0 {
            let count = Some(dice.below(5));
            match dice.below(3) {
                0 => steps.executor_mut().fail_after = count,
                1 => steps.executor_mut().fail_reading_after = count,
                _ => steps.executor_mut().rows_max = Some(1 + dice.below(10)),
            }
        }
        for _ in 0..dice.below(6) {
            steps.step(&mut readers);
        }
        let victim = RequestId(dice.below(chances.requests) as u64);
        if chances.cancels && dice.below(4) == 0 && victim.0 <= id && !readers.is_done(victim) {
            steps.cancel(victim);
            cancelled.insert(victim);
        }
    }
    run_to_end(&mut steps, &mut readers);
    readers.slow.clear();
    run_to_end(&mut steps, &mut readers);
    let lost = readers.failures();
    for (id, expected) in expected {
        let events = readers.events.get(&id).map_or(&[][..], Vec::as_slice);
        let (got, got_reason) = reply(events);
        match expected {
            None => assert!(matches!(events, [Event::Failed(_)]), "seed {seed}, {id:?}"),
            Some((content, reason)) if cancelled.contains(&id) || lost.contains(&id) => {
                assert!(
                    content.starts_with(&got) && got_reason.is_none(),
                    "seed {seed}, {id:?}: {reason:?}"
                );
            }
            Some((content, reason)) => {
                assert_eq!((got, got_reason), (content, Some(reason)), "seed {seed}, {id:?}");
            }
        }
    }
    let is_plain = !chances.slow_readers && !chances.failures;
    if is_plain {
        let gap = steps.executor().longest_gap;
        let most = chances.gap_max();
        assert!(gap <= most, "seed {seed}: {gap:?} between two tokens, {chances:?}");
    }
    if is_plain && !chances.cancels && !shifts && chances.is_roomy() {
        let most = most_computed(&readers, prompts);
        let computed = steps.executor().computed;
        assert!(computed <= most, "seed {seed}: {computed} tokens computed, not {most}");
    }
    assert!(chances.failures || lost.is_subset(&refused(&readers)), "seed {seed}: {lost:?}");
    check_pages(&mut steps);
    let ScriptedExecutor { opened, steps: count, parted, .. } = *steps.executor();
    *forms = Some(steps.into_forms());
    Happened { back: opened.saturating_sub(chances.requests), steps: count, parted }
}

/// Long prompts beside two replies, on a machine that becomes twice as slow from one step to the next: a step that was
/// planned for a quick one is parted.
#[test]
fn a_machine_that_becomes_slower_keeps_the_promise() {
    let text = text();
    let mut parted = 0;
    for seed in 0..60 {
        let script = Script {
            page_tokens: 64,
            step_time: Duration::from_millis(30),
            row_time: Duration::from_micros(1800),
            history_time: Duration::from_micros(1),
            shares_cores: true,
            parts: true,
            moods: Moods::Changing(seed),
            ..Script::default()
        };
        let executor = ScriptedExecutor::with(script);
        let mut steps = Steps::new(executor, Rc::clone(&text), Settings::new(4096, 7));
        steps.ignore_ends();
        let mut readers = Readers::default();
        for id in 0..2 {
            steps.submit(request(id, "the cat", 2000, &[]), &mut readers);
        }
        (0..20).for_each(|_| assert_eq!(steps.step(&mut readers), Work::More));
        for (id, word) in (2..).zip(["cat ", "mat ", "sea "]) {
            steps.submit(request(id, &word.repeat(400), 1, &[]), &mut readers);
            while !readers.is_done(RequestId(id)) {
                assert_eq!(steps.step(&mut readers), Work::More);
            }
        }
        let gap = steps.executor().longest_gap;
        assert!(gap <= Duration::from_millis(400), "seed {seed}: {gap:?}");
        assert!(!readers.is_done(RequestId(0)) && !readers.is_done(RequestId(1)));
        parted += steps.executor().parted;
    }
    assert!(parted > 100, "only {parted} steps were parted");
}

/// How many steps they took.
fn schedules(seeds: std::ops::Range<u64>) -> usize {
    let text = text();
    let mut forms = Some(Forms::new(&text));
    let mut all = Happened::default();
    for seed in seeds {
        let Happened { back, steps, parted } = play(seed, &text, &mut forms);
        all = Happened {
            back: all.back + back,
            steps: all.steps + steps,
            parted: all.parted + parted,
        };
    }
    assert!(all.back > 100 && all.parted > 100, "nobody ever stepped back: {all:?}");
    all.steps
}

#[test]
fn a_schedule_changes_no_reply() {
    schedules(0..500);
}

/// Each thread plays so many; schedules a second, and microseconds of a step.
fn rate(threads: u64, each: u64) -> (f64, f64) {
    let start = std::time::Instant::now();
    let part = |index: u64| 1_000_000 + each * index..1_000_000 + each * (index + 1);
    let steps: usize = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..threads).map(|index| scope.spawn(move || schedules(part(index)))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let seconds = start.elapsed().as_secs_f64();
    ((threads * each) as f64 / seconds, seconds * 1e6 * threads as f64 / steps as f64)
}

/// A long night: `cargo test --release -p engine --lib many_schedules -- --ignored --nocapture`.
#[test]
#[ignore = "a minute; the same with many more seeds"]
fn many_schedules() {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    for (threads, each) in [(1, 10_000), (threads, 50_000 / threads)] {
        let (schedules, step) = rate(threads, each);
        eprintln!(
            "{schedules:.0} schedules per second on {threads} threads, a step takes {step:.1} µs"
        );
    }
}

#[test]
fn a_failing_step_is_tried_again_and_then_costs_only_its_sequences() {
    let text = text();
    let mut steps =
        Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
    let mut readers = Readers::default();
    let prompt = "the cat sat on a mat";
    let whole = alone(&text, prompt, 20).0;
    // When it is dispatched, and when it is read.
    for id in 1..=2 {
        let executor = steps.executor_mut();
        let failing = match id {
            1 => &mut executor.fail_after,
            _ => &mut executor.fail_reading_after,
        };
        *failing = Some(3);
        steps.submit(request(id, prompt, 20, &[]), &mut readers);
        run_to_end(&mut steps, &mut readers);
        assert_eq!(reply(&readers.events[&RequestId(id)]).0, whole);
    }
    // Row by row it can be computed.
    steps.executor_mut().rows_max = Some(1);
    steps.submit(request(3, "and saw the sea", 20, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    assert_eq!(reply(&readers.events[&RequestId(3)]).0, alone(&text, "and saw the sea", 20).0);
    steps.executor_mut().rows_max = Some(0);
    steps.submit(request(4, prompt, 20, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    assert_eq!(readers.failure(4).kind, FailureKind::NoRoom);
    steps.executor_mut().rows_max = None;
    steps.submit(request(5, prompt, 20, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    assert_eq!(reply(&readers.events[&RequestId(5)]).0, whole);
    check_pages(&mut steps);
}

/// Whoever else is in the step gets his reply, and the engine goes on.
#[test]
fn a_step_without_room_fails_only_those_who_need_it() {
    let text = text();
    let mut steps =
        Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
    let mut readers = Readers::default();
    steps.executor_mut().heavy = tokens(&text, "!").last().copied();
    let prompts = ["the cat sat", "a mat", "the cat sat on a mat and saw! the sea", "and again"];
    for (id, prompt) in (0..).zip(prompts) {
        steps.submit(request(id, prompt, 30, &[]), &mut readers);
        if id == 1 {
            // These two run when the others come.
            (0..4).for_each(|_| assert_eq!(steps.step(&mut readers), Work::More));
        }
    }
    run_to_end(&mut steps, &mut readers);
    assert_eq!(readers.failures(), HashSet::from([RequestId(2)]));
    assert_eq!(readers.failure(2).kind, FailureKind::NoRoom);
    for id in [0, 1, 3] {
        let expected = alone(&text, prompts[id as usize], 30);
        let (said, reason) = reply(&readers.events[&RequestId(id)]);
        assert_eq!((said, reason), (expected.0, Some(expected.1)), "{id}");
    }
    steps.executor_mut().heavy = None;
    steps.submit(request(9, prompts[2], 30, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    assert_eq!(reply(&readers.events[&RequestId(9)]).0, alone(&text, prompts[2], 30).0);
    check_pages(&mut steps);
}

#[test]
fn what_never_fits_is_shortened_or_refused_with_numbers() {
    let text = text();
    let script = Script { budget_pages: 4, ..Script::default() };
    let executor = ScriptedExecutor::with(script);
    let mut steps = Steps::new(executor, Rc::clone(&text), Settings::new(CONTEXT, 7));
    let mut readers = Readers::default();
    steps.ignore_ends();
    steps.submit(request(1, "the cat", -1, &[]), &mut readers);
    steps.submit(request(2, &"the cat ".repeat(20), 1, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    let Some(Event::Finished(usage)) = readers.events[&RequestId(1)].last() else { panic!() };
    assert_eq!(
        (usage.prompt_tokens + usage.generated_tokens, usage.reason),
        (32, FinishReason::Length)
    );
    let failure = readers.failure(2);
    assert_eq!(failure.kind, FailureKind::NoRoom);
    assert!(
        failure.message.contains("room for 32 tokens") && failure.hint.is_some(),
        "{failure:?}"
    );
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let text = text();
    let mut steps =
        Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
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
    let mut steps =
        Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
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
    let mut steps =
        Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
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

/// Words that prompts are made of.
pub(crate) const WORDS: [&str; 6] =
    ["the cat", " sat on", " a mat", " and saw", " the sea", " again"];

pub(crate) fn some_words(dice: &mut Dice, count: usize) -> String {
    (0..count).map(|_| WORDS[dice.below(WORDS.len())]).collect()
}

/// Each of these replies is the one that its prompt has alone, unless it was cancelled.
#[track_caller]
pub(crate) fn check_replies(
    readers: &Readers,
    expected: &BTreeMap<RequestId, (String, FinishReason)>,
    cancelled: &HashSet<RequestId>,
    schedule: impl std::fmt::Display,
) {
    for (id, (content, reason)) in expected.iter().filter(|(id, _)| !cancelled.contains(id)) {
        let (got, got_reason) = reply(&readers.events[id]);
        assert_eq!((&got, got_reason), (content, Some(*reason)), "{schedule}, {id:?}");
    }
}

/// The first is none.
pub(crate) struct AllForms {
    formats: Vec<Format>,
    grammars: Vec<Option<Grammar>>,
}

fn formats() -> Vec<Format> {
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

impl AllForms {
    pub fn new(text: &Text) -> AllForms {
        let vocabulary = Vocabulary::new(text, &[]).unwrap();
        let tool_choice = &ToolChoice::Auto;
        let wish = |format| Wish { format, tools: &[], tool_choice, thinking: None, calls: None };
        let formats = formats();
        let grammars = formats.iter().map(|form| Grammar::compile(&wish(form), &vocabulary));
        let grammars = grammars.map(Result::unwrap).collect();
        AllForms { formats, grammars }
    }

    pub fn count(&self) -> usize {
        self.formats.len()
    }

    pub fn request(&self, id: u64, prompt: &str, num_predict: usize, form: usize) -> Request {
        let format = self.formats[form].clone();
        Request { format, ..request(id, prompt, num_predict as i64, &[]) }
    }

    /// What the scripted executor makes of a prompt and a form, computed without any loop.
    pub fn alone(
        &self,
        text: &Text,
        prompt: &str,
        num_predict: usize,
        form: usize,
    ) -> (String, FinishReason) {
        let Some(grammar) = &self.grammars[form] else { return alone(text, prompt, num_predict) };
        let mut constraint = grammar.start();
        let mut tokens = tokens(text, prompt);
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
}

#[test]
fn forms_are_kept_whoever_else_is_in_the_batch() {
    let text = text();
    let forms = AllForms::new(&text);
    let mut stopped = 0;
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let mut steps =
            Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
        let mut readers = Readers::default();
        let mut expected = BTreeMap::new();
        let mut cancelled = HashSet::new();
        for id in 0..10 {
            let count = 1 + dice.below(8);
            let prompt = some_words(&mut dice, count);
            let (num_predict, form) = (1 + dice.below(60), dice.below(forms.count()));
            steps.submit(forms.request(id, &prompt, num_predict, form), &mut readers);
            expected.insert(RequestId(id), forms.alone(&text, &prompt, num_predict, form));
            for _ in 0..dice.below(6) {
                steps.step(&mut readers);
            }
            cancel_sometimes((&mut dice, id, 10), &mut steps, &readers, &mut cancelled);
        }
        run_to_end(&mut steps, &mut readers);
        check_replies(&readers, &expected, &cancelled, seed);
        let is_done = |id: &RequestId| !cancelled.contains(id);
        let ends = expected
            .iter()
            .filter(|(id, (_, reason))| is_done(id) && *reason == FinishReason::Stop);
        stopped += ends.count();
        assert_eq!(steps.sequences_open(), 0, "seed {seed}");
        check_pages(&mut steps);
    }
    assert!(stopped > 50, "only {stopped} replies came to an end of their own");
}

#[test]
fn a_form_that_cannot_be_kept_is_refused_before_anything_is_computed() {
    let mut steps = Steps::new(ScriptedExecutor::new(), text(), Settings::new(CONTEXT, 7));
    let mut readers = Readers::default();
    let unknown = Format::Schema(serde_json::json!({"not": {"type": "string"}}));
    let asked = Request { format: unknown, ..request(1, "the cat", 10, &[]) };
    steps.submit(asked, &mut readers);
    let required = Request { tool_choice: ToolChoice::Required, ..request(2, "the", 9, &[]) };
    steps.submit(required, &mut readers);
    run_to_end(&mut steps, &mut readers);
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
    let options = |num_predict: usize, penalised: bool| Options {
        num_predict: Some(num_predict as i64),
        presence_penalty: penalised.then_some(0.5),
        frequency_penalty: penalised.then_some(0.25),
        repeat_last_n: Some(LAST as i64),
        ..Options::default()
    };
    let alone = |prompt: &str, num_predict: usize| {
        let mut tokens = tokens(&text, prompt);
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
        let mut steps =
            Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
        let mut readers = Readers::default();
        let mut expected = BTreeMap::new();
        for id in 0..8 {
            let count = 1 + dice.below(8);
            let prompt = some_words(&mut dice, count);
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

#[test]
fn a_reply_that_only_repeats_itself_is_given_up() {
    let text = text();
    let piece = *tokens(&text, " cat").last().unwrap();
    // One token may follow, whatever the model would like.
    let only = Options {
        num_predict: Some(200),
        logit_bias: Some([(piece, 1e9)].into()),
        ..Options::default()
    };
    let mut steps =
        Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(CONTEXT, 7));
    let mut readers = Readers::default();
    let asked = Request { options: only, ..request(1, "the cat", 1, &[]) };
    steps.submit(asked, &mut readers);
    run_to_end(&mut steps, &mut readers);
    let events = &readers.events[&RequestId(1)];
    let Some(Event::Failed(failure)) = events.last() else { panic!("{:?}", events.last()) };
    assert_eq!(failure.message, "prediction aborted, token repeat limit reached");
    let said = reply(events).0;
    let once = text.decoder().push(piece);
    assert_eq!(said.matches(once.trim()).count(), 1 + crate::output::REPEATS_MAX, "{said}");
    assert_eq!(steps.sequences_open(), 0);
}
