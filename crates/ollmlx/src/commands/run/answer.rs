//! One request and its reply, shown as it comes in.

use serde_json::{Map, Value, json};

use super::wishes::{Extent, Wishes};
use crate::client::words::{Called, Embedded, Metrics, Piece};
use crate::client::{self, Client};
use crate::fault::told;
use crate::terminal::progress::Progress;
use crate::terminal::reply::{BOLD, GREY, PLAIN, Reply, Style};
use crate::terminal::{self, note, out};

pub async fn answer(
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
    let call = |call: &Called| {
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

pub async fn embed(
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
        if let Some(keep_alive) = &wishes.keep_alive {
            fields.insert("keep_alive".to_owned(), keep_alive.clone());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
