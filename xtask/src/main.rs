//! The project's own commands, reached through cargo's aliases. Each needs nothing beyond Rust, a C++ compiler, cmake and
//! python3 with pip; what is missing is named with the package that holds it. Small on purpose: on a fresh machine this is
//! compiled before anything else.

mod babble;
mod bench;
mod build;
mod mlx;
mod pocket;
mod prerequisites;
mod test;
mod tidy;

use std::process::ExitCode;

struct Command {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> anyhow::Result<ExitCode>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "ollmlx",
        about: "build the program once and run it: cargo ollmlx run pocket \"…\"",
        run: build::ollmlx,
    },
    Command {
        name: "build",
        about: "provision MLX, build the release program and its embedded models",
        run: build::command,
    },
    Command {
        name: "mlx",
        about: "provision MLX: [--variant cpu|cuda-13|cuda-12|metal]",
        run: |args| done(mlx::run(args)),
    },
    Command {
        name: "test",
        about: "everything that must be green: tidy, format, tests [arguments for cargo test]",
        run: |args| done(test::run(args)),
    },
    Command {
        name: "check",
        about: "test, and clippy without a warning",
        run: |args| done(test::check(args)),
    },
    Command {
        name: "tidy",
        about: "the rules that a compiler does not know: arrows between crates, file lengths, forbidden text",
        run: |args| done(tidy::run(args)),
    },
    Command {
        name: "bench",
        about: "measurements: bench step [--shape NAME] [--bits 4|8|16] …",
        run: bench::run,
    },
    Command {
        name: "pocket",
        about: "what the embedded model can do: pocket --evaluate; its training in small: pocket --toy",
        run: |args| done(pocket::run(args)),
    },
    Command {
        name: "babble",
        about: "regenerate the tests' talkative model [--check]",
        run: |args| done(babble::run(args)),
    },
    Command {
        name: "clean-room",
        about: "the README's two commands on a clean clone with empty caches (long)",
        run: |args| done(test::clean_room(args)),
    },
];

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = args.split_first() else {
        return usage();
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        eprintln!("error: there is no `cargo xtask {name}`");
        return usage();
    };
    match (command.run)(rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: cargo xtask <command>\n");
    for command in COMMANDS {
        eprintln!("  {:<12} {}", command.name, command.about);
    }
    ExitCode::FAILURE
}
