//! What outlives the process: pages of keys and values (and recurrent states at their ends) on disk, found again by the
//! tokens they stand for.
//!
//! A page's name is a hash over all tokens up to its end, begun with what made it (model, format, layout), so equal names
//! mean equal contents whoever wrote them. Runs of pages are written behind, by a thread of its own, to files that appear
//! whole or not at all; several processes may share a folder. Knows no tree and no executor: bytes in, bytes out.
//!
//! Nothing here fails a request. What cannot be written is dropped, what cannot be read is not there; both leave a line
//! in the log, and a file that is not what it says is removed.

mod chain;
mod index;
mod run;
mod shelf;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use chain::{Chain, Identity};
use index::Index;
pub(crate) use shelf::{Brought, Shelf};
use writer::Writer;

/// Where pages may be kept, and how many bytes of them, all models together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    pub folder: PathBuf,
    pub bytes_max: u64,
}

/// What is kept for one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub page: Vec<u8>,
    /// The recurrent state at the page's end, for models that have one.
    pub state: Option<Vec<u8>>,
}

/// The pages of one model on disk.
pub(crate) struct Disk {
    index: Arc<Mutex<Index>>,
    writer: Writer,
    root: Chain,
}

impl Disk {
    /// None where the folder cannot be used; the log says why.
    pub fn open(cache: &DiskCache, identity: &Identity) -> Option<Disk> {
        let folder = cache.folder.join(identity.folder_name());
        if let Err(error) = make_private(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "pages are not kept on disk");
            return None;
        }
        let mut index = Index::new(folder.clone(), identity.clone());
        index.scan();
        tracing::debug!(folder = %folder.display(), pages = index.len(), "pages on disk");
        let index = Arc::new(Mutex::new(index));
        let writer = Writer::start(cache, folder, identity, Arc::clone(&index));
        Some(Disk { index, writer, root: identity.root() })
    }

    /// The name of no tokens at all, from which all others are made.
    pub fn root(&self) -> Chain {
        self.root
    }

    /// Whether this page need not be written: it is on disk or on its way there.
    pub fn has(&self, page: Chain, with_state: bool) -> bool {
        lock(&self.index).has(page, with_state)
    }

    /// Whether [`Disk::read`] is worth a try.
    pub fn is_readable(&self, page: Chain) -> bool {
        lock(&self.index).is_readable(page)
    }

    pub fn read(&self, page: Chain) -> Option<Record> {
        // The file is read without the lock: the writer goes on meanwhile.
        let place = lock(&self.index).place(page)?;
        match place.read() {
            Ok(record) => Some(record),
            Err(error) => {
                lock(&self.index).lose(&place.path, &error);
                None
            }
        }
    }

    /// Whether a record of this size would be taken.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.writer.has_room(bytes)
    }

    /// Writes `page`, which follows `parent`, some time soon. False: it was dropped.
    pub fn write(&self, parent: Chain, page: Chain, record: Record) -> bool {
        if !lock(&self.index).expect(page) {
            return true;
        }
        let taken = self.writer.write(parent, page, record);
        if !taken {
            lock(&self.index).give_up(page);
        }
        taken
    }

    /// Waits until all that was given is written.
    #[cfg(test)]
    pub fn flush(&self) {
        self.writer.flush();
    }
}

/// Only this user may read what others said to a model.
fn make_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// A panic elsewhere leaves the index usable: every change of it is whole.
fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
