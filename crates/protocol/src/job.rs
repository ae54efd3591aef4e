//! What a child is asked to do with files: load a model, or convert one. Paths only; contents stay on disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a model's parts lie. The same words serve a store's blobs and a plain directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFiles {
    /// As the user wrote it; for messages.
    pub name: String,
    /// JSON and template files by their name in the repository (`config.json`, `tokenizer.json` …).
    pub files: BTreeMap<String, PathBuf>,
    /// Safetensors files, each with one or many tensors.
    pub tensors: Vec<PathBuf>,
    /// A Modelfile's TEMPLATE, if it has one.
    #[serde(default)]
    pub template: Option<String>,
    #[serde(default)]
    pub renderer: Option<String>,
    #[serde(default)]
    pub parser: Option<String>,
    /// A smaller model with the same tokens, which drafts what this one says (DRAFT of a Modelfile).
    #[serde(default)]
    pub draft: Option<Box<ModelFiles>>,
}

impl ModelFiles {
    /// Of a plain directory: all files that lie in it.
    pub fn of_folder(name: impl Into<String>, folder: &Path) -> io::Result<ModelFiles> {
        let mut model = ModelFiles { name: name.into(), ..ModelFiles::default() };
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let Some(file) = path.file_name().filter(|_| path.is_file()) else { continue };
            let file = file.to_string_lossy().into_owned();
            match file.ends_with(".safetensors") {
                true => model.tensors.push(path),
                false => drop(model.files.insert(file, path)),
            }
        }
        // Directories have no order of their own.
        model.tensors.sort();
        Ok(model)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadModel {
    pub model: ModelFiles,
    /// Upper limit of the context a sequence may use; `None`: the model's own.
    #[serde(default)]
    pub context_tokens_max: Option<u32>,
    #[serde(default)]
    pub threads: Option<u32>,
    /// Sequences at once; `None`: as many as there is memory for, up to a limit of the engine's own.
    #[serde(default)]
    pub parallel_max: Option<u32>,
    /// Requests in line behind them; `None`: a limit of the engine's own.
    #[serde(default)]
    pub waiting_max: Option<u32>,
    /// How keys and values are stored: `q8_0`, `q4_0`; `None`, and names nobody knows: as they are computed.
    #[serde(default)]
    pub kv_cache_type: Option<String>,
    /// What the runner may take, weights included; `None`: what the device has.
    #[serde(default)]
    pub memory_bytes_max: Option<u64>,
}

/// What a runner says about itself when the model is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedModel {
    pub architecture: String,
    pub context_tokens_max: u32,
    /// `cpu`, `metal` or `cuda`.
    pub device: String,
    pub memory_bytes: u64,
}

/// Import files into a store as one model's layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convert {
    /// The source's files by their relative name.
    pub files: BTreeMap<String, PathBuf>,
    /// The store's root directory, where blobs are written.
    pub store: PathBuf,
    #[serde(default)]
    pub quantize: Option<String>,
    /// Its layers are to stand beside those of the model that it drafts for: their names say so.
    #[serde(default)]
    pub is_draft: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertProgress {
    pub status: String,
    pub completed_bytes: u64,
    pub total_bytes: u64,
}

/// A blob that a conversion wrote (or found); the words of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLayer {
    pub media_type: String,
    pub digest: String,
    pub size_bytes: u64,
    #[serde(default)]
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Converted {
    pub layers: Vec<NewLayer>,
    /// Fields of the manifest's config blob.
    pub config: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_files_and_its_tensors_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.safetensors", "a.safetensors", "config.json"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("more")).unwrap();
        let found = ModelFiles::of_folder("m", folder.path()).unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(found.tensors, [at("a.safetensors"), at("b.safetensors")]);
        assert_eq!(found.files, [("config.json".to_owned(), at("config.json"))].into());
        assert!(ModelFiles::of_folder("m", &at("none")).is_err());
    }
}
