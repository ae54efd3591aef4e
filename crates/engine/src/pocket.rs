//! The step loop with the trained model that comes with the program: what is promised about batches and shared memory
//! holds with real arithmetic too.

use std::collections::HashMap;
use std::path::Path;

use protocol::{
    Engine, Event, Input, LoadModel, Message, ModelFiles, Options, Outbox, Request, RequestId,
    Role, Think, Usage, Work,
};

use crate::executor::Executor;
use crate::forward::Forward;
use crate::load;
use crate::steps::Steps;

/// A model that comes with the program.
pub(crate) fn files(name: &str) -> ModelFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name);
    ModelFiles::of_folder(name, &folder).unwrap()
}

fn pocket() -> Steps<Forward> {
    let job = LoadModel { model: files("pocket"), ..LoadModel::default() };
    load::steps(&job, &load::Surroundings { seed: 1, ..Default::default() }, &mut |_, _| {})
        .unwrap()
        .1
}

#[derive(Default)]
struct Readers {
    texts: HashMap<RequestId, String>,
    usages: HashMap<RequestId, Usage>,
}

impl Outbox for Readers {
    fn send(&mut self, id: RequestId, event: Event) {
        match event {
            Event::Delta(delta) => *self.texts.entry(id).or_default() += &delta.content,
            Event::Finished(usage) => drop(self.usages.insert(id, usage)),
            Event::Failed(failure) => panic!("{id:?}: {failure}"),
            Event::PromptRead { .. } | Event::Rendered { .. } => {}
        }
    }

    fn ready(&self, _: RequestId) -> bool {
        true
    }
}

fn message(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned(), ..Message::default() }
}

fn chat(id: u64, messages: Vec<Message>, num_predict: i64) -> Request {
    Request {
        options: Options {
            temperature: Some(0.0),
            num_predict: Some(num_predict),
            ..Options::default()
        },
        think: Think::Off,
        ..Request::new(RequestId(id), Input::chat(messages))
    }
}

pub(crate) fn run_to_end(steps: &mut Steps<Forward>, readers: &mut dyn Outbox) {
    while steps.step(readers) == Work::More {}
}

/// SplitMix64.
fn dice(state: &mut u64, limit: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((z ^ (z >> 27)) >> 11) % limit
}

const QUESTIONS: [&str; 6] = [
    "What is the capital of France?",
    "What is 17 plus 25?",
    "Sort these words: pear, apple, fig.",
    "Spell the word garden.",
    "How do I list my models?",
    "Write the numbers from one to ten.",
];

#[test]
fn who_else_is_there_changes_no_reply() {
    let alone: Vec<String> = QUESTIONS
        .iter()
        .map(|question| {
            let mut readers = Readers::default();
            let mut steps = pocket();
            steps.submit(chat(0, vec![message(Role::User, question)], 40), &mut readers);
            run_to_end(&mut steps, &mut readers);
            readers.texts.remove(&RequestId(0)).unwrap()
        })
        .collect();
    for (seed, is_late) in (0..6).flat_map(|seed| [(seed, false), (seed, true)]) {
        let (mut state, mut readers, mut steps) = (seed, Readers::default(), pocket());
        let (mut asked, mut parted) = (Vec::new(), 0);
        if is_late {
            steps.be_late();
        }
        for id in 0..12 {
            let index = dice(&mut state, QUESTIONS.len() as u64) as usize;
            asked.push(index);
            let messages = vec![message(Role::User, QUESTIONS[index])];
            steps.submit(chat(id, messages, 40), &mut readers);
            for _ in 0..dice(&mut state, 12) {
                steps.step(&mut readers);
                parted += usize::from(steps.is_parted());
            }
        }
        run_to_end(&mut steps, &mut readers);
        let is_parted = is_late && steps.executor().can_part();
        assert!(parted > 0 || !is_parted, "seed {seed}: no step was parted");
        for (id, index) in asked.into_iter().enumerate() {
            let got = &readers.texts[&RequestId(id as u64)];
            assert_eq!(got, &alone[index], "seed {seed}, {id}: {}", QUESTIONS[index]);
        }
        assert_eq!(steps.executor().pages_in_use(), steps.tree().unused(), "seed {seed}");
        steps.give_all_back();
        assert_eq!(steps.executor().pages_in_use(), 0, "seed {seed}");
    }
}

#[test]
fn a_conversation_computes_only_what_is_new() {
    let mut steps = pocket();
    let mut readers = Readers::default();
    let mut messages = vec![message(Role::System, "You answer in one short sentence.")];
    let mut known = 0;
    for (turn, question) in QUESTIONS[..4].iter().enumerate() {
        let id = RequestId(turn as u64);
        messages.push(message(Role::User, question));
        steps.submit(chat(turn as u64, messages.clone(), 60), &mut readers);
        run_to_end(&mut steps, &mut readers);
        messages.push(message(Role::Assistant, &readers.texts[&id]));
        let usage = &readers.usages[&id];
        // The reply's thoughts, or their empty place, are not repeated: from there on it is computed again.
        let new = usage.prompt_tokens - usage.cached_tokens;
        assert!(usage.cached_tokens + 16 >= known, "turn {turn}: {usage:?} after {known}");
        assert!(turn == 0 || new < usage.prompt_tokens / 2 || new < 80, "turn {turn}: {usage:?}");
        known = usage.prompt_tokens;
    }
}

#[test]
fn chats_hold_what_they_share_once() {
    let mut steps = pocket();
    let mut readers = Readers::default();
    let system = "You know many things about rivers, trees, towns and birds. ".repeat(60);
    for id in 0..8 {
        let question = QUESTIONS[id as usize % QUESTIONS.len()];
        let messages = vec![message(Role::System, &system), message(Role::User, question)];
        steps.submit(chat(id, messages, 20), &mut readers);
    }
    let mut most = 0;
    while steps.step(&mut readers) == Work::More {
        most = most.max(steps.executor().pages_in_use());
    }
    let usages: Vec<&Usage> = (0..8).map(|id| &readers.usages[&RequestId(id)]).collect();
    let page = steps.executor().page_tokens() as u32;
    let prompt = usages[0].prompt_tokens;
    assert!(prompt > 8 * page, "{prompt} tokens are too few to tell");
    // Only the first computes it; the others start on its pages.
    assert_eq!(usages.iter().filter(|usage| usage.cached_tokens == 0).count(), 1);
    assert!(usages.iter().filter(|usage| usage.cached_tokens + 2 * page > prompt).count() == 7);
    // Each has its own last page, the copy of it, and the next.
    assert!(most <= (prompt / page) as usize + 8 * 3, "{most} pages for {prompt} tokens");
    steps.give_all_back();
    assert_eq!(steps.executor().pages_in_use(), 0);
}
