//! The boundary with real processes: this test binary starts itself as the child, told by [`ROLE`] what to be.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use protocol::wire::{self, CREDIT_EVENTS, FromChild, ToChild};
use protocol::{
    Convert, ConvertProgress, Converted, Event, Failure, FailureKind, LoadModel, ModelFiles,
    Request, RequestId,
};
use runner::scripted::Scripted;
use runner::{Child, Conversion, ConversionEvent, EventStream, Launch, Runner};

const ROLE: &str = "RUNNER_TEST_ROLE";

/// What the child does when this binary starts itself; does nothing in an ordinary run.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = || UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let hello = |version: &str| {
        wire::write(&mut socket(), &FromChild::Hello { version: version.to_owned() }).unwrap();
    };
    match role.as_str() {
        "scripted" => scripted_child(),
        "scripted with a grandchild" => {
            // It holds the socket open, for it has our standard input.
            Command::new("sh").args(["-c", "exec 3<&0; sleep 10 &"]).status().unwrap();
            scripted_child();
        }
        "convert" => convert_child(),
        "server busy" => server_child("!long 4000 !sleep 20"),
        "server hung" => server_child("!hang"),
        "old" => hello("0.0.1"),
        "silent exit" => {
            eprintln!("first line\ncannot find the library");
            std::process::exit(3);
        }
        "garbage" => {
            hello(wire::VERSION);
            socket().write_all(b"\x03\0\0\0xyz").unwrap();
            std::thread::sleep(Duration::from_secs(30));
        }
        "lying length" => {
            socket().write_all(&u32::MAX.to_le_bytes()).unwrap();
            std::thread::sleep(Duration::from_secs(30));
        }
        "torn frame" => {
            hello(wire::VERSION);
            socket().write_all(b"\xff\0\0\0{").unwrap();
        }
        "flood" => flood_child(&mut socket()),
        other => panic!("no such role: {other}"),
    }
    std::process::exit(0);
}

fn scripted_child() {
    let crash = || Box::new(|| std::process::abort());
    let served = runner::serve_stdin(|model, progress| Scripted::load(model, progress, crash()));
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(4);
    }
}

fn convert_child() {
    let served = runner::serve_convert_stdin(|job, progress| {
        if job.quantize.as_deref() == Some("bad") {
            return Err(Failure::invalid("no such quantisation"));
        }
        for completed_bytes in 1..=1000 {
            let status = "converting".to_owned();
            progress(ConvertProgress { status, completed_bytes, total_bytes: 1000 });
        }
        Ok(Converted { layers: Vec::new(), config: serde_json::json!({"files": job.files.len()}) })
    });
    served.unwrap();
}

/// A server with a busy runner, whose pid it tells; killed from outside.
fn server_child(prompt: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let runner = load("tiny", None).await.unwrap();
        let _stream = runner.submit(request(1, prompt)).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        eprintln!("runner {}", runner.pid().unwrap());
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
}

/// Sends far more events than anybody granted.
fn flood_child(socket: &mut UnixStream) {
    wire::write(socket, &FromChild::Hello { version: wire::VERSION.to_owned() }).unwrap();
    wire::write(socket, &FromChild::Loaded(Default::default())).unwrap();
    while let Some(command) = wire::read::<ToChild>(socket).unwrap() {
        if let ToChild::Submit(request) = command {
            for _ in 0..10_000 {
                let event = Event::Delta(Default::default());
                wire::write(socket, &FromChild::Event { id: request.id, event }).unwrap();
            }
        }
    }
}

fn launch(role: &str) -> Launch {
    Launch {
        program: std::env::current_exe().unwrap(),
        args: ["child", "--exact", "--nocapture", "--test-threads=1"].map(Into::into).to_vec(),
        env: vec![(ROLE.into(), role.into())],
    }
}

fn model(name: &str) -> LoadModel {
    let model = ModelFiles { name: name.to_owned(), ..ModelFiles::default() };
    LoadModel { model, ..LoadModel::default() }
}

async fn load_role(role: &str, name: &str, stall: Option<Duration>) -> Result<Runner, Failure> {
    Runner::load(Child::spawn(&launch(role)).unwrap(), model(name), stall, |_, _| {}).await
}

