//! From a model's files to an engine that serves it.

use std::rc::Rc;

use models::{KvType, Weights};
use protocol::{Engine, Failure, FailureKind, LoadModel, LoadedModel, ModelFiles};
use text::Text;

use crate::executor::Executor;
use crate::forward::Forward;
use crate::persist::{Disk, DiskCache, Identity};
use crate::room;
use crate::speculation::{Lookup, ModelDrafter};
use crate::steps::{Settings, Steps};

/// What the process around an engine knows.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Starts the randomness of requests that name no seed.
    pub seed: u64,
    /// Whether what followed a run of tokens before is drafted when they come again.
    pub prompt_lookup: bool,
    /// Where pages outlive the process; none: nowhere.
    pub disk_cache: Option<DiskCache>,
}

/// Opens MLX, the tokenizer and the weights; `progress` is told (done, all) bytes of weights.
pub fn load(
    job: &LoadModel,
    around: &Surroundings,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(LoadedModel, Box<dyn Engine>), Failure> {
    let (loaded, steps) = steps(job, around, progress)?;
    Ok((loaded, Box::new(steps)))
}

/// The same, but no token ends a reply: random weights would end a measurement at a random place.
pub(crate) fn load_for_measuring(
    job: &LoadModel,
) -> Result<(LoadedModel, Box<dyn Engine>), Failure> {
    let (loaded, mut steps) = steps(job, &Surroundings::default(), &mut |_, _| {})?;
    steps.ignore_ends();
    Ok((loaded, Box::new(steps)))
}

pub(crate) fn steps(
    job: &LoadModel,
    around: &Surroundings,
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
    let executor = Forward::new(model, kv_type(job));
    let draft = job.model.draft.as_deref().filter(|_| executor.can_rewind());
    let draft = draft.and_then(|draft| draft_model(&job.model, draft));
    let loaded = LoadedModel {
        architecture,
        context_tokens_max: context as u32,
        device: mlx::device().to_string(),
        memory_bytes: (mlx::memory::active_bytes() + mlx::memory::mapped_bytes()) as u64,
    };
    let draft_bytes = draft.as_ref().map_or(0, |draft| draft.weights_bytes);
    room::limit(job.memory_bytes_max);
    let budget = room::budget_bytes(total as usize + draft_bytes, job.memory_bytes_max);
    let draft_page = draft.as_ref().map_or(0, |draft| draft.executor.page_bytes());
    let (budget, draft_budget) = room::shares(budget, executor.page_bytes(), draft_page);
    let plain = Settings::new(context, around.seed);
    let settings = Settings {
        running_max: job.parallel_max.map_or(plain.running_max, |most| most.max(1) as usize),
        waiting_max: job.waiting_max.map_or(plain.waiting_max, |most| most as usize),
        ..plain
    };
    let executor = executor.with_budget(budget);
    let page_tokens = executor.page_tokens();
    let layout = format!(
        "{} {:?} {} {} {}",
        loaded.device,
        kv_type(job),
        page_tokens,
        executor.page_bytes(),
        executor.state_bytes()
    );
    let mut steps = Steps::new(executor, Rc::new(text), settings);
    if let Some(cache) = &around.disk_cache
        && let Some(disk) = Disk::open(cache, &Identity::new(&job.model, &layout), page_tokens)
    {
        steps.keep_on(disk);
    }
    if around.prompt_lookup {
        steps.add_drafter(Lookup::default());
    }
    if let Some(DraftModel { executor, context_max, .. }) = draft {
        steps.add_drafter(ModelDrafter::new(executor.with_budget(draft_budget), context_max));
    }
    Ok((loaded, steps))
}

fn kv_type(job: &LoadModel) -> KvType {
    let Some(name) = &job.kv_cache_type else { return KvType::default() };
    KvType::from_name(name).unwrap_or_else(|| {
        tracing::warn!("`OLLAMA_KV_CACHE_TYPE` is `{name}`, which is unknown; its default is used");
        KvType::default()
    })
}

struct DraftModel {
    executor: Forward,
    context_max: usize,
    weights_bytes: usize,
}

/// The model's draft model; none where it does not fit, which costs speed and nothing else.
fn draft_model(model: &ModelFiles, draft: &ModelFiles) -> Option<DraftModel> {
    load_draft(model, draft)
        .inspect_err(|failure| {
            tracing::warn!("`{}` runs without its draft model: {}", model.name, failure.message);
        })
        .ok()
}

fn load_draft(model: &ModelFiles, draft: &ModelFiles) -> Result<DraftModel, Failure> {
    let unfit = |message: &str| Err(Failure::new(FailureKind::BadModel, message));
    let (config, weights) = read_files(draft)?;
    if !has_same_tokens(model, draft) {
        return unfit("its tokens are others");
    }
    let weights_bytes = weights.bytes();
    let loaded = models::load(&config, weights.within("draft"));
    let loaded = loaded.map_err(|error| bad_model(draft, &error))?;
    let context_max = loaded.context_max();
    let executor = Forward::new(loaded, KvType::default());
    if !executor.can_rewind() {
        return unfit("it cannot go back");
    }
    Ok(DraftModel { executor, context_max, weights_bytes })
}

/// Whether ids mean the same to both. A draft model without a tokenizer of its own has the other's.
fn has_same_tokens(model: &ModelFiles, draft: &ModelFiles) -> bool {
    let read = |files: &ModelFiles| std::fs::read(files.files.get("tokenizer.json")?).ok();
    let (own, drafts) = (read(model), read(draft));
    let vocabulary = |text: &Option<Vec<u8>>| {
        let tokenizer: serde_json::Value = serde_json::from_slice(text.as_deref()?).ok()?;
        tokenizer.pointer("/model/vocab").cloned()
    };
    drafts.is_none() || own == drafts || (own.is_some() && vocabulary(&own) == vocabulary(&drafts))
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

fn failure(kind: FailureKind, text: &str) -> Failure {
    let (message, hint) = mlx::split_hint(text);
    Failure { hint: hint.map(str::to_owned), ..Failure::new(kind, message) }
}
