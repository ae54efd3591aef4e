use super::*;
use protocol::{Input, Message, Options, Role};

#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    /// Events the reader still takes; `None`: all.
    credit: Option<usize>,
}

impl Outbox for Seen {
    fn send(&mut self, _: RequestId, event: Event) {
        self.events.push(event);
    }

    fn ready(&self, _: RequestId) -> bool {
        self.credit.is_none_or(|credit| self.events.len() < credit)
    }
}

fn engine() -> Scripted {
    let info = describe(&LoadModel::default());
    Scripted { info, sequences: Vec::new(), crash: Box::new(|| {}) }
}

fn request(prompt: &str, options: Options) -> Request {
    let message = Message { role: Role::User, content: prompt.to_owned(), ..Message::default() };
    Request { options, ..Request::new(RequestId(1), Input::chat(vec![message])) }
}

fn run(request: Request) -> Vec<Event> {
    let (mut engine, mut seen) = (engine(), Seen::default());
    engine.submit(request, &mut seen);
    while engine.step(&mut seen) == Work::More {}
    seen.events
}

/// Prompt and options to: thinking, content, how it ended.
fn check(prompt: &str, options: Options, expected: (&str, &str, &str)) {
    let events = run(request(prompt, options));
    let (mut thinking, mut content) = (String::new(), String::new());
    for event in &events {
        if let Event::Delta(delta) = event {
            thinking += &delta.thinking;
            content += &delta.content;
        }
    }
    assert_eq!(events.iter().filter(|event| event.is_last()).count(), 1);
    let end = match events.last().unwrap() {
        Event::Finished(usage) => {
            let stop = usage.stop.as_deref().unwrap_or_default();
            format!("{:?} {} {stop}", usage.reason, usage.generated_tokens)
        }
        other => format!("{other:?}"),
    };
    assert_eq!((thinking.as_str(), content.as_str(), end.trim_end()), expected, "{prompt}");
}

#[test]
fn answers() {
    let plain = Options::default;
    let predict = |n| Options { num_predict: Some(n), ..Options::default() };
    let stop = |text: &str| Options { stop: Some(vec![text.to_owned()]), ..Options::default() };
    check("!long 3", plain(), ("", "alpha bravo charlie", "Stop 3"));
    check("hello", predict(2), ("", "alpha bravo", "Length 2"));
    check("!long 2", predict(0), ("", "alpha bravo", "Stop 2"));
    check("!long 2 !think 1", plain(), ("alpha", "alpha bravo", "Stop 3"));
    check("please !say one  two", plain(), ("", "one two", "Stop 2"));
    check("!long 9", stop("vo char"), ("", "alpha bra", "Stop 3 vo char"));
    check("!long 2", stop("bravo nobody"), ("", "alpha bravo", "Stop 2"));
    let narrow = Options { num_ctx: Some(5), ..Options::default() };
    check("!long 9", narrow, ("", "alpha bravo", "Length 2"));
}

#[test]
fn refusals() {
    let failed = |prompt: &str, num_ctx| {
        let options = Options { num_ctx, ..Options::default() };
        match run(request(prompt, options)).pop() {
            Some(Event::Failed(failure)) => failure.message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failed("!fail", None), "the prompt asked for a failure");
    assert!(failed("a b c d", Some(4)).starts_with("input length (5 tokens) exceeds"));
}

#[test]
fn a_rendered_prompt_is_all_that_was_asked_for() {
    let request = Request { render_only: true, ..request("hi", Options::default()) };
    let expected = Event::Rendered { prompt: "user: hi\n".to_owned(), images: 0 };
    assert_eq!(run(request), vec![expected]);
}

#[test]
fn tools_and_logprobs() {
    let request =
        Request { logprobs: Some(2), ..request("!long 1 !tool f {\"a\": 1}", Options::default()) };
    let deltas: Vec<Delta> = run(request)
        .into_iter()
        .filter_map(|event| if let Event::Delta(delta) = event { Some(delta) } else { None })
        .collect();
    assert_eq!(deltas[0].logprobs[0].top.len(), 2);
    assert_eq!(deltas[1].tool_calls[0].name, "f");
    assert_eq!(deltas[1].tool_calls[0].arguments["a"], 1);
}

#[test]
fn a_slow_reader_pauses_and_a_cancelled_request_is_forgotten() {
    let (mut engine, mut seen) = (engine(), Seen { credit: Some(4), ..Seen::default() });
    engine.submit(request("!long 50", Options::default()), &mut seen);
    while engine.step(&mut seen) == Work::More {}
    assert_eq!(seen.events.len(), 4);
    seen.credit = None;
    assert_eq!(engine.step(&mut seen), Work::More);
    assert!(engine.memory().cache_bytes > 0);
    engine.cancel(RequestId(1));
    let before = seen.events.len();
    assert_eq!(engine.step(&mut seen), Work::Idle);
    assert_eq!((seen.events.len(), engine.memory().cache_bytes), (before, 0));
}
