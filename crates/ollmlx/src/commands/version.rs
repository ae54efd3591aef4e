//! `--version`: what this program is, and what the server it would talk to is.

use crate::client::Client;
use crate::client::words::Version;
use crate::program;
use crate::terminal::out_line;

pub async fn run() -> anyhow::Result<()> {
    let client = Client::from_env()?;
    let server: Option<Version> = client.get("/api/version").await.ok();
    for line in lines(program::name(), server.as_ref().map(|server| server.version.as_str())) {
        out_line(&line)?;
    }
    Ok(())
}

/// Called by the name `ollama`, the lines are Ollama's, with the version of the interface we speak.
fn lines(name: &str, server: Option<&str>) -> Vec<String> {
    let ours = api::OLLAMA_VERSION;
    let mut lines = Vec::new();
    if name == program::NAME {
        lines.push(format!("{name} version is {}", env!("CARGO_PKG_VERSION")));
    }
    match server {
        None if name == program::NAME => {
            lines.push("Warning: could not connect to a running server".to_owned());
        }
        None => lines.push("Warning: could not connect to a running Ollama instance".to_owned()),
        Some(server) if name == program::NAME => {
            lines.push(format!("server speaks version {server} of the Ollama API"));
        }
        Some(server) => lines.push(format!("{name} version is {server}")),
    }
    if name != program::NAME && server != Some(ours) {
        lines.push(format!("Warning: client version is {ours}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let ours = api::OLLAMA_VERSION;
        let own = format!("ollmlx version is {}", env!("CARGO_PKG_VERSION"));
        let check = |name, server, expected: &[&str]| {
            assert_eq!(lines(name, server), expected, "{name} {server:?}");
        };
        let is = format!("ollama version is {ours}");
        let client = format!("Warning: client version is {ours}");
        let off = "Warning: could not connect to a running Ollama instance";
        check("ollama", Some(ours), &[&is]);
        check("ollama", Some("0.1.0"), &["ollama version is 0.1.0", &client]);
        check("ollama", None, &[off, &client]);
        check("ollmlx", None, &[&own, "Warning: could not connect to a running server"]);
        let speaks = format!("server speaks version {ours} of the Ollama API");
        check("ollmlx", Some(ours), &[&own, &speaks]);
    }
}
