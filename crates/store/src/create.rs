//! `create`: a new model of the layers of another, or of a conversion, with some of its small layers replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use indexmap::IndexMap;
use serde_json::Value;

use crate::model::read_json;
use crate::{Config, Digest, Layer, Model, Name, Result, Store, StoredMessage, go_json, media};

/// What a new model is made of.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    pub config: Config,
    /// The layers to start from; their blobs are in the store.
    pub layers: Vec<Layer>,
    /// Replaces the base's; an empty text is stored too.
    pub template: Option<String>,
    /// Replaces the base's; an empty text removes it.
    pub system: Option<String>,
    /// Added to the base's.
    pub licenses: Vec<String>,
    /// Win over the base's, option by option.
    pub params: IndexMap<String, Value>,
    /// Replace the base's, if there are any.
    pub messages: Vec<StoredMessage>,
}

/// What [`Store::create`] did; its text is Ollama's status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateStep {
    UsingLayer(Digest),
    CreatedLayer(Digest),
    WritingManifest,
}

impl Recipe {
    /// Starts from a model (of the builtin store too).
    pub fn from_model(model: &Model) -> Recipe {
        let from = model.name.to_string();
        let layers = model.manifest.layers.iter();
        Recipe {
            config: model.config.clone(),
            layers: layers.map(|layer| Layer { from: from.clone(), ..layer.clone() }).collect(),
            ..Recipe::default()
        }
    }
}

impl Store {
    /// Steps are told when they are done and the store is free for others again: who listens may be slow. The weights
    /// and files of a safetensors model are told as one step.
    pub fn create(
        &self,
        name: &Name,
        recipe: Recipe,
        step: &mut dyn FnMut(CreateStep),
    ) -> Result<Model> {
        self.bring_in(&recipe.layers)?;
        let given: BTreeSet<Digest> = recipe.layers.iter().map(|layer| layer.digest).collect();
        let mut draft = Draft { store: self, layers: recipe.layers.clone(), created: Vec::new() };
        let written = {
            let _lock = self.lock()?;
            let changed = draft.change(recipe);
            let written =
                changed.and_then(|config| self.write_locked(name, &config, draft.layers.clone()));
            match &written {
                Ok(_) => draft.remove_unused(given),
                Err(_) => draft.remove_unused(draft.created.iter().copied().collect()),
            }
            written
        };
        draft.tell(step);
        self.model(&written?)
    }
}

struct Draft<'a> {
    store: &'a Store,
    layers: Vec<Layer>,
    created: Vec<Digest>,
}

impl Draft<'_> {
    fn change(&mut self, recipe: Recipe) -> Result<Config> {
        if let Some(template) = &recipe.template {
            self.replace(&[media::TEMPLATE, media::PROMPT], template.as_bytes())?;
        }
        match recipe.system.as_deref() {
            Some("") => self.remove(&[media::SYSTEM]),
            Some(system) => self.replace(&[media::SYSTEM], system.as_bytes())?,
            None => {}
        }
        for license in recipe.licenses.iter().filter(|text| !text.is_empty()) {
            self.add(media::LICENSE, license.as_bytes())?;
        }
        let params = self.merged_params(recipe.params)?;
        if !params.is_empty() {
            self.replace(&[media::PARAMS], &go_json::encode(&params))?;
        }
        if !recipe.messages.is_empty() {
            self.replace(&[media::MESSAGES], &go_json::encode(&recipe.messages))?;
        }
        Ok(recipe.config)
    }

    /// Layers of what could not be made, or those that were replaced and that nobody else has. The lock is held.
    fn remove_unused(&self, layers: BTreeSet<Digest>) {
        if let Err(error) = self.store.remove_unused(layers) {
            tracing::warn!(%error, "layers that nobody uses stay behind");
        }
    }

    fn add(&mut self, media_type: &str, bytes: &[u8]) -> Result<()> {
        let new = self.store.new_layer(media_type, bytes)?;
        if !new.existed {
            self.created.push(new.layer.digest);
        }
        self.layers.push(new.layer);
        Ok(())
    }

    fn remove(&mut self, media_types: &[&str]) {
        self.layers.retain(|layer| !media_types.contains(&layer.media_type.as_str()));
    }

    /// The first of the media types is written, all are removed.
    fn replace(&mut self, media_types: &[&str], bytes: &[u8]) -> Result<()> {
        self.remove(media_types);
        self.add(media_types[0], bytes)
    }

    /// Sorted by name, as Go writes a map.
    fn merged_params(&self, params: IndexMap<String, Value>) -> Result<BTreeMap<String, Value>> {
        let mut merged = BTreeMap::new();
        for layer in self.layers.iter().filter(|layer| layer.media_type == media::PARAMS) {
            let base: BTreeMap<String, Value> = read_json(&self.store.blob_path(&layer.digest))?;
            merged.extend(base);
        }
        merged.extend(params);
        Ok(merged.into_iter().map(|(key, value)| (key, go_json::whole_numbers(value))).collect())
    }

    fn tell(&self, step: &mut dyn FnMut(CreateStep)) {
        let is_bulk = |layer: &&Layer| [media::TENSOR, media::JSON].contains(&&*layer.media_type);
        let first_bulk = self.layers.iter().find(is_bulk);
        let told = |layer: &&Layer| !is_bulk(layer) || first_bulk == Some(layer);
        for layer in self.layers.iter().filter(told) {
            step(match self.created.contains(&layer.digest) {
                true => CreateStep::CreatedLayer(layer.digest),
                false => CreateStep::UsingLayer(layer.digest),
            });
        }
        step(CreateStep::WritingManifest);
    }
}

