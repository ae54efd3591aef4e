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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scene;
    use crate::{Config, Name, Recipe, media};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_root_that_cannot_be_written() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = Store::open(&file, None).unwrap_err();
        assert!(matches!(error, Error::NotWritable { .. }), "{error}");
        let refused = |root: &Path| {
            let store = Store::open(root, None).unwrap();
            assert!(store.models().unwrap().is_empty(), "it can still be read");
            for error in [
                store.check_writable().unwrap_err(),
                store.new_layer("x", b"y").unwrap_err(),
                store.blob_writer(None).unwrap_err(),
                store.write_manifest(&name("x"), &Config::default(), Vec::new()).unwrap_err(),
            ] {
                assert!(matches!(error, Error::NotWritable { .. }), "{error}");
                assert!(error.hint().unwrap().contains("OLLAMA_MODELS"));
                assert!(error.to_string().contains(&root.display().to_string()), "{error}");
            }
        };
        refused(&file.join("models"));
        // File systems that take no files, not even from root.
        #[cfg(target_os = "linux")]
        refused(Path::new("/proc/models"));
    }

    #[test]
    fn makers_and_removers_wait_for_each_other() {
        let check = |change: fn(&Scene)| {
            let scene = Scene::new();
            scene.model("a", b"weights");
            let before = scene.manifests();
            let lock = scene.store.lock().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| change(&scene));
                std::thread::sleep(std::time::Duration::from_millis(50));
                assert_eq!(scene.manifests(), before, "done without the lock");
                drop(lock);
            });
            assert_ne!(scene.manifests(), before);
        };
        check(|scene| scene.store.delete(&name("a")).unwrap());
        check(|scene| scene.store.copy(&name("a"), &name("b")).unwrap());
        check(|scene| {
            scene.store.write_manifest(&name("b"), &Config::default(), Vec::new()).unwrap();
        });
        check(|scene| {
            let recipe = Recipe::from_model(&scene.store.model(&name("a")).unwrap());
            scene.store.create(&name("b"), recipe, &mut |_| {}).unwrap();
        });
    }

    #[test]
    fn makers_and_removers_at_once_never_leave_half_a_model() {
        let scene = Scene::new();
        let outcomes = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (store, outcomes) = (scene.store.clone(), &outcomes);
                scope.spawn(move || {
                    let mine = name(&format!("m{thread}"));
                    for _ in 0..25 {
                        let shared = store.new_layer(media::TENSOR, b"shared").unwrap().layer;
                        let made = store.write_manifest(&mine, &Config::default(), vec![shared]);
                        let whole = made.and_then(|model| model.verify());
                        let gone = matches!(whole, Err(Error::MissingBlob(_)));
                        outcomes.lock().unwrap().push(whole);
                        if !gone {
                            store.delete(&mine).unwrap();
                        }
                    }
                });
            }
        });
        // The blob may be gone before the manifest is written, which is told; afterwards never.
        for outcome in outcomes.into_inner().unwrap() {
            assert!(matches!(outcome, Ok(()) | Err(Error::MissingBlob(_))), "{outcome:?}");
        }
        assert!(scene.files().is_empty());
    }
}
