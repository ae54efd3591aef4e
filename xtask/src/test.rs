//! The test commands. `test` is what CI runs and what the README names; it provisions what it needs.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::build::{cargo, must, root};

/// Tidy, format, every crate's tests. Arguments go to `cargo test`.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    crate::tidy::run(&[])?;
    must(cargo().args(["fmt", "--all", "--check"]))?;
    crate::mlx::ensure(crate::mlx::default_variant())?;
    // The binary of the test profile, so that embedded models are there for the tests that use them.
    must(cargo().args(["build", "--package", "ollmlx"]))?;
    crate::build::embedded_models(&root().join("target/debug/ollmlx"))?;
    must(cargo().args(["test", "--workspace", "--no-fail-fast"]).args(args))
}

pub fn check(args: &[String]) -> anyhow::Result<()> {
    must(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    run(args)
}

/// Proves the README on a clone of HEAD: empty HOME, empty cargo and pip caches, and only the documented prerequisites.
pub fn clean_room(args: &[String]) -> anyhow::Result<()> {
    must(
        Command::new("bash")
            .arg(root().join("xtask/clean-room.sh"))
            .args(args)
            .current_dir(Path::new(&root())),
    )
    .context("the clean room is not clean")
}
