//! The thread pool of the kernels: one call at a time spreads short tasks over a few threads.
//!
//! The calling thread works too, and it never waits for a worker that has not claimed a task: on a busy machine the
//! caller simply does more of them. A call takes no lock and allocates nothing. Between calls workers spin for some
//! tens of microseconds, then sleep in the kernel, so an idle process uses no processor time. A call from inside a
//! task, or while another thread's call is running, does its tasks on its own thread.
//!
//! How it works: one 64-bit word, the *ticket*, holds the number of the call, how many tasks it has and the number of the
//! next. A claim adds one to that word and sees all three as they were: threads that claim at the same moment need not
//! try again. It succeeds only while the call is unfinished, which is what makes the borrowed closure safe to use in other
//! threads: the caller returns when as many tasks are done as there were.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker looks for the next call before it sleeps. Waking costs the caller about 5 µs and comes 50 µs
/// late, and the gaps between the products of one step are shorter than this.
const WORKER_SPIN: Duration = Duration::from_micros(60);

/// How long the caller spins for the last tasks of others before it sleeps; its core is then free for a worker that
/// was pushed aside in the middle of a task.
const CALLER_SPIN: Duration = Duration::from_micros(40);

/// A worker that kept the caller waiting this long was pushed aside by another process.
const STALL: Duration = Duration::from_micros(300);

/// For so long a worker that was pushed aside stays away; doubled each time up to the limit, halved by good calls.
const BENCH_MIN: Duration = Duration::from_millis(4);
const BENCH_MAX: Duration = Duration::from_millis(64);

/// Most threads a pool may have; each costs a stack and some cache lines.
pub const THREADS_MAX: usize = 256;

/// Most tasks one call may have: the ticket has this many bits for them, and for claims that come too late (each thread
/// makes at most two to a call).
pub const TASKS_MAX: usize = (1 << TASK_BITS) - 1 - 2 * THREADS_MAX;
const TASK_BITS: u32 = 24;

/// A fixed set of threads. Dropping it ends them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// The pool of the process, made at first use with [`default_threads`] or the number given to [`set_threads`].
pub fn shared() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(*WISH.get_or_init(default_threads)))
}

/// Sets the number of threads of the shared pool; false when it already has another.
pub fn set_threads(threads: usize) -> bool {
    let threads = threads.clamp(1, THREADS_MAX);
    *WISH.get_or_init(|| threads) == threads
}

static WISH: OnceLock<usize> = OnceLock::new();

/// `OLLMLX_NUM_THREADS`, else one per physical core this process may use, cgroup quota respected.
pub fn default_threads() -> usize {
    let wish = std::env::var("OLLMLX_NUM_THREADS").ok().and_then(|text| text.trim().parse().ok());
    wish.filter(|&threads| threads > 0).unwrap_or_else(cores).clamp(1, THREADS_MAX)
}

/// `available_parallelism` knows the affinity mask and the quotas of both cgroup versions, but counts hyperthreads.
fn cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(logical, |cores| cores.min(logical))
}

