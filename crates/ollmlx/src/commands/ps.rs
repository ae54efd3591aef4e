//! `ps`: the models in memory.

use jiff::Timestamp;

use super::list::{short, when};
use crate::cli;
use crate::client::words::{Loaded, Models};
use crate::terminal::humane::Distance;
use crate::terminal::{humane, out, table};

/// List running models
#[derive(clap::Args)]
#[command(after_help = cli::ENVIRONMENT)]
pub struct Args {
    /// Show only models whose name begins so
    #[arg(value_name = "PREFIX")]
    pub prefix: Vec<String>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let models: Models<Loaded> = super::server().await?.get("/api/ps").await?;
    let prefix = args.prefix.first().map_or("", String::as_str);
    Ok(out(&text(&models.models, prefix, Timestamp::now()))?)
}

fn text(models: &[Loaded], prefix: &str, now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = models
        .iter()
        .filter(|model| model.name.starts_with(prefix))
        .map(|model| row(model, now))
        .collect();
    table::with_header(&["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], &rows)
}

fn row(model: &Loaded, now: Timestamp) -> Vec<String> {
    let until = match humane::distance(&model.expires_at, now) {
        Some(Distance::Ago(_)) => "Stopping...".to_owned(),
        _ => when(&model.expires_at, now),
    };
    vec![
        model.name.clone(),
        short(&model.digest),
        humane::bytes(model.size),
        processor(model.size, model.size_vram),
        model.context_length.to_string(),
        until,
    ]
}

fn processor(bytes: u64, gpu_bytes: u64) -> String {
    match gpu_bytes {
        0 => "100% CPU".to_owned(),
        gpu if gpu == bytes => "100% GPU".to_owned(),
        gpu if gpu > bytes => "Unknown".to_owned(),
        gpu => {
            let cpu_percent = ((bytes - gpu) as f64 / bytes as f64 * 100.0).round() as u64;
            format!("{cpu_percent}%/{}% CPU/GPU", 100 - cpu_percent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors() {
        for (bytes, gpu, expected) in [
            (10, 0, "100% CPU"),
            (0, 0, "100% CPU"),
            (10, 10, "100% GPU"),
            (10, 11, "Unknown"),
            (1000, 521, "48%/52% CPU/GPU"),
        ] {
            assert_eq!(processor(bytes, gpu), expected, "{bytes} {gpu}");
        }
    }

    #[test]
    fn the_table() {
        let model = |expires_at: &str| Loaded {
            name: "tiny:latest".to_owned(),
            digest: "437799db6f5b00".to_owned(),
            size: 2_010_000,
            size_vram: 0,
            expires_at: expires_at.to_owned(),
            context_length: 512,
        };
        let models = [
            model("2026-11-21T10:01:59Z"),
            model("2318-11-21T10:01:59Z"),
            model("2026-11-21T09:59:59Z"),
        ];
        let now = "2026-11-21T10:00:01Z".parse().unwrap();
        let expected = "\
NAME           ID              SIZE      PROCESSOR    CONTEXT    UNTIL                   \n\
tiny:latest    437799db6f5b    2.0 MB    100% CPU     512        About a minute from now    \n\
tiny:latest    437799db6f5b    2.0 MB    100% CPU     512        Forever                    \n\
tiny:latest    437799db6f5b    2.0 MB    100% CPU     512        Stopping...                \n";
        assert_eq!(text(&models, "", now), expected);
        assert_eq!(text(&models, "Tiny", now).lines().count(), 1);
    }
}
