//! From a model's files to an engine that serves it.

use std::rc::Rc;

use models::{KvType, Weights};
use protocol::{Engine, Failure, FailureKind, LoadModel, LoadedModel, ModelFiles};
use text::Text;

use crate::forward::Forward;
use crate::room;
use crate::steps::{Settings, Steps};

/// Opens MLX, the tokenizer and the weights. `seed` starts the randomness of requests that name no seed; `progress` is told
/// (done, all) bytes of weights.
pub fn load(
    job: &LoadModel,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(LoadedModel, Box<dyn Engine>), Failure> {
    let (loaded, steps) = steps(job, seed, progress)?;
    Ok((loaded, Box::new(steps)))
}

/// The same, but no token ends a reply: random weights would end a measurement at a random place.
pub(crate) fn load_for_measuring(
    job: &LoadModel,
) -> Result<(LoadedModel, Box<dyn Engine>), Failure> {
    let (loaded, mut steps) = steps(job, 0, &mut |_, _| {})?;
    steps.ignore_ends();
    Ok((loaded, Box::new(steps)))
}

pub(crate) fn steps(
    job: &LoadModel,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(LoadedModel, Steps<Forward>), Failure> {
    if let Some(threads) = job.threads
        && !mlx::cpu::set_threads(threads as usize)
    {
        tracing::warn!(threads, "the kernels run with another number of threads already");
    }
    mlx::open().map_err(|error| failure(FailureKind::Environment, &error.to_string()))?;
    let template = job.model.template.as_deref();
    let text = Text::load(&job.model.files)?
        .with_template(template)
        .with_parser(job.model.parser.as_deref(), template)
        .with_renderer(job.model.renderer.clone());
    let (config, weights) = read_files(&job.model)?;
    let total = weights.bytes() as u64;
    progress(0, total);
    let architecture =
        models::architecture(&config).map_err(|error| bad_model(&job.model, &error))?;
    let model = models::load(&config, weights).map_err(|error| bad_model(&job.model, &error))?;
    progress(total, total);
    let context = job
        .context_tokens_max
        .map_or(model.context_max(), |wanted| model.context_max().min(wanted as usize));
    let loaded = LoadedModel {
        architecture,
        context_tokens_max: context as u32,
        device: mlx::device().to_string(),
        memory_bytes: mlx::memory::active_bytes() as u64,
    };
    let budget = room::budget_bytes(total as usize, job.memory_bytes_max);
    let plain = Settings::new(context, seed);
    let settings = Settings {
        running_max: job.parallel_max.map_or(plain.running_max, |most| most.max(1) as usize),
        waiting_max: job.waiting_max.map_or(plain.waiting_max, |most| most as usize),
        ..plain
    };
    let executor = Forward::new(model, kv_type(job), budget);
    Ok((loaded, Steps::new(executor, Rc::new(text), settings)))
}

fn kv_type(job: &LoadModel) -> KvType {
    let Some(name) = &job.kv_cache_type else { return KvType::default() };
    KvType::from_name(name).unwrap_or_else(|| {
        tracing::warn!("`OLLAMA_KV_CACHE_TYPE` is `{name}`, which is unknown; its default is used");
        KvType::default()
    })
}

fn read_files(model: &ModelFiles) -> Result<(String, Weights), Failure> {
    let path = model.files.get("config.json").ok_or_else(|| {
        Failure::new(FailureKind::BadModel, format!("`{}` has no `config.json`", model.name))
            .hint("create it again from a whole directory")
    })?;
    let config = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            FailureKind::BadModel,
            format!("cannot read `config.json` of `{}`: {error}", model.name),
        )
    })?;
    let weights = Weights::from_files(&model.tensors).map_err(|error| bad_model(model, &error))?;
    Ok((config, weights))
}

fn bad_model(model: &ModelFiles, error: &models::Error) -> Failure {
    let mut failure =
        failure(FailureKind::BadModel, &format!("cannot load `{}`: {error}", model.name));
    failure.hint = error.hint().or(failure.hint);
    failure
}

/// Texts of MLX carry their hint in a second line.
fn failure(kind: FailureKind, text: &str) -> Failure {
    match text.split_once("\nhint: ") {
        Some((message, hint)) => Failure::new(kind, message).hint(hint),
        None => Failure::new(kind, text),
    }
}
