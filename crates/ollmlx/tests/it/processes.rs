//! The server's life and its runners': signals, crashes, ports.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Home, Server, create, is_running, signal, until, wait};

#[test]
fn a_port_in_use() {
    let mut home = Home::new();
    let server = Server::start(&mut home);
    let done = home.run(&["serve"]);
    let error = format!("Error: listen tcp {}: bind: address already in use\n", server.address);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""));
    assert!(done.stderr.contains(&error), "{done}");
    assert!(done.stderr.contains("hint: a server runs there already"), "{done}");
}

#[test]
fn a_signal_ends_server_and_runners() {
    for wish in [Signal::INT, Signal::TERM] {
        let mut home = Home::new();
        let mut server = Server::start(&mut home);
        create(&home, "tiny");
        assert_eq!(home.run(&["run", "tiny", "Why?"]).code, Some(0));
        let runners = server.runners();
        assert_eq!(runners.len(), 1, "{runners:?}");
        signal(server.pid(), wish);
        let status = server.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", server.log());
        assert!(!is_running(runners[0]), "the runner outlived its server");
    }
}

/// The runner is in the middle of a step that takes a minute.
#[test]
fn a_second_signal_ends_the_server_at_once() {
    let mut home = Home::new();
    let mut server = Server::start(&mut home);
    create(&home, "tiny");
    let mut command = home.command(&["run", "tiny", "!hang"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    until("the request runs", || server.runners().len() == 1);
    let runners = server.runners();
    signal(server.pid(), Signal::INT);
    until("it was heard", || server.log().contains("once more ends at once"));
    let started = Instant::now();
    signal(server.pid(), Signal::INT);
    let status = server.child.wait().unwrap();
    // Ending in order may win by a hair where the first signal's work was done already.
    assert!([Some(130), Some(0)].contains(&status.code()), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    until("the runner has ended", || !is_running(runners[0]));
    let _ = child.kill();
    wait(child);
}

#[test]
fn a_reply_under_way_ends_with_the_server() {
    let mut home = Home::new();
    let mut server = Server::start(&mut home);
    create(&home, "tiny");
    let mut command = home.command(&["run", "tiny", "!sleep 50 !long 10000"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    signal(server.pid(), Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0), "{}", server.log());
    let done = wait(child);
    assert_eq!(done.code, Some(1), "a reply without its end is an error: {done}");
    assert!(done.plain_stderr().contains("Error: "), "{done}");
}

#[test]
fn a_killed_runner_costs_its_request_only() {
    let mut home = Home::new();
    let server = Server::start(&mut home);
    create(&home, "tiny");
    let mut command = home.command(&["run", "tiny", "!sleep 50 !long 10000"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let runners = server.runners();
    assert_eq!(runners.len(), 1);
    signal(runners[0], Signal::KILL);
    let done = wait(child);
    assert_eq!(done.code, Some(1), "{done}");
    let stderr = done.plain_stderr();
    let error = stderr.lines().find(|line| line.starts_with("Error: ")).unwrap_or_default();
    assert!(error.contains("runner"), "{done}");
    let next = home.run(&["run", "tiny", "!say well"]);
    assert_eq!((next.code, next.stdout.as_str()), (Some(0), "well\n\n"), "{next}");
    assert_ne!(server.runners(), runners);
}

#[test]
fn a_crashing_runner_is_told() {
    let mut home = Home::new();
    let _server = Server::start(&mut home);
    create(&home, "tiny");
    for prompt in ["!crash", "!panic"] {
        let done = home.run(&["run", "tiny", prompt]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{done}");
        assert!(done.plain_stderr().starts_with("Error: "), "{done}");
        assert_eq!(home.run(&["run", "tiny", "!say well"]).stdout, "well\n\n");
    }
}

#[test]
fn no_runner_outlives_a_killed_server() {
    let mut home = Home::new();
    let mut server = Server::start(&mut home);
    create(&home, "tiny");
    assert_eq!(home.run(&["run", "tiny", "Why?"]).code, Some(0));
    let runners = server.runners();
    assert_eq!(runners.len(), 1, "{runners:?}");
    signal(server.pid(), Signal::KILL);
    server.child.wait().unwrap();
    until("the runner has ended", || !is_running(runners[0]));
}

#[test]
fn stop_takes_a_model_out_of_memory() {
    let mut home = Home::new();
    let server = Server::start(&mut home);
    create(&home, "tiny");
    assert_eq!(home.run(&["run", "tiny", "Why?"]).code, Some(0));
    let loaded = home.run(&["ps"]).stdout;
    assert_eq!(loaded.lines().count(), 2, "{loaded}");
    let done = home.run(&["stop", "tiny"]);
    assert_eq!((done.code, done.stdout.as_str(), done.plain_stderr().as_str()), (Some(0), "", ""));
    until("no model is loaded", || home.run(&["ps"]).stdout.lines().count() == 1);
    until("its runner has ended", || server.runners().is_empty());
}
