//! Provisions MLX: `lib/ollmlx/<variant>/{lib,include}` under the target directory, the tree that a release ships too.
//!
//! Steps, each skipped when its result is there: fetch the pinned wheel (hash checked), unpack it, build mlx-c and our
//! C++ file against it, put the pieces into a staging directory and rename that into place. The manifest written last
//! says what the tree was made of; when it still fits, nothing is done. Everything spoken goes to standard error.

mod build;
mod install;
mod wheels;

use wheels::Variant;

use crate::prerequisites;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub const MLX_VERSION: &str = "0.32.2";
pub const MLX_C_VERSION: &str = "0.7.0";

/// `cargo xtask mlx [--variant cpu|cuda-13|cuda-12|metal]`
pub fn run(args: &[String]) -> Result<()> {
    let variant = match args {
        [] => default_variant(),
        [flag, name] if flag == "--variant" => name,
        _ => bail!("usage: cargo xtask mlx [--variant cpu|cuda-13|cuda-12|metal]"),
    };
    let place = ensure(variant)?;
    eprintln!("MLX {MLX_VERSION} ({variant}) is at {}", place.display());
    Ok(())
}

pub fn default_variant() -> &'static str {
    if cfg!(target_os = "macos") { "metal" } else { "cpu" }
}

/// The directory of `variant`, made when it is missing or no longer fits the pins and our sources.
pub fn ensure(variant: &str) -> Result<PathBuf> {
    let variant = variant.parse()?;
    let places = Places::find(variant)?;
    let recipe = install::Recipe::new(variant, &places)?;
    if recipe.is_installed() {
        return Ok(places.installed);
    }
    prerequisites::check()?;
    fs::create_dir_all(&places.work)
        .with_context(|| format!("cannot create `{}`", places.work.display()))?;
    let _alone = lock(&places.work)?;
    if !recipe.is_installed() {
        let wheel = wheels::fetch(recipe.wheel, &places.work)?;
        let unpacked = wheels::unpack(&wheel, &places.work)?;
        let source = build::mlx_c_source(&places.root)?;
        let built = build::build(variant, &places, &unpacked, &source)?;
        recipe.install(&unpacked, &source, &built)?;
    }
    Ok(places.installed)
}

/// Where this repository, the work and the result are.
pub struct Places {
    root: PathBuf,
    native: PathBuf,
    work: PathBuf,
    installed: PathBuf,
}

impl Places {
    fn find(variant: Variant) -> Result<Places> {
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest_dir = manifest_dir.context("run this through cargo: `cargo xtask mlx`")?;
        let root = manifest_dir.parent().context("xtask lies outside the workspace")?.to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(dir)?,
            None => root.join("target"),
        };
        let name = variant.to_string();
        Ok(Places {
            native: root.join("crates/mlx/native"),
            work: target.join("mlx").join(&name),
            installed: target.join("lib/ollmlx").join(&name),
            root,
        })
    }
}

/// Held while a variant is being made, so that two runs do not build into each other.
fn lock(work: &Path) -> Result<File> {
    let path = work.join("lock");
    let file =
        File::create(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
    if file.try_lock().is_err() {
        say("another run is provisioning MLX, waiting for it");
        file.lock()?;
    }
    Ok(file)
}

fn say(line: &str) {
    eprintln!("mlx: {line}");
}
