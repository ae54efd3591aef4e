//! Gets the model that a question needs and starts the request on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use protocol::{Event, Failure, FailureKind, Format, ModelFiles, Request, Tool, ToolChoice, Usage};
use scheduler::{EventStream, Lease, Want};
use store::{Capability, ConfigFacts, DRAFT_FILES, DRAFT_TENSORS, Model};

use super::{Ask, Facts, Reference, ReferenceError, Refusal, Verb, renderer};
use crate::Server;

pub(crate) enum Opened {
    /// The model is not loaded any more.
    Unloaded,
    /// The model is loaded, and that was all.
    Loaded,
    Running(Running),
}

/// A request at work. Dropping it cancels the request and lets go of the model.
pub(crate) struct Running {
    events: EventStream,
    _lease: Lease,
    pub load: Duration,
}

impl Running {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let event = self.events.next().await;
        if let Some(Event::Finished(usage)) = &event {
            // What an answer does not tell in most dialects.
            let Usage { prompt_tokens, cached_tokens, generated_tokens, .. } = usage;
            tracing::debug!(prompt_tokens, cached_tokens, generated_tokens, "finished");
        }
        event
    }
}

pub(crate) async fn open(server: &Server, ask: Ask) -> Result<Opened, Refusal> {
    let (model, facts) = stored_model(server, &ask).await?;
    if ask.unloads() {
        server.scheduler().unload(&model.digest.to_string());
        return Ok(Opened::Unloaded);
    }
    if facts.capabilities.contains(&Capability::Image) {
        return Err(Refusal::ImageModel);
    }
    check_files(&model, ask.verb)?;
    let (load_only, keep_alive) = (ask.load_only, ask.keep_alive);
    let mut request = ask.complete(&facts)?;
    let want = Want { keep_alive, ..want(&model, &request) };
    let want = if server.scheduler().is_resident(&want.digest) {
        want
    } else {
        let form =
            (request.format.clone(), request.tool_choice.clone(), request.input.tools().to_vec());
        server.blocking(move |_| check_form(&form.0, &form.1, &form.2)).await?;
        server.blocking(move |_| to_load(&model, want)).await?
    };
    let lease = server.scheduler().acquire(want).await?;
    if load_only {
        return Ok(Opened::Loaded);
    }
    request.id = server.scheduler().next_request_id();
    let load = lease.load_duration();
    let events = lease.submit(request).await?;
    Ok(Opened::Running(Running { events, _lease: lease, load }))
}

/// The model that is asked, if it is there, and what its files say.
async fn stored_model(server: &Server, ask: &Ask) -> Result<(Model, Facts), Refusal> {
    let verb = ask.verb;
    let reference =
        Reference::parse(&ask.model).map_err(|error| Refusal::Reference { verb, error })?;
    let found = server.blocking(move |store| {
        let model = store.model(&reference.name)?;
        let facts = Facts::of(&model);
        Ok((model, facts))
    });
    found.await.map_err(|error| match error {
        store::Error::NotFound(_) => Refusal::UnknownModel { asked: ask.model.clone() },
        other => Refusal::Store(other),
    })
}

/// A store that Ollama shares may hold models that cannot run here.
fn check_files(model: &Model, verb: Verb) -> Result<(), Refusal> {
    if model.config.is_remote() {
        return Err(Refusal::Reference { verb, error: ReferenceError::Cloud });
    }
    if model.tensors.is_empty() && !model.gguf.is_empty() {
        let message = format!("`{}` is stored as GGUF, which cannot be run yet", model.name);
        let failure = Failure::new(FailureKind::Unsupported, message);
        return Err(failure.hint("create it anew from its safetensors files").into());
    }
    Ok(())
}

/// A model that is loaded says the same itself, and better: nobody is to wait for a load that leads to a refusal.
fn check_form(format: &Format, choice: &ToolChoice, tools: &[Tool]) -> Result<(), Failure> {
    Ok(text::constraint::check(format, tools, choice)?)
}

fn want(model: &Model, request: &Request) -> Want {
    let context_tokens = request.options.num_ctx.filter(|&tokens| tokens > 0);
    let threads = request.options.num_thread.filter(|&threads| threads > 0);
    Want {
        name: model.name.to_string(),
        digest: model.digest.to_string(),
        model: files(model),
        weights_bytes: weights_bytes(model),
        context_tokens: context_tokens.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
        threads: threads.map(|threads| u32::try_from(threads).unwrap_or(u32::MAX)),
        ..Want::default()
    }
}

/// What only a load has to know: that the files are whole, and how much memory a conversation takes.
fn to_load(model: &Model, want: Want) -> store::Result<Want> {
    model.verify()?;
    warn_of_ignored(model);
    let facts = ConfigFacts::of(&model.json("config.json")?.unwrap_or_default());
    let own = Some(facts.context_length).filter(|&tokens| tokens > 0);
    let draft = model.json(&format!("{DRAFT_FILES}config.json"))?;
    let of_draft = draft.map_or(0, |config| ConfigFacts::of(&config).cache_bytes_per_token());
    Ok(Want {
        cache_bytes_per_token: facts.cache_bytes_per_token().saturating_add(of_draft),
        context_tokens_own: own.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
        ..want
    })
}

/// Stored by Ollama or by an earlier version, and nothing that the engine follows.
fn warn_of_ignored(model: &Model) {
    let (name, parser) = (&model.name, &model.config.parser);
    if !parser.is_empty() && Capability::of_parser(parser).is_none() {
        tracing::warn!(
            "the PARSER `{parser}` of `{name}` is not known: its template tells how replies are read"
        );
    }
}

fn files(model: &Model) -> ModelFiles {
    let is_draft = |name: &str| name.starts_with(DRAFT_TENSORS) || name.starts_with(DRAFT_FILES);
    let tensors = |of_draft: bool| {
        let some = model.tensors.iter().filter(move |(name, _)| is_draft(name) == of_draft);
        some.map(|(_, path)| path.clone()).collect()
    };
    let own = model.files.iter().filter(|(name, _)| !is_draft(name));
    ModelFiles {
        name: model.name.to_string(),
        files: own.map(|(name, path)| (name.clone(), path.clone())).collect(),
        tensors: tensors(false),
        template: model.template.clone(),
        renderer: renderer::of(model),
        parser: Some(model.config.parser.clone()).filter(|text| !text.is_empty()),
        draft: draft_files(model).map(|files| {
            let name = format!("{} (its DRAFT)", model.name);
            Box::new(ModelFiles { name, files, tensors: tensors(true), ..ModelFiles::default() })
        }),
    }
}

/// A draft model's files by the names that they have in its own repository, if there is one.
fn draft_files(model: &Model) -> Option<BTreeMap<String, PathBuf>> {
    let files = model.files.iter().filter_map(|(name, path)| {
        Some((name.strip_prefix(DRAFT_FILES)?.to_owned(), path.clone()))
    });
    let files: BTreeMap<String, PathBuf> = files.collect();
    files.contains_key("config.json").then_some(files)
}

fn weights_bytes(model: &Model) -> u64 {
    let weights = [store::media::TENSOR, store::media::MODEL];
    let layers =
        model.manifest.layers.iter().filter(|layer| weights.contains(&layer.media_type.as_str()));
    layers.fold(0, |sum, layer| sum.saturating_add(layer.size_bytes))
}
