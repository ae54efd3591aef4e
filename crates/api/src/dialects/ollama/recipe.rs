//! What a new model is made of: the base, and what the client changes.

use protocol::Converted;
use serde_json::{Map, Value};
use store::{Config, DRAFT_FILES, DRAFT_TENSORS, Digest, Draft, Layer, Recipe, StoredMessage};

use super::create::CreateBody;
use super::{MessageField, Rejection};
use crate::json::quote;

pub(super) fn of_conversion(converted: Converted) -> Result<Recipe, Rejection> {
    let broken =
        |what: String| Rejection::internal(format!("the conversion told nonsense: {what}"));
    let mut layers = Vec::with_capacity(converted.layers.len());
    for layer in converted.layers {
        layers.push(Layer {
            media_type: layer.media_type,
            digest: Digest::parse(&layer.digest).map_err(|error| broken(error.to_string()))?,
            size_bytes: layer.size_bytes,
            from: String::new(),
            name: layer.name.unwrap_or_default(),
        });
    }
    let config: Config =
        serde_json::from_value(converted.config).map_err(|error| broken(error.to_string()))?;
    Ok(Recipe { config, layers, ..Recipe::default() })
}

/// The base with the layers of a draft model, instead of those that it had.
pub(super) fn with_draft(mut base: Recipe, draft: Recipe) -> Recipe {
    let is_draft = |layer: &Layer| {
        [DRAFT_TENSORS, DRAFT_FILES].iter().any(|start| layer.name.starts_with(start))
    };
    base.layers.retain(|layer| !is_draft(layer));
    base.layers.extend(draft.layers);
    base.config.draft = Some(Draft {
        model_format: draft.config.model_format,
        architecture: draft.config.model_family,
        tensor_prefix: DRAFT_TENSORS.to_owned(),
        config: format!("{DRAFT_FILES}config.json"),
    });
    base
}

/// The base with what the client changes.
pub(super) fn recipe(base: Recipe, body: CreateBody) -> Result<Recipe, Rejection> {
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    let mut config = base.config;
    for (field, given) in [
        (&mut config.renderer, body.renderer),
        (&mut config.parser, body.parser),
        (&mut config.requires, body.requires),
    ] {
        if !given.is_empty() {
            *field = given;
        }
    }
    apply_info(&mut config, &body.info)?;
    Ok(Recipe {
        config,
        layers: base.layers,
        template: filled(body.template),
        system: filled(body.system),
        licenses: licenses(body.license)?,
        params: body.parameters.into_iter().collect(),
        messages: body.messages.0.into_iter().map(stored).collect(),
    })
}

/// A broken one is told now, not when somebody chats.
pub(super) fn check_template(template: &str) -> Result<(), Rejection> {
    text::check_template(template)
        .map_err(|why| Rejection::bad(format!("template error: {why}")).bare())
}

fn stored(message: MessageField) -> StoredMessage {
    StoredMessage {
        role: message.role.to_lowercase(),
        content: message.content,
        thinking: message.thinking,
        images: message.images.0.into_iter().map(|image| image.0).collect(),
    }
}

/// One text or several.
fn licenses(given: Value) -> Result<Vec<String>, Rejection> {
    match given {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        other => serde_json::from_value(other)
            .map_err(|_| Rejection::internal("a license must be a text or a list of texts")),
    }
}

/// Fields of the config that a client may set itself.
fn apply_info(config: &mut Config, info: &Map<String, Value>) -> Result<(), Rejection> {
    if let Some(Value::Array(list)) = info.get("capabilities") {
        config.capabilities.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
    }
    if let Some(family) = info_text(info, "model_family")? {
        config.model_families = Some(vec![family.clone()]);
        config.model_family = family;
    }
    for (field, key) in [
        (&mut config.base_name, "base_name"),
        (&mut config.file_type, "quantization_level"),
        (&mut config.model_type, "parameter_size"),
    ] {
        if let Some(text) = info_text(info, key)? {
            *field = text;
        }
    }
    for (field, key) in [
        (&mut config.context_length, "context_length"),
        (&mut config.embedding_length, "embedding_length"),
    ] {
        if let Some(number) = info_number(info, key)? {
            *field = number;
        }
    }
    Ok(())
}

fn info_text(info: &Map<String, Value>, key: &str) -> Result<Option<String>, Rejection> {
    match info.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(Rejection::bad(format!("info field {} must be a string", quote(key)))),
    }
}

