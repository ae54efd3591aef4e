//! Many chats at once, without a model: who shares what, to the row, and who waits how long for whom.

use std::rc::Rc;
use std::time::Duration;

use protocol::{Engine, Event, Options, Request, RequestId, Usage};
use text::Text;

use crate::executor::Executor;
use crate::prefix::shared;
use crate::scripted::{Script, ScriptedExecutor};
use crate::simulation::{
    CONTEXT, Readers, alone, alone_within, check_pages, reply, request, run_to_end, text, tokens,
};
use crate::speculation::Lookup;
use crate::steps::{Settings, Steps};

const CONTEXT_LONG: usize = 5000;

/// So many tokens of one text, or a few fewer.
fn of_tokens(text: &Text, words: &str, count: usize) -> String {
    let each = (tokens(text, &words.repeat(20)).len() - tokens(text, &words.repeat(10)).len()) / 10;
    words.repeat(count / each)
}

fn served(text: &Rc<Text>, script: Script, context: usize) -> Steps<ScriptedExecutor> {
    let executor = ScriptedExecutor::with(script);
    let mut steps = Steps::new(executor, Rc::clone(text), Settings::new(context, 7));
    steps.ignore_ends();
    steps
}

fn usage(readers: &Readers, id: u64) -> &Usage {
    match readers.events[&RequestId(id)].last() {
        Some(Event::Finished(usage)) => usage,
        other => panic!("{id} did not finish: {other:?}"),
    }
}

fn has_begun(readers: &Readers, id: u64) -> bool {
    readers.events.get(&RequestId(id)).is_some_and(|events| !events.is_empty())
}

/// A 0.6B model in 4 bits on two cores.
fn measured() -> Script {
    Script {
        page_tokens: 64,
        step_time: Duration::from_millis(20),
        row_time: Duration::from_micros(1800),
        history_time: Duration::from_nanos(1130),
        ..Script::default()
    }
}

/// One chat runs; seven that begin alike come together.
#[track_caller]
fn check_later_chats(own_tokens: usize, passes: usize, part: f64) {
    let text = text();
    let mut steps = served(&text, measured(), CONTEXT_LONG);
    let mut readers = Readers::default();
    let system = of_tokens(&text, " and saw the sea", 2000);
    let own = of_tokens(&text, " cat", own_tokens - 2);
    let prompt = |id: usize| format!("{system} {id}{own}");
    let prompts: Vec<Vec<u32>> = (0..8).map(|id| tokens(&text, &prompt(id))).collect();
    // Something else was computed before, so the machine is known.
    steps.submit(request(99, &" a mat".repeat(400), 1, &[]), &mut readers);
    run_to_end(&mut steps, &mut readers);
    let before = steps.executor().computed;
    let begin = steps.executor().now();
    steps.submit(request(0, &prompt(0), 120, &[]), &mut readers);
    while !has_begun(&readers, 0) {
        steps.step(&mut readers);
    }
    let first = steps.executor().now() - begin;
    (1..8).for_each(|id| steps.submit(request(id, &prompt(id as usize), 40, &[]), &mut readers));
    let (begin, steps_before) = (steps.executor().now(), steps.executor().steps);
    while (1..8).any(|id| !has_begun(&readers, id)) {
        steps.step(&mut readers);
    }
    let slowest = steps.executor().now() - begin;
    // One step was under way when they came, and one is when the last is told.
    let took = steps.executor().steps - steps_before - 1;
    run_to_end(&mut steps, &mut readers);
    let begins = shared(&prompts[0], &prompts[1]);
    let pairs = (0..8).flat_map(|a| (0..a).map(move |b| (a, b)));
    assert!(pairs.into_iter().all(|(a, b)| shared(&prompts[a], &prompts[b]) == begins));
    assert!((1980..=2001).contains(&begins) && !begins.is_multiple_of(64), "{begins}");
    let own: usize = prompts.iter().map(|prompt| prompt.len() - begins).sum();
    // The last token of a reply is not computed.
    assert_eq!(steps.executor().computed - before, begins + own + 119 + 7 * 39);
    for id in 1..8 {
        assert_eq!(usage(&readers, id).cached_tokens as usize, begins);
    }
    let gap = steps.executor().longest_gap;
    assert!(gap <= Duration::from_millis(400), "{gap:?} between two tokens");
    assert_eq!(took, passes, "{slowest:?} after {first:?}");
    let slowest = slowest.as_secs_f64() / first.as_secs_f64();
    assert!(slowest <= part, "{:.1} %", 100.0 * slowest);
    check_pages(&mut steps);
}

