//! Files named by their content.
//!
//! A blob is written under a temporary name in `blobs/`, hashed on the way, and gets its own name only when it is
//! complete, synced and of the expected digest. Two writers of one blob do not disturb each other: both rename equal
//! bytes to the same name.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempPath;

use crate::error::Doing;
use crate::{Digest, Error, Hasher, Layer, Result, Store, disk};

/// Bytes moved at once when a blob is copied. Price: this much memory.
const COPY_BYTES: usize = 1 << 20;

/// Writes one blob. Dropped before [`BlobWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: File,
    temporary: TempPath,
    hash: Hasher,
    written_bytes: u64,
    announced_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedBlob {
    pub digest: Digest,
    pub size_bytes: u64,
    /// An equal blob was there already.
    pub existed: bool,
}

/// A layer and whether its blob was there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLayer {
    pub layer: Layer,
    pub existed: bool,
}

impl Store {
    /// Where a blob lies: in the root, else in the builtin store; where it would lie if it is in neither.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let own = self.own_blob_path(digest);
        if own.is_file() {
            return own;
        }
        let builtin = self.builtin.as_ref().map(|root| blob_in(root, digest));
        builtin.filter(|path| path.is_file()).unwrap_or(own)
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// The sizes of all blobs of the root.
    pub fn blob_sizes(&self) -> BTreeSet<u64> {
        let entries = std::fs::read_dir(self.root.join("blobs")).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect()
    }

    /// Starts a blob. `size_bytes`, where known, is compared with the free space first.
    pub fn blob_writer(&self, size_bytes: Option<u64>) -> Result<BlobWriter> {
        let directory = self.make_directory(&self.root.join("blobs"))?;
        if let Some(needed_bytes) = size_bytes {
            self.check_room(needed_bytes)?;
        }
        let (file, temporary) = self.temporary(&directory)?.into_parts();
        Ok(BlobWriter {
            store: self.clone(),
            file,
            temporary,
            hash: Hasher::new(),
            written_bytes: 0,
            announced_bytes: size_bytes,
        })
    }

    /// Stores `bytes` unless they are there.
    pub fn new_layer(&self, media_type: &str, bytes: &[u8]) -> Result<NewLayer> {
        let (digest, size_bytes) = (Digest::of(bytes), bytes.len() as u64);
        let existed = self.reuse(&digest, Some(size_bytes))?;
        if !existed {
            let mut writer = self.blob_writer(Some(size_bytes))?;
            writer.write(bytes)?;
            writer.finish(Some(&digest))?;
        }
        Ok(NewLayer { layer: layer(media_type, digest, size_bytes), existed })
    }

    /// A layer for a blob that is there (copied into the root if only the builtin store has it).
    pub fn existing_layer(&self, media_type: &str, digest: &Digest) -> Result<Layer> {
        if !self.reuse(digest, None)? {
            return Err(Error::MissingBlob(*digest));
        }
        let path = self.own_blob_path(digest);
        let size_bytes = path.metadata().doing("cannot look at", &path)?.len();
        Ok(layer(media_type, *digest, size_bytes))
    }

    pub(crate) fn own_blob_path(&self, digest: &Digest) -> PathBuf {
        blob_in(&self.root, digest)
    }

    /// Makes sure that the root has this blob, from the builtin store if need be, and marks it as used just now, which
    /// protects it from being cleared away. False if nobody has it, or only with another size.
    pub(crate) fn reuse(&self, digest: &Digest, size_bytes: Option<u64>) -> Result<bool> {
        let path = self.own_blob_path(digest);
        if is_blob(&path, size_bytes) {
            touch(&path);
            return Ok(true);
        }
        let builtin = self.builtin.as_ref().map(|root| blob_in(root, digest));
        match builtin.filter(|path| is_blob(path, size_bytes)) {
            Some(path) => self.copy_in(&path, digest).map(|()| true),
            None => Ok(false),
        }
    }

    fn copy_in(&self, path: &Path, digest: &Digest) -> Result<()> {
        let mut from = File::open(path).doing("cannot open", path)?;
        let size_bytes = from.metadata().doing("cannot look at", path)?.len();
        let mut writer = self.blob_writer(Some(size_bytes))?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match from.read(&mut buffer).doing("cannot read", path)? {
                0 => break,
                count => writer.write(&buffer[..count])?,
            }
        }
        writer.finish(Some(digest)).map(|_| ())
    }

    pub(crate) fn temporary(&self, directory: &Path) -> Result<tempfile::NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("new-").suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(Permissions::from_mode(0o644));
        }
        builder.tempfile_in(directory).map_err(|error| self.not_writable(error))
    }
}

