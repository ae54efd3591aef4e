//! Streams the planned blobs into the store: every core takes the next one, hashing is most of the work.
//!
//! Memory is one buffer per core, whatever the size of a tensor. The order of the layers is the plan's, so equal sources
//! give equal manifests. When one blob fails, all stop and what this job wrote is removed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use protocol::{ConvertProgress, Failure, FailureKind, NewLayer};
use store::{Digest, FinishedBlob, Hasher, Store, media};

use crate::failure;
use crate::plan::{Blob, Plan};
use crate::source::Source;

/// Read and written at once. Price: this much memory per core.
const CHUNK_BYTES: usize = 1 << 20;
/// More cores than this wait for the disk.
const WORKERS_MAX: usize = 8;
/// Between two reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Reports that may wait to be passed on; a worker waits when it is full. Price: 8 bytes each.
const REPORTS_WAITING_MAX: usize = 64;

pub fn all(
    store: &Store,
    source: &Source,
    plan: &Plan,
    progress: &mut dyn FnMut(ConvertProgress),
) -> Result<Vec<NewLayer>, Failure> {
    let jobs = jobs(source, plan);
    let total_bytes = jobs.iter().map(Job::size_bytes).sum();
    let work = Work {
        store,
        source,
        jobs: &jobs,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        results: Mutex::new(Vec::with_capacity(jobs.len())),
    };
    work.check_room(total_bytes)?;
    let (reports, reported) = sync_channel(REPORTS_WAITING_MAX);
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            let (work, reports) = (&work, reports.clone());
            scope.spawn(move || work.run(&reports));
        }
        drop(reports);
        pass_on(&reported, total_bytes, progress);
    });
    work.finish()
}

/// A layer to be.
enum Job<'a> {
    Tensors(&'a Blob),
    File { at: usize, size_bytes: u64 },
}

impl Job<'_> {
    fn size_bytes(&self) -> u64 {
        match self {
            Job::Tensors(blob) => blob.size_bytes(),
            Job::File { size_bytes, .. } => *size_bytes,
        }
    }
}

fn jobs<'a>(source: &Source, plan: &'a Plan) -> Vec<Job<'a>> {
    let files = source.files.iter().enumerate();
    let files = files.map(|(at, file)| Job::File { at, size_bytes: file.size_bytes });
    plan.blobs.iter().map(Job::Tensors).chain(files).collect()
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
}

struct Work<'a> {
    store: &'a Store,
    source: &'a Source,
    jobs: &'a [Job<'a>],
    next: AtomicUsize,
    stopped: AtomicBool,
    results: Mutex<Vec<(usize, Result<FinishedBlob, Failure>)>>,
}

/// Counts bytes, for whoever watches.
type Reports = SyncSender<u64>;

