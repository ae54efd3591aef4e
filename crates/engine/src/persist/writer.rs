//! The thread that writes. What it is given waits in a queue of bounded bytes; consecutive pages go to one run, which is
//! ended when it is long, when another sequence comes, or when nothing comes for a moment. A page that is filled in part has
//! a run of its own, so that it can go when a longer one comes.
//!
//! It also keeps the folder within its limit: the runs that nobody has used for longest go first, whichever model they are
//! of and whichever process wrote them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::persist::index::Index;
use crate::persist::run::{self, NewRun};
use crate::persist::{Chain, DiskCache, Identity, Record, lock};

/// Bytes that wait to be written. Price: this much memory beside the model, while a disk is slow.
const QUEUE_BYTES_MAX: usize = 256 << 20;

/// A longer run is ended. Price: what one damaged byte can cost, and the least that the limit frees.
const RUN_BYTES: u64 = 64 << 20;

/// How long an unfinished run waits for its next page: a killed process loses no more than this.
const PAUSE: Duration = Duration::from_secs(1);

/// After a failed write nothing is tried for so long: a full disk is a line in the log now and then.
const FAILURE_PAUSE: Duration = Duration::from_secs(60);

/// By how much the thread that writes stands back behind those that compute: it has a hundredth of a core where these have
/// all. Price: under load less is written than is computed, and what the queue has no room for comes when there is a rest.
const NICENESS: i32 = 19;

/// What a process that was killed left unfinished is removed when it is so old.
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);

pub(super) struct Writer {
    /// None once it shall end.
    work: Option<Sender<Work>>,
    queued_bytes: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

enum Work {
    Write {
        parent: Chain,
        page: Chain,
        record: Record,
    },
    #[cfg(test)]
    Flush(std::sync::mpsc::SyncSender<()>),
}

impl Writer {
    pub fn start(
        cache: &DiskCache,
        folder: PathBuf,
        identity: &Identity,
        page_tokens: usize,
        index: Arc<Mutex<Index>>,
    ) -> Writer {
        let (work, queue) = channel();
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let mut writing = Writing {
            cache: cache.clone(),
            folder,
            identity: identity.clone(),
            page_tokens,
            index,
            queued_bytes: Arc::clone(&queued_bytes),
            run: None,
            failed: None,
        };
        let thread = std::thread::Builder::new().name("pages".to_owned());
        let thread = thread.spawn(move || {
            stand_back();
            writing.run(&queue);
        });
        if let Err(error) = &thread {
            tracing::warn!(%error, "pages are not written to disk");
        }
        Writer { work: Some(work), queued_bytes, thread: thread.ok() }
    }

    pub fn has_room(&self, bytes: usize) -> bool {
        self.queued_bytes.load(Ordering::Relaxed).saturating_add(bytes) <= QUEUE_BYTES_MAX
    }

    pub fn write(&self, parent: Chain, page: Chain, record: Record) -> bool {
        let bytes = bytes(&record);
        let Some(work) = self.work.as_ref().filter(|_| self.has_room(bytes)) else { return false };
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        work.send(Work::Write { parent, page, record }).is_ok()
    }

