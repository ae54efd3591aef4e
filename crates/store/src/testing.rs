//! A store in a directory of its own, for tests.

use std::path::{Path, PathBuf};

use crate::{Config, Layer, Model, Name, Store, media};

pub struct Scene {
    directory: tempfile::TempDir,
    pub store: Store,
}

impl Scene {
    pub fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        Scene { directory, store }
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn layer(&self, media_type: &str, bytes: &[u8]) -> Layer {
        self.store.new_layer(media_type, bytes).unwrap().layer
    }

    /// A model of one tensor blob.
    pub fn model(&self, name: &str, weights: &[u8]) -> Model {
        let layer = Layer { name: "w".into(), ..self.layer(media::TENSOR, weights) };
        let config = Config { model_format: "safetensors".into(), ..Config::default() };
        self.store.write_manifest(&Name::parse(name).unwrap(), &config, vec![layer]).unwrap()
    }

    pub fn manifest(&self, name: &str) -> PathBuf {
        self.root().join("manifests").join(Name::parse(name).unwrap().path())
    }

    /// All files, by their path below the root.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut directories = vec![self.root().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.push(path.strip_prefix(self.root()).unwrap().display().to_string());
                }
            }
        }
        files.sort();
        files
    }

    pub fn manifests(&self) -> Vec<String> {
        let mut files = self.files();
        files.retain(|path| path.starts_with("manifests/"));
        files
    }

    pub fn blob_count(&self) -> usize {
        self.files().iter().filter(|path| path.starts_with("blobs/")).count()
    }
}
