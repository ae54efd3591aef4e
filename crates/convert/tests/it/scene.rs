//! A source directory and a store, and how to look at what came out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::{Convert, Converted, Failure, FailureKind};
use serde_json::{Value, json};
use store::{SafetensorsHeader, Store};
use tempfile::TempDir;

/// A source directory and a store, both of their own.
pub struct Scene {
    pub directory: TempDir,
}

impl Scene {
    pub fn empty() -> Scene {
        let scene = Scene { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir(scene.source()).unwrap();
        scene
    }

    pub fn of_fixture(name: &str) -> Scene {
        let scene = Scene::empty();
        fixtures::materialise(&fixtures::arch(name), &scene.source()).unwrap();
        scene
    }

    /// One shard of these tensors and a config.
    pub fn of(config: Value, tensors: &[(&str, &str, &[u64])]) -> Scene {
        let scene = Scene::empty();
        scene.put("config.json", config.to_string().as_bytes());
        scene.put("model.safetensors", &safetensors(tensors));
        scene
    }

    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("models")
    }

    pub fn store(&self) -> Store {
        Store::open(self.root(), None).unwrap()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.source().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn import(&self) -> Result<Converted, Failure> {
        let files = convert::source_files(&self.source())?;
        convert::import(
            &Convert { files, store: self.root(), quantize: None, is_draft: false },
            &mut |_| {},
        )
    }

    pub fn blobs(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root().join("blobs")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    pub fn check_refused(&self, kind: FailureKind, message: &str) {
        let failure = self.import().unwrap_err();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}, expected {message}");
        assert!(self.blobs().is_empty(), "nothing may be left behind");
    }
}

/// A file of these tensors, its bytes counting up.
pub fn safetensors(tensors: &[(&str, &str, &[u64])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let width = match *dtype {
            "F32" | "U32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        let begin = end;
        end += shape.iter().product::<u64>() * width;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]});
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    let data = (0..end).map(|at| at as u8);
    let length = (header.len() as u64).to_le_bytes();
    length.into_iter().chain(header.bytes()).chain(data).collect()
}

/// All tensors of some files with their bytes.
pub fn contents<'a>(
    files: impl IntoIterator<Item = &'a Path>,
) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for path in files {
        let bytes = std::fs::read(path).unwrap();
        for tensor in SafetensorsHeader::read(path).unwrap().tensors {
            let data = bytes[tensor.data.start as usize..tensor.data.end as usize].to_vec();
            assert!(all.insert(tensor.name, (tensor.dtype, tensor.shape, data)).is_none());
        }
    }
    all
}

pub fn blob_paths(
    scene: &Scene,
    converted: &Converted,
    media_type: &str,
) -> BTreeMap<String, PathBuf> {
    let layers = converted.layers.iter().filter(|layer| layer.media_type == media_type);
    let path = |digest: &str| scene.store().blob_path(&digest.parse().unwrap());
    layers.map(|layer| (layer.name.clone().unwrap(), path(&layer.digest))).collect()
}

pub fn llama() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
}
