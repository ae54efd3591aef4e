//! `list`: the models in the store.

use jiff::Timestamp;

use crate::cli;
use crate::client::Client;
use crate::client::words::{Listed, Models};
use crate::terminal::{humane, out, table};

/// List models
#[derive(clap::Args)]
#[command(after_help = cli::ENVIRONMENT)]
pub struct Args {
    /// Show only models whose name begins so
    #[arg(value_name = "PREFIX")]
    pub prefix: Vec<String>,
}

/// How much of a digest is shown.
pub const ID_LETTERS: usize = 12;

pub async fn run(args: Args) -> anyhow::Result<()> {
    print(&super::server().await?, args.prefix.first().map(String::as_str)).await
}

/// Also the prompt's `/list`.
pub async fn print(client: &Client, prefix: Option<&str>) -> anyhow::Result<()> {
    let models: Models<Listed> = client.get("/api/tags").await?;
    Ok(out(&text(&models.models, prefix.unwrap_or_default(), Timestamp::now()))?)
}

fn text(models: &[Listed], prefix: &str, now: Timestamp) -> String {
    let prefix = prefix.to_lowercase();
    let rows: Vec<Vec<String>> = models
        .iter()
        .filter(|model| model.name.to_lowercase().starts_with(&prefix))
        .map(|model| row(model, now))
        .collect();
    table::with_header(&["NAME", "ID", "SIZE", "MODIFIED"], &rows)
}

fn row(model: &Listed, now: Timestamp) -> Vec<String> {
    let size = match model.remote_model.as_str() {
        "" => humane::bytes(model.size),
        _ => "-".to_owned(),
    };
    vec![model.name.clone(), short(&model.digest), size, when(&model.modified_at, now)]
}

pub fn short(digest: &str) -> String {
    digest.chars().take(ID_LETTERS).collect()
}

pub fn when(time: &str, now: Timestamp) -> String {
    humane::distance(time, now).map_or_else(|| "Never".to_owned(), humane::relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, size: u64, modified_at: &str) -> Listed {
        Listed {
            name: name.to_owned(),
            size,
            modified_at: modified_at.to_owned(),
            digest: "558c738d8943aabbccdd".to_owned(),
            ..Listed::default()
        }
    }

    #[test]
    fn the_table() {
        let mut models = [
            model("tiny2:latest", 293_456, "2026-11-21T10:00:00.5Z"),
            model("Big:70b", 39_969_745_407, "2026-11-18T10:00:00+01:00"),
            model("cloudy:cloud", 400, "0001-01-01T00:00:00Z"),
        ];
        models[2].remote_model = "cloudy".to_owned();
        let now = "2026-11-21T10:00:01Z".parse().unwrap();
        let expected = "\
NAME            ID              SIZE      MODIFIED               \n\
tiny2:latest    558c738d8943    293 KB    Less than a second ago    \n\
Big:70b         558c738d8943    39 GB     3 days ago                \n\
cloudy:cloud    558c738d8943    -         Never                     \n";
        assert_eq!(text(&models, "", now), expected);
        assert_eq!(text(&models, "BIG", now).lines().count(), 2);
        assert_eq!(text(&models, "x", now), "NAME    ID    SIZE    MODIFIED \n");
    }
}