/// Distinct (package, core) pairs among the processors this process may run on; Linux only.
fn physical_cores() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = std::collections::BTreeSet::new();
    for cpu in parse_cpu_list(allowed.trim())? {
        let read = |name: &str| -> Option<u32> {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        cores.insert((read("physical_package_id")?, read("core_id")?));
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// `0-3,8` as the kernel writes it.
fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

impl Pool {
    /// `threads` counts the caller: a pool of one has no workers. Fewer are made if the system gives no more.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::default());
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let body = move || Worker::new(&shared).live();
            std::thread::Builder::new().name(format!("kernels-{index}")).spawn(body).ok()
        };
        let workers = (1..threads.clamp(1, THREADS_MAX)).map_while(start).collect();
        Pool { shared, workers }
    }

    /// Threads that may work on one call, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once with each number below `tasks`, on several threads, and returns when all are done. Make
    /// tasks short (5 to 100 µs): they are the grain in which threads share the work. A panic in a task is passed on
    /// to the caller after the others have ended; tasks not begun by then are left out.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        assert!(tasks <= TASKS_MAX, "a call of {tasks} tasks; at most {TASKS_MAX}");
        let shared = &*self.shared;
        let alone = tasks < 2 || self.workers.is_empty() || INSIDE.get();
        if alone || shared.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(task);
            return;
        }
        shared.open(tasks, &task);
        INSIDE.set(true);
        while let Some(claim) = shared.claim() {
            shared.perform(&claim);
        }
        INSIDE.set(false);
        shared.await_done(tasks);
        let panic = shared.take_panic();
        shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Splits `0..len` into ranges of at most `grain` and gives each to `task`.
    pub fn run_ranges(
        &self,
        len: usize,
        grain: usize,
        task: &(dyn Fn(std::ops::Range<usize>) + Sync),
    ) {
        let grain = grain.max(1).max(len.div_ceil(TASKS_MAX));
        self.run(len.div_ceil(grain), &|index| {
            task(index * grain..((index + 1) * grain).min(len));
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        self.shared.wake_word.fetch_add(1, Ordering::SeqCst);
        atomic_wait::wake_all(&self.shared.wake_word);
        for worker in self.workers.drain(..) {
            // A worker's body catches every panic of a task.
            let _ = worker.join();
        }
    }
}

thread_local! {
    /// This thread is inside a task of some pool.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// What one word says. Calls are counted round and round: who slept through all of them waits for one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ticket {
    call: u16,
    tasks: usize,
    /// The next to claim; more than `tasks` once there are no more.
    next: usize,
}

impl Ticket {
    fn of(word: u64) -> Ticket {
        let part = |word: u64| (word & ((1 << TASK_BITS) - 1)) as usize;
        let call = (word >> (2 * TASK_BITS)) as u16;
        Ticket { call, tasks: part(word >> TASK_BITS), next: part(word) }
    }

    fn word(self) -> u64 {
        u64::from(self.call) << (2 * TASK_BITS)
            | (self.tasks as u64) << TASK_BITS
            | self.next as u64
    }
}

/// A task that this thread has to do.
struct Claim<'a> {
    task: Task<'a>,
    index: usize,
    /// Of the whole call.
    tasks: usize,
}

/// One word per cache line, so that finishing a task does not disturb claiming one.
#[repr(align(128))]
#[derive(Default)]
struct Line<T>(T);

#[derive(Default)]
struct Shared {
    /// A [`Ticket`].
    ticket: Line<AtomicU64>,
    /// Tasks done in this call; the caller sleeps on it.
    done: Line<AtomicU32>,
    /// Where the caller keeps its `Task`; valid while the call has unfinished tasks.
    task: AtomicPtr<()>,
    caller_sleeps: AtomicBool,
    /// Set by the first task that panics: the rest are claimed and left out.
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    busy: AtomicBool,
    quit: AtomicBool,
    sleepers: Line<AtomicUsize>,
    /// Sleeping workers wait for this to change.
    wake_word: AtomicU32,
}

