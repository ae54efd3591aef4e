//! The files of a model on this machine: which files of a folder belong to it, their digests, and the names they
//! travel under.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::fault::{Told, told};

/// Files to upload, by their path here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    files: BTreeMap<PathBuf, Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub digest: String,
    pub size_bytes: u64,
}

/// Kinds of weights in the order they are looked for; the first kind found is the model. A kind is folders below the
/// given one, what a file name begins with and ends with.
const WEIGHTS: [(&str, &str); 6] = [
    ("model", ".safetensors"),
    ("consolidated", ".safetensors"),
    ("pytorch_model", ".bin"),
    ("consolidated", ".pth"),
    ("", ".gguf"),
    ("", ".bin"),
];

const READ_BYTES: usize = 1 << 20;

impl Sources {
    /// A file, or the files of a model's folder. `None` when nothing is at the path.
    pub fn at(path: &Path) -> Result<Option<Sources>, Told> {
        let facts = match std::fs::metadata(path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A name with a colon, or a path through a file, is no path.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(error) => return Err(unreadable(path, &error)),
        };
        let paths = if facts.is_dir() { files_of(path)? } else { vec![path.to_owned()] };
        Ok(Some(Sources { files: digests(&paths)? }))
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub fn extend(&mut self, more: Sources) {
        self.files.extend(more.files);
    }

    /// The files with the names they have below their common folder, with slashes.
    pub fn named(&self) -> Vec<(String, &Source)> {
        let root = common_folder(self.files.keys().map(PathBuf::as_path));
        self.files.iter().map(|(path, source)| (name(path, root.as_deref()), source)).collect()
    }
}

fn name(path: &Path, root: Option<&Path>) -> String {
    let below = root.and_then(|root| path.strip_prefix(root).ok());
    let below = below.or_else(|| path.file_name().map(Path::new)).unwrap_or(path);
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

fn common_folder<'a>(mut paths: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    let mut common = paths.next()?.parent()?.to_owned();
    for path in paths {
        while !path.starts_with(&common) {
            common = common.parent()?.to_owned();
        }
    }
    Some(common)
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Told> {
    let here = entries(folder)?;
    let mut below = Vec::new();
    for path in here.iter().filter(|path| path.is_dir()) {
        below.extend(entries(path)?);
    }
    let pick = |from: &[PathBuf], wanted: &dyn Fn(&str) -> bool| -> Vec<PathBuf> {
        let is_wanted = |path: &&PathBuf| {
            path.is_file() && path.file_name().is_some_and(|name| wanted(&name.to_string_lossy()))
        };
        from.iter().filter(is_wanted).cloned().collect()
    };
    let weights = |(start, end): (&str, &str)| {
        let wanted = |name: &str| name.starts_with(start) && name.ends_with(end);
        let mut found = pick(&here, &wanted);
        if start == "model" && !found.is_empty() {
            found.extend(pick(&below, &wanted));
        }
        found
    };
    let mut files =
        WEIGHTS.into_iter().map(weights).find(|found| !found.is_empty()).ok_or_else(|| {
            told("no Modelfile or safetensors files found").hint(format!(
                "`{}` has no model*.safetensors; name a folder that has, or a model",
                folder.display()
            ))
        })?;
    files.extend(pick(&here, &|name| name.ends_with(".json") || text::reads(name)));
    files.extend(pick(&below, &|name| name.ends_with(".json")));
    if !files.iter().any(|file| file.ends_with("tokenizer.model")) {
        files.extend(pick(&below, &|name| name == "tokenizer.model"));
    }
    for file in &files {
        check_inside(folder, file)?;
    }
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Told> {
    let read = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().map_err(|error| unreadable(folder, &error))?;
    paths.sort();
    Ok(paths)
}

/// A symbolic link must not lead out of the folder: whoever made the folder would choose what is uploaded.
fn check_inside(folder: &Path, file: &Path) -> Result<(), Told> {
    let folder = folder.canonicalize().map_err(|error| unreadable(folder, &error))?;
    let real = file.canonicalize().map_err(|error| unreadable(file, &error))?;
    if real.starts_with(&folder) {
        return Ok(());
    }
    let told = told(format!("insecure path: {}", relative(&folder, &real).display()));
    Err(told.hint("copy the files the links point to into the folder (for the Hugging Face client: `--local-dir`)"))
}

fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

/// Digests of all files, on as many threads as there are cores.
fn digests(paths: &[PathBuf]) -> Result<BTreeMap<PathBuf, Source>, Told> {
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(paths.len().max(1));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> Result<Vec<Source>, Told> {
        let mut done = Vec::new();
        while let Some(path) = paths.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            done.push(digest(path).map_err(|error| unreadable(path, &error))?);
        }
        Ok(done)
    };
    let mut sources = BTreeMap::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let done = thread.join().map_err(|_| told("hashing the files failed"))??;
            sources.extend(done.into_iter().map(|source| (source.path.clone(), source)));
        }
        Ok(sources)
    })
}

fn digest(path: &Path) -> io::Result<Source> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut size_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(&buffer[..count]);
                size_bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Source { path: path.to_owned(), digest: format!("sha256:{hex}"), size_bytes })
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Told {
    told(format!("cannot read `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        folder
    }

    fn check(files: &[&str], expected: Result<&[&str], &str>) {
        let folder = folder(files);
        let found = Sources::at(folder.path()).map(|found| {
            found.unwrap().named().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        });
        let expected = expected.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(
            found.map_err(|told| told.message),
            expected.map_err(str::to_owned),
            "{files:?}"
        );
    }

    #[test]
    fn a_models_files() {
        check(
            &[
                "model.safetensors",
                "config.json",
                "README.md",
                "x.gguf",
                "vision/config.json",
                "chat_template.jinja",
            ],
            Ok(&["chat_template.jinja", "config.json", "model.safetensors", "vision/config.json"]),
        );
        check(
            &["model-1.safetensors", "sub/model.safetensors", "tokenizer.model"],
            Ok(&["model-1.safetensors", "sub/model.safetensors", "tokenizer.model"]),
        );
        check(&["a.gguf"], Ok(&["a.gguf"]));
        check(&["sub/model.safetensors"], Err("no Modelfile or safetensors files found"));
        check(&["README.md"], Err("no Modelfile or safetensors files found"));
    }

    #[test]
    fn links_stay_inside() {
        let outside = folder(&["weights"]);
        let inside = folder(&["config.json", "blob"]);
        let link = inside.path().join("model.safetensors");
        std::os::unix::fs::symlink(inside.path().join("blob"), &link).unwrap();
        assert_eq!(Sources::at(inside.path()).unwrap().unwrap().named().len(), 2);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(outside.path().join("weights"), &link).unwrap();
        let told = Sources::at(inside.path()).unwrap_err();
        assert!(told.message.starts_with("insecure path: ../"), "{told:?}");
    }

    #[test]
    fn digests_are_of_the_bytes() {
        let folder = folder(&["hello"]);
        let found = Sources::at(&folder.path().join("hello")).unwrap().unwrap();
        let named = found.named();
        let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!((named[0].0.as_str(), named[0].1.digest.as_str()), ("hello", digest));
        assert_eq!(Sources::at(&folder.path().join("nothing")), Ok(None));
        assert_eq!(Sources::at(&folder.path().join("hello/below")), Ok(None));
    }
}
