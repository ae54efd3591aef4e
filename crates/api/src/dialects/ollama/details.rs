//! What lists and `/api/show` tell of a model in short.

use serde::Serialize;
use store::{Config, Model};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Details {
    pub parent_model: String,
    pub format: String,
    pub family: String,
    pub families: Option<Vec<String>>,
    pub parameter_size: String,
    pub quantization_level: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub context_length: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub embedding_length: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Details {
    /// Without lengths, which only lists tell.
    pub(super) fn of(config: &Config) -> Details {
        Details {
            parent_model: String::new(),
            format: config.model_format.clone(),
            family: config.model_family.clone(),
            families: config.model_families.clone(),
            parameter_size: config.model_type.clone(),
            quantization_level: config.file_type.clone(),
            context_length: 0,
            embedding_length: 0,
        }
    }

    #[must_use]
    pub(super) fn with_parent(self, model: &Model) -> Details {
        Details { parent_model: parent(model), ..self }
    }

    #[must_use]
    pub(super) fn with_lengths(self, config: &Config) -> Details {
        Details {
            context_length: config.context_length,
            embedding_length: config.embedding_length,
            ..self
        }
    }
}

/// The model whose weights these are, if it was made from one.
fn parent(model: &Model) -> String {
    let weights = [store::media::TENSOR, store::media::MODEL];
    let mut layers = model.manifest.layers.iter();
    let from =
        layers.find(|layer| weights.contains(&layer.media_type.as_str()) && !layer.from.is_empty());
    from.map(|layer| layer.from.clone()).unwrap_or_default()
}
