//! Residency over the public interface, with the scripted runner on threads of this process.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::{Event, Failure, FailureKind, ModelFiles, Request, RequestId};
use runner::{Child, Launch};
use scheduler::{
    Config, EventStream, InProcess, Job, KeepAlive, Launcher, Lease, OwnBinary, Scheduler, Want,
};
use tokio::task::{JoinHandle, JoinSet};

/// Counts how many runners were started.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Launcher for Counting {
    fn launch(&self, job: Job) -> Result<Child, Failure> {
        self.0.fetch_add(1, Ordering::SeqCst);
        InProcess.launch(job)
    }
}

impl Counting {
    fn launches(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Room for two models of the size that `want` gives them.
fn config() -> Config {
    Config { memory_bytes_max: 250 << 20, runner_bytes: 0, ..Config::default() }
}

fn start(config: Config) -> (Scheduler, Arc<Counting>) {
    let launcher = Arc::new(Counting::default());
    (Scheduler::new(config, launcher.clone()), launcher)
}

fn want(name: &str) -> Want {
    Want {
        name: name.to_owned(),
        digest: format!("digest of {name}"),
        model: ModelFiles { name: name.to_owned(), ..ModelFiles::default() },
        weights_bytes: 100 << 20,
        ..Want::default()
    }
}

fn keeping(name: &str, keep_alive: KeepAlive) -> Want {
    Want { keep_alive: Some(keep_alive), ..want(name) }
}

fn secs(secs: u64) -> KeepAlive {
    KeepAlive::For(Duration::from_secs(secs))
}

fn request(id: u64, prompt: &str) -> Request {
    Request::raw(RequestId(id), prompt)
}

async fn last_event(mut stream: EventStream) -> Event {
    while let Some(event) = stream.next().await {
        if event.is_last() {
            return event;
        }
    }
    panic!("no last event");
}

async fn failure_of(stream: EventStream) -> Failure {
    match last_event(stream).await {
        Event::Failed(failure) => failure,
        other => panic!("{other:?} instead of a failure"),
    }
}

fn loaded(scheduler: &Scheduler) -> Vec<String> {
    let mut names: Vec<_> = scheduler.loaded().into_iter().map(|one| one.name).collect();
    names.sort();
    names
}

/// Waits (in real time) for what other threads bring about.
async fn settle(scheduler: &Scheduler, names: &[&str]) {
    for _ in 0..300 {
        if loaded(scheduler) == names {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("loaded are {:?}, not {names:?}", loaded(scheduler));
}

/// An acquire that runs beside the test, queued when this returns.
async fn beside(scheduler: &Scheduler, want: Want) -> JoinHandle<Result<Lease, Failure>> {
    let scheduler = scheduler.clone();
    let task = tokio::spawn(async move { scheduler.acquire(want).await });
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    task
}

/// Lets the clock of the timers jump; the tasks they wake have run when this returns.
async fn pass(secs: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(secs)).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

#[tokio::test]
async fn keep_alive_begins_when_the_last_request_ends() {
    let (scheduler, launcher) = start(config());
    let lease = scheduler.acquire(want("a")).await.unwrap();
    assert_eq!(lease.info().architecture, "scripted");
    pass(1000).await;
    assert_eq!(loaded(&scheduler), ["a"], "unloaded while in use");
    drop(lease);
    pass(299).await;
    assert_eq!(loaded(&scheduler), ["a"]);
    drop(scheduler.acquire(want("a")).await.unwrap());
    pass(299).await;
    assert_eq!(loaded(&scheduler), ["a"], "the timer did not restart");
    pass(2).await;
    assert_eq!(loaded(&scheduler), Vec::<String>::new());
    assert_eq!(launcher.launches(), 1);
}

#[tokio::test]
async fn keep_alive_zero_unloads_after_the_stream() {
    let (scheduler, _) = start(config());
    let lease = scheduler.acquire(keeping("a", KeepAlive::NONE)).await.unwrap();
    let stream = lease.submit(request(1, "!long 20 !sleep 5")).await.unwrap();
    drop(lease);
    assert_eq!(loaded(&scheduler), ["a"]);
    assert_eq!(scheduler.loaded()[0].in_flight_requests, 1);
    let last = last_event(stream).await;
    assert!(matches!(last, Event::Finished(_)), "{last:?}");
    assert_eq!(loaded(&scheduler), Vec::<String>::new());
}

#[tokio::test]
async fn keep_alive_for_ever() {
    let (scheduler, _) = start(config());
    drop(scheduler.acquire(keeping("a", KeepAlive::Forever)).await.unwrap());
    assert_eq!(scheduler.loaded()[0].expires_at, None);
    pass(10 * 365 * 86_400).await;
    assert_eq!(loaded(&scheduler), ["a"]);
}

#[tokio::test]
async fn a_request_changes_the_keep_alive_of_its_model() {
    let (scheduler, _) = start(config());
    drop(scheduler.acquire(keeping("a", secs(10))).await.unwrap());
    drop(scheduler.acquire(keeping("a", secs(1000))).await.unwrap());
    drop(scheduler.acquire(want("a")).await.unwrap());
    pass(999).await;
    assert_eq!(loaded(&scheduler), ["a"]);
    drop(scheduler.acquire(keeping("a", secs(10))).await.unwrap());
    pass(11).await;
    assert_eq!(loaded(&scheduler), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_loaded_is_listed_by_expiry() {
    let (scheduler, _) = start(config());
    let wide = Want { context_tokens: Some(128), ..keeping("a", secs(10)) };
    assert_eq!(scheduler.acquire(wide).await.unwrap().context_tokens(), 128);
    drop(scheduler.acquire(keeping("b", secs(1000))).await.unwrap());
    let list = scheduler.loaded();
    let facts: Vec<_> = list.iter().map(|one| (one.name.as_str(), one.context_tokens)).collect();
    assert_eq!(facts, [("b", 4096), ("a", 128)]);
    assert!(list.iter().all(|one| one.expires_at.is_some() && one.memory_bytes > 0));
    drop(scheduler.acquire(keeping("a", KeepAlive::Forever)).await.unwrap());
    assert_eq!(scheduler.loaded()[0].name, "a");
}

#[tokio::test]
async fn the_context_goes_along_with_each_request() {
    let (scheduler, launcher) = start(Config { context_tokens: Some(100), ..config() });
    let check = async |wanted, own: Option<i64>, expected: u32| {
        let lease = scheduler.acquire(Want { context_tokens: wanted, ..want("a") }).await.unwrap();
        let mut request = request(1, "!long 4000");
        request.options.num_ctx = own;
        match last_event(lease.submit(request).await.unwrap()).await {
            // Two tokens are the prompt's.
            Event::Finished(usage) => assert_eq!(usage.generated_tokens, expected - 2),
            other => panic!("{other:?}"),
        }
    };
    check(None, None, 100).await;
    check(Some(30), None, 30).await;
    check(Some(30), Some(20), 20).await;
    assert_eq!(launcher.launches(), 1, "another context is no reason to load anew");
}

#[tokio::test]
async fn one_load_for_all_who_want_it() {
    let (scheduler, launcher) = start(config());
    let mut waiting = JoinSet::new();
    for _ in 0..10 {
        let scheduler = scheduler.clone();
        waiting.spawn(async move { scheduler.acquire(want("slowload")).await });
    }
    let leases = waiting.join_all().await;
    assert!(leases.iter().all(|lease| lease.as_ref().unwrap().load_duration().as_millis() > 900));
    assert_eq!((launcher.launches(), scheduler.loaded()[0].in_flight_requests), (1, 10));
}

#[tokio::test]
async fn a_failed_load_is_told_to_all_and_forgotten() {
    let (scheduler, launcher) = start(config());
    for round in 1..=2 {
        let (a, b) =
            tokio::join!(scheduler.acquire(want("badload")), scheduler.acquire(want("badload")));
        for result in [a, b] {
            assert_eq!(result.err().unwrap().kind, FailureKind::BadModel);
        }
        assert_eq!(launcher.launches(), round);
    }
}

#[tokio::test]
async fn the_least_recently_used_idle_model_goes() {
    let (scheduler, _) = start(config());
    for name in ["a", "b", "a"] {
        drop(scheduler.acquire(want(name)).await.unwrap());
    }
    drop(scheduler.acquire(want("c")).await.unwrap());
    assert_eq!(loaded(&scheduler), ["a", "c"]);
    let busy = scheduler.acquire(want("a")).await.unwrap();
    drop(scheduler.acquire(want("c")).await.unwrap());
    drop(scheduler.acquire(want("d")).await.unwrap());
    assert_eq!(loaded(&scheduler), ["a", "d"], "a is older but in use");
    drop(busy);
}

#[tokio::test]
async fn a_big_model_evicts_several() {
    let (scheduler, _) = start(config());
    drop(scheduler.acquire(want("a")).await.unwrap());
    drop(scheduler.acquire(want("b")).await.unwrap());
    drop(scheduler.acquire(Want { weights_bytes: 200 << 20, ..want("big") }).await.unwrap());
    assert_eq!(loaded(&scheduler), ["big"]);
}

#[tokio::test]
async fn the_number_of_models_has_a_limit_too() {
    let (scheduler, _) = start(Config { loaded_models_max: 1, ..Config::default() });
    drop(scheduler.acquire(want("a")).await.unwrap());
    drop(scheduler.acquire(want("b")).await.unwrap());
    assert_eq!(loaded(&scheduler), ["b"]);
}

#[tokio::test]
async fn a_model_that_cannot_fit() {
    let (scheduler, launcher) = start(config());
    let big = Want { weights_bytes: 5 << 30, ..want("big") };
    let failure = scheduler.acquire(big).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::NoRoom);
    assert!(
        failure.message.starts_with("`big` needs 5.2 GiB and models may take 250 MiB"),
        "{failure}"
    );
    assert_eq!(launcher.launches(), 0);
}

#[tokio::test]
async fn who_waits_is_served_in_order_of_arrival() {
    let (scheduler, _) = start(Config { loaded_models_max: 1, ..config() });
    let a = scheduler.acquire(want("a")).await.unwrap();
    let b = beside(&scheduler, want("b")).await;
    let again = beside(&scheduler, want("a")).await;
    assert!(!b.is_finished(), "`a` is busy");
    assert!(!again.is_finished(), "`b` was overtaken");
    drop(a);
    let b = b.await.unwrap().unwrap();
    assert!(b.load_duration() >= Duration::from_millis(20));
    assert!(!again.is_finished());
    drop(b);
    again.await.unwrap().unwrap();
    settle(&scheduler, &["a"]).await;
}

#[tokio::test]
async fn the_queue_has_a_limit() {
    let (scheduler, _) = start(Config { loaded_models_max: 1, queue_max: 2, ..config() });
    let a = scheduler.acquire(want("a")).await.unwrap();
    scheduler.acquire(want("a")).await.unwrap();
    let b = beside(&scheduler, want("b")).await;
    let c = beside(&scheduler, want("c")).await;
    let refused = scheduler.acquire(want("d")).await.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Busy);
    // Who leaves makes room in the queue, and what stood behind goes on.
    b.abort();
    assert!(b.await.is_err());
    let d = beside(&scheduler, want("d")).await;
    drop(a);
    drop(c.await.unwrap().unwrap());
    drop(d.await.unwrap().unwrap());
    settle(&scheduler, &["d"]).await;
}

#[tokio::test]
async fn a_queue_of_none_lets_one_load() {
    let (scheduler, _) = start(Config { queue_max: 0, ..config() });
    let first = beside(&scheduler, want("slowload")).await;
    let refused = scheduler.acquire(want("slowload")).await.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Busy);
    first.await.unwrap().unwrap();
    scheduler.acquire(want("slowload")).await.unwrap();
}

#[tokio::test]
async fn leaving_the_front_of_the_queue_lets_the_next_go() {
    let (scheduler, _) = start(Config { loaded_models_max: 1, ..config() });
    let _a = scheduler.acquire(want("a")).await.unwrap();
    let b = beside(&scheduler, want("b")).await;
    let again = beside(&scheduler, want("a")).await;
    b.abort();
    // Nothing else happens: `a` stays busy.
    tokio::time::timeout(Duration::from_secs(1), again).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_load_that_nobody_waits_for_any_more_stays_for_its_keep_alive() {
    let (scheduler, _) = start(config());
    let impatient = beside(&scheduler, want("slowload")).await;
    impatient.abort();
    settle(&scheduler, &["slowload"]).await;
    assert_eq!(scheduler.loaded()[0].in_flight_requests, 0);
    pass(301).await;
    assert_eq!(loaded(&scheduler), Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_runner_costs_its_requests_and_is_started_anew() {
    let (scheduler, launcher) = start(config());
    let lease = scheduler.acquire(want("a")).await.unwrap();
    let bystander = lease.submit(request(1, "!long 4000 !sleep 5")).await.unwrap();
    let culprit = lease.submit(request(2, "!crash")).await.unwrap();
    for stream in [bystander, culprit] {
        let failure = failure_of(stream).await;
        assert_eq!(failure.kind, FailureKind::RunnerLost);
        assert!(failure.message.contains("runner of `a`"), "{failure}");
    }
    let next = scheduler.acquire(want("a")).await.unwrap();
    assert_eq!(launcher.launches(), 2);
    // The old lease says so, and dropping it does not touch the new runner's count.
    assert_eq!(lease.submit(request(3, "x")).await.err().unwrap().kind, FailureKind::RunnerLost);
    drop(lease);
    assert_eq!(scheduler.loaded()[0].in_flight_requests, 1);
    let last = last_event(next.submit(request(4, "!long 2")).await.unwrap()).await;
    assert!(matches!(last, Event::Finished(_)));
}

#[tokio::test]
async fn unloading() {
    let (scheduler, _) = start(config());
    assert!(!scheduler.unload("a"));
    assert!(!scheduler.unload_now("a").await);
    let lease = scheduler.acquire(want("a")).await.unwrap();
    assert!(scheduler.unload("a"));
    assert_eq!(loaded(&scheduler), ["a"], "a request is in flight");
    drop(lease);
    assert_eq!(loaded(&scheduler), Vec::<String>::new());

    let lease = scheduler.acquire(want("a")).await.unwrap();
    let stream = lease.submit(request(1, "!long 4000 !sleep 5")).await.unwrap();
    assert!(scheduler.unload_now("digest of a").await);
    assert_eq!(failure_of(stream).await.kind, FailureKind::Cancelled);

    let loading = beside(&scheduler, want("slowload")).await;
    assert!(scheduler.unload_now("slowload").await);
    let failure = loading.await.unwrap().err().unwrap();
    assert_eq!(failure.kind, FailureKind::Cancelled);
}

/// Starts a process that never says hello, and leaves its id in a file.
struct Silent(PathBuf);

impl Launcher for Silent {
    fn launch(&self, _: Job) -> Result<Child, Failure> {
        let script = format!("echo $$ > '{}'; exec sleep 20", self.0.display());
        let args = vec!["-c".into(), script.into()];
        Child::spawn(&Launch { program: "/bin/sh".into(), args, env: Vec::new() })
    }
}

#[tokio::test]
async fn a_load_that_is_broken_off_ends_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let scheduler = Scheduler::new(config(), Arc::new(Silent(pid_file.clone())));
    let loading = beside(&scheduler, want("a")).await;
    let pid = loop {
        match std::fs::read_to_string(&pid_file).unwrap_or_default().trim() {
            "" => tokio::time::sleep(Duration::from_millis(10)).await,
            pid => break pid.to_owned(),
        }
    };
    let is_running = || {
        let asked = Command::new("/bin/sh").args(["-c", &format!("kill -0 {pid}")]).output();
        asked.unwrap().status.success()
    };
    assert!(is_running());
    assert!(scheduler.unload_now("a").await);
    assert_eq!(loading.await.unwrap().err().unwrap().kind, FailureKind::Cancelled);
    for _ in 0..100 {
        if !is_running() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("process {pid} is still there");
}

#[tokio::test]
async fn shutdown_ends_everything() {
    let (scheduler, _) = start(Config { loaded_models_max: 2, ..config() });
    let lease = scheduler.acquire(want("a")).await.unwrap();
    let stream = lease.submit(request(1, "!long 4000 !sleep 5")).await.unwrap();
    let loading = beside(&scheduler, want("stuckload")).await;
    let queued = beside(&scheduler, want("c")).await;
    tokio::time::timeout(Duration::from_secs(3), scheduler.shutdown()).await.unwrap();
    assert_eq!(failure_of(stream).await.kind, FailureKind::Cancelled);
    for waiting in [loading, queued] {
        let failure = waiting.await.unwrap().err().unwrap();
        assert_eq!(failure.message, "the server is shutting down");
    }
    assert_eq!(scheduler.acquire(want("a")).await.err().unwrap().kind, FailureKind::Cancelled);
    assert!(scheduler.loaded().is_empty());
}

#[tokio::test]
async fn a_program_that_is_no_runner() {
    let launcher = OwnBinary { program: "/bin/false".into() };
    let scheduler = Scheduler::new(config(), Arc::new(launcher));
    let failure = scheduler.acquire(want("a")).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::RunnerLost);
    assert!(failure.message.contains("exit status 1"), "{failure}");
}

#[tokio::test]
async fn ids_are_unique() {
    let (scheduler, _) = start(config());
    assert_ne!(scheduler.next_request_id(), scheduler.clone().next_request_id());
}