#[test]
fn later_chats_compute_only_what_is_their_own() {
    check_later_chats(16, 2, 0.1);
    check_later_chats(40, 5, 0.22);
}

/// Requests that come together begin alike, and nobody has computed that before.
#[test]
fn a_shared_beginning_is_computed_once() {
    let text = text();
    let beginnings =
        ["the cat sat on a mat and saw the sea again ".repeat(3), "the cat sat ".repeat(4)];
    for (is_recurrent, shared_text) in
        [false, true].into_iter().flat_map(|kind| beginnings.iter().map(move |text| (kind, text)))
    {
        let script = Script { is_recurrent, ..Script::default() };
        let mut steps = served(&text, script, CONTEXT);
        let mut readers = Readers::default();
        let ends = ["one", "two words", "three words more", "four of them, and"];
        let mut prompts = Vec::new();
        for (id, end) in ends.iter().enumerate() {
            let prompt = format!("{shared_text}{end}");
            steps.submit(request(id as u64, &prompt, 1, &[]), &mut readers);
            prompts.push(tokens(&text, &prompt));
        }
        run_to_end(&mut steps, &mut readers);
        let begins = prompts[1..].iter().map(|other| shared(&prompts[0], other)).min().unwrap();
        let own: usize = prompts.iter().map(|tokens| tokens.len() - begins).sum();
        // Where only states can be taken up, those that follow compute what is left of the last shared page.
        let rest = if is_recurrent { 3 * (begins % 8) } else { 0 };
        assert_eq!(steps.executor().computed, begins + own + rest);
        check_pages(&mut steps);
    }
}

/// What a reply that runs has said so far is a beginning for others too, and neither disturbs the other.
#[test]
fn a_running_reply_is_taken_up_where_it_is() {
    let text = text();
    let mut taken_up = 0;
    for count in 4..40 {
        let executor = ScriptedExecutor::new();
        let mut steps = Steps::new(executor, Rc::clone(&text), Settings::new(CONTEXT, 7));
        let mut readers = Readers::default();
        let prompt = "the cat sat on a mat";
        steps.submit(request(0, prompt, 60, &[]), &mut readers);
        for _ in 0..count {
            steps.step(&mut readers);
        }
        let is_running = !readers.is_done(RequestId(0));
        let longer = format!("{prompt}{} and saw", reply(&readers.events[&RequestId(0)]).0);
        steps.submit(request(1, &longer, 20, &[]), &mut readers);
        run_to_end(&mut steps, &mut readers);
        for (id, prompt, length) in [(0, prompt, 60), (1, &longer, 20)] {
            let (expected, _) = alone(&text, prompt, length);
            assert_eq!(reply(&readers.events[&RequestId(id)]).0, expected, "{id} after {count}");
        }
        // What was said may be other tokens when it is read as a prompt.
        let said = [tokens(&text, prompt), generated(&text, prompt, count)].concat();
        let most = shared(&said, &tokens(&text, &longer));
        let cached = usage(&readers, 1).cached_tokens as usize;
        if is_running {
            // The last one was told and is not computed yet, or the one before.
            assert!((most - 2..=most).contains(&cached), "{cached} of {most} after {count}");
            taken_up += 1;
        }
        check_pages(&mut steps);
    }
    assert!(taken_up > 10, "{taken_up}");
}

/// The first tokens of a reply, whatever ends it.
fn generated(text: &Text, prompt: &str, count: usize) -> Vec<u32> {
    let mut all = tokens(text, prompt);
    let prompt_tokens = all.len();
    (0..count).for_each(|_| all.push(crate::scripted::next(&all)));
    all.split_off(prompt_tokens)
}

