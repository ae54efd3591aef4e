//! Names of pages: a hash over what made them and all tokens up to their end.

use std::fmt;
use std::fs::Metadata;
use std::path::Path;
use std::time::UNIX_EPOCH;

use protocol::ModelFiles;

/// Grows when a page of the same model, program version and layout would have other bytes.
const FORMAT: u32 = 1;

/// All that decides about a page's bytes except its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity([u8; 32]);

/// The name of the tokens from a sequence's beginning to a page's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Chain([u8; Chain::BYTES]);

impl Identity {
    /// `layout` tells the device, the type of keys and values, a page's tokens and bytes.
    pub fn new(model: &ModelFiles, layout: &str) -> Identity {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        add(&FORMAT.to_string());
        add(env!("CARGO_PKG_VERSION"));
        add(layout);
        for file in model.files.get("config.json").into_iter().chain(&model.tensors) {
            add(&contents(file));
        }
        Identity(*hasher.finalize().as_bytes())
    }

    pub fn root(&self) -> Chain {
        Chain(first_bytes(&self.0))
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn folder_name(&self) -> String {
        self.root().to_string()
    }
}

impl Chain {
    pub const BYTES: usize = 16;

    /// The name of these tokens after those that `self` names.
    #[must_use]
    pub fn then(&self, tokens: &[u32]) -> Chain {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        hasher.update(&bytes);
        Chain(first_bytes(hasher.finalize().as_bytes()))
    }

    pub fn from_bytes(bytes: [u8; Chain::BYTES]) -> Chain {
        Chain(bytes)
    }

    pub fn bytes(&self) -> &[u8; Chain::BYTES] {
        &self.0
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn first_bytes(hash: &[u8; 32]) -> [u8; Chain::BYTES] {
    std::array::from_fn(|at| hash[at])
}

/// What tells one file's contents from another's without reading it: a store's blob says it by its name, another file by
/// its place, size and time.
fn contents(file: &Path) -> String {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digest = name.strip_prefix("sha256-").filter(|hex| hex.len() == 64);
    digest.map_or_else(|| place(file), str::to_owned)
}

fn place(file: &Path) -> String {
    let absolute = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let changed = |found: &Metadata| {
        let since = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((found.len(), since.as_nanos()))
    };
    let state = file.metadata().ok().and_then(|found| changed(&found));
    format!("{} {state:?}", absolute.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(tensors: &[&str]) -> ModelFiles {
        ModelFiles { tensors: tensors.iter().map(Into::into).collect(), ..ModelFiles::default() }
    }

    #[test]
    fn whatever_changes_a_page_changes_its_name() {
        let blob = |digit: char| format!("blobs/sha256-{}", digit.to_string().repeat(64));
        let (a, b) = (blob('a'), blob('b'));
        let one = Identity::new(&model(&[&a]), "cpu");
        assert_eq!(one, Identity::new(&model(&[&format!("elsewhere/{a}")]), "cpu"));
        let others =
            [Identity::new(&model(&[&b]), "cpu"), Identity::new(&model(&[&a]), "cpu q8_0")];
        assert!(others.iter().all(|other| *other != one));
        let chains = [
            one.root(),
            one.root().then(&[1, 2]),
            one.root().then(&[2, 1]),
            one.root().then(&[1]).then(&[2]),
            others[0].root().then(&[1, 2]),
        ];
        for (at, chain) in chains.iter().enumerate() {
            assert_eq!(chains.iter().filter(|other| *other == chain).count(), 1, "{at}");
        }
        assert_eq!(one.root().then(&[7]).then(&[8]), one.root().then(&[7]).then(&[8]));
    }

    #[test]
    fn a_file_that_changed_is_another_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let files = ModelFiles { tensors: vec![path.clone()], ..ModelFiles::default() };
        let identity = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Identity::new(&files, "cpu")
        };
        assert_ne!(identity("one"), identity("other"));
    }
}
