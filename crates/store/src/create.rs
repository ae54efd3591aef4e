//! `create`: a new model of the layers of another, or of a conversion, with some of its small layers replaced.

use std::fmt;

use indexmap::IndexMap;
use serde_json::Value;

use crate::{Config, Digest, Layer, Model, Name, Result, Store, StoredMessage};

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
        let _ = (name, recipe, step);
        unimplemented!()
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
