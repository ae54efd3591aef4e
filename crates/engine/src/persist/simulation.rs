//! The step loop with a disk under it: what one process computed the next one finds, whatever it was asked in between and
//! whatever happened to the files, and no reply depends on it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use protocol::{Engine, Event, ModelFiles, RequestId};

use crate::persist::{Disk, DiskCache, Identity};
use crate::scripted::{Script, ScriptedExecutor};
use crate::simulation::{
    CONTEXT, Dice, Readers, WORDS, alone, check_pages, check_replies, reply, request, run_to_end,
    text,
};
use crate::steps::{Settings, Steps};

const FIRST: &str = "the cat sat on a mat and saw the sea again and again";

/// A process that begins.
fn start(folder: &Path, script: Script, bytes_max: u64) -> Steps<ScriptedExecutor> {
    let cache = DiskCache { folder: folder.to_owned(), bytes_max };
    let identity = Identity::new(&ModelFiles::default(), "scripted");
    let disk = Disk::open(&cache, &identity, script.page_tokens).unwrap();
    let executor = ScriptedExecutor::with(script);
    let mut steps = Steps::new(executor, text(), Settings::new(CONTEXT, 7));
    steps.keep_on(disk);
    steps
}

/// The reply, the prompt's tokens, and how many of them were not computed.
fn ask(steps: &mut Steps<ScriptedExecutor>, prompt: &str) -> (String, usize, usize) {
    let mut readers = Readers::default();
    steps.submit(request(1, prompt, 20, &[]), &mut readers);
    run_to_end(steps, &mut readers);
    let events = &readers.events[&RequestId(1)];
    let Some(Event::Finished(usage)) = events.last() else { panic!("{events:?}") };
    (reply(events).0, usage.prompt_tokens as usize, usage.cached_tokens as usize)
}

fn check_restart(script: Script) {
    let folder = tempfile::tempdir().unwrap();
    let mut steps = start(folder.path(), script, u64::MAX);
    let (said, first_tokens, cached) = ask(&mut steps, FIRST);
    assert_eq!(cached, 0);
    // A process that ends writes what it has.
    drop(steps);
    let second = format!("{FIRST}{said} and then");
    let mut steps = start(folder.path(), script, u64::MAX);
    let (_, tokens, cached) = ask(&mut steps, &second);
    // As if it had not ended, but for what is computed rather than read.
    let known = cached_without_restart(script, &second);
    assert!(cached + 8 > known && known + 8 > first_tokens, "{cached} of {known}");
    assert!(cached < tokens);
    assert_eq!(steps.executor().computed, tokens - cached + reply_rows(&second));
    check_pages(&mut steps);
    // And after that, all of it.
    drop(steps);
    let (_, tokens, cached) = ask(&mut start(folder.path(), script, u64::MAX), &second);
    assert!(cached + 8 >= tokens, "{cached} of {tokens}");
    // Somebody else goes another way, in the middle of a page.
    let half: String = said.chars().take(said.chars().count() / 2).collect();
    let other = FIRST.to_owned() + &half;
    let known = cached_without_restart(script, &other);
    let (_, _, cached) = ask(&mut start(folder.path(), script, u64::MAX), &other);
    assert!(cached + script.page_tokens > known, "{cached} of {known}");
    assert!(script.is_recurrent || cached + 8 > known, "{cached} of {known}");
}

/// What is known of a prompt when [`FIRST`] was answered by the same process.
fn cached_without_restart(script: Script, prompt: &str) -> usize {
    let executor = ScriptedExecutor::with(script);
    let mut steps = Steps::new(executor, text(), Settings::new(CONTEXT, 7));
    ask(&mut steps, FIRST);
    ask(&mut steps, prompt).2
}

/// Rows computed for the reply to this prompt.
fn reply_rows(prompt: &str) -> usize {
    let mut steps = Steps::new(ScriptedExecutor::new(), text(), Settings::new(CONTEXT, 7));
    let (_, tokens, _) = ask(&mut steps, prompt);
    steps.executor().computed - tokens
}

