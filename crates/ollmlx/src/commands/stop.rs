//! `stop`: takes a model out of memory. Also how `run` and `rm` load and unload one.

use serde_json::{Value, json};

use crate::cli;
use crate::client::words::{Piece, Shown};
use crate::client::{self, Client};
use crate::fault::told;
use crate::terminal::progress::Progress;

/// Stop a running model
#[derive(clap::Args)]
#[command(after_help = cli::ENVIRONMENT)]
pub struct Args {
    /// The model's name
    #[arg(value_name = "MODEL")]
    pub model: Vec<String>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = super::server().await?;
    let model = &args.model[0];
    match unload(&client, model).await {
        Err(error) if error.is_not_found() => {
            Err(told(format!("couldn't find model \"{model}\" to stop")).into())
        }
        other => Ok(other?),
    }
}

pub async fn unload(client: &Client, model: &str) -> client::Result<()> {
    load(client, &json!({"model": model, "keep_alive": 0})).await
}

/// Sends a request without a prompt, which loads (or with `keep_alive` 0 unloads) the model.
pub async fn load(client: &Client, body: &Value) -> client::Result<()> {
    let _waiting = Progress::waiting();
    let _: Shown = client.post("/api/show", &json!({"model": body["model"]})).await?;
    let mut answer = client.stream("/api/generate", body).await?;
    while answer.next::<Piece>().await?.is_some() {}
    Ok(())
}
