//! The step loop with drafters of every luck: each reply is the one its prompt has alone, whoever drafts and whoever else
//! is in the batch, and time is won or at least not lost.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use protocol::{Engine, Event, RequestId};

use crate::scripted::{self, Script, ScriptedExecutor};
use crate::simulation::{
    AllForms, CONTEXT, Dice, Readers, alone, cancel_sometimes, check_pages, check_replies, reply,
    request, run_to_end, some_words, text,
};
use crate::speculation::{Ask, Drafter, Lookup, ModelDrafter};
use crate::steps::{Settings, Steps};

/// Knows what the scripted model will say, and says it so often in a hundred.
struct Guesser {
    dice: Dice,
    luck: usize,
    guesses: Rc<Cell<usize>>,
}

impl Guesser {
    fn new(seed: u64, luck: usize) -> Guesser {
        Guesser { dice: Dice(seed), luck, guesses: Rc::default() }
    }
}

impl Drafter for Guesser {
    fn propose(&mut self, asks: &[Ask<'_>]) -> Vec<Vec<u32>> {
        let guess = |ask: &Ask<'_>| {
            let mut tokens = ask.tokens.to_vec();
            self.guesses.set(self.guesses.get() + ask.depth);
            for _ in 0..ask.depth {
                let right = self.dice.below(100) < self.luck;
                let next = scripted::next(&tokens);
                tokens.push(if right { next } else { 1 + (next + 1) % 400 });
            }
            tokens.split_off(ask.tokens.len())
        };
        asks.iter().map(guess).collect()
    }

    fn forget(&mut self, _: RequestId) {}
}

fn steps() -> Steps<ScriptedExecutor> {
    Steps::new(ScriptedExecutor::new(), text(), Settings::new(CONTEXT, 7))
}

/// With plenty of memory, or so little that sequences step back.
fn executor(dice: &mut Dice) -> ScriptedExecutor {
    let budget_pages = [100_000, 80][dice.below(2)];
    ScriptedExecutor::with(Script { budget_pages, ..Script::default() })
}

#[test]
fn drafts_change_no_reply() {
    let text = text();
    let forms = AllForms::new(&text);
    let guesses = Rc::default();
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut steps =
            Steps::new(executor(&mut dice), Rc::clone(&text), Settings::new(CONTEXT, 7));
        if dice.below(3) > 0 {
            steps.add_drafter(Lookup::default());
        }
        match dice.below(3) {
            0 => steps.add_drafter(ModelDrafter::new(ScriptedExecutor::new(), CONTEXT)),
            _ => {
                let luck = [0, 30, 70, 95, 100][dice.below(5)];
                let guesser = Guesser::new(seed + 1, luck);
                steps.add_drafter(Guesser { guesses: Rc::clone(&guesses), ..guesser });
            }
        }
        let mut readers = Readers::default();
        let mut expected = BTreeMap::new();
        let mut cancelled = HashSet::new();
        for id in 0..8 {
            let count = 1 + dice.below(12);
            let prompt = some_words(&mut dice, count);
            let num_predict = 1 + dice.below(60);
            // Forms are slow to simulate.
            let form = if seed % 8 == 0 { dice.below(forms.count()) } else { 0 };
            let mut asked = forms.request(id, &prompt, num_predict, form);
            if dice.below(4) == 0 {
                asked.options.draft_num_predict = Some(dice.below(4) as i64);
            }
            steps.submit(asked, &mut readers);
            expected.insert(RequestId(id), forms.alone(&text, &prompt, num_predict, form));
            if dice.below(5) == 0 {
                readers.slow.insert(RequestId(id));
            }
            for _ in 0..dice.below(12) {
                steps.step(&mut readers);
            }
            cancel_sometimes((&mut dice, id, 8), &mut steps, &readers, &mut cancelled);
        }
        run_to_end(&mut steps, &mut readers);
        readers.slow.clear();
        run_to_end(&mut steps, &mut readers);
        check_replies(&readers, &expected, &cancelled, seed);
        check_pages(&mut steps);
    }
    assert!(guesses.get() > 10_000, "only {} tokens were drafted", guesses.get());
}

#[test]
fn a_stop_string_in_a_draft_ends_the_reply_before_it() {
    let text = text();
    let (whole, _) = alone(&text, "the cat", 40);
    for at in (0..whole.chars().count()).step_by(3) {
        let begin = whole.char_indices().nth(at).unwrap().0;
        let stop: String = whole[begin..].chars().take(3).collect();
        let mut steps = steps();
        steps.add_drafter(Guesser::new(1, 100));
        let mut readers = Readers::default();
        steps.submit(request(1, "the cat", 40, &[&stop]), &mut readers);
        run_to_end(&mut steps, &mut readers);
        let (got, _) = reply(&readers.events[&RequestId(1)]);
        assert_eq!(got, whole[..whole.find(&stop).unwrap()]);
    }
}

/// The time of some long replies with drafts, in that of the same without.
fn pace(luck: Option<usize>, sequences: u64) -> f64 {
    let mut steps = steps();
    steps.ignore_ends();
    if let Some(luck) = luck {
        steps.add_drafter(Guesser::new(3, luck));
    }
    let mut readers = Readers::default();
    for id in 0..6 * sequences {
        let prompt = "the cat ".repeat(1 + id as usize % 7);
        steps.submit(request(id, &prompt, 200, &[]), &mut readers);
        if (id + 1) % sequences == 0 {
            run_to_end(&mut steps, &mut readers);
        }
    }
    assert!(readers.events.values().all(|events| events.last().is_some_and(Event::is_last)));
    crate::executor::Executor::now(steps.executor()).as_secs_f64()
}

#[test]
fn bad_drafts_cost_nearly_nothing_and_good_ones_save_time() {
    for sequences in [1, 4] {
        let plain = pace(None, sequences);
        assert!(plain > Duration::from_secs(10).as_secs_f64());
        for luck in [0, 10] {
            let with = pace(Some(luck), sequences);
            assert!(plain / with >= 0.97, "{sequences} sequences, {luck} %: {plain} s, {with} s");
        }
        let with = pace(Some(95), sequences);
        assert!(plain / with >= 1.3, "{sequences} sequences: {plain} s, {with} s");
    }
}
