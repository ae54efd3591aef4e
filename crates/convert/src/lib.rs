//! Import of checkpoints into a store: safetensors directories, as Hugging Face and MLX lay them out.
//!
//! One road: `source` reads and checks everything there is to check, `plan` says which blobs come out of it, `write`
//! streams them into the store. Nothing is written before the source is known to be whole, and a job that fails removes
//! what it wrote. Knows no architecture: a model that no runner can run is still imported faithfully.

mod named;
mod plan;
mod quantised;
mod source;
mod write;

use std::path::Path;

use protocol::{Convert, ConvertProgress, Converted, Failure, FailureKind, NewLayer};
use store::{Capability, Config, ConfigFacts, Error, Layer, Name, Store, parameter_size};

use plan::Plan;
use source::Source;

pub use source::source_files;

/// The version of Ollama that first reads such models.
const REQUIRES: &str = "0.19.0";

/// Imports the job's files into the store's blobs. The caller writes the manifest.
pub fn import(
    job: &Convert,
    progress: &mut dyn FnMut(ConvertProgress),
) -> Result<Converted, Failure> {
    let mut source = Source::read(&job.files)?;
    let mut plan = Plan::of(&source)?;
    if let Some(asked) = &job.quantize {
        return Err(no_quantising(asked, &plan));
    }
    let config = config_of(&source, &plan);
    if job.is_draft {
        plan.put_before_names(store::DRAFT_TENSORS);
        source.put_before_names(store::DRAFT_FILES);
    }
    let store = Store::open(&job.store, None).map_err(failure)?;
    let named = if job.is_draft { None } else { named::of(&source, progress) };
    let mut layers = write::all(&store, &source, &plan, progress)?;
    if let Some(named) = named {
        layers.extend(named::layers(&store, named)?);
    }
    let config =
        serde_json::to_value(config).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(Converted { layers, config })
}

/// Imports a directory and writes the manifest: how the builtin store is made.
pub fn bundle(
    source: &Path,
    store_root: &Path,
    name: &str,
    progress: &mut dyn FnMut(ConvertProgress),
) -> Result<(), Failure> {
    let name = Name::parse(name).map_err(|error| failure(error.into()))?;
    let files = source_files(source)?;
    let job = Convert { files, store: store_root.to_owned(), quantize: None, is_draft: false };
    let converted = import(&job, progress)?;
    let layers = converted.layers.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    let config = serde_json::from_value(converted.config);
    let config: Config = config.map_err(|error| Failure::internal(error.to_string()))?;
    let store = Store::open(store_root, None).map_err(failure)?;
    store.write_manifest(&name, &config, layers).map_err(failure).map(|_| ())
}

fn layer(new: &NewLayer) -> Result<Layer, Failure> {
    Ok(Layer {
        media_type: new.media_type.clone(),
        digest: new.digest.parse().map_err(|error: store::DigestError| failure(error.into()))?,
        size_bytes: new.size_bytes,
        from: String::new(),
        name: new.name.clone().unwrap_or_default(),
    })
}

fn config_of(source: &Source, plan: &Plan) -> Config {
    let facts = ConfigFacts::of(&source.config);
    let names: Vec<&str> = source.files.iter().map(|file| file.name.as_str()).collect();
    let can = Capability::of_checkpoint(&source.config, source.chat_template.as_deref(), &names);
    Config {
        model_format: "safetensors".to_owned(),
        model_families: Some(vec![facts.architecture.clone()]),
        model_family: facts.architecture,
        model_type: parameter_size(plan.parameter_count()),
        file_type: plan.file_type(),
        requires: REQUIRES.to_owned(),
        capabilities: can.iter().map(|capability| capability.to_string()).collect(),
        context_length: facts.context_length,
        embedding_length: facts.embedding_length,
        ..Config::default()
    }
}

fn no_quantising(asked: &str, plan: &Plan) -> Failure {
    if plan.is_quantised() {
        return Failure::invalid(format!(
            "cannot requantize an already-quantized source model (requested \"{asked}\"): \
             only bf16/fp16/fp32 sources can be quantized"
        ));
    }
    let message = format!("quantising to `{asked}` while importing is not possible yet");
    Failure::new(FailureKind::Unsupported, message)
        .hint("import the model as it is, or import a version that MLX has quantised")
}

fn failure(error: Error) -> Failure {
    let kind = match &error {
        Error::Name(_) | Error::Digest(_) | Error::DigestMismatch { .. } | Error::Builtin(_) => {
            FailureKind::InvalidRequest
        }
        Error::NotFound(_) | Error::MissingBlob(_) => FailureKind::NotFound,
        Error::DiskFull { .. } => FailureKind::NoRoom,
        Error::Damaged { .. } => FailureKind::BadModel,
        Error::NotWritable { .. } | Error::Io { .. } => FailureKind::Environment,
    };
    let failure = Failure::new(kind, error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn bad_model(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadModel, message)
}