async fn load(name: &str, stall: Option<Duration>) -> Result<Runner, Failure> {
    load_role("scripted", name, stall).await
}

fn request(id: u64, prompt: &str) -> Request {
    Request::raw(RequestId(id), prompt)
}

/// Content and the last event; asserts that nothing follows it.
async fn read(mut stream: EventStream) -> (String, Event) {
    let mut content = String::new();
    while let Some(event) = stream.next().await {
        match event {
            Event::Delta(delta) => content += &delta.content,
            last if last.is_last() => {
                assert_eq!(stream.next().await, None);
                return (content, last);
            }
            _ => {}
        }
    }
    panic!("the stream ended without a last event");
}

fn failure(event: Event) -> Failure {
    match event {
        Event::Failed(failure) => failure,
        other => panic!("{other:?} instead of a failure"),
    }
}

/// A bad child, at the handshake or the load: what the server says.
async fn check_load(role: &str, name: &str, kind: FailureKind, words: &[&str]) {
    let started = Instant::now();
    let stall = Some(Duration::from_secs(2));
    let failure =
        load_role(role, name, stall).await.err().unwrap_or_else(|| panic!("{role} loaded"));
    assert_eq!(failure.kind, kind, "{failure:?}");
    for word in words {
        assert!(failure.message.contains(word), "{role} {name}: {failure:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{role} {name}: {:?}", started.elapsed());
}

#[tokio::test]
async fn bad_children_are_clear_failures() {
    use FailureKind::{BadModel, Environment, Internal, RunnerLost};
    check_load("old", "tiny", Environment, &["0.0.1", wire::VERSION]).await;
    check_load("silent exit", "tiny", RunnerLost, &["exit status 3", "first line; cannot find"])
        .await;
    check_load("garbage", "tiny", RunnerLost, &["garbage"]).await;
    check_load("lying length", "tiny", RunnerLost, &["claims 4294967295 bytes"]).await;
    check_load("torn frame", "tiny", RunnerLost, &["`tiny`", "exit status 0"]).await;
    check_load("scripted", "badload", BadModel, &["badload"]).await;
    check_load("scripted", "crashload", RunnerLost, &["signal 6"]).await;
    check_load("scripted", "panicload", Internal, &["told to panic"]).await;
    check_load("scripted", "stuckload", RunnerLost, &["no progress for 2s"]).await;
}

#[tokio::test]
async fn a_program_that_is_not_there() {
    let launch = Launch { program: "/nowhere/at/all".into(), ..Launch::default() };
    let failure = Child::spawn(&launch).err().unwrap();
    assert_eq!(failure.kind, FailureKind::Environment);
    assert!(failure.message.contains("/nowhere/at/all"));
}

#[tokio::test]
async fn progress_restarts_the_load_timeout() {
    // A second in all, a step every 50 ms.
    let mut steps = Vec::new();
    let child = Child::spawn(&launch("scripted")).unwrap();
    let stall = Some(Duration::from_millis(600));
    let loaded =
        Runner::load(child, model("slowload"), stall, |done, of| steps.push((done, of))).await;
    assert_eq!(loaded.unwrap().info().architecture, "scripted");
    assert_eq!((steps.len(), steps[19]), (20, (20, 20)));
}

#[tokio::test]
async fn eight_streams_at_once() {
    let runner = load("tiny", None).await.unwrap();
    let mut reading = tokio::task::JoinSet::new();
    for id in 0..8 {
        let stream = runner.submit(request(id, &format!("!long {}", 500 + id))).unwrap();
        reading.spawn(async move { (id, read(stream).await) });
    }
    while let Some(done) = reading.join_next().await {
        let (id, (content, last)) = done.unwrap();
        let Event::Finished(usage) = last else { panic!("{last:?}") };
        assert_eq!(u64::from(usage.generated_tokens), 500 + id);
        assert_eq!(content.split(' ').count() as u64, 500 + id);
    }
    assert!(runner.memory().await.active_bytes > 0);
}

#[tokio::test]
async fn a_slow_reader_pauses_only_itself() {
    let runner = load("tiny", None).await.unwrap();
    let slow = runner.submit(request(1, "!long 4000")).unwrap();
    let (content, _) = read(runner.submit(request(2, "!long 4000")).unwrap()).await;
    assert_eq!(content.split(' ').count(), 4000);
    // The slow one is still there, as far ahead as its credit: the engine is idle and answers at once.
    let asked = Instant::now();
    assert!(runner.memory().await.cache_bytes > 0, "the slow sequence ran on");
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!(read(slow).await.0.split(' ').count(), 4000);
    assert_eq!(runner.memory().await.cache_bytes, 0);
}

#[tokio::test]
async fn more_events_than_granted_end_the_stream() {
    let runner = load_role("flood", "tiny", None).await.unwrap();
    let stream = runner.submit(request(1, "x")).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut stream = stream;
    let mut count = 0;
    let last = loop {
        match stream.next().await.unwrap() {
            Event::Delta(_) => count += 1,
            last => break last,
        }
    };
    assert!(failure(last).message.contains("more events"));
    assert!(count <= CREDIT_EVENTS + 64, "{count} events were kept");
}

#[tokio::test]
async fn cancellation_frees_the_slot_within_a_step() {
    let runner = load("tiny", None).await.unwrap();
    let mut stream = runner.submit(request(1, "!long 4000 !sleep 100")).unwrap();
    stream.next().await.unwrap();
    assert!(cache_bytes_after(&runner, Duration::from_millis(250)).await > 0);
    drop(stream);
    assert_eq!(cache_bytes_after(&runner, Duration::from_millis(250)).await, 0);
}

/// The engine's cache, asked now and answered between steps within the time.
async fn cache_bytes_after(runner: &Runner, wait: Duration) -> u64 {
    runner.memory().await;
    tokio::time::sleep(wait).await;
    runner.last_memory().cache_bytes
}

/// How a request that kills its runner ends, and another one beside it.
async fn check_death(prompt: &str, kind: FailureKind, words: &str) {
    let runner = load("tiny", None).await.unwrap();
    let mut bystander = runner.submit(request(1, "!long 4000 !sleep 10")).unwrap();
    bystander.next().await.unwrap();
    let culprit = runner.submit(request(2, prompt)).unwrap();
    for stream in [culprit, bystander] {
        let failure = failure(read(stream).await.1);
        assert_eq!(failure.kind, kind);
        assert!(failure.message.contains(words), "{failure:?}");
        // Who has heard of it asks no dying process again.
        assert!(!runner.is_alive());
        assert_eq!(runner.submit(request(3, "x")).err().unwrap().kind, kind);
    }
    runner.ended().await;
    assert!(!is_running(runner.pid().unwrap()));
}

#[tokio::test]
async fn deaths_are_told_to_every_request() {
    check_death("!crash", FailureKind::RunnerLost, "the runner of `tiny` was killed by signal 6")
        .await;
    check_death("!panic", FailureKind::Internal, "panicked: the prompt asked for it").await;
}

#[tokio::test]
async fn a_killed_runner_is_noticed_at_once() {
    let runner = load("tiny", None).await.unwrap();
    let stream = runner.submit(request(1, "!hang")).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let pid = runner.pid().unwrap();
    let killed = Instant::now();
    kill(pid);
    let failure = failure(read(stream).await.1);
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    assert!(failure.message.contains("signal 9"), "{failure:?}");
    assert!(failure.hint.unwrap().contains("memory"));
}

#[tokio::test]
async fn a_grandchild_does_not_hide_a_death() {
    let runner = load_role("scripted with a grandchild", "tiny", None).await.unwrap();
    let started = Instant::now();
    let failure = failure(read(runner.submit(request(1, "!crash")).unwrap()).await.1);
    assert!(failure.message.contains("signal 6"), "{failure:?}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_failed_request_harms_nobody() {
    let runner = load("tiny", None).await.unwrap();
    let failed = failure(read(runner.submit(request(1, "!fail")).unwrap()).await.1);
    assert_eq!(failed.kind, FailureKind::Unsupported);
    assert_eq!(read(runner.submit(request(2, "!long 2")).unwrap()).await.0, "alpha bravo");
}

#[tokio::test]
async fn requests_of_real_sizes() {
    let runner = load("tiny", None).await.unwrap();
    let rendered = |bytes: usize| Request {
        render_only: true,
        ..request(bytes as u64, &"0123456789abcde ".repeat(bytes / 16))
    };
    let small = runner.submit(request(1, "!long 2000")).unwrap();
    let Event::Rendered { prompt, .. } = read(runner.submit(rendered(8 << 20)).unwrap()).await.1
    else {
        panic!("not rendered");
    };
    assert_eq!(prompt.len(), 8 << 20);
    assert_eq!(read(small).await.0.split(' ').count(), 2000);
}

#[tokio::test]
async fn shutdown_is_gentle_then_firm() {
    for (prompt, at_most_secs) in [("!long 4000 !sleep 10", 2), ("!hang", 7)] {
        let runner = load("tiny", None).await.unwrap();
        let stream = runner.submit(request(1, prompt)).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let pid = runner.pid().unwrap();
        let started = Instant::now();
        runner.shutdown().await;
        assert!(started.elapsed() < Duration::from_secs(at_most_secs), "{prompt}");
        assert!(!is_running(pid));
        let failure = failure(read(stream).await.1);
        assert_eq!(failure.kind, FailureKind::Cancelled, "{failure:?}");
    }
}

#[tokio::test]
async fn dropping_the_handle_ends_the_child() {
    let runner = load("tiny", None).await.unwrap();
    let pid = runner.pid().unwrap();
    drop(runner);
    assert!(gone_within(pid, Duration::from_secs(3)).await);
}

async fn check_orphan(role: &str) {
    let mut server = start_by_hand(role).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let pid = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("runner ")?.parse().ok());
    let pid = pid.unwrap();
    assert!(is_running(pid));
    // SIGKILL: nothing in the server can tell its children.
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(gone_within(pid, Duration::from_secs(5)).await, "{role}");
}

#[tokio::test]
async fn no_runner_outlives_its_server() {
    check_orphan("server busy").await;
    check_orphan("server hung").await;
}

#[tokio::test]
async fn conversions() {
    let job = |quantize: Option<&str>| Convert {
        files: [("a".to_owned(), "/a".into())].into(),
        store: "/nowhere".into(),
        quantize: quantize.map(str::to_owned),
        is_draft: false,
    };
    let start =
        |quantize| Conversion::start(Child::spawn(&launch("convert")).unwrap(), job(quantize));

    let mut conversion = start(None).await.unwrap();
    let mut steps = 0;
    let last = loop {
        match conversion.next().await.unwrap() {
            ConversionEvent::Progress(_) => steps += 1,
            last => break last,
        }
    };
    let ConversionEvent::Done(converted) = last else { panic!("{last:?}") };
    assert_eq!((steps, &converted.config["files"]), (1000, &serde_json::json!(1)));
    assert_eq!(conversion.next().await, None);

    let refused = start(Some("bad")).await.unwrap().next().await;
    assert_eq!(refused, Some(ConversionEvent::Failed(Failure::invalid("no such quantisation"))));
}

#[test]
fn a_runner_started_by_hand_says_so() {
    let run = start_by_hand("scripted").stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(4));
    let words = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(words.contains("started by `ollmlx serve`"), "{words}");
}

fn start_by_hand(role: &str) -> Command {
    let launch = launch(role);
    let mut command = Command::new(launch.program);
    command.args(launch.args).envs(launch.env).stdout(Stdio::null());
    command
}

fn kill(pid: u32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status();
    assert!(sent.unwrap().success());
}

/// Zombies are gone: only their parent's bookkeeping is left.
fn is_running(pid: u32) -> bool {
    let state = process_state(pid);
    state.is_some_and(|letter| letter != 'Z')
}

#[cfg(target_os = "linux")]
fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

#[cfg(not(target_os = "linux"))]
fn process_state(pid: u32) -> Option<char> {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().chars().next()
}

async fn gone_within(pid: u32, limit: Duration) -> bool {
    let started = Instant::now();
    while is_running(pid) {
        if started.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}
