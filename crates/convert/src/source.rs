//! What is to be imported, read and checked: every header, every JSON file, the index, and whether they agree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::{Failure, FailureKind};
use serde::de::IgnoredAny;
use serde_json::Value;
use store::{SafetensorsHeader, StoredTensor, chat_template_of, parse_python_json};

use crate::{bad_model, failure};

/// Largest JSON file or template. Price: this much memory, a few at a time.
const TEXT_FILE_BYTES_MAX: u64 = 64 << 20;

const INDEX: &str = "model.safetensors.index.json";
const TEMPLATE: &str = "chat_template.jinja";

#[derive(Debug)]
pub struct Source {
    /// `config.json`.
    pub config: Value,
    pub chat_template: Option<String>,
    /// Files that become layers as they are, by name.
    pub files: Vec<SourceFile>,
    pub shards: Vec<SourceFile>,
    /// By name; `shard` is an index into `shards`.
    pub tensors: BTreeMap<String, SourceTensor>,
}

#[derive(Debug)]
pub struct SourceFile {
    /// Relative, with slashes.
    pub name: String,
    pub path: PathBuf,
    pub size_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct SourceTensor {
    pub shard: usize,
    pub stored: StoredTensor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Weights,
    /// Old Mistral releases: only where there are no other weights, of which they are a copy.
    Consolidated,
    Text,
    Index,
}

impl Source {
    pub fn read(files: &BTreeMap<String, PathBuf>) -> Result<Source, Failure> {
        check_kinds(files)?;
        let mut source = Source {
            config: Value::Null,
            chat_template: None,
            files: with_role(files, &[Role::Text])?,
            shards: shards(files)?,
            tensors: BTreeMap::new(),
        };
        source.read_texts()?;
        check_config(&source.config)?;
        for shard in 0..source.shards.len() {
            source.read_shard(shard)?;
        }
        if source.tensors.is_empty() {
            return Err(bad_model("the safetensors files hold no tensor"));
        }
        match files.get(INDEX) {
            Some(path) => source.check_index(path).map(|()| source),
            None => Ok(source),
        }
    }

    /// Of the files that become layers.
    pub fn put_before_names(&mut self, prefix: &str) {
        self.files.iter_mut().for_each(|file| file.name.insert_str(0, prefix));
    }

    fn read_texts(&mut self) -> Result<(), Failure> {
        let mut from_tokenizer = None;
        for file in &self.files {
            let text = read_text(file)?;
            match file.name.as_str() {
                TEMPLATE => self.chat_template = Some(String::from_utf8_lossy(&text).into_owned()),
                "config.json" => self.config = json(file, &text)?,
                "tokenizer_config.json" => from_tokenizer = chat_template_of(&json(file, &text)?),
                name if name.ends_with(".json") => check_json(file, &text)?,
                // A vocabulary in a form of its own, which `text` reads when the model is loaded.
                _ => {}
            }
        }
        self.chat_template = self.chat_template.take().or(from_tokenizer);
        Ok(())
    }

    fn read_shard(&mut self, shard: usize) -> Result<(), Failure> {
        let file = &self.shards[shard];
        let header = SafetensorsHeader::read(&file.path).map_err(|error| match error {
            store::Error::Damaged { detail, .. } => damaged(file, &detail),
            other => failure(other),
        })?;
        // Weights of a part of the model (`2_Dense/model.safetensors`) have names of their own.
        let part =
            file.name.rsplit_once('/').map(|(part, _)| format!("{part}/")).unwrap_or_default();
        for stored in header.tensors {
            check_dtype(&stored)?;
            let name = format!("{part}{}", stored.name);
            let tensor = SourceTensor { shard, stored };
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                let (a, b) = (&self.shards[other.shard].name, &file.name);
                return Err(bad_model(format!("tensor `{name}` is in `{a}` and in `{b}`")));
            }
        }
        Ok(())
    }

    /// Every tensor it promises is there: a missing shard would otherwise be noticed only by the model that needs it.
    fn check_index(&self, path: &Path) -> Result<(), Failure> {
        let file = file_of(INDEX, path)?;
        let index = json(&file, &read_text(&file)?)?;
        let Some(places) = index.get("weight_map").and_then(Value::as_object) else {
            return Err(damaged(&file, "it has no `weight_map`"));
        };
        for (tensor, shard) in places {
            let shard = shard.as_str().unwrap_or_default();
            if !self.shards.iter().any(|file| file.name == shard) {
                let message = format!("`{shard}` is missing, which `{INDEX}` names for `{tensor}`");
                return Err(bad_model(message).hint("download the missing file"));
            }
            let found =
                self.tensors.get(tensor).map(|found| self.shards[found.shard].name.as_str());
            if found != Some(shard) {
                let message = format!("`{shard}` does not hold `{tensor}`, as `{INDEX}` says");
                return Err(bad_model(message));
            }
        }
        Ok(())
    }
}

