//! `run`: one answer for a prompt on the command line or on standard input, or a conversation.

mod answer;
mod wishes;

use std::io::{IsTerminal, Read};

use serde_json::{Map, Value, json};

use crate::client::words::Shown;
use crate::client::{self, Client};
use crate::fault::told;
use crate::repl::{self, Session};
use crate::terminal;
use crate::terminal::reply::Style;
use crate::{background, commands::stop};
use answer::{answer, embed};
pub use answer::{receive, summary};
use wishes::Extent;
pub use wishes::Wishes;

/// Run a model
#[derive(clap::Args)]
#[command(after_help = ENVIRONMENT)]
pub struct Args {
    /// The model's name, then the prompt; without a prompt a conversation begins
    #[arg(value_name = "MODEL [PROMPT]")]
    pub model_and_prompt: Vec<String>,
    /// Duration to keep a model loaded (e.g. 5m)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    keepalive: Option<String>,
    /// Show timings for response
    #[arg(long)]
    verbose: bool,
    /// Use an insecure registry
    #[arg(long)]
    insecure: bool,
    /// Don't wrap words to the next line automatically
    #[arg(long)]
    nowordwrap: bool,
    /// Response format (e.g. json, or a JSON schema)
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
    /// Enable thinking mode: true/false or high/medium/low/max for supported models
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    think: Option<String>,
    /// Hide thinking output (if provided)
    #[arg(long)]
    hidethinking: bool,
    /// For embedding models: truncate inputs exceeding context length (default true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    truncate: Option<String>,
    /// Truncate output embeddings to specified dimension (embedding models only)
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    dimensions: Option<String>,
}

const ENVIRONMENT: &str = "\
Environment Variables:
      OLLAMA_EDITOR                 Path to editor for interactive prompt editing (Ctrl+G)
      OLLAMA_HOST                   IP Address for the server (default 127.0.0.1:11434)
      OLLAMA_NOHISTORY              Do not preserve readline history
      OLLMLX_AUTOSTART              0: start no server in the background; 1: also one open to others";

/// Longest prompt on standard input. Price: memory, here and in the server.
const PROMPT_BYTES_MAX: u64 = 256 << 20;

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut wishes = Wishes::of(&args)?;
    let extent = Extent::of(&args)?;
    let client = background::server_or_start().await?;
    let prompt = prompt(&args.model_and_prompt[1..])?;
    let model = &args.model_and_prompt[0];
    let shown = show(&client, model).await?;
    if wishes.think.is_none() && shown.can("thinking") {
        wishes.think = Some(Value::Bool(true));
    }
    if shown.can("embedding") {
        return embed(&client, model, prompt.unwrap_or_default(), &wishes, extent).await;
    }
    if shown.can("image") {
        return Err(told("image generation models are not currently supported").into());
    }
    let style = Style {
        wrap_width: (!args.nowordwrap && terminal::stdout_is_terminal())
            .then(|| terminal::size().0),
        colour: terminal::stdout_is_terminal(),
        hide_thinking: args.hidethinking,
    };
    match prompt {
        None if terminal::stdout_is_terminal() => {
            let session = Session::new(client, model, wishes, style, args.verbose);
            let explicit = args.think.is_some();
            repl::converse(session, &shown, explicit).await
        }
        prompt => {
            let prompt = prompt.unwrap_or_default();
            answer(&client, model, &prompt, &wishes, style, args.verbose).await
        }
    }
}

/// The words of the command line, after what comes in on standard input; `None` where a person shall be asked.
fn prompt(words: &[String]) -> anyhow::Result<Option<String>> {
    let mut parts = Vec::new();
    let stdin = std::io::stdin();
    let piped = !stdin.is_terminal();
    if piped {
        let mut text = Vec::new();
        stdin.lock().take(PROMPT_BYTES_MAX + 1).read_to_end(&mut text)?;
        if text.len() as u64 > PROMPT_BYTES_MAX {
            let message = format!("standard input is longer than {PROMPT_BYTES_MAX} bytes");
            return Err(told(message).hint("no model reads that much; cut it into parts").into());
        }
        if !text.is_empty() {
            parts.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    parts.extend(words.iter().cloned());
    Ok((piped || !parts.is_empty()).then(|| parts.join(" ")))
}

async fn show(client: &Client, model: &str) -> anyhow::Result<Shown> {
    match client.post("/api/show", &json!({"model": model})).await {
        Err(client::Error::Answered { status, message, hint }) if status == 404 => {
            let hint = hint.unwrap_or_else(|| {
                let name = crate::program::name();
                format!(
                    "`{name} list` shows the models there are, `{name} create` makes one of files"
                )
            });
            Err(told(message).hint(hint).into())
        }
        other => Ok(other?),
    }
}

/// Brings the model into memory before the first prompt, which also tells whether it can do what is wished.
pub async fn load(client: &Client, model: &str, wishes: &Wishes) -> client::Result<()> {
    let mut body = Map::new();
    body.insert("model".to_owned(), model.into());
    let wishes = Wishes { format: None, options: Map::new(), ..wishes.clone() };
    wishes.add_to(&mut body);
    stop::load(client, &Value::Object(body)).await
}
