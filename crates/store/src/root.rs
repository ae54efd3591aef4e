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
        self.bring_in(&manifest.layers)?;
        let _lock = self.lock()?;
        self.require(manifest.blobs())?;
        self.install(&destination, &bytes)
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
        manifest.map_or(Ok(()), |manifest| self.remove_unused(manifest.digests()))
    }

    /// Makes a model of layers whose blobs are in the store. A model of that name is replaced, and the blobs only it
    /// needed are removed.
    pub fn write_manifest(
        &self,
        name: &Name,
        config: &Config,
        layers: Vec<Layer>,
    ) -> Result<Model> {
        self.bring_in(&layers)?;
        let name = {
            let _lock = self.lock()?;
            self.write_locked(name, config, layers)?
        };
        self.model(&name)
    }

    /// The lock is held. Returns the name as stored.
    pub(crate) fn write_locked(
        &self,
        name: &Name,
        config: &Config,
        layers: Vec<Layer>,
    ) -> Result<Name> {
        let name = self.resolve(name);
        self.require(layers.iter())?;
        let config = self.new_layer(media::CONFIG, &go_json::encode(config))?.layer;
        self.install(&name, &go_json::encode(&Manifest::new(config, layers)))?;
        Ok(name)
    }

    /// Blobs that only the builtin store has are copied before others have to wait for the lock.
    pub(crate) fn bring_in(&self, layers: &[Layer]) -> Result<()> {
        layers
            .iter()
            .try_for_each(|layer| self.reuse(&layer.digest, Some(layer.size_bytes)).map(|_| ()))
    }

    fn require<'a>(&self, mut layers: impl Iterator<Item = &'a Layer>) -> Result<()> {
        layers.try_for_each(|layer| match self.reuse(&layer.digest, Some(layer.size_bytes))? {
            true => Ok(()),
            false => Err(Error::MissingBlob(layer.digest)),
        })
    }

    /// The lock is held, and all blobs are there.
    fn install(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        let manifests = self.root.join("manifests");
        let path = manifests.join(name.path());
        let replaced = read_manifest(&path).ok().map(|(manifest, _)| manifest);
        self.make_directory(path.parent().unwrap_or(&manifests))?;
        // At the top, where no manifest is looked for.
        let mut temporary = self.temporary(&manifests)?;
        let written = temporary.write_all(bytes).and_then(|()| temporary.as_file().sync_all());
        written.map_err(|error| self.not_writable(error))?;
        temporary.persist(&path).map_err(|error| self.not_writable(error.error))?;
        disk::sync_directory(&path);
        replaced.map_or(Ok(()), |replaced| self.remove_unused(replaced.digests()))
    }

    /// Removes those of these blobs that no manifest names: what a job wrote that failed in the end.
    pub fn discard(&self, blobs: impl IntoIterator<Item = Digest>) -> Result<()> {
        let _lock = self.lock()?;
        self.remove_unused(blobs.into_iter().collect())
    }

    /// The lock is held.
    pub(crate) fn remove_unused(&self, blobs: BTreeSet<Digest>) -> Result<()> {
        let used = self.used_blobs();
        for digest in blobs.iter().filter(|digest| !used.contains(digest)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;
    use crate::testing::Scene;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn listed(store: &Store) -> Vec<String> {
        store.models().unwrap().iter().map(|model| model.name.to_string()).collect()
    }

    #[test]
    fn where_the_root_is() {
        let check = |given: &str, expected: &str| {
            assert_eq!(root_from(given, Some("/home/me".into())), Path::new(expected), "{given:?}");
        };
        check("", "/home/me/.ollama/models");
        check("  ", "/home/me/.ollama/models");
        check("/models", "/models");
        check(" \"/my models\" ", "/my models");
        check("'/models'", "/models");
    }

    #[test]
    fn an_empty_store_is_read_without_being_made() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("a/b");
        let store = Store::open(&root, None).unwrap();
        assert!(store.models().unwrap().is_empty());
        let error = store.model(&name("nope")).unwrap_err();
        assert_eq!(error.to_string(), "model `nope:latest` not found");
        assert!(store.free_bytes().unwrap() > 0);
        assert!(!root.exists());
        store.check_writable().unwrap();
        assert!(root.join("blobs").is_dir());
    }

    #[test]
    fn manifests_are_the_bytes_ollama_writes() {
        let scene = Scene::new();
        let layer = Layer { name: "config.json".into(), ..scene.layer(media::JSON, b"{}") };
        let config = Config { model_format: "safetensors".into(), ..Config::default() };
        let model = scene.store.write_manifest(&name("x"), &config, vec![layer]).unwrap();
        let bytes =
            std::fs::read(scene.root().join("manifests/registry.ollama.ai/library/x/latest"))
                .unwrap();
        let config = r#"{"model_format":"safetensors","model_family":"","model_families":null,"model_type":"","file_type":"","architecture":"","os":""}"#.to_owned() + "\n";
        let expected = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\",\
             \"config\":{{\"mediaType\":\"application/vnd.docker.container.image.v1+json\",\"digest\":\"{}\",\"size\":{}}},\
             \"layers\":[{{\"mediaType\":\"application/vnd.ollama.image.json\",\"digest\":\"{}\",\"size\":2,\"name\":\"config.json\"}}]}}\n",
            Digest::of(config.as_bytes()),
            config.len(),
            Digest::of(b"{}"),
        );
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(model.digest, Digest::of(&bytes));
        assert_eq!(model.size_bytes, config.len() as u64 + 2);
        assert_eq!(model.files.keys().collect::<Vec<_>>(), ["config.json"]);
    }

    #[test]
    fn unknown_fields_are_tolerated_and_kept() {
        let text = r#"{"model_format":"gguf","model_families":["llama"],"architecture":"amd64","os":"linux","rootfs":{"type":"layers"},"capabilities":null,"context_length":512}"#;
        let config = Config::from_json(serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((config.os.as_str(), config.context_length), ("linux", 512));
        assert_eq!(config.other["rootfs"]["type"], "layers");
        let again: Config = serde_json::from_slice(&go_json::encode(&config)).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn newest_first_and_damaged_ones_left_out() {
        let scene = Scene::new();
        for (at, text) in ["old", "me/new", "h:1/n/middle:v1"].into_iter().enumerate() {
            let model = scene.model(text, b"w");
            let path = scene.manifest(text);
            let seconds = [100, 300, 200][at];
            let when = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::options().write(true).open(path).unwrap().set_modified(when).unwrap();
            assert_eq!(model.name, name(text));
        }
        let expected = ["me/new:latest", "h:1/n/middle:v1", "old:latest"];
        assert_eq!(listed(&scene.store), expected);
        let library = scene.root().join("manifests/registry.ollama.ai/library");
        std::fs::write(library.join("old/broken"), b"{ not json").unwrap();
        std::fs::write(library.join("old/.DS_Store"), b"").unwrap();
        std::fs::write(library.join("old/bad name"), b"{}").unwrap();
        std::fs::write(library.join("stray"), b"{}").unwrap();
        assert_eq!(listed(&scene.store), expected);
        let error = scene.store.model(&name("old:broken")).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        scene.store.delete(&name("old:broken")).unwrap();
        assert!(!library.join("old/broken").exists());
    }

    #[test]
    fn names_are_found_in_any_case() {
        let scene = Scene::new();
        scene.model("Llama:Q4", b"w");
        scene.model("me/Other", b"w");
        let check = |asked: &str, expected: &str| {
            assert_eq!(scene.store.resolve(&name(asked)).to_string(), expected);
        };
        check("llama:q4", "Llama:Q4");
        check("ME/oTHER:LATEST", "me/Other:latest");
        check("ME/llama", "me/Llama:latest");
        check("new", "new:latest");
        assert_eq!(scene.store.model(&name("LLAMA:q4")).unwrap().name.to_string(), "Llama:Q4");
        scene.store.delete(&name("llama:q4")).unwrap();
        assert_eq!(listed(&scene.store), ["me/Other:latest"]);
    }

    #[test]
    fn copies_share_blobs_until_the_last_is_deleted() {
        let scene = Scene::new();
        let original = scene.model("a", b"weights");
        scene.store.copy(&name("a"), &name("127.0.0.1:9/library/b")).unwrap();
        scene.store.copy(&name("a"), &name("a")).unwrap();
        let copy = scene.store.model(&name("127.0.0.1:9/library/b")).unwrap();
        assert_eq!(copy.digest, original.digest);
        scene.store.delete(&name("a")).unwrap();
        copy.verify().unwrap();
        assert!(
            !scene.root().join("manifests/registry.ollama.ai").exists(),
            "empty directories go"
        );
        scene.store.delete(&name("127.0.0.1:9/library/b")).unwrap();
        assert!(scene.files().is_empty());
        assert!(scene.root().join("manifests").is_dir());
        let error = scene.store.delete(&name("a")).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)));
        let error = scene.store.copy(&name("a"), &name("c")).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)));
    }

    #[test]
    fn a_blob_that_was_cut_off_or_removed_is_noticed() {
        let scene = Scene::new();
        let model = scene.model("a", b"weights");
        model.verify().unwrap();
        let path = scene.store.blob_path(&model.manifest.layers[0].digest);
        std::fs::write(&path, b"weig").unwrap();
        let error = model.verify().unwrap_err();
        assert!(error.to_string().contains("it has 4 bytes, the manifest says 7"), "{error}");
        std::fs::remove_file(path).unwrap();
        assert!(matches!(model.verify(), Err(Error::Damaged { .. })));
        let error = scene.store.copy(&name("a"), &name("b")).unwrap_err();
        assert!(matches!(error, Error::MissingBlob(_)), "{error}");
    }

    #[test]
    fn builtin_models_are_read_and_copied_but_never_changed() {
        let builtin = Scene::new();
        builtin.model("pocket", b"weights");
        builtin.model("hidden", b"builtin");
        let before = builtin.files();
        let mut scene = Scene::new();
        scene.model("Hidden", b"own");
        scene.store = Store::open(scene.root(), Some(builtin.root().to_owned())).unwrap();
        assert_eq!(listed(&scene.store).len(), 2);
        assert_eq!(scene.store.resolve(&name("hidden")).to_string(), "Hidden:latest");
        let pocket = scene.store.model(&name("POCKET")).unwrap();
        assert!(pocket.is_builtin);
        pocket.verify().unwrap();
        assert!(!scene.store.model(&name("hidden")).unwrap().is_builtin);

        let error = scene.store.delete(&name("pocket")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`pocket:latest` comes with the program and cannot be removed"
        );
        scene.store.copy(&name("pocket"), &name("mine")).unwrap();
        let mine = scene.store.model(&name("mine")).unwrap();
        assert!(!mine.is_builtin && mine.digest == pocket.digest);
        assert!(mine.tensors.iter().all(|(_, path)| path.starts_with(scene.root())));
        let recipe = Recipe { system: Some("be kind".into()), ..Recipe::from_model(&pocket) };
        scene.store.create(&name("pocket"), recipe, &mut |_| {}).unwrap();
        assert!(!scene.store.model(&name("pocket")).unwrap().is_builtin);
        scene.store.delete(&name("pocket")).unwrap();
        assert!(scene.store.model(&name("pocket")).unwrap().is_builtin, "seen again");
        assert_eq!(builtin.files(), before);
    }
}
