//! The command line: which commands there are, and what a wrong one is told.
//!
//! clap's text is the manual. Mistakes are told in the words that scripts know from Ollama, so [`parse`] turns clap's
//! errors into ours and counts positional arguments itself.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    bench, bundle, convert, copy, create, doctor, list, ps, remove, run, runner, serve, show, stop,
};
use crate::fault::{Told, told};
use crate::program;

#[derive(Parser)]
#[command(about = "Large language model runner", disable_version_flag = true)]
pub struct Cli {
    /// Show version information
    #[arg(short = 'v', long)]
    pub version: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    #[command(alias = "start")]
    Serve(serve::Args),
    Create(create::Args),
    Show(show::Args),
    Run(run::Args),
    Stop(stop::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    Ps(ps::Args),
    #[command(name = "cp")]
    Copy(copy::Args),
    #[command(name = "rm")]
    Remove(remove::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    #[command(hide = true)]
    Runner(runner::Args),
    #[command(hide = true)]
    Convert(convert::Args),
    #[command(hide = true)]
    Bundle(bundle::Args),
}

/// What a command line amounts to.
pub enum Parsed {
    Cli(Cli),
    /// Text for standard output: a manual page.
    Manual(String),
}

/// How many positional arguments a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Exactly(usize),
    AtLeast(usize),
    Any,
}

impl Count {
    fn check(self, received: usize) -> Result<(), Told> {
        match self {
            Count::Exactly(wanted) if received != wanted => {
                Err(told(format!("accepts {wanted} arg(s), received {received}")))
            }
            Count::AtLeast(wanted) if received < wanted => {
                Err(told(format!("requires at least {wanted} arg(s), only received {received}")))
            }
            _ => Ok(()),
        }
    }
}

impl Command {
    /// The positional arguments, and how many there may be.
    fn positional(&self) -> (&[String], Count) {
        match self {
            Command::Serve(args) => (&args.rest, Count::Exactly(0)),
            Command::Create(args) => (&args.model, Count::Exactly(1)),
            Command::Show(args) => (&args.model, Count::Exactly(1)),
            Command::Run(args) => (&args.model_and_prompt, Count::AtLeast(1)),
            Command::Stop(args) => (&args.model, Count::Exactly(1)),
            Command::List(args) => (&args.prefix, Count::Any),
            Command::Ps(args) => (&args.prefix, Count::Any),
            Command::Copy(args) => (&args.names, Count::Exactly(2)),
            Command::Remove(args) => (&args.models, Count::AtLeast(1)),
            Command::Bench(args) => (std::slice::from_ref(&args.model), Count::Exactly(1)),
            Command::Doctor(args) => (&args.rest, Count::Exactly(0)),
            Command::Runner(_) | Command::Convert(_) | Command::Bundle(_) => (&[], Count::Any),
        }
    }
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Told> {
    let cli = match definition().try_get_matches_from(arguments) {
        Ok(matches) => Cli::from_arg_matches(&matches).map_err(|error| told(error.to_string()))?,
        Err(error) => return refused(&error),
    };
    if let Some(command) = &cli.command {
        let (given, count) = command.positional();
        count.check(given.len())?;
    }
    Ok(Parsed::Cli(cli))
}

pub fn manual() -> String {
    definition().render_help().to_string()
}

/// How positional arguments are written in the manual; they are counted here, so clap does not know.
const USAGE: [(&str, &str); 9] = [
    ("create", "MODEL"),
    ("show", "MODEL"),
    ("run", "MODEL [PROMPT]"),
    ("stop", "MODEL"),
    ("list", "[PREFIX]"),
    ("ps", "[PREFIX]"),
    ("cp", "SOURCE DESTINATION"),
    ("rm", "MODEL [MODEL...]"),
    ("serve", ""),
];

/// The commands, speaking of the program by the name it was called by.
fn definition() -> clap::Command {
    let name = program::name();
    let with_usage = |cli: clap::Command, (command, arguments): (&str, &str)| {
        let usage = format!("{name} {command} {arguments} [OPTIONS]").replace("  ", " ");
        cli.mut_subcommand(command, |command| command.override_usage(usage))
    };
    USAGE.into_iter().fold(Cli::command().name(name).bin_name(name), with_usage)
}

fn refused(error: &clap::Error) -> Result<Parsed, Told> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        // The likeliest comes last.
        Some(ContextValue::Strings(texts)) => texts.last().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let flag = text(ContextKind::InvalidArg);
    let told = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Ok(Parsed::Manual(error.render().to_string()));
        }
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument if !flag.starts_with('-') => {
            let word = if flag.is_empty() { text(ContextKind::InvalidSubcommand) } else { flag };
            let told = told(format!("unknown command {word:?} for {:?}", program::name()));
            match text(ContextKind::SuggestedSubcommand).as_str() {
                "" => told,
                likely => told.hint(format!("did you mean `{likely}`?")),
            }
        }
        ErrorKind::UnknownArgument => unknown_flag(&flag),
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues
            if text(ContextKind::InvalidValue).is_empty() =>
        {
            needs_value(&flag)
        }
        _ => told(first_line(&error.render().to_string())),
    };
    Err(told)
}

fn unknown_flag(flag: &str) -> Told {
    match flag.strip_prefix("--") {
        Some(_) => told(format!("unknown flag: {flag}")),
        None => {
            let letter = flag.trim_start_matches('-').chars().next().unwrap_or('-');
            told(format!("unknown shorthand flag: '{letter}' in {flag}"))
        }
    }
}

/// clap names a flag with its value (`--file <FILE>`).
fn needs_value(flag: &str) -> Told {
    let name = flag.split([' ', '=', '[']).next().unwrap_or(flag);
    told(format!("flag needs an argument: {name}"))
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The section of a manual page that names environment variables.
pub const ENVIRONMENT: &str = "\
Environment Variables:
      OLLAMA_HOST                   IP Address for the server (default 127.0.0.1:11434)";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Result<(), &str>) {
        let arguments =
            std::iter::once("ollmlx").chain(line.split_whitespace()).map(OsString::from);
        let got = parse(arguments).map(|_| ()).map_err(|told| told.message);
        assert_eq!(got, expected.map_err(str::to_owned), "{line}");
    }

    #[test]
    fn mistakes_are_told_in_known_words() {
        check("nope", Err("unknown command \"nope\" for \"ollmlx\""));
        check("list --nope", Err("unknown flag: --nope"));
        check("show -x m", Err("unknown shorthand flag: 'x' in -x"));
        check("cp tiny", Err("accepts 2 arg(s), received 1"));
        check("cp a b c", Err("accepts 2 arg(s), received 3"));
        check("create", Err("accepts 1 arg(s), received 0"));
        check("run", Err("requires at least 1 arg(s), only received 0"));
        check("rm", Err("requires at least 1 arg(s), only received 0"));
        check("serve now", Err("accepts 0 arg(s), received 1"));
        check("run x --keepalive -1m", Ok(()));
        check("create x -f", Err("flag needs an argument: --file"));
        check("run x --keepalive", Err("flag needs an argument: --keepalive"));
    }

    #[test]
    fn flags_may_stand_anywhere() {
        check("run m why is it --verbose --think --format json", Ok(()));
        check("run --think=high m hello", Ok(()));
        check("show -v m", Ok(()));
        check("ls", Ok(()));
        check("start", Ok(()));
        check("-v", Ok(()));
        check("run m -- --not-a-flag", Ok(()));
        check("rm a b c", Ok(()));
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
