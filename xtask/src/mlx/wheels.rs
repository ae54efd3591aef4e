//! Which wheel each machine needs, with its hash; fetching and unpacking it.

use super::{MLX_VERSION, say};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    Cpu,
    Cuda13,
    Cuda12,
    Metal,
}

/// A pinned wheel of MLX 0.32.2: who needs it, what it is called, what it hashes to.
#[derive(Debug)]
pub struct Wheel {
    variant: Variant,
    arch: &'static str,
    /// The platform tag of the file's name; for macOS it carries the oldest system that the wheel runs on.
    platform: &'static str,
    pub sha256: &'static str,
}

const WHEELS: &[Wheel] = &[
    Wheel {
        variant: Variant::Cpu,
        arch: "x86_64",
        platform: "manylinux_2_35_x86_64",
        sha256: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
    },
    Wheel {
        variant: Variant::Cpu,
        arch: "aarch64",
        platform: "manylinux_2_35_aarch64",
        sha256: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    },
    Wheel {
        variant: Variant::Cuda13,
        arch: "x86_64",
        platform: "manylinux_2_35_x86_64",
        sha256: "335094ccd1c0c6dc3e09c8caba207c8180602bacc0c38ba20c1d81e9456ab394",
    },
    Wheel {
        variant: Variant::Cuda13,
        arch: "aarch64",
        platform: "manylinux_2_35_aarch64",
        sha256: "49b1a25df9021f3b519a534fd39a32a5cdbf93a1b265a31e59671c2d9fc9f4a2",
    },
    Wheel {
        variant: Variant::Cuda12,
        arch: "x86_64",
        platform: "manylinux_2_35_x86_64",
        sha256: "35445ead9724855826f310b9085d57137d0a2c5381cc293cb6d86b03bb4feadf",
    },
    Wheel {
        variant: Variant::Cuda12,
        arch: "aarch64",
        platform: "manylinux_2_35_aarch64",
        sha256: "c794c697dcd28e00a51ce8813189ece1a8c62559de7cc5e27803cc591f55df05",
    },
    Wheel {
        variant: Variant::Metal,
        arch: "aarch64",
        platform: "macosx_26_0_arm64",
        sha256: "e6abeac9ac5265830c9c1541b6f96e9be37a85c2446763a46ad466c63a3837ab",
    },
    Wheel {
        variant: Variant::Metal,
        arch: "aarch64",
        platform: "macosx_15_0_arm64",
        sha256: "55a369250d220b2cf10213a87a2ac1b1a420608c5b35b1df4e7147ac8e32f121",
    },
    Wheel {
        variant: Variant::Metal,
        arch: "aarch64",
        platform: "macosx_14_0_arm64",
        sha256: "3825fff379dbc107dd3413e564a06caeaa24819910ec49c0439e454c06a1b9b8",
    },
];

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Cpu => "cpu",
            Variant::Cuda13 => "cuda-13",
            Variant::Cuda12 => "cuda-12",
            Variant::Metal => "metal",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Variant> {
        let all = [Variant::Cpu, Variant::Cuda13, Variant::Cuda12, Variant::Metal];
        let found = all.into_iter().find(|v| v.name() == name);
        found.with_context(|| {
            format!("`{name}` is no variant of MLX\nhint: one of cpu, cuda-13, cuda-12, metal")
        })
    }
}

impl Wheel {
    pub fn file_name(&self) -> String {
        let package = format!("mlx-{}", self.variant).replace('-', "_");
        format!("{package}-{MLX_VERSION}-py3-none-{}.whl", self.platform)
    }

    /// The wheel of `variant` for this machine.
    pub fn of(variant: Variant) -> Result<&'static Wheel> {
        let macos = if cfg!(target_os = "macos") { Some(macos_version()?) } else { None };
        Wheel::select(variant, std::env::consts::ARCH, macos)
    }

    fn select(variant: Variant, arch: &str, macos: Option<u32>) -> Result<&'static Wheel> {
        let fits = |w: &&Wheel| w.variant == variant && w.arch == arch && w.runs_on(macos);
        WHEELS.iter().find(fits).with_context(|| {
            let system = macos.map_or("Linux".to_owned(), |major| format!("macOS {major}"));
            format!("there is no MLX {MLX_VERSION} `{variant}` for {system} on {arch}\nhint: `metal` needs an Apple machine with macOS 14 or newer, the others Linux on x86_64 or aarch64")
        })
    }

    /// `macos` is the system's major version, none on Linux.
    fn runs_on(&self, macos: Option<u32>) -> bool {
        let oldest = self
            .platform
            .strip_prefix("macosx_")
            .and_then(|tag| tag.split('_').next()?.parse().ok());
        match (oldest, macos) {
            (Some(oldest), Some(version)) => version >= oldest,
            (None, None) => true,
            _ => false,
        }
    }
}

fn macos_version() -> Result<u32> {
    let output =
        Command::new("sw_vers").arg("-productVersion").output().context("cannot run `sw_vers`")?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let major = text.split('.').next().and_then(|major| major.parse().ok());
    major.with_context(|| format!("`sw_vers` says `{text}`, which is no version"))
}

