//! One model as its manifest and small blobs describe it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Doing;
use crate::facts::parse_python_json;
use crate::find::Found;
use crate::manifest::read_manifest;
use crate::{Config, Digest, Error, Layer, Manifest, Name, Result, Store, media};

/// Longest manifest, template, tokenizer … that is read into memory. Price: this much memory for a hostile store.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Debug)]
pub struct Model {
    /// As stored.
    pub name: Name,
    /// Of the manifest's bytes: what users see as the model's id.
    pub digest: Digest,
    pub modified: jiff::Timestamp,
    /// Of all blobs.
    pub size_bytes: u64,
    /// It ships with the program and cannot be removed.
    pub is_builtin: bool,
    pub config: Config,
    pub manifest: Manifest,
    /// Options by name, in the order of the file.
    pub params: IndexMap<String, Value>,
    pub template: Option<String>,
    pub system: Option<String>,
    pub messages: Vec<StoredMessage>,
    pub licenses: Vec<String>,
    /// Safetensors blobs, by the name of their tensor or group of tensors.
    pub tensors: Vec<(String, PathBuf)>,
    /// Files of the source repository (`config.json`, `chat_template.jinja` …) by their name.
    pub files: BTreeMap<String, PathBuf>,
    /// The weights of a GGUF model.
    pub gguf: Vec<PathBuf>,
    /// All blobs with their sizes, for [`Model::verify`].
    blobs: Vec<(PathBuf, u64)>,
}

/// A MESSAGE of a Modelfile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    #[serde(default)]
    pub role: String,
    #[serde(default)]
    pub content: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    /// Base64, as the client sent them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}

impl Model {
    /// Every blob is there with the size the manifest tells. To be called before a model is loaded: a file that was
    /// cut off is better found here than in the middle of an answer.
    pub fn verify(&self) -> Result<()> {
        for (path, size_bytes) in &self.blobs {
            let damaged = |detail| Err(Error::Damaged { path: path.clone(), detail });
            match path.metadata() {
                Ok(found) if found.len() == *size_bytes => {}
                Ok(found) => {
                    let got = found.len();
                    return damaged(format!("it has {got} bytes, the manifest says {size_bytes}"));
                }
                Err(error) => return damaged(error.to_string()),
            }
        }
        Ok(())
    }

    /// The model its weights were taken from, or an empty text.
    pub fn parent(&self) -> &str {
        let weights = |layer: &&Layer| [media::MODEL, media::TENSOR].contains(&&*layer.media_type);
        self.manifest.layers.iter().find(weights).map_or("", |layer| &layer.from)
    }

    /// Where the blobs of a media type lie, in the manifest's order.
    pub fn blobs_of(&self, media_type: &str) -> impl Iterator<Item = &Path> {
        let layers = self.manifest.blobs().zip(&self.blobs);
        layers
            .filter(move |(layer, _)| layer.media_type == media_type)
            .map(|(_, (path, _))| path.as_path())
    }

    /// The text of a file of the source repository; `None` if the model has none of that name.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.files.get(name).map(|path| read_small(path)).transpose()
    }

    /// A JSON file of the source repository; `None` if the model has none of that name.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(path) = self.files.get(name) else {
            return Ok(None);
        };
        let value = parse_python_json(&read_small(path)?);
        value.map(Some).map_err(|error| damaged(path, error))
    }
}

impl Store {
    pub(crate) fn read_model(&self, name: &Name, found: &Found) -> Result<Model> {
        let (manifest, bytes) = read_manifest(&found.path)?;
        let modified = found.path.metadata().and_then(|file| file.modified());
        let modified = modified.doing("cannot look at", &found.path)?;
        let mut model = Model {
            name: name.clone(),
            digest: Digest::of(&bytes),
            modified: jiff::Timestamp::try_from(modified).unwrap_or_default(),
            size_bytes: manifest.size_bytes(),
            is_builtin: found.is_builtin,
            config: self.read_config(&manifest)?,
            params: IndexMap::new(),
            template: None,
            system: None,
            messages: Vec::new(),
            licenses: Vec::new(),
            tensors: Vec::new(),
            files: BTreeMap::new(),
            gguf: Vec::new(),
            blobs: Vec::with_capacity(manifest.layers.len() + 1),
            manifest: Manifest { layers: Vec::new(), ..manifest.clone() },
        };
        for layer in manifest.blobs() {
            let path = self.blob_path(&layer.digest);
            model.add(layer, &path)?;
            model.blobs.push((path, layer.size_bytes));
        }
        model.manifest = manifest;
        Ok(model)
    }

    fn read_config(&self, manifest: &Manifest) -> Result<Config> {
        let path = self.blob_path(&manifest.config.digest);
        Config::from_json(read_json(&path)?).map_err(|error| damaged(&path, error))
    }
}

impl Model {
    fn add(&mut self, layer: &Layer, path: &Path) -> Result<()> {
        match layer.media_type.as_str() {
            media::TENSOR => self.tensors.push((layer.name.clone(), path.to_owned())),
            media::JSON => {
                self.files.insert(layer.name.clone(), path.to_owned());
            }
            media::MODEL => self.gguf.push(path.to_owned()),
            media::TEMPLATE | media::PROMPT => self.template = Some(read_text(path)?),
            media::SYSTEM => self.system = Some(read_text(path)?),
            media::LICENSE => self.licenses.push(read_text(path)?),
            media::PARAMS => self.params = read_json(path)?,
            media::MESSAGES => self.messages = read_json(path)?,
            _ => {}
        }
        Ok(())
    }
}

pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = File::open(path).map_err(|error| missing(path, error))?;
    let mut limited = opened.take(SMALL_FILE_BYTES_MAX + 1);
    limited.read_to_end(&mut bytes).doing("cannot read", path)?;
    if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
        let detail = format!("it has more than {SMALL_FILE_BYTES_MAX} bytes");
        return Err(Error::Damaged { path: path.to_owned(), detail });
    }
    Ok(bytes)
}

fn read_text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_small(path)?).into_owned())
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read_small(path)?).map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, error: serde_json::Error) -> Error {
    Error::Damaged { path: path.to_owned(), detail: error.to_string() }
}

fn missing(path: &Path, source: io::Error) -> Error {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match Digest::parse(name) {
        Ok(digest) if source.kind() == io::ErrorKind::NotFound => Error::MissingBlob(digest),
        _ => Error::Io { doing: "cannot open", path: path.to_owned(), source },
    }
}