    #[cfg(test)]
    pub fn flush(&self) {
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        if self.work.as_ref().is_some_and(|work| work.send(Work::Flush(done)).is_ok()) {
            let _ = wait.recv();
        }
    }
}

impl Drop for Writer {
    /// What was given is written first.
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Niceness is a thread's own on Linux, and a process's elsewhere.
fn stand_back() {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::nice(NICENESS)
    {
        tracing::debug!(%error, "pages are written at the priority of all else");
    }
}

struct Writing {
    cache: DiskCache,
    folder: PathBuf,
    identity: Identity,
    page_tokens: usize,
    index: Arc<Mutex<Index>>,
    queued_bytes: Arc<AtomicUsize>,
    run: Option<NewRun>,
    failed: Option<Instant>,
}

impl Writing {
    fn run(&mut self, queue: &Receiver<Work>) {
        loop {
            match queue.recv_timeout(PAUSE) {
                Ok(Work::Write { parent, page, record }) => {
                    self.write(parent, page, &record);
                    self.queued_bytes.fetch_sub(bytes(&record), Ordering::Relaxed);
                }
                #[cfg(test)]
                Ok(Work::Flush(done)) => {
                    self.end_run();
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.end_run(),
                Err(RecvTimeoutError::Disconnected) => return self.end_run(),
            }
        }
    }

    fn write(&mut self, parent: Chain, page: Chain, record: &Record) {
        if self.failed.is_some_and(|at| at.elapsed() < FAILURE_PAUSE) {
            lock(&self.index).give_up(page);
            return;
        }
        let is_part = record.tokens.len() < self.page_tokens;
        let follows = |run: &NewRun| run.last() == Some(parent) && !run.is_full() && !is_part;
        if !self.run.as_ref().is_some_and(follows) {
            self.end_run();
        }
        if let Err(error) = self.push(parent, page, record) {
            lock(&self.index).give_up(page);
            self.fail(&error);
        } else if is_part || self.run.as_ref().is_some_and(|run| run.bytes() >= RUN_BYTES) {
            self.end_run();
        }
    }

    fn push(&mut self, parent: Chain, page: Chain, record: &Record) -> std::io::Result<()> {
        let mut run = match self.run.take() {
            Some(run) => run,
            None => NewRun::create(self.new_path(run::UNFINISHED), &self.identity)?,
        };
        let pushed = run.push(parent, page, record);
        self.run = Some(run);
        pushed
    }

    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        let (pages, last): (Vec<Chain>, _) = (run.pages().collect(), run.last());
        let path = self.new_path(run::RUN);
        match run.finish(&path) {
            Ok(places) => {
                let mut index = lock(&self.index);
                index.add(path, places);
                if let Some(last) = last {
                    index.touch_before(last);
                }
                drop(index);
                self.keep_within_limit();
            }
            Err(error) => {
                let mut index = lock(&self.index);
                pages.into_iter().for_each(|page| index.give_up(page));
                drop(index);
                self.fail(&error);
            }
        }
    }

    /// Whatever the reason, the run is gone and nothing is tried for a while.
    fn fail(&mut self, error: &std::io::Error) {
        tracing::warn!(
            folder = %self.folder.display(), %error,
            "pages cannot be written to disk; the next try is in {} s", FAILURE_PAUSE.as_secs()
        );
        let run = self.run.take();
        let mut index = lock(&self.index);
        run.iter().flat_map(NewRun::pages).for_each(|page| index.give_up(page));
        self.failed = Some(Instant::now());
    }

    /// A name that nobody else uses, whichever process or thread it is.
    fn new_path(&self, extension: &str) -> PathBuf {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = nanos.map_or(0, |since| since.as_nanos());
        self.folder.join(format!("{nanos:x}-{:x}-{number:x}.{extension}", std::process::id()))
    }

    fn keep_within_limit(&self) {
        let mut files = files(&self.cache.folder);
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        files.sort_by_key(|file| file.used);
        for file in files {
            if bytes <= self.cache.bytes_max {
                return;
            }
            if std::fs::remove_file(&file.path).is_ok() {
                tracing::debug!(path = %file.path.display(), "pages on disk give way to others");
            }
            lock(&self.index).forget(&file.path);
            bytes -= file.bytes;
        }
    }
}

fn bytes(record: &Record) -> usize {
    record.page.len() + record.state.as_ref().map_or(0, Vec::len)
}

struct OnDisk {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// The runs of all models. What was never finished, long ago, is removed on the way.
fn files(folder: &Path) -> Vec<OnDisk> {
    let within = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let models = within(folder).map(|entry| entry.path()).filter(|path| is_ours(path));
    let mut runs = Vec::new();
    for entry in models.flat_map(|model| within(&model).collect::<Vec<_>>()) {
        let (path, Ok(found)) = (entry.path(), entry.metadata()) else { continue };
        let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(run::RUN) => runs.push(OnDisk { path, bytes: found.len(), used }),
            Some(run::UNFINISHED) if used.elapsed().is_ok_and(|age| age > UNFINISHED_AGE) => {
                let _ = std::fs::remove_file(path);
            }
            _ => {}
        }
    }
    runs
}

/// Folders of models are named by hashes; what else lies beside them is somebody else's.
fn is_ours(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 2 * Chain::BYTES && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
