//! `ollmlx`: one program that serves language models and talks to the server.
//!
//! Each command is one file in `commands`. Only `main` turns an error into text (`Error: …`, then `hint: …`) and an
//! exit code.

mod background;
mod cli;
mod client;
mod commands;
mod fault;
mod paths;
mod program;
mod repl;
mod terminal;

use std::future::Future;
use std::process::ExitCode;

use cli::{Command, Parsed};
use fault::Told;

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Ok(Parsed::Manual(text)) => terminal::out(&text).map_err(Into::into),
        Ok(Parsed::Cli(cli)) => run(cli),
        Err(told) => Err(told.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            report(&Told::of(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: cli::Cli) -> anyhow::Result<()> {
    let Some(command) = cli.command else {
        return match cli.version {
            true => wait(commands::version::run()),
            false => Ok(terminal::out(&cli::manual())?),
        };
    };
    match command {
        Command::Serve(args) => commands::serve::run(args),
        Command::Create(args) => wait(commands::create::run(args)),
        Command::Show(args) => wait(commands::show::run(args)),
        Command::Run(args) => wait(commands::run::run(args)),
        Command::Stop(args) => wait(commands::stop::run(args)),
        Command::List(args) => wait(commands::list::run(args)),
        Command::Ps(args) => wait(commands::ps::run(args)),
        Command::Copy(args) => wait(commands::copy::run(args)),
        Command::Remove(args) => wait(commands::remove::run(args)),
        Command::Bench(args) => commands::bench::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Runner(args) => commands::runner::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Bundle(args) => commands::bundle::run(args),
    }
}

/// A client's work is waiting: one thread does.
fn wait(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn report(told: &Told) {
    if told.message.is_empty() {
        // Everything was said already (`doctor`).
        return;
    }
    terminal::note_line(&format!("Error: {}", told.message));
    if let Some(hint) = &told.hint {
        terminal::note_line(&format!("hint: {hint}"));
    }
}

/// Whoever read our output has gone: nothing to say, nobody to say it to.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