/// The wheel as a file, from an earlier run or through pip.
pub fn fetch(wheel: &Wheel, work: &Path) -> Result<PathBuf> {
    let path = work.join(wheel.file_name());
    if path.is_file() {
        match verify(wheel, &path) {
            Ok(()) => return Ok(path),
            Err(error) => say(&format!("fetching again, the file at hand is not good: {error}")),
        }
    }
    say(&format!("fetching {}", wheel.file_name()));
    let partial = work.join("download.partial");
    replace_dir(&partial)?;
    download(wheel, &partial)?;
    verify(wheel, &partial.join(wheel.file_name()))?;
    fs::rename(partial.join(wheel.file_name()), &path)?;
    fs::remove_dir_all(&partial)?;
    Ok(path)
}

fn download(wheel: &Wheel, into: &Path) -> Result<()> {
    let package = format!("mlx-{}=={MLX_VERSION}", wheel.variant);
    let status = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--disable-pip-version-check",
            "--only-binary=:all:",
        ])
        .args(["--python-version", "3.12", "--platform", wheel.platform, "--dest"])
        .arg(into)
        .arg(&package)
        .stdin(Stdio::null())
        .stdout(stderr())
        .status()
        .context("cannot run `python3 -m pip`")?;
    if !status.success() {
        bail!(
            "pip could not download `{package}`\nhint: its own words are above; is the package index reachable?"
        );
    }
    Ok(())
}

fn verify(wheel: &Wheel, path: &Path) -> Result<()> {
    let found = sha256(path)?;
    if found != wheel.sha256 {
        bail!(
            "`{}` has the SHA-256 {found}, expected {}\nhint: the download was damaged or the index serves another file; nothing was installed",
            wheel.file_name(),
            wheel.sha256
        );
    }
    Ok(())
}

pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Unpacks the wheel (a zip archive) beside it. The finished directory is named after the wheel's hash.
pub fn unpack(wheel: &Path, work: &Path) -> Result<PathBuf> {
    let unpacked = work.join("wheel");
    let stamp = unpacked.join(".complete");
    let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if fs::read_to_string(&stamp).is_ok_and(|done| done == name) {
        return Ok(unpacked);
    }
    say("unpacking");
    let partial = work.join("wheel.partial");
    replace_dir(&partial)?;
    let status = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([wheel, &partial])
        .stdin(Stdio::null())
        .stdout(stderr())
        .status()
        .context("cannot run `python3`")?;
    if !status.success() {
        bail!(
            "`{name}` could not be unpacked\nhint: is there room on the disk? its own words are above"
        );
    }
    fs::write(partial.join(".complete"), &name)?;
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    fs::rename(&partial, &unpacked)?;
    Ok(unpacked)
}

/// An empty directory at `path`, whatever was there before.
pub fn replace_dir(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variant: Variant, arch: &str, macos: Option<u32>, expected: Option<&str>) {
        let found = Wheel::select(variant, arch, macos).ok().map(Wheel::file_name);
        assert_eq!(found.as_deref(), expected, "{variant} {arch} {macos:?}");
    }

    #[test]
    fn every_machine_gets_its_wheel_or_a_refusal() {
        check(
            Variant::Cpu,
            "x86_64",
            None,
            Some("mlx_cpu-0.32.2-py3-none-manylinux_2_35_x86_64.whl"),
        );
        check(
            Variant::Cuda13,
            "aarch64",
            None,
            Some("mlx_cuda_13-0.32.2-py3-none-manylinux_2_35_aarch64.whl"),
        );
        check(
            Variant::Metal,
            "aarch64",
            Some(14),
            Some("mlx_metal-0.32.2-py3-none-macosx_14_0_arm64.whl"),
        );
        check(
            Variant::Metal,
            "aarch64",
            Some(15),
            Some("mlx_metal-0.32.2-py3-none-macosx_15_0_arm64.whl"),
        );
        check(
            Variant::Metal,
            "aarch64",
            Some(27),
            Some("mlx_metal-0.32.2-py3-none-macosx_26_0_arm64.whl"),
        );
        check(Variant::Metal, "aarch64", Some(13), None);
        check(Variant::Metal, "x86_64", Some(15), None);
        check(Variant::Metal, "x86_64", None, None);
        check(Variant::Cpu, "aarch64", Some(15), None);
        check(Variant::Cpu, "riscv64", None, None);
    }

    #[test]
    fn a_file_with_another_hash_is_refused() {
        let path = std::env::temp_dir().join(format!("ollmlx-wheel-{}", std::process::id()));
        fs::write(&path, "not a wheel").unwrap();
        let error = verify(&WHEELS[0], &path).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(error.contains(WHEELS[0].sha256) && error.contains("hint:"), "{error}");
    }

    #[test]
    fn variants_are_named_as_typed() {
        for name in ["cpu", "cuda-13", "cuda-12", "metal"] {
            assert_eq!(name.parse::<Variant>().unwrap().to_string(), name);
        }
        assert!("rocm".parse::<Variant>().unwrap_err().to_string().contains("rocm"));
    }
}
