//! `POST /api/show`: all about one model.

use axum::http::StatusCode;
use axum::http::header::USER_AGENT;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use store::modelfile::Modelfile;
use store::{Capability, Model, ModelInfo, Store, TensorInfo};

use super::details::Details;
use super::{Rejection, texts, time};
use crate::generation::Reference;
use crate::http::{self, Call, JSON};
use crate::json::{quote, to_text, to_vec};

/// This client wants the name it asked for back among the facts.
const COPILOT: &str = "GitHubCopilotChat/";
/// Width of a parameter's name.
const NAME_WIDTH: usize = 30;

pub(super) async fn show(call: Call) -> Result<Response, Rejection> {
    let body: ShowBody = http::read(call.body).await?;
    let asked = if body.model.is_empty() { body.name.clone() } else { body.model.clone() };
    let agent =
        call.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let basename = agent.starts_with(COPILOT).then(|| asked.clone());
    let reference = Reference::parse(&asked)?;
    let reply =
        call.server.blocking(move |store| describe(store, &reference, body, basename)).await?;
    Ok(http::json(StatusCode::OK, JSON, to_vec(&reply)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "api.ShowRequest")]
struct ShowBody {
    model: String,
    system: String,
    template: String,
    verbose: bool,
    options: Map<String, Value>,
    name: String,
}

#[derive(Debug, Serialize)]
struct ShowReply {
    #[serde(skip_serializing_if = "String::is_empty")]
    license: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    modelfile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parameters: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    template: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    system: String,
    details: Details,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<StoredOut>,
    #[serde(skip_serializing_if = "String::is_empty")]
    remote_model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remote_host: String,
    model_info: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<TensorOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    capabilities: Vec<&'static str>,
    modified_at: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    requires: String,
}

#[derive(Debug, Serialize)]
struct StoredOut {
    role: String,
    content: String,
}

#[derive(Debug, Serialize)]
struct TensorOut {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    shape: Vec<u64>,
}

fn describe(
    store: &Store,
    reference: &Reference,
    body: ShowBody,
    basename: Option<String>,
) -> Result<ShowReply, Rejection> {
    let mut model = store.model(&reference.name).map_err(|error| match error {
        store::Error::NotFound(name) => Rejection::missing(texts::not_found(&name.to_string())),
        other => other.into(),
    })?;
    if !body.system.is_empty() {
        model.system = Some(body.system);
    }
    let parameters = parameters(&model);
    // Told in the Modelfile only.
    model.params.extend(body.options);
    let info = info(&model);
    let mut model_info = info.as_ref().map(facts).unwrap_or_default();
    if let Some(basename) = basename {
        model_info.insert("general.basename".to_owned(), Value::from(basename));
    }
    let tensors = info.as_ref().filter(|_| body.verbose).map(tensors).unwrap_or_default();
    let capabilities = model.capabilities();
    Ok(ShowReply {
        license: model.licenses.join("\n"),
        modelfile: Modelfile::describe(&model),
        parameters,
        template: model.template.clone().unwrap_or_default(),
        system: model.system.clone().unwrap_or_default(),
        details: details(&model, info.as_ref()),
        messages: messages(&model),
        remote_model: model.config.remote_model.clone(),
        remote_host: model.config.remote_host.clone(),
        model_info,
        tensors,
        capabilities: capabilities.into_iter().map(Capability::as_str).collect(),
        modified_at: time::local(model.modified),
        requires: model.config.requires.clone(),
    })
}

/// Of a model whose files we can read; a damaged one is shown without.
fn info(model: &Model) -> Option<ModelInfo> {
    if !model.config.is_safetensors() {
        return None;
    }
    match model.info() {
        Ok(info) => Some(info),
        Err(error) => {
            tracing::warn!(model = %model.name, %error, "the model's files cannot be read");
            None
        }
    }
}

/// What the files say wins over what the config says about them.
fn details(model: &Model, info: Option<&ModelInfo>) -> Details {
    let mut details = Details::of(&model.config).with_parent(model);
    if let Some(info) = info {
        if !info.facts.architecture.is_empty() {
            details.family.clone_from(&info.facts.architecture);
        }
        if info.parameter_count > 0 {
            details.parameter_size = store::parameter_size(info.parameter_count);
        }
        if details.quantization_level.is_empty() {
            let config = model.json("config.json").ok().flatten().unwrap_or_default();
            details.quantization_level = precision(&config, &info.tensors);
        }
    }
    details
}

/// Of weights that are not quantised: what the checkpoint says, else what most of them are.
fn precision(config: &Value, tensors: &[TensorInfo]) -> String {
    let said = ["torch_dtype", "dtype"].iter().find_map(|key| config.get(key)?.as_str());
    let size = |tensor: &&TensorInfo| tensor.shape.iter().product::<u64>();
    let largest = || tensors.iter().max_by_key(size).map(|tensor| tensor.dtype.as_str());
    said.or_else(largest).unwrap_or_default().to_owned()
}

fn facts(info: &ModelInfo) -> BTreeMap<String, Value> {
    let facts = &info.facts;
    let mut told = BTreeMap::from([
        ("general.architecture".to_owned(), Value::from(facts.architecture.clone())),
        ("general.parameter_count".to_owned(), Value::from(info.parameter_count)),
    ]);
    let numbers = [
        ("context_length", facts.context_length),
        ("embedding_length", facts.embedding_length),
        ("block_count", facts.block_count),
        ("attention.head_count", facts.head_count),
        ("attention.head_count_kv", facts.head_count_kv),
        ("feed_forward_length", facts.feed_forward_length),
        ("vocab_size", facts.vocab_size),
    ];
    for (name, number) in numbers.into_iter().filter(|(_, number)| *number > 0) {
        told.insert(format!("{}.{name}", facts.architecture), Value::from(number));
    }
    told
}

fn tensors(info: &ModelInfo) -> Vec<TensorOut> {
    let out = |tensor: &TensorInfo| TensorOut {
        name: tensor.name.clone(),
        kind: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
    };
    info.tensors.iter().map(out).collect()
}

fn messages(model: &Model) -> Vec<StoredOut> {
    let stored = model.messages.iter();
    stored
        .map(|message| StoredOut { role: message.role.clone(), content: message.content.clone() })
        .collect()
}

/// One line per value.
fn parameters(model: &Model) -> String {
    let mut lines = Vec::new();
    for (name, value) in &model.params {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        lines.extend(values.iter().map(|value| format!("{name:NAME_WIDTH$} {}", printed(value))));
    }
    lines.join("\n")
}

fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => to_text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(config: Value, expected: &str) {
        let tensor = |dtype: &str, shape: &[u64]| TensorInfo {
            name: String::new(),
            dtype: dtype.to_owned(),
            shape: shape.to_vec(),
        };
        let tensors = [tensor("F32", &[64]), tensor("BF16", &[64, 64]), tensor("F32", &[2, 64])];
        assert_eq!(precision(&config, &tensors), expected);
    }

    #[test]
    fn precision_as_the_checkpoint_says_it() {
        check(json!({"torch_dtype": "bfloat16"}), "bfloat16");
        check(json!({"dtype": "float16"}), "float16");
        check(json!({}), "BF16");
        assert_eq!(precision(&Value::Null, &[]), "");
    }

    #[test]
    fn values_as_go_prints_them() {
        for (value, expected) in [
            (json!("<|end|>"), "\"<|end|>\""),
            (json!(0.7), "0.7"),
            (json!(1e21), "1e+21"),
            (json!(true), "true"),
        ] {
            assert_eq!(printed(&value), expected);
        }
    }
}
