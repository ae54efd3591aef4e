//! The directory itself: finding, listing, copying and deleting models.
//!
//! A second, read-only directory of the same layout may ship beside the program. Its models are found where the user's
//! store has none of that name; nothing is ever written there.

use std::path::{Path, PathBuf};

use crate::{Config, Error, Layer, Model, Name, Result};

#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) builtin: Option<PathBuf>,
}

impl Store {
    /// OLLAMA_MODELS, else `~/.ollama/models`.
    pub fn default_root() -> PathBuf {
        unimplemented!()
    }

    /// Creates nothing: a root that is not there yet is an empty store. Fails where the root is no directory.
    pub fn open(root: impl Into<PathBuf>, builtin: Option<PathBuf>) -> Result<Store> {
        Ok(Store { root: root.into(), builtin })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn builtin_root(&self) -> Option<&Path> {
        self.builtin.as_deref()
    }

    /// The spelling under which this name is stored, part by part; parts that no manifest has stay as they are.
    pub fn resolve(&self, name: &Name) -> Name {
        name.clone()
    }

    /// `Error::NotFound` names the resolved name.
    pub fn model(&self, name: &Name) -> Result<Model> {
        Err(Error::NotFound(name.clone()))
    }

    /// Newest first. Damaged manifests are left out, with a warning in the log.
    pub fn models(&self) -> Result<Vec<Model>> {
        unimplemented!()
    }

    /// Gives a model a second name; blobs of a builtin model are copied into the root.
    pub fn copy(&self, source: &Name, destination: &Name) -> Result<()> {
        let _ = (source, destination);
        unimplemented!()
    }

    /// Removes the manifest and the blobs that no other model needs.
    pub fn delete(&self, name: &Name) -> Result<()> {
        let _ = name;
        unimplemented!()
    }

    /// Makes a model of layers whose blobs are in the store. A model of that name is replaced, and the blobs only it
    /// needed are removed.
    pub fn write_manifest(
        &self,
        name: &Name,
        config: &Config,
        layers: Vec<Layer>,
    ) -> Result<Model> {
        let _ = (name, config, layers);
        unimplemented!()
    }
}