#[test]
fn a_restarted_process_goes_on_where_the_last_one_was() {
    check_restart(Script::default());
    check_restart(Script { is_recurrent: true, ..Script::default() });
    check_restart(Script { budget_pages: 40, ..Script::default() });
    for page_tokens in [16, 32] {
        check_restart(Script { page_tokens, ..Script::default() });
        check_restart(Script { page_tokens, is_recurrent: true, ..Script::default() });
        check_restart(Script { page_tokens, window: Some(20), ..Script::default() });
    }
}

#[test]
fn what_is_said_is_written_while_the_process_lives() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script { page_tokens: 32, ..Script::default() };
    let mut steps = start(folder.path(), script, u64::MAX);
    let (_, first_tokens, _) = ask(&mut steps, FIRST);
    steps.flush_pages();
    let (_, _, cached) = ask(&mut start(folder.path(), script, u64::MAX), FIRST);
    assert!(cached + 8 >= first_tokens - 1, "{cached} of {first_tokens}");
}

/// The folder goes away, so nothing can be written, or is full from the start.
#[test]
fn a_disk_that_takes_nothing_costs_no_reply() {
    let text = text();
    for bytes_max in [u64::MAX, 1] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("pages");
        let mut steps = start(&folder, Script::default(), bytes_max);
        for (turn, prompt) in [FIRST, "the sea again", FIRST, "a mat"].into_iter().enumerate() {
            let (said, ..) = ask(&mut steps, prompt);
            assert_eq!(said, alone(&text, prompt, 20).0);
            steps.flush_pages();
            if turn == 1 && bytes_max == u64::MAX {
                std::fs::remove_dir_all(&folder).unwrap();
                std::fs::write(&folder, "no folder").unwrap();
            }
        }
        check_pages(&mut steps);
    }
}

/// Restarts, damaged files, a small disk and a small memory.
#[test]
fn a_disk_changes_no_reply() {
    let text = text();
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let folder = tempfile::tempdir().unwrap();
        let script = Script {
            page_tokens: [8, 16, 32][dice.below(3)],
            is_recurrent: dice.below(3) == 0,
            window: [None, None, Some(20)][dice.below(3)],
            budget_pages: [100_000, 90][dice.below(2)],
            ..Script::default()
        };
        let bytes_max = [u64::MAX, 5_000, 0][dice.below(3)];
        for process in 0..3 {
            let mut steps = start(folder.path(), script, bytes_max);
            let mut readers = Readers::default();
            let mut expected = BTreeMap::new();
            for id in 0..6 {
                let prompt: String = (0..1 + dice.below(12))
                    .map(|_| WORDS[dice.below(2 + seed as usize % 5)])
                    .collect();
                let num_predict = 1 + dice.below(40);
                steps.submit(request(id, &prompt, num_predict as i64, &[]), &mut readers);
                expected.insert(RequestId(id), alone(&text, &prompt, num_predict));
                for _ in 0..dice.below(12) {
                    steps.step(&mut readers);
                }
            }
            let cancelled = RequestId(dice.below(6) as u64);
            steps.cancel(cancelled);
            run_to_end(&mut steps, &mut readers);
            let schedule = format!("{seed}, process {process}");
            check_replies(&readers, &expected, &HashSet::from([cancelled]), schedule);
            check_pages(&mut steps);
            drop(steps);
            if dice.below(2) == 0 {
                damage(folder.path(), &mut dice);
            }
        }
    }
}

/// Does something to one of the files.
fn damage(folder: &Path, dice: &mut Dice) {
    let models = std::fs::read_dir(folder).unwrap().map(|model| model.unwrap().path());
    let files = models.flat_map(|model| std::fs::read_dir(model).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    if files.is_empty() {
        return;
    }
    let path = &files[dice.below(files.len())];
    let mut bytes = std::fs::read(path).unwrap();
    let at = dice.below(bytes.len());
    match dice.below(3) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << dice.below(8),
        _ => return std::fs::remove_file(path).unwrap(),
    }
    std::fs::write(path, bytes).unwrap();
}
