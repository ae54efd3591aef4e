//! `doctor`: what this machine has for running models, and what it lacks: one line each, with a hint where something
//! is not fine.
//!
//! MLX is opened in a child of this process: a library that crashes costs a line, not the command.

mod answer;
mod arithmetic;
mod child;
mod machine;

use store::Store;

use crate::client::host::Host;
use crate::client::words::Version;
use crate::client::{Client, Error};
use crate::fault::{Told, told};
use crate::terminal::{humane, out};
use crate::{background, paths, program};

/// Check that models can run here
#[derive(clap::Args)]
pub struct Args {
    #[arg(hide = true)]
    pub rest: Vec<String>,
    /// Open MLX, compute, and tell it as JSON
    #[arg(long, hide = true)]
    mlx: bool,
    /// Ask the model that comes with the program, and tell its answer as JSON
    #[arg(long, hide = true)]
    answer: bool,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    state: State,
    subject: &'static str,
    text: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Warning,
    Problem,
}

impl Finding {
    fn ok(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding { state: State::Ok, subject, text: text.into(), hint: None }
    }

    fn warning(subject: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { state: State::Warning, hint: Some(hint.into()), ..Finding::ok(subject, text) }
    }

    fn problem(subject: &'static str, told: Told) -> Finding {
        Finding { state: State::Problem, hint: told.hint, ..Finding::ok(subject, told.message) }
    }
}

/// With less free space than a small model takes, the next one will not fit.
const FREE_BYTES_WANTED: u64 = 5_000_000_000;

pub fn run(args: Args) -> anyhow::Result<()> {
    if args.mlx {
        return arithmetic::tell();
    }
    if args.answer {
        return answer::tell();
    }
    let mut findings = machine::findings();
    let mlx = arithmetic::findings();
    // What cannot compute cannot answer either: one line says it.
    let computes = mlx.iter().all(|finding| finding.state != State::Problem);
    findings.extend(mlx);
    findings.extend(store_findings());
    if computes {
        findings.extend(answer::finding(paths::builtin_models().as_deref()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    findings.push(runtime.block_on(server_finding()));
    out(&table(&findings))?;
    match findings.iter().any(|finding| finding.state == State::Problem) {
        // All was said.
        true => Err(told("").into()),
        false => Ok(()),
    }
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        let indent = " ".repeat(9 + width + 2);
        let text = finding.text.replace('\n', &format!("\n{indent}"));
        out += &format!("{state:<9}{:<width$}  {text}\n", finding.subject);
        if let Some(hint) = &finding.hint {
            out += &format!("{indent}hint: {hint}\n");
        }
    }
    out
}

fn store_findings() -> Vec<Finding> {
    let root = Store::default_root();
    let store = match Store::open(&root, paths::builtin_models()) {
        Ok(store) => store,
        Err(error) => return vec![Finding::problem("store", Told::of(&error.into()))],
    };
    vec![root_finding(&store), builtin_finding(&store)]
}

fn root_finding(store: &Store) -> Finding {
    let place = paths::shown(store.root());
    let writable = store.check_writable();
    match (writable, store.free_bytes()) {
        (Err(error), _) => Finding::problem("store", Told::of(&error.into())),
        (Ok(()), Err(_)) => Finding::ok("store", format!("{place} (free space unknown)")),
        (Ok(()), Ok(free)) if free < FREE_BYTES_WANTED => Finding::warning(
            "store",
            format!("{place}, {} free", humane::bytes(free)),
            "few models will fit; OLLAMA_MODELS names another place, `rm` removes models",
        ),
        (Ok(()), Ok(free)) => {
            Finding::ok("store", format!("{place}, {} free", humane::bytes(free)))
        }
    }
}

fn builtin_finding(store: &Store) -> Finding {
    let subject = "builtin models";
    let none = |text: String| {
        Finding::warning(
            subject,
            text,
            "a whole installation has them in share/ollmlx/models beside the program",
        )
    };
    let Some(root) = store.builtin_root() else { return none("none found".to_owned()) };
    match Store::open(root, None).and_then(|builtin| builtin.models()) {
        Err(error) => none(format!("{}: {error}", root.display())),
        Ok(models) if models.is_empty() => none(format!("none in {}", root.display())),
        Ok(models) => {
            let names: Vec<String> = models.iter().map(|model| model.name.to_string()).collect();
            Finding::ok(subject, format!("{} in {}", names.join(", "), paths::shown(root)))
        }
    }
}

async fn server_finding() -> Finding {
    let subject = "server";
    let host = Host::from_env();
    let address = host.address();
    let client = match Client::new(host) {
        Ok(client) => client,
        Err(error) => return Finding::problem(subject, Told::of(&error)),
    };
    if let Some(warning) = &client.host.warning {
        return Finding::warning(subject, warning, "OLLAMA_HOST is `host:port`");
    }
    match client.get::<Version>("/api/version").await {
        Ok(server) => {
            Finding::ok(subject, format!("answers at {address} (Ollama API {})", server.version))
        }
        Err(Error::Refused) => {
            let name = program::name();
            let how = match background::may_start(&client.host) {
                true => format!("`{name} run` starts one"),
                false => format!("`{name} serve` starts one"),
            };
            Finding::ok(subject, format!("none at {address}; {how}"))
        }
        Err(error) => {
            let told = told(format!("what answers at {address} is no server of ours: {error}"));
            Finding::problem(
                subject,
                told.hint("end it, or choose another address with OLLAMA_HOST"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let findings = [
            Finding::ok("machine", "a fine one\nwith two lines"),
            Finding::warning("store", "nearly full", "make room"),
            Finding::problem("arithmetic", told("2 + 2 = 5").hint("get another machine")),
        ];
        let expected = "\
ok       machine     a fine one
                     with two lines
warning  store       nearly full
                     hint: make room
problem  arithmetic  2 + 2 = 5
                     hint: get another machine
";
        assert_eq!(table(&findings), expected);
    }
}
