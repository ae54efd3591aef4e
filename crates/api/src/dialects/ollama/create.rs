//! `POST /api/create`: a model from another one, or from files that were uploaded before.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use axum::response::Response;
use indexmap::IndexMap;
use protocol::{Convert, Failure, FailureKind};
use scheduler::ConvertEvent;
use serde::Deserialize;
use serde_json::{Map, Value};
use store::{Digest, Name, Recipe, Store};
use tokio::sync::mpsc;

use super::progress::{self, News, Progress};
use super::{MessageField, Rejection, recipe, texts};
use crate::Server;
use crate::generation::Reference;
use crate::http::{self, Call};
use crate::json::{List, Texts};

pub(super) async fn create(call: Call) -> Result<Response, Rejection> {
    let body: CreateBody = http::read(call.body).await?;
    let name = body.check()?;
    let streams = body.stream.unwrap_or(true);
    let (told, news) = mpsc::channel(progress::NEWS_MAX);
    tokio::spawn(async move {
        let work = Work { server: call.server, told };
        if let Err(rejection) = work.run(name, body).await {
            let _ = work.told.send(Err(rejection)).await;
        }
    });
    Ok(progress::answer(news, streams).await)
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename = "api.CreateRequest")]
pub(super) struct CreateBody {
    model: String,
    stream: Option<bool>,
    quantize: String,
    from: String,
    remote_host: String,
    files: Option<Texts>,
    draft_files: Option<Texts>,
    adapters: Option<Texts>,
    pub template: String,
    pub license: Value,
    pub system: String,
    pub parameters: Map<String, Value>,
    pub messages: List<MessageField>,
    pub renderer: String,
    pub parser: String,
    pub requires: String,
    pub info: Map<String, Value>,
    name: String,
    quantization: String,
    draft_quantize: String,
}

impl CreateBody {
    /// What is wrong before any work begins; else the new model's name.
    fn check(&self) -> Result<Name, Rejection> {
        let files = self.files.iter().chain(&self.draft_files).flat_map(|files| &files.0);
        for (path, digest) in files {
            if !is_relative(path) {
                return Err(Rejection::bad(texts::FILE_PATH));
            }
            if digest.is_empty() {
                return Err(Rejection::bad(texts::INVALID_DIGEST));
            }
        }
        let asked = if self.model.is_empty() { &self.name } else { &self.model };
        Name::parse(asked).map_err(|_| Rejection::bad(texts::INVALID_MODEL_NAME))
    }

    fn quantize(&self) -> Option<String> {
        let text = if self.quantize.is_empty() { &self.quantization } else { &self.quantize };
        Some(text.clone()).filter(|text| !text.is_empty())
    }

    fn draft_quantize(&self) -> Option<String> {
        Some(self.draft_quantize.clone()).filter(|text| !text.is_empty())
    }

    /// What we do not do (yet): said before anything is written.
    fn check_supported(&self) -> Result<(), Rejection> {
        let has = |files: &Option<Texts>| files.as_ref().is_some_and(|files| !files.0.is_empty());
        let unsupported = [
            (has(&self.adapters), "adapters cannot be imported yet"),
            (!self.remote_host.is_empty(), "remote models are not supported"),
            (
                !self.from.is_empty() && self.quantize().is_some(),
                "a model that is stored already cannot be quantised",
            ),
        ];
        match unsupported.iter().find(|(asked, _)| *asked) {
            Some((_, message)) => Err(unsupported_error(message, None)),
            None => Ok(()),
        }
    }
}

/// No root, no `.` and no `..`, no empty part.
fn is_relative(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\\')
}

fn unsupported_error(message: &str, hint: Option<&str>) -> Rejection {
    let failure = Failure::new(FailureKind::Unsupported, message);
    Failure { hint: hint.map(str::to_owned), ..failure }.into()
}

/// The reader has left: nobody wants the rest.
struct Left;

impl From<Left> for Rejection {
    fn from(_: Left) -> Rejection {
        Failure::new(FailureKind::Cancelled, "the client left").into()
    }
}

/// How files are to be imported.
struct Wish {
    quantize: Option<String>,
    is_draft: bool,
}

struct Work {
    server: Server,
    told: mpsc::Sender<News>,
}

impl Work {
    async fn run(&self, name: Name, body: CreateBody) -> Result<(), Rejection> {
        body.check_supported()?;
        recipe::check_template(&body.template)?;
        // A model made from another names no files of its own.
        let files = body.files.iter().filter(|_| body.from.is_empty());
        let uploads = files.chain(&body.draft_files).flat_map(|files| digests(&files.0)).collect();
        let base = if !body.from.is_empty() {
            self.base_of_model(&body.from).await?
        } else if let Some(files) = &body.files {
            self.base_of_files(&files.0, body.quantize()).await?
        } else {
            return Err(Rejection::bad(texts::NEITHER_FROM_NOR_FILES));
        };
        let base = match body.draft_files.as_ref().filter(|files| !files.0.is_empty()) {
            Some(files) => self.with_draft(base, &files.0, body.draft_quantize()).await?,
            None => base,
        };
        let recipe = recipe::recipe(base, body)?;
        let told = self.told.clone();
        self.server
            .blocking(move |store| {
                // Once layers are written the work is done to its end, whoever still listens.
                store.create(&name, recipe, &mut |step| {
                    let _ = told.blocking_send(Ok(Progress::status(step.to_string())));
                })
            })
            .await?;
        // Their contents are in layers now.
        self.discard(uploads).await;
        Ok(self.tell(Progress::status("success")).await?)
    }