/// The files of a model directory that an import needs, by their relative name. Symbolic links may not lead out of it
/// (but into the blobs of the Hugging Face cache it lies in).
pub fn source_files(directory: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let unreadable = |error: std::io::Error| {
        let message = format!("cannot read the directory `{}`: {error}", directory.display());
        Failure::new(FailureKind::NotFound, message)
    };
    let root = directory.canonicalize().map_err(unreadable)?;
    let mut files = BTreeMap::new();
    for (name, path) in entries(&root).map_err(unreadable)? {
        if path.is_dir() {
            let inner = entries(&path).unwrap_or_default();
            files.extend(inner.into_iter().map(|(inner, path)| (format!("{name}/{inner}"), path)));
        } else {
            files.insert(name, path);
        }
    }
    files.retain(|_, path| path.is_file());
    keep_needed(&mut files);
    for path in files.values() {
        check_inside(&root, path)?;
    }
    Ok(files)
}

/// Weights of other formats are needed only to say that they are not taken.
fn keep_needed(files: &mut BTreeMap<String, PathBuf>) {
    let has =
        |wanted: Role| files.keys().any(|name| !name.contains('/') && role(name) == Some(wanted));
    let (weights, consolidated) = (has(Role::Weights), has(Role::Consolidated));
    files.retain(|name, _| match role(name) {
        Some(Role::Consolidated) => !weights,
        Some(_) => true,
        None => !weights && !consolidated && !name.contains('/') && kind_not_taken(name).is_some(),
    });
}

fn entries(directory: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let named =
        |entry: std::fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    Ok(std::fs::read_dir(directory)?.filter_map(|entry| named(entry.ok()?)).collect())
}

fn check_inside(root: &Path, path: &Path) -> Result<(), Failure> {
    let real = path.canonicalize().unwrap_or_default();
    let snapshots = root.parent().filter(|parent| parent.ends_with("snapshots"));
    let cache = snapshots.and_then(Path::parent).map(|cache| cache.join("blobs"));
    if real.starts_with(root) || cache.is_some_and(|blobs| real.starts_with(blobs)) {
        return Ok(());
    }
    Err(Failure::invalid(format!("insecure path: {}", path.display()))
        .hint("the link leads out of the model's directory: put the file itself there"))
}

/// What a file is to an import; `None` for what a model does not need.
fn role(name: &str) -> Option<Role> {
    if name == INDEX {
        return Some(Role::Index);
    }
    let (part, file) = name.rsplit_once('/').unwrap_or(("", name));
    // Beside the checkpoint itself only the modules of sentence-transformers (`1_Pooling`, `2_Dense`) belong to it.
    let is_module = part.split_once('_').is_some_and(|(number, _)| number.parse::<u8>().is_ok());
    if !part.is_empty() && (!is_module || part.contains('/')) {
        return None;
    }
    match file {
        _ if file.ends_with(".index.json") => None,
        _ if file.ends_with(".json") => Some(Role::Text),
        _ if part.is_empty() && text::reads(file) => Some(Role::Text),
        _ if !file.ends_with(".safetensors") || file.starts_with("adapter") => None,
        _ if file.starts_with("consolidated") => Some(Role::Consolidated),
        _ => Some(Role::Weights),
    }
}

fn with_role(
    files: &BTreeMap<String, PathBuf>,
    roles: &[Role],
) -> Result<Vec<SourceFile>, Failure> {
    let wanted =
        files.iter().filter(|(name, _)| role(name).is_some_and(|role| roles.contains(&role)));
    wanted.map(|(name, path)| file_of(name, path)).collect()
}

fn shards(files: &BTreeMap<String, PathBuf>) -> Result<Vec<SourceFile>, Failure> {
    let shards = with_role(files, &[Role::Weights])?;
    match shards.iter().any(|file| !file.name.contains('/')) {
        true => Ok(shards),
        false => with_role(files, &[Role::Weights, Role::Consolidated]),
    }
}

fn file_of(name: &str, path: &Path) -> Result<SourceFile, Failure> {
    let found = path.metadata().map_err(|error| {
        Failure::new(FailureKind::NotFound, format!("cannot read `{name}`: {error}"))
    })?;
    Ok(SourceFile { name: name.to_owned(), path: path.to_owned(), size_bytes: found.len() })
}

