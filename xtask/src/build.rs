//! Building and running the program the way the README says: MLX first, then the release binary, then the embedded
//! models beside it, all under `target/` in the layout of a release archive:
//! `release/ollmlx`, `lib/ollmlx/<variant>`, `share/ollmlx/models`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail};

pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Runs a command to its end; a failure names it.
pub fn must(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

pub fn command(_args: &[String]) -> anyhow::Result<ExitCode> {
    program()?;
    Ok(ExitCode::SUCCESS)
}

/// The program, ready to run: built if anything changed, otherwise in an instant.
pub fn program() -> anyhow::Result<PathBuf> {
    crate::mlx::ensure(crate::mlx::default_variant())?;
    // Cargo's own progress is what a user wants to see on the first run; on later ones there is nothing to say.
    let fresh = !root().join("target/release/ollmlx").exists();
    let mut build = cargo();
    build.args(["build", "--release", "--package", "ollmlx"]);
    if fresh {
        eprintln!("building ollmlx (once, some minutes)");
    } else {
        build.arg("--quiet");
    }
    must(&mut build)?;
    let program = root().join("target/release/ollmlx");
    embedded_models(&program)?;
    Ok(program)
}

/// Imports `models/pocket` into the read-only store that ships beside the binary, if it is older than its sources.
pub fn embedded_models(program: &Path) -> anyhow::Result<()> {
    let source = root().join("models/pocket");
    let store = root().join("target/share/ollmlx/models");
    let stamp = store.join("manifests");
    if newest(&source)? < modified(&stamp) {
        return Ok(());
    }
    let staging = root().join("target/share/ollmlx/models.new");
    let _ = std::fs::remove_dir_all(&staging);
    must(
        Command::new(program)
            .arg("bundle")
            .arg(&source)
            .arg(&staging)
            .arg("pocket")
            .stdout(Stdio::null()),
    )?;
    let _ = std::fs::remove_dir_all(&store);
    std::fs::rename(&staging, &store).with_context(|| format!("cannot install {}", store.display()))
}

fn newest(folder: &Path) -> anyhow::Result<SystemTime> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries
        .flatten()
        .map(|entry| modified(&entry.path()))
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH))
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// `cargo ollmlx ARGS`: the program with these arguments, in the caller's directory.
pub fn ollmlx(args: &[String]) -> anyhow::Result<ExitCode> {
    let program = program()?;
    let status = Command::new(program).args(args).status()?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8)))
}
