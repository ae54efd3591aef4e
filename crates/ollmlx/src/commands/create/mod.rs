//! `create`: makes a model of a Modelfile: hashes and uploads the files it names, then asks the server to create.

mod recipe;
mod sources;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use store::modelfile::Modelfile;

use crate::cli;
use crate::client::Client;
use crate::client::words::Step;
use crate::fault::told;
use crate::terminal::note_line;
use crate::terminal::progress::{LineId, Progress};
use recipe::Recipe;
use sources::Sources;

/// Create a model
#[derive(clap::Args)]
#[command(after_help = cli::ENVIRONMENT)]
pub struct Args {
    /// The new model's name
    #[arg(value_name = "MODEL")]
    pub model: Vec<String>,
    /// Name of the Modelfile (default "Modelfile")
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    file: Option<PathBuf>,
    /// Quantize model to this level (e.g. int4)
    #[arg(short, long, value_name = "TYPE", allow_hyphen_values = true)]
    quantize: Option<String>,
    /// Quantize draft model to this level
    #[arg(long, value_name = "TYPE", allow_hyphen_values = true)]
    draft_quantize: Option<String>,
    /// Accepted for Ollama's sake: safetensors directories are always imported
    #[arg(long)]
    experimental: bool,
}

const DEFAULT_FILE: &str = "Modelfile";
const DEFAULT_TEXT: &[u8] = b"FROM .\n";
/// Largest Modelfile; a licence in it may be long. Price: memory.
const MODELFILE_BYTES_MAX: u64 = 64 << 20;
const UPLOAD_TICK: Duration = Duration::from_millis(60);

pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = super::server().await?;
    let progress = Progress::kept();
    let model = &args.model[0];
    if store::Name::parse(model).is_err() {
        return Err(told(format!("invalid model name: {model}")).into());
    }
    let (text, folder) = read(args.file.as_deref())?;
    let modelfile = Modelfile::parse(&text)?;
    let gathering = progress.spinner("gathering model components");
    let recipe = Recipe::of(&modelfile, &folder)?;
    recipe.check_template()?;
    progress.stop(gathering);
    for warning in &recipe.warnings {
        note_line(warning);
    }
    if args.draft_quantize.is_some() && recipe.draft_files.is_empty() {
        return Err(told("--draft-quantize requires a DRAFT model").into());
    }

    let mut body = recipe.body(model);
    for (key, value) in [("quantize", args.quantize), ("draft_quantize", args.draft_quantize)] {
        if let Some(value) = value {
            body.insert(key.to_owned(), value.into());
        }
    }
    for (key, sources) in recipe.sources() {
        if !sources.is_empty() {
            body.insert(key.to_owned(), upload(&client, sources, &progress).await?);
        }
    }
    ask(&client, &Value::Object(body), &progress).await
}

/// The Modelfile's bytes, and the folder its paths start from. A missing one means "what is in this folder".
fn read(file: Option<&Path>) -> anyhow::Result<(Vec<u8>, PathBuf)> {
    let file = file.unwrap_or(Path::new(DEFAULT_FILE));
    let file = std::path::absolute(file)?;
    let refuse =
        |error: &dyn std::fmt::Display| told(format!("cannot read `{}`: {error}", file.display()));
    match std::fs::metadata(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((DEFAULT_TEXT.to_vec(), std::env::current_dir()?));
        }
        Err(error) => return Err(refuse(&error).into()),
        Ok(facts) if facts.len() > MODELFILE_BYTES_MAX => {
            let told = refuse(&format!("it is longer than {MODELFILE_BYTES_MAX} bytes"));
            return Err(told.hint("a Modelfile is a text that names a model's files").into());
        }
        Ok(_) => {}
    }
    let text = std::fs::read(&file).map_err(|error| refuse(&error))?;
    let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
    Ok((text, folder))
}

/// Brings files to the server that it lacks; the answer is what the request says of them.
async fn upload(client: &Client, sources: &Sources, progress: &Progress) -> anyhow::Result<Value> {
    let mut names = BTreeMap::new();
    for (name, source) in sources.named() {
        let line = progress.spinner(&format!("copying file {} 0%", source.digest));
        if !client.has_blob(&source.digest).await? {
            let sent = Arc::new(AtomicU64::new(0));
            let upload = client.upload(&source.digest, &source.path, Arc::clone(&sent));
            tokio::pin!(upload);
            loop {
                tokio::select! {
                    done = &mut upload => break done?,
                    () = tokio::time::sleep(UPLOAD_TICK) => {
                        let percent = 100 * sent.load(Ordering::Relaxed) / source.size_bytes.max(1);
                        progress.say(line, &format!("copying file {} {percent}%", source.digest));
                    }
                }
            }
        }
        progress.say(line, &format!("copying file {} 100%", source.digest));
        progress.stop(line);
        names.insert(name, source.digest.clone());
    }
    Ok(json!(names))
}

/// Sends the request and shows the server's steps.
async fn ask(client: &Client, body: &Value, progress: &Progress) -> anyhow::Result<()> {
    let mut answer = client.stream("/api/create", body).await?;
    let mut bars: HashMap<String, LineId> = HashMap::new();
    let mut current: Option<(String, LineId)> = None;
    let mut succeeded = false;
    while let Some(step) = answer.next::<Step>().await? {
        succeeded = step.status == "success";
        if !step.digest.is_empty() {
            let bar = *bars
                .entry(step.digest.clone())
                .or_insert_with(|| progress.bar(&step.status, step.total, step.completed));
            progress.set(bar, step.completed);
        } else if current.as_ref().is_none_or(|(status, _)| *status != step.status) {
            if let Some((_, line)) = current.take() {
                progress.stop(line);
            }
            let line = progress.spinner(&step.status);
            current = Some((step.status, line));
        }
    }
    if !succeeded {
        return Err(crate::client::Error::BrokeOff("the last step is missing".to_owned()).into());
    }
    Ok(())
}