/// Formats that hold weights and that we do not take.
fn kind_not_taken(name: &str) -> Option<&'static str> {
    let kinds = [(".gguf", "GGUF"), (".bin", "PyTorch"), (".pth", "PyTorch"), (".pt", "PyTorch")];
    kinds.into_iter().find(|(end, _)| name.ends_with(end)).map(|(_, kind)| kind)
}

fn check_kinds(files: &BTreeMap<String, PathBuf>) -> Result<(), Failure> {
    let is_relative =
        |name: &str| !name.split(['/', '\\']).any(|part| matches!(part, "" | "." | ".."));
    if let Some(name) = files.keys().find(|name| !is_relative(name)) {
        return Err(Failure::invalid("file path must be relative").hint(format!("`{name}` is not")));
    }
    if files.keys().any(|name| name.ends_with(".safetensors") && role(name).is_some()) {
        return match files.contains_key("config.json") {
            true => Ok(()),
            false => Err(bad_model("there is no `config.json` beside the safetensors files")
                .hint("copy the whole repository of the model, not only its weights")),
        };
    }
    match files.keys().find_map(|name| kind_not_taken(name).map(|kind| (name, kind))) {
        Some((name, kind)) => {
            let message = format!("`{name}` is a {kind} file, which cannot be imported yet");
            Err(Failure::new(FailureKind::Unsupported, message)
                .hint("import the safetensors version of the model"))
        }
        None => Err(Failure::invalid("there is no safetensors file to import")
            .hint("a model directory has `config.json` and one or more `*.safetensors`")),
    }
}

/// Types that would need arithmetic before they can be used.
fn check_dtype(tensor: &StoredTensor) -> Result<(), Failure> {
    let name = &tensor.name;
    let packed = [".weight_packed", ".qweight", ".weight.quant_map"];
    let kind = match tensor.dtype.as_str() {
        dtype if dtype.starts_with("F8_E4M3") || dtype.starts_with("F8_E5M2") => dtype,
        _ if packed.iter().any(|end| name.ends_with(end)) => "packed by another quantiser",
        _ => return Ok(()),
    };
    let message = format!("tensor `{name}` is {kind}, which cannot be imported yet");
    Err(Failure::new(FailureKind::Unsupported, message)
        .hint("import a bf16 version of the model, or one that MLX has quantised"))
}

/// Sizes no model has, up to ten times the largest known.
const SIZES_MAX: &[(&str, u64)] =
    &[("hidden_size", 1 << 20), ("num_hidden_layers", 10_000), ("vocab_size", 1 << 24)];

fn check_config(config: &Value) -> Result<(), Failure> {
    let absurd = |detail: String| {
        Err(bad_model(format!("config.json: {detail}"))
            .hint("compare config.json with the one that was published"))
    };
    if !config.is_object() {
        return absurd("it is no object".to_owned());
    }
    if config.get("architectures").is_none() && config.get("model_type").is_none() {
        return absurd("it has neither `architectures` nor `model_type`".to_owned());
    }
    for (key, limit) in SIZES_MAX {
        let found = config.get(key).filter(|value| !value.is_null());
        let fits = |value: &Value| value.as_u64().is_some_and(|size| (1..=*limit).contains(&size));
        if let Some(value) = found.filter(|value| !fits(value)) {
            return absurd(format!("`{key}` is {value}, not a number from 1 to {limit}"));
        }
    }
    Ok(())
}

fn read_text(file: &SourceFile) -> Result<Vec<u8>, Failure> {
    if file.size_bytes > TEXT_FILE_BYTES_MAX {
        let detail =
            format!("it has {} bytes, the limit is {TEXT_FILE_BYTES_MAX}", file.size_bytes);
        return Err(damaged(file, &detail));
    }
    std::fs::read(&file.path).map_err(|error| {
        Failure::new(FailureKind::Environment, format!("cannot read `{}`: {error}", file.name))
    })
}

fn json(file: &SourceFile, text: &[u8]) -> Result<Value, Failure> {
    parse_python_json(text).map_err(|error| damaged(file, &error.to_string()))
}

/// Large tokenizers are looked through without being built.
fn check_json(file: &SourceFile, text: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(_) => json(file, text).map(|_| ()),
    }
}

fn damaged(file: &SourceFile, detail: &str) -> Failure {
    bad_model(format!("`{}` is damaged: {detail}", file.name)).hint("download it again")
}