impl BlobWriter {
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.failed(error, bytes.len()))?;
        self.hash.update(bytes);
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Verifies the digest, if one is expected, and puts the blob into its place.
    pub fn finish(self, expected: Option<&Digest>) -> Result<FinishedBlob> {
        let digest = self.hash.clone().finish();
        if let Some(&expected) = expected.filter(|&&expected| expected != digest) {
            return Err(Error::DigestMismatch { expected, got: digest });
        }
        let finished = |existed| FinishedBlob { digest, size_bytes: self.written_bytes, existed };
        let path = self.store.own_blob_path(&digest);
        if is_blob(&path, Some(self.written_bytes)) {
            touch(&path);
            return Ok(finished(true));
        }
        self.file.sync_all().map_err(|error| self.failed(error, 0))?;
        let done = finished(false);
        self.temporary.persist(&path).map_err(|e| e.error).doing("cannot rename to", &path)?;
        disk::sync_directory(&path);
        Ok(done)
    }

    fn failed(&self, error: io::Error, more_bytes: usize) -> Error {
        if !disk::is_full(&error) {
            let path = self.temporary.to_path_buf();
            return Error::Io { doing: "cannot write", path, source: error };
        }
        let so_far = self.written_bytes + more_bytes as u64;
        Error::DiskFull {
            needed_bytes: self.announced_bytes.unwrap_or(so_far).max(so_far),
            free_bytes: self.store.free_bytes().unwrap_or(0),
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BlobWriter::write(self, bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blob_in(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs").join(digest.file_name())
}

fn layer(media_type: &str, digest: Digest, size_bytes: u64) -> Layer {
    Layer {
        media_type: media_type.to_owned(),
        digest,
        size_bytes,
        from: String::new(),
        name: String::new(),
    }
}

/// A file of the wrong size under a digest's name was cut off by something: it is written anew.
fn is_blob(path: &Path, size_bytes: Option<u64>) -> bool {
    let found = path.metadata().ok().filter(|found| found.is_file());
    found.is_some_and(|found| size_bytes.is_none_or(|size| size == found.len()))
}

/// Only a protection against clearing away, so a store that refuses it is as good as one that allows it.
fn touch(path: &Path) {
    let touched = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(path = %path.display(), %error, "the time of a blob cannot be set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scene;

    /// Written in pieces of `piece` bytes.
    fn write(store: &Store, bytes: &[u8], piece: usize) -> Result<FinishedBlob> {
        let mut writer = store.blob_writer(Some(bytes.len() as u64))?;
        bytes.chunks(piece).try_for_each(|bytes| writer.write(bytes))?;
        writer.finish(Some(&Digest::of(bytes)))
    }

    #[test]
    fn what_is_written_is_there() {
        let scene = Scene::new();
        let bytes = vec![7; 3 << 20];
        let first = write(&scene.store, &bytes, 65_537).unwrap();
        assert_eq!((first.size_bytes, first.existed), (3 << 20, false));
        assert_eq!(std::fs::read(scene.store.blob_path(&first.digest)).unwrap(), bytes);
        assert!(write(&scene.store, &bytes, 1 << 20).unwrap().existed);
        let layer = scene.store.new_layer("x", &bytes).unwrap();
        assert!(layer.existed);
        assert_eq!(scene.store.existing_layer("x", &first.digest).unwrap(), layer.layer);
        assert_eq!(scene.files(), [format!("blobs/{}", first.digest.file_name())]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode =
                scene.store.blob_path(&first.digest).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o600, 0o600);
        }
    }

    #[test]
    fn nothing_stays_of_a_blob_that_is_not_finished() {
        let scene = Scene::new();
        let mut writer = scene.store.blob_writer(None).unwrap();
        writer.write(b"half").unwrap();
        assert_eq!(scene.files().len(), 1, "the temporary file");
        drop(writer);
        assert!(scene.files().is_empty());

        let mut writer = scene.store.blob_writer(None).unwrap();
        writer.write(b"this is no model\n").unwrap();
        let zeros = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let error = writer.finish(Some(&zeros)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "digest mismatch, expected \"{zeros}\", got \
                 \"sha256:a160c4b3d050d84f07a00a70194c29c3d3e18a603ed27ce407eaa6ad1c9546ea\""
            )
        );
        assert!(scene.files().is_empty());
        let missing = scene.store.existing_layer("x", &zeros).unwrap_err();
        assert!(matches!(missing, Error::MissingBlob(digest) if digest == zeros));
    }

    #[test]
    fn a_blob_that_was_cut_off_is_written_anew() {
        let scene = Scene::new();
        let blob = write(&scene.store, b"whole", 5).unwrap();
        let path = scene.store.blob_path(&blob.digest);
        std::fs::write(&path, b"who").unwrap();
        assert!(!write(&scene.store, b"whole", 5).unwrap().existed);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        std::fs::write(&path, b"who").unwrap();
        assert!(!scene.store.new_layer("x", b"whole").unwrap().existed);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn using_a_blob_renews_its_time() {
        let scene = Scene::new();
        let blob = write(&scene.store, b"old", 3).unwrap();
        let path = scene.store.blob_path(&blob.digest);
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        assert!(scene.store.new_layer("x", b"old").unwrap().existed);
        assert!(path.metadata().unwrap().modified().unwrap() > long_ago);
    }

    #[test]
    fn writers_of_one_blob_do_not_disturb_each_other() {
        let scene = Scene::new();
        let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        std::thread::scope(|scope| {
            for piece in [1_000, 3_333, 50_000, 799_999] {
                let (store, bytes) = (&scene.store, &bytes);
                scope.spawn(move || write(store, bytes, piece).unwrap());
            }
        });
        let path = scene.store.blob_path(&Digest::of(&bytes));
        assert_eq!(std::fs::read(path).unwrap(), bytes);
        assert_eq!(scene.files().len(), 1);
    }

    #[test]
    fn a_blob_that_cannot_fit_is_not_begun() {
        let scene = Scene::new();
        let error = scene.store.blob_writer(Some(u64::MAX)).unwrap_err();
        let Error::DiskFull { needed_bytes, free_bytes } = error else { panic!("{error}") };
        assert_eq!(needed_bytes, u64::MAX);
        assert!(free_bytes > 0);
        assert!(scene.files().is_empty());
    }

    /// The device answers every write as a full disk does.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_disk_that_fills_up_is_told_with_numbers() {
        let scene = Scene::new();
        let mut writer = scene.store.blob_writer(Some(100)).unwrap();
        writer.file = File::options().write(true).open("/dev/full").unwrap();
        let error = writer.write(b"some bytes").unwrap_err();
        assert!(
            matches!(error, Error::DiskFull { needed_bytes: 100, free_bytes } if free_bytes > 0),
            "{error}"
        );
        assert!(error.hint().is_some());
        drop(writer);
        assert!(scene.files().is_empty());
    }
}
