//! Puts the pieces together in a staging directory and renames it into place; the manifest says what it is made of.

use super::wheels::{Wheel, replace_dir, sha256};
use super::{MLX_C_VERSION, MLX_VERSION, Places, Variant, say};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Headers that NVRTC looks for beside libmlx when it compiles MLX's kernels.
const CUDA_HEADERS: &[&str] = &["cccl", "cute", "cutlass"];

/// What a finished tree must have been made of.
pub struct Recipe {
    pub wheel: &'static Wheel,
    variant: Variant,
    native: PathBuf,
    installed: PathBuf,
    native_sha256: Value,
}

impl Recipe {
    pub fn new(variant: Variant, places: &Places) -> Result<Recipe> {
        Ok(Recipe {
            wheel: Wheel::of(variant)?,
            variant,
            native: places.native.clone(),
            installed: places.installed.clone(),
            native_sha256: native_sources(&places.native)?,
        })
    }

    /// True when the manifest fits this recipe and every file it lists has its size.
    pub fn is_installed(&self) -> bool {
        let Ok(text) = fs::read(self.installed.join("manifest.json")) else { return false };
        let Ok(manifest) = serde_json::from_slice::<Value>(&text) else { return false };
        let ours = self.header();
        let fits =
            ours.as_object().is_some_and(|o| o.iter().all(|(key, value)| &manifest[key] == value));
        let whole = |(name, entry): (&String, &Value)| {
            let size = fs::metadata(self.installed.join(name)).map(|m| m.len());
            size.is_ok_and(|size| entry["bytes"] == size)
        };
        fits && manifest["files"]
            .as_object()
            .is_some_and(|files| !files.is_empty() && files.iter().all(whole))
    }

    fn header(&self) -> Value {
        json!({
            "variant": self.variant.to_string(),
            "mlx": MLX_VERSION,
            "mlx_c": MLX_C_VERSION,
            "wheel": self.wheel.file_name(),
            "wheel_sha256": self.wheel.sha256,
            "native_sha256": self.native_sha256,
        })
    }

    pub fn install(&self, unpacked: &Path, source: &Path, built: &Path) -> Result<()> {
        say("installing");
        let parent = self.installed.parent().context("the installation has no parent directory")?;
        let staging = parent.join(format!(".{}.partial", self.variant));
        replace_dir(&staging)?;
        self.fill(&staging, unpacked, source, built)?;
        self.write_manifest(&staging)?;
        swap_in(&staging, &self.installed)
    }

    fn fill(&self, staging: &Path, unpacked: &Path, source: &Path, built: &Path) -> Result<()> {
        let lib = staging.join("lib");
        copy_matching(&unpacked.join("mlx/lib"), &lib, is_library)?;
        let bundled = unpacked.join(format!("mlx-{}.libs", self.variant).replace('-', "_"));
        if bundled.is_dir() {
            copy_matching(&bundled, &lib, is_library)?;
        }
        copy_matching(&built.join("mlx-c"), &lib, is_library)?;
        copy_matching(built, &lib, is_library)?;
        let include = staging.join("include");
        copy_matching(&source.join("mlx/c"), &include.join("mlx/c"), |name| name.ends_with(".h"))?;
        copy_matching(&self.native, &include.join("ollmlx"), |name| name == "primitive.h")?;
        for headers in CUDA_HEADERS {
            let from = unpacked.join("mlx/include").join(headers);
            if from.is_dir() {
                copy_tree(&from, &include.join(headers))?;
            }
        }
        let licenses =
            unpacked.join(format!("mlx_{}-{MLX_VERSION}.dist-info/licenses", self.underscored()));
        copy_matching(&licenses, &staging.join("licenses/mlx"), |_| true)?;
        copy_matching(source, &staging.join("licenses/mlx-c"), |name| name == "LICENSE")
    }

    fn underscored(&self) -> String {
        self.variant.to_string().replace('-', "_")
    }

    /// Lists the libraries with size and hash; written last, so that a tree with a manifest is a whole one.
    fn write_manifest(&self, staging: &Path) -> Result<()> {
        let mut files = Map::new();
        for path in sorted(&staging.join("lib"))? {
            let name = format!("lib/{}", file_name(&path));
            files.insert(
                name,
                json!({ "bytes": fs::metadata(&path)?.len(), "sha256": sha256(&path)? }),
            );
        }
        if !files.keys().any(|name| name.contains("ollmlx_mlx")) {
            bail!("the build left no library `ollmlx_mlx`");
        }
        let mut manifest = self.header();
        manifest["files"] = Value::Object(files);
        fs::write(staging.join("manifest.json"), format!("{manifest:#}\n"))?;
        Ok(())
    }
}

/// Renames `staging` to `installed`, so that who opens the place meanwhile finds the old tree or the new one, whole.
fn swap_in(staging: &Path, installed: &Path) -> Result<()> {
    let aside = staging.with_extension("old");
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    if installed.exists() {
        fs::rename(installed, &aside)?;
    }
    fs::rename(staging, installed)?;
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    Ok(())
}

/// The hash of every source of our own C++, by name.
fn native_sources(native: &Path) -> Result<Value> {
    let mut hashes = Map::new();
    for path in sorted(native)?.into_iter().chain(sorted(&native.join("package"))?) {
        if path.is_file() {
            hashes.insert(file_name(&path), sha256(&path)?.into());
        }
    }
    Ok(Value::Object(hashes))
}

fn is_library(name: &str) -> bool {
    name.contains(".so") || name.ends_with(".dylib") || name.ends_with(".metallib")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn copy_matching(from: &Path, to: &Path, fits: impl Fn(&str) -> bool) -> Result<()> {
    fs::create_dir_all(to)?;
    for path in sorted(from)? {
        if path.is_file() && fits(&file_name(&path)) {
            fs::copy(&path, to.join(file_name(&path)))
                .with_context(|| format!("cannot copy `{}`", path.display()))?;
        }
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_matching(from, to, |_| true)?;
    for path in sorted(from)? {
        if path.is_dir() {
            copy_tree(&path, &to.join(file_name(&path)))?;
        }
    }
    Ok(())
}
