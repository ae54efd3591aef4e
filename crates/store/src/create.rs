//! `create`: a new model of the layers of another, or of a conversion, with some of its small layers replaced.

use std::collections::BTreeMap;
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
        Recipe {
            config: model.config.clone(),
            layers: model.manifest.layers.clone(),
            ..Recipe::default()
        }
    }
}

impl Store {
    /// The weights and files of a safetensors model are told as one step.
    pub fn create(
        &self,
        name: &Name,
        recipe: Recipe,
        step: &mut dyn FnMut(CreateStep),
    ) -> Result<Model> {
        let mut draft = Draft { store: self, layers: recipe.layers, created: Vec::new() };
        if let Some(template) = &recipe.template {
            draft.replace(&[media::TEMPLATE, media::PROMPT], template.as_bytes())?;
        }
        match recipe.system.as_deref() {
            Some("") => draft.remove(&[media::SYSTEM]),
            Some(system) => draft.replace(&[media::SYSTEM], system.as_bytes())?,
            None => {}
        }
        for license in recipe.licenses.iter().filter(|text| !text.is_empty()) {
            draft.add(media::LICENSE, license.as_bytes())?;
        }
        let params = draft.merged_params(recipe.params)?;
        if !params.is_empty() {
            draft.replace(&[media::PARAMS], &go_json::encode(&params))?;
        }
        if !recipe.messages.is_empty() {
            draft.replace(&[media::MESSAGES], &go_json::encode(&recipe.messages))?;
        }
        draft.tell(step);
        step(CreateStep::WritingManifest);
        self.write_manifest(name, &recipe.config, draft.layers)
    }
}

struct Draft<'a> {
    store: &'a Store,
    layers: Vec<Layer>,
    created: Vec<Digest>,
}

impl Draft<'_> {
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
