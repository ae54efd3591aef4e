//! The server that `run` starts when there is none.

use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Done, Home, PATIENCE, is_running, signal, until, wait};

/// A server started in the background, ended with the value.
struct Started(u32);

impl Started {
    fn from(done: &Done) -> Option<Started> {
        let (_, rest) = done.stderr.split_once("to stop it: kill ")?;
        Some(Started(rest.split(')').next()?.parse().ok()?))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if is_running(self.0) {
            signal(self.0, Signal::KILL);
        }
    }
}

/// A home whose default server would be at a free port.
fn home() -> Home {
    let mut home = Home::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    home.set("OLLAMA_HOST", &free.to_string());
    home
}

#[test]
fn run_starts_a_server_and_says_so() {
    let home = home();
    let done = home.run(&["run", "nope", "hi"]);
    let started = Started::from(&done).unwrap_or_else(|| panic!("{done}"));
    let line = "started the ollmlx server in the background (log: ~/.ollama/logs/server.log; to stop it: kill ";
    assert!(done.stderr.starts_with(line), "{done}");
    assert!(done.stderr.contains("Error: model 'nope:latest' not found"), "{done}");
    let log = std::fs::read_to_string(home.path(".ollama/logs/server.log")).unwrap();
    assert!(log.contains("Listening on "), "{log}");

    let second = home.run(&["run", "nope", "hi"]);
    assert!(!second.stderr.contains("started"), "{second}");
    assert_eq!(home.run(&["list"]).code, Some(0));

    signal(started.0, Signal::HUP);
    assert_eq!(home.run(&["list"]).code, Some(0), "its terminal's end is not its own");
    signal(started.0, Signal::TERM);
    until("the server has ended", || !is_running(started.0));
    assert_eq!(home.run(&["list"]).code, Some(1));
}

#[test]
fn of_many_at_once_one_starts_the_server() {
    let home = home();
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = home.command(&["run", "nope", "hi"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let done: Vec<Done> = children.into_iter().map(wait).collect();
    let started: Vec<Started> = done.iter().filter_map(Started::from).collect();
    assert_eq!(started.len(), 1, "{done:#?}");
    for done in &done {
        assert!(done.stderr.contains("Error: model 'nope:latest' not found"), "{done}");
    }
    let log = std::fs::read_to_string(home.path(".ollama/logs/server.log")).unwrap();
    assert_eq!(log.matches("Listening on ").count(), 1, "{log}");
}

#[test]
fn an_interrupt_does_not_reach_the_server() {
    let home = home();
    let done = home.run(&["run", "nope", "hi"]);
    let started = Started::from(&done).unwrap();
    let group =
        |pid: u32| rustix::process::getpgid(rustix::process::Pid::from_raw(pid as i32)).unwrap();
    assert_eq!(
        group(started.0).as_raw_nonzero().get(),
        started.0 as i32,
        "it has a group of its own"
    );
}

#[test]
fn a_server_that_does_not_start_is_told_with_its_log() {
    let mut home = home();
    let file = home.write("file", "");
    home.set("OLLAMA_MODELS", file.to_str().unwrap());
    let started = std::time::Instant::now();
    let done = home.run(&["run", "nope", "hi"]);
    assert!(started.elapsed() < PATIENCE / 2);
    assert_eq!(done.code, Some(1), "{done}");
    assert!(
        done.stderr.starts_with(
            "Error: the server in the background did not start: it ended with exit status: 1\n"
        ),
        "{done}"
    );
    assert!(done.stderr.contains("file"), "the log's end is missing: {done}");
    assert!(done.stderr.contains("\nhint: the whole log is `"), "{done}");
}

#[test]
fn a_long_log_is_put_aside() {
    let home = home();
    home.write(".ollama/logs/server.log", &"x".repeat(9 << 20));
    let done = home.run(&["run", "nope", "hi"]);
    let _started = Started::from(&done).unwrap_or_else(|| panic!("{done}"));
    let bytes = |file: &str| std::fs::metadata(home.path(file)).unwrap().len();
    assert!(bytes(".ollama/logs/server.log") < 1 << 20);
    assert_eq!(bytes(".ollama/logs/server.log.1"), 9 << 20);
}

#[test]
fn only_run_starts_one_and_not_where_it_was_not_asked_for() {
    let mut home = home();
    let off = "Error: could not connect to ollmlx server, run 'ollmlx serve' to start it\n";
    home.run(&["list"]).expect(1, "", off);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    home.set("OLLAMA_HOST", &format!("0.0.0.0:{port}"));
    home.run(&["run", "m", "hi"]).expect(1, "", off);
    home.set("OLLAMA_HOST", &format!("127.0.0.1:{port}"));
    home.set("OLLMLX_AUTOSTART", "0");
    home.run(&["run", "m", "hi"]).expect(1, "", off);
}