impl Shared {
    fn open(&self, tasks: usize, task: &Task<'_>) {
        let call = Ticket::of(self.ticket.0.load(Ordering::Relaxed)).call;
        self.task.store((&raw const *task).cast_mut().cast(), Ordering::Relaxed);
        self.done.0.store(0, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
        // Who still holds the call before finds it exhausted, or finds this one.
        let ticket = Ticket { call: call.wrapping_add(1), tasks, next: 0 };
        self.ticket.0.store(ticket.word(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.wake(tasks - 1);
    }

    /// A worker counts itself in `sleepers`, then looks at the ticket once more; we write the ticket, then look here.
    fn wake(&self, wanted: usize) {
        let sleepers = self.sleepers.0.load(Ordering::SeqCst);
        if sleepers == 0 {
            return;
        }
        self.wake_word.fetch_add(1, Ordering::SeqCst);
        if wanted >= sleepers {
            atomic_wait::wake_all(&self.wake_word);
        } else {
            (0..wanted).for_each(|_| atomic_wait::wake_one(&self.wake_word));
        }
    }

    fn claim(&self) -> Option<Claim<'_>> {
        let left = |ticket: Ticket| ticket.next < ticket.tasks;
        if !left(Ticket::of(self.ticket.0.load(Ordering::Acquire))) {
            return None;
        }
        let ticket = Ticket::of(self.ticket.0.fetch_add(1, Ordering::AcqRel));
        left(ticket).then(|| {
            let task = self.task.load(Ordering::Relaxed).cast::<Task<'_>>();
            // SAFETY: this task of the call is claimed and unfinished; the caller stays in `run`, where the pointed-to
            // reference and closure live, until we count the task as done.
            Claim { task: unsafe { *task }, index: ticket.next, tasks: ticket.tasks }
        })
    }

    /// Runs one claimed task and counts it. True when it was the call's last and the caller sleeps.
    fn perform(&self, claim: &Claim<'_>) -> bool {
        let Claim { task, index, tasks } = *claim;
        if !self.failed.load(Ordering::Relaxed)
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(index)))
        {
            self.failed.store(true, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        // After the last count the call may be over: nothing of it may be touched below but the words of the pool.
        let last = self.done.0.fetch_add(1, Ordering::SeqCst) as usize + 1 == tasks;
        let slept = last && self.caller_sleeps.load(Ordering::SeqCst);
        if slept {
            atomic_wait::wake_one(&self.done.0);
        }
        slept
    }

    fn await_done(&self, tasks: usize) {
        let done = || self.done.0.load(Ordering::Acquire) as usize == tasks;
        if spin_until(CALLER_SPIN, done) {
            return;
        }
        self.caller_sleeps.store(true, Ordering::SeqCst);
        loop {
            let count = self.done.0.load(Ordering::SeqCst);
            if count as usize == tasks {
                break;
            }
            atomic_wait::wait(&self.done.0, count);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        let failed = self.failed.load(Ordering::Relaxed);
        failed.then(|| self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()).flatten()
    }
}

fn spin_until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > limit {
            return condition();
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    /// The call this worker last took part in.
    seen: u16,
    /// Running mean of its tasks' times.
    mean: Duration,
    bench: Duration,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared) -> Worker<'a> {
        Worker { shared, seen: 0, mean: STALL, bench: BENCH_MIN }
    }

    fn live(&mut self) {
        INSIDE.set(true);
        while self.await_call() {
            while let Some(claim) = self.shared.claim() {
                let start = Instant::now();
                let kept_waiting = self.shared.perform(&claim);
                self.learn(start.elapsed(), kept_waiting);
            }
        }
    }

    /// A worker pushed aside in the middle of a task holds up everyone: it leaves its core to the other process for
    /// a while, and the remaining threads share the work without it.
    fn learn(&mut self, took: Duration, kept_waiting: bool) {
        if kept_waiting && took > STALL && took > self.mean * 8 {
            std::thread::sleep(self.bench);
            self.bench = (self.bench * 2).min(BENCH_MAX);
            return;
        }
        self.mean = (self.mean * 15 + took) / 16;
        if self.bench > BENCH_MIN {
            self.bench = self.bench.mul_f32(0.999).max(BENCH_MIN);
        }
    }

    /// False when the pool ends.
    fn await_call(&mut self) -> bool {
        let shared = self.shared;
        let seen = self.seen;
        let call = || Ticket::of(shared.ticket.0.load(Ordering::SeqCst)).call;
        let quit = || shared.quit.load(Ordering::SeqCst);
        while !spin_until(WORKER_SPIN, || call() != seen || quit()) {
            let word = shared.wake_word.load(Ordering::SeqCst);
            shared.sleepers.0.fetch_add(1, Ordering::SeqCst);
            if call() == seen && !quit() {
                atomic_wait::wait(&shared.wake_word, word);
            }
            shared.sleepers.0.fetch_sub(1, Ordering::SeqCst);
        }
        self.seen = call();
        !quit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every task runs exactly once, whatever the numbers are.
    fn check(pool: &Pool, tasks: usize) {
        let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
        pool.run(tasks, &|index| {
            counts[index].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks} tasks");
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 7, 64, 1000] {
                check(&pool, tasks);
            }
        }
    }

    #[test]
    fn tickets_hold_the_largest_call() {
        for (call, next) in [(0, 0), (u16::MAX, TASKS_MAX + 2 * THREADS_MAX)] {
            let ticket = Ticket { call, tasks: TASKS_MAX, next };
            assert_eq!(Ticket::of(ticket.word()), ticket);
        }
    }

    /// Calls are counted in 16 bits.
    #[test]
    fn more_calls_than_there_are_numbers() {
        let pool = Pool::new(3);
        for _ in 0..70_000 {
            check(&pool, 3);
        }
    }

    #[test]
    fn many_short_calls_with_pauses() {
        let pool = Pool::new(4);
        for round in 0..4000 {
            check(&pool, round % 9);
            if round % 500 == 0 {
                // Long enough for the workers to sleep.
                std::thread::sleep(WORKER_SPIN * 10);
            }
        }
    }

    #[test]
    fn callers_at_the_same_time_and_nested_calls() {
        let pool = Pool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..300 {
                        let sum = AtomicUsize::new(0);
                        pool.run(5, &|outer| {
                            pool.run(3, &|inner| {
                                sum.fetch_add(outer * 3 + inner, Ordering::Relaxed);
                            });
                        });
                        assert_eq!(sum.load(Ordering::Relaxed), (0..15).sum(), "round {round}");
                    }
                });
            }
        });
    }

    #[test]
    fn workers_pushed_aside_in_the_middle_of_uneven_tasks() {
        let pool = Pool::new(6);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::black_box(0);
                    }
                });
            }
            for round in 0..200u64 {
                let sum = AtomicU64::new(0);
                pool.run(40, &|index| {
                    let work = (index as u64 * 7919 + round) % 97;
                    sum.fetch_add(
                        (0..work * 200).fold(work, |a, b| a ^ (b >> 60)),
                        Ordering::Relaxed,
                    );
                });
                let want: u64 = (0..40).map(|index| (index * 7919 + round) % 97).sum();
                assert_eq!(sum.load(Ordering::Relaxed), want, "round {round}");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 5, 49] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, &|index| assert_ne!(index, bad, "task {index} fails"));
            }));
            let message = *result.expect_err("must panic").downcast::<String>().unwrap();
            assert!(message.contains("fails"), "{message}");
            check(&pool, 50);
        }
    }

    #[test]
    fn ranges_cover_everything() {
        let pool = Pool::new(2);
        for (len, grain) in [(0, 4), (1, 4), (10, 3), (64, 64), (65, 64), (5, 0)] {
            let sum = AtomicUsize::new(0);
            pool.run_ranges(len, grain, &|range| {
                sum.fetch_add(range.map(|i| i + 1).sum::<usize>(), Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), len * (len + 1) / 2, "{len} by {grain}");
        }
    }

    #[test]
    fn idle_workers_use_no_processor_time() {
        let pool = Pool::new(4);
        check(&pool, 100);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(pool.shared.sleepers.0.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn lists_of_processors() {
        let check = |text, expected: Option<&[usize]>| {
            assert_eq!(parse_cpu_list(text).as_deref(), expected, "{text}");
        };
        check("0-3,8", Some(&[0, 1, 2, 3, 8]));
        check("5", Some(&[5]));
        check("3-1", None);
        check("", None);
        assert!(default_threads() >= 1);
    }
}