fn info_number(info: &Map<String, Value>, key: &str) -> Result<Option<u64>, Rejection> {
    match info.get(key) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if float >= 0.0 && float.fract() == 0.0 => Ok(Some(float as u64)),
            _ => Err(Rejection::bad(format!(
                "info field {} must be a non-negative integer",
                quote(key)
            ))),
        },
        Some(_) => Err(Rejection::bad(format!("info field {} must be a number", quote(key)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(body: Value, expected: Result<Value, &str>) {
        let body = crate::http::decode::<CreateBody>(body.to_string().as_bytes()).unwrap();
        let base =
            Config { model_family: "llama".into(), renderer: "r".into(), ..Config::default() };
        let made = recipe(Recipe { config: base, ..Recipe::default() }, body);
        let told = made.map(|made| {
            let config = made.config;
            json!([
                config.model_family,
                config.renderer,
                config.context_length,
                made.licenses,
                made.system
            ])
        });
        assert_eq!(told.map_err(|rejection| rejection.message), expected.map_err(str::to_owned));
    }

    #[test]
    fn the_client_changes_what_it_names() {
        check(json!({}), Ok(json!(["llama", "r", 0, [], null])));
        check(
            json!({"renderer": "x", "system": "s", "license": ["a", "b"], "info": {"model_family": "m", "context_length": 9}}),
            Ok(json!(["m", "x", 9, ["a", "b"], "s"])),
        );
        check(json!({"license": "a"}), Ok(json!(["llama", "r", 0, ["a"], null])));
        check(json!({"license": [1]}), Err("a license must be a text or a list of texts"));
        check(json!({"info": {"base_name": 1}}), Err("info field \"base_name\" must be a string"));
        check(
            json!({"info": {"context_length": "1"}}),
            Err("info field \"context_length\" must be a number"),
        );
        check(
            json!({"info": {"embedding_length": 1.5}}),
            Err("info field \"embedding_length\" must be a non-negative integer"),
        );
    }

    #[test]
    fn broken_templates_are_told() {
        let check = |template: &str, expected: Option<&str>| {
            let got = check_template(template).map_err(|rejection| rejection.message);
            assert_eq!(got.err().as_deref(), expected, "{template}");
        };
        check("", None);
        check("{{ .System }} {{ .Prompt }}", None);
        check("{% for m in messages %}{{ m.content }}{% endfor %}", None);
        check("{{ .Nope", Some("template error: template: :1: unclosed action"));
        check(
            "a\n{{ nope 1 }}",
            Some("template error: template: :2: function \"nope\" not defined"),
        );
    }

    #[test]
    fn a_draft_model_takes_the_place_of_the_one_before() {
        let layer = |name: &str| Layer {
            media_type: store::media::TENSOR.into(),
            digest: Digest::of(name.as_bytes()),
            size_bytes: 1,
            from: String::new(),
            name: name.to_owned(),
        };
        let made = |names: &[&str], family: &str| Recipe {
            config: Config { model_family: family.into(), ..Config::default() },
            layers: names.iter().map(|name| layer(name)).collect(),
            ..Recipe::default()
        };
        let base = made(&["w", "draft.old", "draft/config.json", "drafts"], "big");
        let recipe = with_draft(base, made(&["draft.w", "draft/config.json"], "small"));
        let names: Vec<&str> = recipe.layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names, ["w", "drafts", "draft.w", "draft/config.json"]);
        let draft = recipe.config.draft.unwrap();
        assert_eq!(
            (recipe.config.model_family.as_str(), draft.architecture.as_str()),
            ("big", "small")
        );
        assert_eq!((&*draft.tensor_prefix, &*draft.config), ("draft.", "draft/config.json"));
    }

    #[test]
    fn a_conversion_gives_layers_and_config() {
        let digest = Digest::of(b"x").to_string();
        let layer = |digest: &str| protocol::NewLayer {
            media_type: store::media::TENSOR.into(),
            digest: digest.to_owned(),
            size_bytes: 1,
            name: Some("w".into()),
        };
        let config = json!({"model_format": "safetensors", "model_family": "llama"});
        let converted = Converted { layers: vec![layer(&digest)], config: config.clone() };
        let made = of_conversion(converted).unwrap();
        assert_eq!(
            (made.layers[0].name.as_str(), made.config.model_family.as_str()),
            ("w", "llama")
        );
        assert!(of_conversion(Converted { layers: vec![layer("x")], config }).is_err());
        assert!(of_conversion(Converted { layers: Vec::new(), config: json!([]) }).is_err());
    }
}