impl Work<'_> {
    fn run(&self, reports: &Reports) {
        while !self.stopped.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(at) else {
                return;
            };
            let result = self.write(job, reports);
            if result.is_err() {
                self.stopped.store(true, Ordering::Relaxed);
            }
            self.results.lock().unwrap_or_else(|broken| broken.into_inner()).push((at, result));
        }
    }

    fn write(&self, job: &Job<'_>, reports: &Reports) -> Result<FinishedBlob, Failure> {
        let mut writer = self.store.blob_writer(Some(job.size_bytes())).map_err(failure)?;
        let stopped = || Failure::new(FailureKind::Cancelled, "another part of the import failed");
        self.stream(job, &mut |bytes| {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            writer.write(bytes).map_err(failure)?;
            // Nobody listens any more only when the job is over.
            let _ = reports.send(bytes.len() as u64);
            Ok(())
        })?;
        writer.finish(None).map_err(failure)
    }

    /// All bytes of a layer, in order.
    fn stream(
        &self,
        job: &Job<'_>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match job {
            Job::File { at, size_bytes } => {
                copy(&self.source.files[*at].path, 0..*size_bytes, sink)
            }
            Job::Tensors(blob) => {
                sink(&blob.header())?;
                blob.pieces().try_for_each(|piece| {
                    copy(&self.source.shards[piece.shard].path, piece.data.clone(), sink)
                })
            }
        }
    }

    /// Before anything is written: does what is not there yet fit? Only where all of it would not, the blobs that have
    /// the size of one in the store are read to see whether they are equal.
    fn check_room(&self, total_bytes: u64) -> Result<(), Failure> {
        // A disk that cannot tell is asked by writing.
        let Ok(free_bytes) = self.store.free_bytes() else {
            return Ok(());
        };
        if total_bytes <= free_bytes {
            return Ok(());
        }
        let sizes = self.store.blob_sizes();
        let mut needed_bytes = 0u64;
        for job in self.jobs {
            if !sizes.contains(&job.size_bytes()) || !self.store.has(&self.digest(job)?) {
                needed_bytes = needed_bytes.saturating_add(job.size_bytes());
            }
        }
        match needed_bytes > free_bytes {
            true => Err(failure(store::Error::DiskFull { needed_bytes, free_bytes })),
            false => Ok(()),
        }
    }

    fn digest(&self, job: &Job<'_>) -> Result<Digest, Failure> {
        let mut hash = Hasher::new();
        self.stream(job, &mut |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        Ok(hash.finish())
    }

    fn finish(self) -> Result<Vec<NewLayer>, Failure> {
        let mut results = self.results.into_inner().unwrap_or_else(|broken| broken.into_inner());
        results.sort_by_key(|(at, _)| *at);
        let mut done = Vec::with_capacity(results.len());
        let mut failures = Vec::new();
        for (at, result) in results {
            match result {
                Ok(blob) => done.push((at, blob)),
                Err(failure) => failures.push(failure),
            }
        }
        // The first cause, not those that only stopped for it.
        failures.sort_by_key(|failure| failure.kind == FailureKind::Cancelled);
        if let Some(first) = failures.into_iter().next() {
            let ours = done.iter().filter(|(_, blob)| !blob.existed).map(|(_, blob)| blob.digest);
            if let Err(error) = self.store.discard(ours) {
                tracing::warn!(%error, "blobs of an import that failed stay behind");
            }
            return Err(first);
        }
        let layer = |(at, blob): &(usize, FinishedBlob)| {
            let (media_type, name) = match &self.jobs[*at] {
                Job::Tensors(blob) => (media::TENSOR, &blob.name),
                Job::File { at, .. } => (media::JSON, &self.source.files[*at].name),
            };
            NewLayer {
                media_type: media_type.to_owned(),
                digest: blob.digest.to_string(),
                size_bytes: blob.size_bytes,
                name: Some(name.clone()),
            }
        };
        Ok(done.iter().map(layer).collect())
    }
}

/// Adds up what the workers report and tells it now and then, and at the end.
fn pass_on(reported: &Receiver<u64>, total_bytes: u64, progress: &mut dyn FnMut(ConvertProgress)) {
    let mut tell = |completed_bytes| {
        progress(ConvertProgress {
            status: "converting model".to_owned(),
            completed_bytes,
            total_bytes,
        });
    };
    let mut completed_bytes = 0;
    let mut last = Instant::now();
    tell(0);
    for bytes in reported {
        completed_bytes += bytes;
        if last.elapsed() >= REPORT_EVERY {
            tell(completed_bytes);
            last = Instant::now();
        }
    }
    tell(completed_bytes);
}

fn copy(
    path: &Path,
    range: std::ops::Range<u64>,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let message = format!("cannot read `{}`: {error}", path.display());
        Failure::new(FailureKind::Environment, message)
    };
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
    let mut left = range.end - range.start;
    let mut buffer = vec![0; CHUNK_BYTES.min(left as usize)];
    while left > 0 {
        let chunk = &mut buffer[..CHUNK_BYTES.min(left as usize)];
        file.read_exact(chunk).map_err(failed)?;
        sink(chunk)?;
        left -= chunk.len() as u64;
    }
    Ok(())
}
