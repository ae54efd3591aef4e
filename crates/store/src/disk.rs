//! Free space, permission to write, and the lock between processes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Doing;
use crate::{Error, Result, Store};

/// Held while a manifest is written or blobs are removed, so that no blob disappears between the check that it is
/// there and the manifest that needs it. Released when dropped, and by the system when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: Option<File>,
}

impl Store {
    /// What a file of ours may still take on the disk the root is (or will be) on.
    pub fn free_bytes(&self) -> Result<u64> {
        let existing = self.root.ancestors().find(|path| path.exists());
        let path = existing.unwrap_or(Path::new("/"));
        let disk = rustix::fs::statvfs(path).map_err(io::Error::from);
        // One without blocks (`/proc`) has no space to tell of.
        let disk = disk.and_then(|disk| match disk.f_blocks {
            0 => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(disk),
        });
        let disk = disk.doing("cannot tell the free space at", path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Tries to write, and removes what it wrote (directories it had to make stay).
    pub fn check_writable(&self) -> Result<()> {
        let directory = self.make_directory(&self.root.join("blobs"))?;
        self.temporary(&directory).map(|_| ())
    }

    pub(crate) fn check_room(&self, needed_bytes: u64) -> Result<()> {
        // A file system that cannot tell its free space is asked by writing.
        match self.free_bytes() {
            Ok(free_bytes) if free_bytes < needed_bytes => {
                Err(Error::DiskFull { needed_bytes, free_bytes })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn make_directory(&self, path: &Path) -> Result<PathBuf> {
        match std::fs::create_dir_all(path) {
            Ok(()) => Ok(path.to_owned()),
            Err(error) => Err(self.not_writable(error)),
        }
    }

    pub(crate) fn not_writable(&self, source: io::Error) -> Error {
        if is_full(&source) {
            let free_bytes = self.free_bytes().unwrap_or(0);
            return Error::DiskFull { needed_bytes: 1, free_bytes };
        }
        Error::NotWritable { path: self.root.clone(), source }
    }

    /// Waits for other processes. A file system without locks gives an empty one: there we are as safe as Ollama.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.make_directory(&self.root.join("blobs"))?;
        let directory = File::open(&path).doing("cannot open", &path)?;
        match directory.lock() {
            Ok(()) => Ok(Lock { _directory: Some(directory) }),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "the store cannot be locked");
                Ok(Lock { _directory: None })
            }
        }
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a rename last through a power cut. Not every file system can, and none of them needs us to fail for it.
pub(crate) fn sync_directory(of: &Path) {
    let synced = of.parent().map(|parent| File::open(parent).and_then(|file| file.sync_all()));
    if let Some(Err(error)) = synced {
        tracing::debug!(path = %of.display(), %error, "a directory cannot be synced");
    }
}
