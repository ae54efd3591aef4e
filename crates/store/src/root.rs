//! The directory itself: finding, listing, copying and deleting models.
//!
//! A second, read-only directory of the same layout may ship beside the program. Its models are found where the user's
//! store has none of that name; nothing is ever written there.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::Doing;
use crate::find::walk;
use crate::manifest::read_manifest;
use crate::{Config, Digest, Error, Layer, Manifest, Model, Name, Result, disk, go_json, media};

#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) builtin: Option<PathBuf>,
}

impl Store {
    /// OLLAMA_MODELS, else `~/.ollama/models`.
    pub fn default_root() -> PathBuf {
        let given = std::env::var("OLLAMA_MODELS").unwrap_or_default();
        root_from(&given, std::env::home_dir())
    }

    /// Creates nothing: a root that is not there yet is an empty store. Fails where the root is no directory.
    pub fn open(root: impl Into<PathBuf>, builtin: Option<PathBuf>) -> Result<Store> {
        let root = root.into();
        // Children run elsewhere and are told paths.
        let root = std::path::absolute(&root).doing("cannot resolve", &root)?;
        if root.exists() && !root.is_dir() {
            let source = std::io::ErrorKind::NotADirectory.into();
            return Err(Error::NotWritable { path: root, source });
        }
        Ok(Store { root, builtin: builtin.filter(|path| path.join("manifests").is_dir()) })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn builtin_root(&self) -> Option<&Path> {
        self.builtin.as_deref()
    }

    /// `Error::NotFound` names the resolved name.
    pub fn model(&self, name: &Name) -> Result<Model> {
        let name = self.resolve(name);
        match self.manifest_path(&name) {
            Some(found) => self.read_model(&name, &found),
            None => Err(Error::NotFound(name)),
        }
    }

    /// Newest first. Damaged models are left out, with a warning in the log.
    pub fn models(&self) -> Result<Vec<Model>> {
        let mut models = Vec::new();
        for (name, found) in self.names() {
            match self.read_model(&name, &found) {
                Ok(model) => models.push(model),
                Err(error) => tracing::warn!(%name, %error, "a damaged model is left out"),
            }
        }
        models.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
        Ok(models)
    }

    /// Gives a model a second name; blobs of a builtin model are copied into the root.
    pub fn copy(&self, source: &Name, destination: &Name) -> Result<()> {
        let source = self.resolve(source);
        let destination = self.resolve(destination);
        let found = self.manifest_path(&source).ok_or_else(|| Error::NotFound(source.clone()))?;
        let (manifest, bytes) = read_manifest(&found.path)?;
        if source == destination && !found.is_builtin {
            return Ok(());
        }
        self.install(&destination, &manifest, &bytes)
    }

    /// Removes the manifest and the blobs that no other model needs.
    pub fn delete(&self, name: &Name) -> Result<()> {
        let name = self.resolve(name);
        let found = self.manifest_path(&name).ok_or_else(|| Error::NotFound(name.clone()))?;
        if found.is_builtin {
            return Err(Error::Builtin(name));
        }
        let _lock = self.lock()?;
        // A damaged manifest can be deleted too; which blobs it had is not known.
        let manifest = read_manifest(&found.path).ok().map(|(manifest, _)| manifest);
        std::fs::remove_file(&found.path).map_err(|error| self.not_writable(error))?;
        self.remove_empty_directories(&found.path);
        manifest.map_or(Ok(()), |manifest| self.remove_unused(&manifest))
    }

    /// Makes a model of layers whose blobs are in the store. A model of that name is replaced, and the blobs only it
    /// needed are removed.
    pub fn write_manifest(
        &self,
        name: &Name,
        config: &Config,
        layers: Vec<Layer>,
    ) -> Result<Model> {
        let name = self.resolve(name);
        let config = self.new_layer(media::CONFIG, &go_json::encode(config))?.layer;
        let manifest = Manifest::new(config, layers);
        self.install(&name, &manifest, &go_json::encode(&manifest))?;
        self.model(&name)
    }

    fn install(&self, name: &Name, manifest: &Manifest, bytes: &[u8]) -> Result<()> {
        let _lock = self.lock()?;
        for layer in manifest.blobs() {
            if !self.reuse(&layer.digest, Some(layer.size_bytes))? {
                return Err(Error::MissingBlob(layer.digest));
            }
        }
        let path = self.root.join("manifests").join(name.path());
        let replaced = read_manifest(&path).ok().map(|(manifest, _)| manifest);
        self.make_directory(path.parent().unwrap_or(&self.root))?;
        // Among the blobs, where what a crash leaves behind is cleared away.
        let mut temporary = self.temporary(&self.root.join("blobs"))?;
        let written = temporary.write_all(bytes).and_then(|()| temporary.as_file().sync_all());
        written.map_err(|error| self.not_writable(error))?;
        temporary.persist(&path).map_err(|error| self.not_writable(error.error))?;
        disk::sync_directory(&path);
        replaced.map_or(Ok(()), |replaced| self.remove_unused(&replaced))
    }

    /// Removes those blobs of `former` that no manifest names. The lock is held.
    fn remove_unused(&self, former: &Manifest) -> Result<()> {
        let used = self.used_blobs();
        let former: BTreeSet<Digest> = former.blobs().map(|layer| layer.digest).collect();
        for digest in former.iter().filter(|digest| !used.contains(digest)) {
            let path = self.own_blob_path(digest);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(self.not_writable(error));
                }
                _ => tracing::debug!(path = %path.display(), "removed an unused blob"),
            }
        }
        Ok(())
    }

    fn used_blobs(&self) -> HashSet<Digest> {
        let mut used = HashSet::new();
        for path in walk(&self.root).into_values() {
            match read_manifest(&path) {
                Ok((manifest, _)) => used.extend(manifest.blobs().map(|layer| layer.digest)),
                Err(error) => tracing::warn!(%error, "a damaged manifest keeps no blobs"),
            }
        }
        used
    }

    /// From the manifest's own directory up to `manifests/`, as long as they are empty.
    fn remove_empty_directories(&self, manifest: &Path) {
        let top = self.root.join("manifests");
        for directory in manifest.ancestors().skip(1).take_while(|path| **path != top) {
            if std::fs::remove_dir(directory).is_err() {
                return;
            }
        }
    }
}

fn root_from(given: &str, home: Option<PathBuf>) -> PathBuf {
    let given = given.trim().trim_matches(['"', '\'']);
    if !given.is_empty() {
        return PathBuf::from(given);
    }
    home.unwrap_or_default().join(".ollama").join("models")
}