impl fmt::Display for CreateStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateStep::UsingLayer(digest) => write!(f, "using existing layer {digest}"),
            CreateStep::CreatedLayer(digest) => write!(f, "creating new layer {digest}"),
            CreateStep::WritingManifest => write!(f, "writing manifest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scene;
    use serde_json::json;

    /// The status lines, with the short names that the goldens of real Ollama give the digests.
    fn create(scene: &Scene, name: &str, recipe: Recipe) -> (Model, Vec<String>) {
        let mut told = Vec::new();
        let mut step = |step: CreateStep| told.push(step.to_string());
        let model = scene.store.create(&Name::parse(name).unwrap(), recipe, &mut step).unwrap();
        let short = |line: &String| {
            line.split_at(line.find(':').map_or(line.len(), |at| at + 5)).0.to_owned()
        };
        (model, told.iter().map(short).collect())
    }

    const TEMPLATE: &str = "{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n";

    fn base(scene: &Scene) -> Recipe {
        Recipe {
            layers: vec![scene.layer(media::TENSOR, b"weights"), scene.layer(media::JSON, b"{}")],
            template: Some(TEMPLATE.to_owned()),
            params: [
                ("temperature", json!(0)),
                ("seed", json!(1)),
                ("num_predict", json!(16.0)),
                ("stop", json!(["<|im_start|>", "<|im_end|>"])),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            ..Recipe::default()
        }
    }

    fn message(role: &str, content: &str) -> StoredMessage {
        StoredMessage { role: role.into(), content: content.into(), ..StoredMessage::default() }
    }

    #[test]
    fn layers_have_the_digests_of_real_ollama() {
        let scene = Scene::new();
        let (tiny, told) = create(&scene, "tiny", base(&scene));
        assert_eq!(
            told[1..],
            [
                "creating new layer sha256:aeab",
                "creating new layer sha256:a0b1",
                "writing manifest"
            ]
        );
        assert!(told[0].starts_with("using existing layer"), "{told:?}");
        assert_eq!(told.len(), 4, "weights and files are one step");

        let recipe = Recipe {
            system: Some("You are terse.".into()),
            params: [
                ("temperature", json!(0)),
                ("top_k", json!(20)),
                ("stop", json!(["<|im_end|>", "STOP"])),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            messages: vec![message("user", "hi"), message("assistant", "hello")],
            licenses: vec!["MIT".into(), "second license".into()],
            ..Recipe::from_model(&tiny)
        };
        let (model, told) = create(&scene, "tinysys", recipe);
        assert_eq!(
            told[1..],
            [
                "using existing layer sha256:aeab",
                "creating new layer sha256:97dd",
                "creating new layer sha256:e5dc",
                "creating new layer sha256:8617",
                "creating new layer sha256:436b",
                "creating new layer sha256:ac29",
                "writing manifest",
            ]
        );
        assert_eq!(model.parent(), "tiny:latest");
        assert_eq!(model.params["num_predict"], json!(16));
        assert_eq!(model.params["top_k"], json!(20));
        assert_eq!(model.system.as_deref(), Some("You are terse."));
        assert_eq!(model.licenses, ["MIT", "second license"]);
        assert_eq!(model.messages[1], message("assistant", "hello"));
        assert_eq!(tiny.parent(), "");
    }

    #[test]
    fn a_replaced_model_leaves_nothing_behind() {
        let scene = Scene::new();
        let (first, _) =
            create(&scene, "x", Recipe { system: Some("first".into()), ..base(&scene) });
        let old =
            first.manifest.layers.iter().find(|layer| layer.media_type == media::SYSTEM).unwrap();
        let recipe = Recipe { system: Some(String::new()), ..Recipe::from_model(&first) };
        let (second, _) = create(&scene, "X", recipe);
        assert_eq!(second.name.to_string(), "x:latest", "an existing spelling is kept");
        assert_eq!(second.system, None);
        assert!(!scene.store.has(&old.digest));
        assert!(!scene.store.has(&first.manifest.config.digest) || first.config == second.config);
        assert_eq!(second.template, first.template);
        assert_eq!(scene.blob_count(), second.manifest.blobs().count());
    }

    /// What an import wrote and the recipe replaces.
    #[test]
    fn a_layer_that_is_replaced_at_once_is_not_kept() {
        let scene = Scene::new();
        let mut recipe = base(&scene);
        let stops = scene.layer(media::PARAMS, br#"{ "stop": ["<s>"] }"#);
        recipe.layers.extend([scene.layer(media::TEMPLATE, b"{{ .Prompt }}"), stops]);
        let (model, _) = create(&scene, "x", recipe);
        assert_eq!(model.template.as_deref(), Some(TEMPLATE));
        assert_eq!(scene.blob_count(), model.manifest.blobs().count());
    }

    #[test]
    fn a_layer_that_is_gone_makes_no_model() {
        let scene = Scene::new();
        let recipe = base(&scene);
        let weights = recipe.layers[0].clone();
        std::fs::remove_file(scene.store.blob_path(&weights.digest)).unwrap();
        let files = scene.files();
        let got = scene.store.create(&Name::parse("x").unwrap(), recipe, &mut |_| {});
        assert!(matches!(got, Err(crate::Error::MissingBlob(digest)) if digest == weights.digest));
        assert!(scene.store.models().unwrap().is_empty());
        assert_eq!(scene.files(), files, "the template is gone again");
    }
}
