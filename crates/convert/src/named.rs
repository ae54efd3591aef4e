//! The TEMPLATE of a model that comes with a Jinja template which has a name among TEMPLATEs, and what stops its replies.
//!
//! Layers like any other: what a Modelfile says takes their place. Prompts are still written by the model's own template.

use protocol::{ConvertProgress, Failure, NewLayer};
use serde_json::json;
use store::{Store, media};
use text::{ChatTemplate, NamedTemplate};

use crate::failure;
use crate::source::Source;

/// The one that the source's template amounts to, which is told.
pub fn of(
    source: &Source,
    progress: &mut dyn FnMut(ConvertProgress),
) -> Option<&'static NamedTemplate> {
    let named = found(source)?;
    let status = format!("using autodetected template {}", named.name);
    progress(ConvertProgress { status, completed_bytes: 0, total_bytes: 0 });
    Some(named)
}

pub fn layers(store: &Store, named: &NamedTemplate) -> Result<Vec<NewLayer>, Failure> {
    let stops = json!({ "stop": named.stops }).to_string();
    let parts = [(media::TEMPLATE, named.template), (media::PARAMS, stops.as_str())];
    parts.iter().map(|(media_type, text)| layer(store, media_type, text)).collect()
}

/// What templates and the texts of their tokens are read from, beside files that end in `.jinja`.
const FILES: [&str; 3] = ["chat_template.json", "tokenizer_config.json", "special_tokens_map.json"];

/// A template that cannot be read has no name; whoever loads the model says what is wrong with it.
fn found(source: &Source) -> Option<&'static NamedTemplate> {
    let wanted = |name: &str| name.ends_with(".jinja") || FILES.contains(&name);
    let files = source.files.iter().filter(|file| wanted(&file.name));
    let files = files.map(|file| (file.name.clone(), file.path.clone())).collect();
    let files = text::Files::open(&files).ok()?;
    ChatTemplate::load(&files).ok()??.named()
}

fn layer(store: &Store, media_type: &str, text: &str) -> Result<NewLayer, Failure> {
    let new = store.new_layer(media_type, text.as_bytes()).map_err(failure)?;
    Ok(NewLayer {
        media_type: new.layer.media_type,
        digest: new.layer.digest.to_string(),
        size_bytes: new.layer.size_bytes,
        name: None,
    })
}
