//! `run` with a prompt: what is written where, and what an interrupt does.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Home, Server, create, finish, signal, wait};

const WORDS: &str = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima";

#[test]
fn prompts_from_everywhere() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let check = |arguments: &[&str], stdin: &str, stdout: &str| {
        let done = finish(home.command(arguments), stdin);
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), stdout), "{arguments:?} {done}");
        assert_eq!(done.plain_stderr(), "", "{arguments:?}");
    };
    check(&["run", "tiny", "Why?"], "", &format!("{WORDS}\n\n"));
    check(&["run", "tiny", "Why", "is", "it?"], "", &format!("{WORDS}\n\n"));
    check(&["run", "tiny"], "!say from stdin", "from stdin\n\n");
    check(&["run", "tiny", "!say", "last"], "first\n", "last\n\n");
    check(&["run", "tiny"], "", "");
    check(&["run", "tiny", "--keepalive", "-1m", "Why?"], "", &format!("{WORDS}\n\n"));
    let until = home.run(&["ps"]).stdout;
    assert!(until.contains("Forever"), "{until}");
}

#[test]
fn timings_are_told_on_wish() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let done = home.run(&["run", "--verbose", "tiny", "Why?"]);
    assert_eq!((done.code, &done.stdout), (Some(0), &format!("{WORDS}\n\n")));
    let stderr = done.plain_stderr();
    let labels: Vec<&str> =
        stderr.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
    for label in ["total duration", "prompt eval count", "eval count", "eval rate"] {
        assert!(labels.contains(&label), "{label}: {stderr}");
    }
    assert!(stderr.contains("eval count:           12 token(s)\n"), "{stderr}");
}

#[test]
fn a_refusal_is_the_commands_error() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let done = home.run(&["run", "tiny", "--think", "Why?"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{done}");
    let error = "Error: 400 Bad Request: \"tiny\" does not support thinking\n";
    assert_eq!(done.plain_stderr(), error);
    let done = home.run(&["run", "nope", "Why?"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.starts_with("Error: model 'nope:latest' not found\nhint: "), "{done}");
    let done = home.run(&["run", "tiny", "!fail"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{done}");
    assert!(done.plain_stderr().starts_with("Error: "), "{done}");
}

/// Each step of the first request takes 300 ms; were it not cancelled, the twelve steps of the next would take longer
/// than what is allowed here.
#[test]
fn an_interrupt_ends_the_reply_and_the_work() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    let mut command = home.command(&["run", "tiny", "!sleep 300 !long 10000"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    signal(child.id(), Signal::INT);
    let done = wait(child);
    assert_eq!(done.code, Some(0), "{done}");
    let started = Instant::now();
    let next = home.run(&["run", "tiny", "Why?"]);
    assert_eq!(next.stdout, format!("{WORDS}\n\n"));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}
