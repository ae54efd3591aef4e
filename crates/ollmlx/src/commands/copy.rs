//! `cp`: a second name for a model.

use reqwest::Method;
use serde_json::json;

use crate::cli;
use crate::terminal::out_line;

/// Copy a model
#[derive(clap::Args)]
#[command(after_help = cli::ENVIRONMENT)]
pub struct Args {
    /// The model's name, and the new one
    #[arg(value_name = "SOURCE DESTINATION")]
    pub names: Vec<String>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let (source, destination) = (&args.names[0], &args.names[1]);
    let body = json!({"source": source, "destination": destination});
    super::server().await?.tell(Method::POST, "/api/copy", &body).await?;
    Ok(out_line(&format!("copied '{source}' to '{destination}'"))?)
}
