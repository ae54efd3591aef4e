//! From files to names: which files make up a checkpoint, and which file holds each tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use mlx::safetensors::SafeTensors;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::weights::quantised::Declarations;
use crate::weights::{Gathered, Stored};

const INDEX: &str = "model.safetensors.index.json";

pub(super) fn gather(files: &[PathBuf]) -> Result<Gathered> {
    let (mut tensors, mut declarations) = (BTreeMap::new(), Declarations::default());
    // Equal blobs are stored once and may be listed twice.
    for path in files.iter().collect::<BTreeSet<_>>() {
        let file = Rc::new(SafeTensors::open(path)?);
        for (name, _) in file.tensors() {
            let stored = Stored::InFile(Rc::clone(&file));
            if tensors.insert(name.to_owned(), stored).is_some() {
                return Err(Error::TwiceThere { name: name.to_owned(), file: path.clone() });
            }
        }
        declarations.of_file(file.metadata(), file.tensors().map(|(name, _)| name));
    }
    Ok(Gathered { tensors, declarations, ..Gathered::default() })
}

/// The index decides where there is one: a folder may hold the same weights in several forms.
pub(super) fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join(INDEX);
    let files = if index.exists() { indexed(folder, &index)? } else { listed(folder)? };
    if files.is_empty() {
        return Err(Error::NoWeights { folder: folder.to_owned() });
    }
    Ok(files)
}

fn indexed(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let wrong = |reason: &str| Error::Index { path: index.to_owned(), reason: reason.to_owned() };
    let text = fs::read_to_string(index).map_err(at(index))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| wrong("has no `weight_map`"))?;
    let names: Option<BTreeSet<_>> = map.values().map(Value::as_str).collect();
    let names = names.ok_or_else(|| wrong("names a file by something that is no text"))?;
    names
        .into_iter()
        .map(|name| match is_plain(name) {
            true => Ok(folder.join(name)),
            false => Err(wrong(&format!("names `{name}`, which is outside of the folder"))),
        })
        .collect()
}

fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let whole = folder.join("model.safetensors");
    if whole.exists() {
        return Ok(vec![whole]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    |source| Error::File { path: path.to_owned(), source }
}