/// A context that is full goes on without its oldest part if that was asked, and is an end otherwise.
#[test]
fn a_full_context_shifts_where_it_may() {
    const NARROW: usize = 40;
    let text = text();
    let prompts = ["the cat sat on a mat", "and saw the sea", "again", "a mat and a cat"];
    let mut longer = 0;
    for (is_recurrent, drafts, keep) in [
        (false, false, 4),
        (false, true, 0),
        (true, false, 4),
        (false, true, 30),
        (false, false, -1),
    ] {
        let script = Script { is_recurrent, ..Script::default() };
        let executor = ScriptedExecutor::with(script);
        let mut steps = Steps::new(executor, Rc::clone(&text), Settings::new(NARROW, 7));
        if drafts {
            steps.add_drafter(Lookup::default());
        }
        let mut readers = Readers::default();
        let ask = |id: u64, shift| {
            let options = Options {
                shift,
                num_keep: Some(keep).filter(|keep| *keep != 4),
                num_predict: Some(100).filter(|_| id % 4 != 3),
                ..Options::default()
            };
            Request { options, ..request(id, prompts[id as usize % 4], 1, &[]) }
        };
        for id in 0..4 {
            steps.submit(ask(id, Some(true)), &mut readers);
            steps.submit(ask(4 + id, [None, Some(false)][id as usize % 2]), &mut readers);
        }
        run_to_end(&mut steps, &mut readers);
        for id in 0..8 {
            let prompt = prompts[id as usize % 4];
            let prompt_tokens = tokens(&text, prompt).len();
            let kept = usize::try_from(keep).unwrap_or(prompt_tokens).min(NARROW - 1);
            let length = if id % 4 == 3 { usize::MAX } else { 100 };
            let kept = Some(kept).filter(|_| id < 4);
            let expected =
                alone_within(&text, tokens(&text, prompt), length, NARROW, kept).unwrap();
            let (said, reason) = reply(&readers.events[&RequestId(id)]);
            assert_eq!((said, reason), (expected.0, Some(expected.1)), "{id}, {keep}");
            let usage = usage(&readers, id);
            assert_eq!(usage.prompt_tokens as usize, prompt_tokens);
            assert!(id < 4 || (usage.generated_tokens as usize) <= NARROW - prompt_tokens);
            longer += usize::from(usage.generated_tokens as usize > NARROW);
        }
        check_pages(&mut steps);
    }
    assert!(longer > 5, "{longer}");
}

/// Of the readers of running replies nobody waits longer than promised for his next token, whoever comes.
#[test]
fn a_long_prompt_does_not_stop_running_replies() {
    let text = text();
    let context = 5000;
    let mut steps =
        Steps::new(ScriptedExecutor::new(), Rc::clone(&text), Settings::new(context, 7));
    let mut readers = Readers::default();
    steps.ignore_ends();
    for id in 0..2 {
        steps.submit(request(id, ["the cat", "a mat"][id as usize], 400, &[]), &mut readers);
    }
    for _ in 0..30 {
        steps.step(&mut readers);
    }
    let alone = steps.executor().now();
    steps.submit(request(2, &" and saw the sea".repeat(500), 1, &[]), &mut readers);
    while !readers.is_done(RequestId(2)) {
        steps.step(&mut readers);
    }
    let took = steps.executor().now() - alone;
    let Some(Event::Finished(usage)) = readers.events[&RequestId(2)].last() else { panic!() };
    let script = Script::default();
    let chunks = usage.prompt_tokens.div_ceil(2048);
    let by_itself = script.row_time * usage.prompt_tokens + script.step_time * chunks;
    assert!(
        steps.executor().longest_gap <= Duration::from_millis(400),
        "{:?}",
        steps.executor().longest_gap
    );
    assert!(took <= by_itself.mul_f64(1.15), "{took:?} instead of {by_itself:?}");
    assert!(!readers.is_done(RequestId(0)), "nobody was running");
}
