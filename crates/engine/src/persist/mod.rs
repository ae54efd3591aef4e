//! What outlives the process: pages of keys and values (and recurrent states at their ends) on disk, found again by the
//! tokens they stand for.
//!
//! A page's name is a hash over all tokens up to its end, begun with what made it (model, format, layout), so equal names
//! mean equal contents whoever wrote them. The last page of a sequence may be filled in part; which tokens a page stands
//! for is told beside it, so that a prompt finds the one with which it shares most. Runs of pages are written behind, by a
//! thread of its own, to files that appear whole or not at all; several processes may share a folder. Knows no tree and no
//! executor: bytes in, bytes out.
//!
//! Nothing here fails a request. What cannot be written is dropped, what cannot be read is not there; both leave a line
//! in the log, and a file that is not what it says is removed.

mod chain;
mod index;
mod outgoing;
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
    /// Those of the page, behind all before it.
    pub tokens: Vec<u32>,
    pub page: Vec<u8>,
    /// The recurrent state after its last token, for models that have one.
    pub state: Option<Vec<u8>>,
}

/// The pages of one model on disk.
pub(crate) struct Disk {
    index: Arc<Mutex<Index>>,
    writer: Writer,
    root: Chain,
    page_tokens: usize,
}

/// A page on disk that a prompt shares something with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub page: Chain,
    pub shared_tokens: usize,
}

impl Disk {
    /// None where the folder cannot be used; the log says why.
    pub fn open(cache: &DiskCache, identity: &Identity, page_tokens: usize) -> Option<Disk> {
        let folder = cache.folder.join(identity.folder_name());
        if let Err(error) = make_private(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "pages are not kept on disk");
            return None;
        }
        let mut index = Index::new(folder.clone(), identity.clone());
        index.scan();
        tracing::debug!(folder = %folder.display(), pages = index.len(), "pages on disk");
        let index = Arc::new(Mutex::new(index));
        let writer = Writer::start(cache, folder, identity, page_tokens, Arc::clone(&index));
        Some(Disk { index, writer, root: identity.root(), page_tokens })
    }

    /// Tokens of a whole page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// The name of no tokens at all, from which all others are made.
    #[cfg(test)]
    pub fn root(&self) -> Chain {
        self.root
    }

    /// The names of the whole pages that tokens begin with.
    pub fn chains(&self, tokens: &[u32]) -> Vec<Chain> {
        let mut at = self.root;
        let pages = tokens.chunks_exact(self.page_tokens).map(|page| {
            at = at.then(page);
            at
        });
        pages.collect()
    }

    /// Of the first `count` of these pages together.
    pub fn name(&self, chains: &[Chain], count: usize) -> Chain {
        count.checked_sub(1).map_or(self.root, |last| chains[last])
    }

    /// Whether this page need not be written: it is on disk or on its way there.
    pub fn has(&self, page: Chain, with_state: bool) -> bool {
        lock(&self.index).has(page, with_state)
    }

    /// Whether [`Disk::read`] is worth a try.
    pub fn is_readable(&self, page: Chain) -> bool {
        lock(&self.index).is_readable(page)
    }

    /// Whether a page on disk, or on its way there, stands for these tokens behind `parent`, and perhaps for more.
    pub fn covers(&self, parent: Chain, tokens: &[u32]) -> bool {
        let index = lock(&self.index);
        index.has(parent.then(tokens), false) || index.covers(parent, tokens)
    }

    /// Of the pages behind `parent` the one that shares most of its beginning with `tokens`. With a state only those count
    /// of which all is shared, for it is known after the last token alone.
    pub fn closest(&self, parent: Chain, tokens: &[u32], with_state: bool) -> Option<Match> {
        lock(&self.index).closest(parent, tokens, with_state)
    }

    /// `buffer` is memory to use.
    pub fn read(&self, page: Chain, buffer: Vec<u8>) -> Option<Record> {
        // The file is read without the lock: the writer goes on meanwhile.
        let place = lock(&self.index).place(page)?;
        match place.read(buffer) {
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

    /// Writes a page that follows `parent`, some time soon. False: it was dropped.
    pub fn write(&self, parent: Chain, record: Record) -> bool {
        let page = parent.then(&record.tokens);
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
