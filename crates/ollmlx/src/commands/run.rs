//! `run`: one answer for a prompt on the command line or on standard input, or a conversation.

use std::io::{IsTerminal, Read};

use serde_json::{Map, Value, json};

use crate::client::words::{Embedded, Metrics, Piece, Shown};
use crate::client::{self, Client};
use crate::fault::{Told, told};
use crate::repl::{self, Session};
use crate::terminal::progress::Progress;
use crate::terminal::reply::{BOLD, GREY, PLAIN, Reply, Style};
use crate::terminal::{self, note, out};
use crate::{background, commands::stop};

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
      OLLMLX_AUTOSTART              Start a server when none answers: 0 never, 1 at any local address
                                    (default: at the default address)";

/// Longest prompt on standard input. Price: memory, here and in the server.
const PROMPT_BYTES_MAX: u64 = 256 << 20;

/// What a request says besides model and prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    pub keep_alive: Option<Value>,
    pub format: Option<Value>,
    pub think: Option<Value>,
    pub options: Map<String, Value>,
}

impl Wishes {
    pub fn add_to(&self, body: &mut Map<String, Value>) {
        let named =
            [("keep_alive", &self.keep_alive), ("format", &self.format), ("think", &self.think)];
        for (key, value) in named {
            if let Some(value) = value {
                body.insert(key.to_owned(), value.clone());
            }
        }
        if !self.options.is_empty() {
            body.insert("options".to_owned(), Value::Object(self.options.clone()));
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut wishes = wishes(&args)?;
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

fn wishes(args: &Args) -> Result<Wishes, Told> {
    Ok(Wishes {
        keep_alive: args
            .keepalive
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(keep_alive)
            .transpose()?,
        format: args
            .format
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(format_wish)
            .transpose()?,
        think: args.think.as_deref().map(think).transpose()?,
        options: Map::new(),
    })
}

/// A duration; a negative one means for ever.
fn keep_alive(text: &str) -> Result<Value, Told> {
    let nanos = scheduler::duration::parse(text).map_err(|error| {
        told(error.to_string()).hint("a duration is a number with its unit, like `10m` or `1h30m`")
    })?;
    Ok(if nanos < 0 { json!(-1) } else { json!(text) })
}

/// `json`, or a JSON schema.
fn format_wish(text: &str) -> Result<Value, Told> {
    if text == "json" {
        return Ok(json!(text));
    }
    serde_json::from_str(text).map_err(|error| {
        told(format!("--format is neither `json` nor a JSON schema: {error}"))
            .hint("in a shell, put a schema in single quotes")
    })
}

fn think(text: &str) -> Result<Value, Told> {
    match text {
        "" | "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        "high" | "medium" | "low" | "max" => Ok(text.into()),
        _ => Err(told(format!(
            "invalid value for --think: {text:?} (must be true, false, high, medium, low, or max)"
        ))),
    }
}

/// What only embedding models care for.
#[derive(Clone, Copy)]
struct Extent {
    truncate: Option<bool>,
    dimensions: u32,
}

impl Extent {
    fn of(args: &Args) -> Result<Extent, Told> {
        let refuse = |text: &str, flag: &str, function: &str| {
            told(format!(
                "invalid argument {text:?} for \"--{flag}\" flag: strconv.{function}: parsing {text:?}: invalid syntax"
            ))
        };
        let truncate = match args.truncate.as_deref() {
            None => None,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Some(false),
            Some(other) => return Err(refuse(other, "truncate", "ParseBool")),
        };
        let dimensions = args.dimensions.as_deref().unwrap_or("0");
        let dimensions =
            dimensions.parse().map_err(|_| refuse(dimensions, "dimensions", "ParseInt"))?;
        Ok(Extent { truncate, dimensions })
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

async fn answer(
    client: &Client,
    model: &str,
    prompt: &str,
    wishes: &Wishes,
    style: Style,
    verbose: bool,
) -> anyhow::Result<()> {
    let mut body = Map::new();
    body.insert("model".to_owned(), model.into());
    body.insert("prompt".to_owned(), prompt.into());
    wishes.add_to(&mut body);
    let body = Value::Object(body);
    let last = tokio::select! {
        last = receive(client, "/api/generate", &body, style) => last?.last,
        // Leaving closes the connection, and that stops the model.
        _ = tokio::signal::ctrl_c() => return Ok(out(if style.colour { PLAIN } else { "" })?),
    };
    if !prompt.is_empty() {
        out("\n\n")?;
    }
    if verbose {
        note(&summary(&last.metrics));
    }
    Ok(())
}

/// A whole reply, already shown.
pub struct Received {
    pub content: String,
    pub last: Piece,
}

/// Sends a request and shows the reply as it comes in.
pub async fn receive(
    client: &Client,
    path: &str,
    body: &Value,
    style: Style,
) -> anyhow::Result<Received> {
    let mut waiting = Progress::waiting();
    let mut lines = client.stream(path, body).await?;
    let mut reply = Reply::new(style);
    let mut content = String::new();
    while let Some(piece) = lines.next::<Piece>().await? {
        if !piece.content().is_empty() || !style.hide_thinking || piece.done {
            waiting.end();
        }
        out(&reply.piece(piece.thinking(), piece.content()))?;
        if !piece.calls().is_empty() {
            out(&calls(&piece, style.colour))?;
        }
        content.push_str(piece.content());
        if piece.done {
            out(reply.end())?;
            return Ok(Received { content, last: piece });
        }
    }
    out(reply.end())?;
    Err(client::Error::BrokeOff("it has no end".to_owned()).into())
}

/// No functions can be given here, so that a model calls one is told as it is.
fn calls(piece: &Piece, colour: bool) -> String {
    let (told, value, end) =
        if colour { (GREY.to_owned() + BOLD, PLAIN, PLAIN) } else { (String::new(), "", "") };
    let call = |call: &client::words::Called| {
        let arguments = Value::Object(call.function.arguments.clone());
        format!(
            "  Model called a non-existent function '{value}{}{told}()' with arguments: {value}{arguments}{told}",
            call.function.name
        )
    };
    let lines: Vec<_> = piece.calls().iter().map(call).collect();
    format!("{told}{}{end}", lines.join("\n"))
}

/// What `--verbose` tells of a reply; what is zero is left out.
pub fn summary(metrics: &Metrics) -> String {
    let duration = |nanos: u64| scheduler::duration::print(std::time::Duration::from_nanos(nanos));
    let rate =
        |tokens: u64, nanos: u64| format!("{:.2} tokens/s", tokens as f64 / (nanos as f64 / 1e9));
    let tokens = |count: u64| format!("{count} token(s)");
    let m = metrics;
    [
        ("total duration:", m.total_duration, duration(m.total_duration)),
        ("load duration:", m.load_duration, duration(m.load_duration)),
        ("prompt eval count:", m.prompt_eval_count, tokens(m.prompt_eval_count)),
        ("prompt eval duration:", m.prompt_eval_duration, duration(m.prompt_eval_duration)),
        (
            "prompt eval rate:",
            m.prompt_eval_duration,
            rate(m.prompt_eval_count, m.prompt_eval_duration),
        ),
        ("eval count:", m.eval_count, tokens(m.eval_count)),
        ("eval duration:", m.eval_duration, duration(m.eval_duration)),
        ("eval rate:", m.eval_duration, rate(m.eval_count, m.eval_duration)),
    ]
    .into_iter()
    .filter(|(_, amount, _)| *amount > 0)
    .map(|(label, _, value)| format!("{label:<22}{value}\n"))
    .collect()
}

async fn embed(
    client: &Client,
    model: &str,
    prompt: String,
    wishes: &Wishes,
    extent: Extent,
) -> anyhow::Result<()> {
    if prompt.is_empty() {
        let name = crate::program::name();
        return Err(told(format!(
            "embedding models require input text. Usage: {name} run {model} \"your text here\""
        ))
        .into());
    }
    let mut body = json!({"model": model, "input": prompt});
    if let Some(fields) = body.as_object_mut() {
        wishes.clone_for_embedding().add_to(fields);
        if let Some(truncate) = extent.truncate {
            fields.insert("truncate".to_owned(), truncate.into());
        }
        if extent.dimensions > 0 {
            fields.insert("dimensions".to_owned(), extent.dimensions.into());
        }
    }
    let embedded: Embedded = {
        let _waiting = Progress::waiting();
        client.post("/api/embed", &body).await?
    };
    let vector = embedded.embeddings.first().ok_or_else(|| told("no embeddings returned"))?;
    Ok(terminal::out_line(&serde_json::to_string(vector)?)?)
}

impl Wishes {
    fn clone_for_embedding(&self) -> Wishes {
        Wishes { keep_alive: self.keep_alive.clone(), ..Wishes::default() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_checked() {
        let check = |got: Result<Value, Told>, expected: Result<Value, &str>| {
            assert_eq!(got.map_err(|told| told.message), expected.map_err(str::to_owned));
        };
        check(think("true"), Ok(json!(true)));
        check(think("high"), Ok(json!("high")));
        let bad =
            "invalid value for --think: \"lots\" (must be true, false, high, medium, low, or max)";
        check(think("lots"), Err(bad));
        check(keep_alive("2m"), Ok(json!("2m")));
        check(keep_alive("-1s"), Ok(json!(-1)));
        check(keep_alive("soon"), Err("time: invalid duration \"soon\""));
        check(format_wish("json"), Ok(json!("json")));
        check(format_wish("{\"type\":\"object\"}"), Ok(json!({"type": "object"})));
        let bad = "--format is neither `json` nor a JSON schema: expected value at line 1 column 1";
        check(format_wish("xml"), Err(bad));
    }

    #[test]
    fn the_summary() {
        let metrics = Metrics {
            total_duration: 6_029_807,
            load_duration: 770_619,
            prompt_eval_count: 73,
            prompt_eval_duration: 1_067_000,
            eval_count: 2,
            eval_duration: 1_807_000,
        };
        let expected = "\
total duration:       6.029807ms
load duration:        770.619µs
prompt eval count:    73 token(s)
prompt eval duration: 1.067ms
prompt eval rate:     68416.12 tokens/s
eval count:           2 token(s)
eval duration:        1.807ms
eval rate:            1106.81 tokens/s
";
        assert_eq!(summary(&metrics), expected);
        assert_eq!(summary(&Metrics::default()), "");
    }
}
