//! `rm`: deletes models, one after the other, stopping at the first that cannot be deleted.

use reqwest::Method;
use serde_json::json;

use crate::terminal::{note_line, out_line};
use crate::{cli, commands::stop};

/// Remove a model
#[derive(clap::Args)]
#[command(after_help = cli::ENVIRONMENT)]
pub struct Args {
    /// The models' names
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = super::server().await?;
    for model in &args.models {
        if let Err(error) = stop::unload(&client, model).await
            && !error.is_not_found()
        {
            note_line(&format!("Warning: unable to stop model '{model}'"));
        }
        client.tell(Method::DELETE, "/api/delete", &json!({"model": model})).await?;
        out_line(&format!("deleted '{model}'"))?;
    }
    Ok(())
}