    /// Removes what was uploaded and belongs to no model. What cannot be removed is cleared away later.
    async fn discard(&self, uploads: Vec<Digest>) {
        let done = self.server.blocking(move |store| store.discard(uploads)).await;
        if let Err(error) = done {
            tracing::warn!(%error, "uploaded files stay in the store");
        }
    }

    async fn tell(&self, progress: Progress) -> Result<(), Left> {
        self.told.send(Ok(progress)).await.map_err(|_| Left)
    }

    async fn base_of_model(&self, from: &str) -> Result<Recipe, Rejection> {
        let reference =
            Reference::parse(from).map_err(|_| Rejection::bad(texts::INVALID_MODEL_NAME))?;
        let found = self.server.blocking(move |store| store.model(&reference.name)).await;
        match found {
            Ok(model) => Ok(Recipe::from_model(&model)),
            Err(store::Error::NotFound(name)) => Err(Rejection::internal(texts::FROM_NOT_FOUND)
                .hint(Some(format!(
                    "`{name}` is not stored here, and models cannot be pulled yet"
                )))),
            Err(other) => Err(other.into()),
        }
    }

    async fn base_of_files(
        &self,
        files: &IndexMap<String, String>,
        quantize: Option<String>,
    ) -> Result<Recipe, Rejection> {
        let listed = files.clone();
        let kind = self.server.blocking(move |store| kind(store, &listed)).await;
        match kind {
            Kind::Safetensors => self.convert(files, Wish { quantize, is_draft: false }).await,
            Kind::Gguf => Err(self.refuse_gguf(files).await?),
            Kind::Unknown => Err(Rejection::bad(texts::UNKNOWN_FILE_TYPE)),
        }
    }

    /// The base with another draft model than it may have had.
    async fn with_draft(
        &self,
        base: Recipe,
        files: &IndexMap<String, String>,
        quantize: Option<String>,
    ) -> Result<Recipe, Rejection> {
        let listed = files.clone();
        if !matches!(
            self.server.blocking(move |store| kind(store, &listed)).await,
            Kind::Safetensors
        ) {
            let hint = "DRAFT has to name a directory with config.json and safetensors files";
            return Err(unsupported_error("only safetensors can be a draft model", Some(hint)));
        }
        let draft = self.convert(files, Wish { quantize, is_draft: true }).await?;
        Ok(recipe::with_draft(base, draft))
    }

    /// GGUF files are looked at, so that a wrong one is told from one that we cannot import yet.
    async fn refuse_gguf(&self, files: &IndexMap<String, String>) -> Result<Rejection, Rejection> {
        self.tell(Progress::status("parsing GGUF")).await?;
        let listed = files.clone();
        let looked = self.server.blocking(move |store| -> Result<(), Rejection> {
            for (_, digest) in listed {
                if !is_gguf(&blob(store, &digest)?)? {
                    return Err(Rejection::bad(texts::NOT_GGUF));
                }
            }
            Ok(())
        });
        looked.await?;
        Ok(unsupported_error(
            "GGUF files cannot be imported yet",
            Some("create the model from the safetensors files of the same repository"),
        ))
    }

    async fn convert(
        &self,
        files: &IndexMap<String, String>,
        wish: Wish,
    ) -> Result<Recipe, Rejection> {
        let listed = files.clone();
        let paths =
            self.server.blocking(move |store| -> Result<BTreeMap<String, PathBuf>, Rejection> {
                listed
                    .iter()
                    .map(|(name, digest)| Ok((name.clone(), blob(store, digest)?)))
                    .collect()
            });
        let store = self.server.store().root().to_owned();
        let Wish { quantize, is_draft } = wish;
        let job = Convert { files: paths.await?, store, quantize, is_draft };
        let uploads = digests(files);
        self.tell(Progress::status("converting model")).await?;
        let mut events = self.server.scheduler().convert(job).await?;
        loop {
            // A client that leaves ends the conversion, also when it tells nothing for a while.
            let event = tokio::select! {
                event = events.next() => event,
                () = self.told.closed() => return Err(Left.into()),
            };
            match event {
                Some(ConvertEvent::Progress(progress)) => self.tell(progress.into()).await?,
                Some(ConvertEvent::Done(converted)) => return recipe::of_conversion(converted),
                Some(ConvertEvent::Failed(failure)) => {
                    self.discard(uploads).await;
                    return Err(failure.into());
                }
                None => return Err(Rejection::internal("the conversion broke off")),
            }
        }
    }
}

fn digests(files: &IndexMap<String, String>) -> Vec<Digest> {
    files.values().filter_map(|text| Digest::parse(text).ok()).collect()
}

enum Kind {
    Safetensors,
    Gguf,
    Unknown,
}

/// By the files' names; one without a known end is looked at.
fn kind(store: &Store, files: &IndexMap<String, String>) -> Kind {
    let ends = |end: &str| files.keys().any(|path| path.ends_with(end));
    if ends(".safetensors") {
        return Kind::Safetensors;
    }
    let looks =
        |digest: &String| blob(store, digest).and_then(|path| is_gguf(&path)).unwrap_or(false);
    match ends(".gguf") || files.values().any(looks) {
        true => Kind::Gguf,
        false => Kind::Unknown,
    }
}

fn is_gguf(path: &PathBuf) -> Result<bool, Rejection> {
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) => Ok(&magic == b"GGUF"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Rejection::internal(format!("open {}: {error}", path.display()))),
    }
}

/// Where an uploaded file lies.
fn blob(store: &Store, digest: &str) -> Result<PathBuf, Rejection> {
    let digest = Digest::parse(digest).map_err(|_| Rejection::bad(texts::INVALID_DIGEST))?;
    let path = store.blob_path(&digest);
    match path.is_file() {
        true => Ok(path),
        false => {
            Err(Rejection::internal(format!("open {}: no such file or directory", path.display())))
        }
    }
}
