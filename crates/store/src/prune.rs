//! What jobs that never ended left behind: uploads nobody made a model of, temporary files, empty directories.
//!
//! Only what is older than [`Store::PRUNE_AGE`] goes: younger files may belong to a job of another process.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::find::walk;
use crate::manifest::read_manifest;
use crate::{Digest, Result, Store};

/// What [`Store::prune`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub files: u64,
    pub bytes: u64,
}

impl Store {
    /// Using a blob renews its time, which protects it this long.
    pub const PRUNE_AGE: Duration = Duration::from_secs(60 * 60);

    /// Removes what is older than `age` and belongs to no model. Nothing, where a manifest cannot be read: which blobs
    /// it needs is not known. A store that is not there yet stays so.
    pub fn prune(&self, age: Duration) -> Result<Pruned> {
        let blobs = self.root.join("blobs");
        if !blobs.is_dir() {
            return Ok(Pruned::default());
        }
        let _lock = self.lock()?;
        let Some(used) = self.blobs_for_certain() else {
            return Ok(Pruned::default());
        };
        let manifests = self.root.join("manifests");
        let strays =
            files(&blobs).filter(|path| !digest_of(path).is_some_and(|d| used.contains(&d)));
        let mut pruned = Pruned::default();
        // At the top of `manifests` lie only files that became none.
        for path in strays.chain(files(&manifests)) {
            pruned.take(&path, age);
        }
        remove_empty(&manifests);
        Ok(pruned)
    }

    /// `None` if there is a manifest that is damaged, or that has no place among ours.
    fn blobs_for_certain(&self) -> Option<HashSet<Digest>> {
        let known: HashSet<PathBuf> = walk(&self.root).into_values().collect();
        let mut used = HashSet::new();
        for path in manifests_below(&self.root.join("manifests")) {
            match read_manifest(&path) {
                Ok((manifest, _)) if known.contains(&path) => {
                    used.extend(manifest.blobs().map(|layer| layer.digest));
                }
                _ => {
                    let path = path.display();
                    tracing::warn!(%path, "a manifest that cannot be read: nothing is cleared away");
                    return None;
                }
            }
        }
        Some(used)
    }
}

impl Pruned {
    fn take(&mut self, path: &Path, age: Duration) {
        let Ok(found) = path.symlink_metadata() else { return };
        let is_old = found
            .modified()
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|since| since > age));
        if !is_old {
            return;
        }
        match std::fs::remove_file(path) {
            Ok(()) => {
                self.files += 1;
                self.bytes += found.len();
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be cleared away"),
        }
    }
}

fn files(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    // A link is removed, not what it leads to.
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    files.map(|entry| entry.path())
}

/// In directories of any depth; those at the top were never finished, and hidden files are somebody else's.
fn manifests_below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = directories(top);
    while let Some(directory) = left.pop() {
        found.extend(files(&directory).filter(|path| !is_hidden(path)));
        left.extend(directories(&directory));
    }
    found
}

fn directories(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn digest_of(path: &Path) -> Option<Digest> {
    Digest::parse(path.file_name()?.to_str()?).ok()
}

/// Directories below this one that hold nothing.
fn remove_empty(directory: &Path) {
    for inner in directories(directory).into_iter().filter(|path| !path.is_symlink()) {
        remove_empty(&inner);
        // Fails where there is something in it.
        let _ = std::fs::remove_dir(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scene;

    const HOUR: Duration = Store::PRUNE_AGE;

    fn put(scene: &Scene, below: &str, age: Duration) -> PathBuf {
        let path = scene.root().join(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"12345").unwrap();
        make_old(&path, age);
        path
    }

    fn make_old(path: &Path, age: Duration) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    fn orphan(digit: &str) -> String {
        format!("blobs/sha256-{}", digit.repeat(64))
    }

    #[test]
    fn old_strays_go_and_models_stay() {
        let scene = Scene::new();
        let model = scene.model("a", b"weights");
        for path in scene.files() {
            make_old(&scene.root().join(path), HOUR * 9);
        }
        put(&scene, &orphan("0"), HOUR * 2);
        put(&scene, "blobs/new-x.tmp", HOUR * 2);
        put(&scene, "blobs/sha256-1234-partial", HOUR * 2);
        put(&scene, "manifests/new-y.tmp", HOUR * 2);
        let young = [put(&scene, &orphan("1"), HOUR / 2), put(&scene, "blobs/new-z.tmp", HOUR / 2)];
        std::fs::create_dir_all(scene.root().join("manifests/registry.ollama.ai/library/gone"))
            .unwrap();
        let pruned = scene.store.prune(HOUR).unwrap();
        assert_eq!(pruned, Pruned { files: 4, bytes: 20 });
        assert!(young.iter().all(|path| path.is_file()));
        model.verify().unwrap();
        let library = scene.root().join("manifests/registry.ollama.ai/library");
        assert!(library.join("a").is_dir() && !library.join("gone").exists());
        assert_eq!(scene.store.prune(HOUR).unwrap(), Pruned::default());
    }

    #[test]
    fn a_manifest_that_cannot_be_read_protects_all() {
        let check = |manifest: &str, bytes: &[u8], expected: u64| {
            let scene = Scene::new();
            let model = scene.model("a", b"weights");
            let path = scene.root().join("manifests").join(manifest);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
            put(&scene, &orphan("0"), HOUR * 2);
            assert_eq!(scene.store.prune(HOUR).unwrap().files, expected, "{manifest}");
            model.verify().unwrap();
        };
        let other = Scene::new();
        other.model("a", b"weights");
        let whole = std::fs::read(other.manifest("a")).unwrap();
        check("registry.ollama.ai/library/b/latest", b"{ no", 0);
        check("registry.ollama.ai/library/b/bad name", &whole, 0);
        check("registry.ollama.ai/b", &whole, 0);
        check("registry.ollama.ai/library/b/c/d/e", &whole, 0);
        check("registry.ollama.ai/library/.DS_Store", b"x", 1);
        check("registry.ollama.ai/library/b/latest", &whole, 1);
    }

    #[test]
    fn a_store_that_is_not_there_stays_so() {
        let parent = tempfile::tempdir().unwrap();
        let store = Store::open(parent.path().join("none"), None).unwrap();
        assert_eq!(store.prune(HOUR).unwrap(), Pruned::default());
        assert!(!parent.path().join("none").exists());
    }
}
