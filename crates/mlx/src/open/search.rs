//! Where MLX may lie, in the order in which it is tried.

use crate::{MLX_VERSION, OpenError};
use serde_json::Value;
use std::env;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Best first: what a machine can have decides, and the CPU always works.
const VARIANTS: [&str; 4] = ["metal", "cuda-13", "cuda-12", "cpu"];

#[derive(Clone, Debug)]
pub struct Attempt {
    pub place: PathBuf,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Opened,
    Absent,
    WrongVersion(String),
    NoDevice(String),
    /// The loader's own words.
    Refused(String),
    /// It was opened and cannot be used; nothing else can be opened after it.
    Unsuitable(OpenError),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Opened => f.write_str("opened"),
            Outcome::Absent => f.write_str("not there"),
            Outcome::WrongVersion(found) => write!(f, "MLX {found}, needed is {MLX_VERSION}"),
            Outcome::NoDevice(reason) => f.write_str(reason),
            Outcome::Refused(words) => f.write_str(words),
            Outcome::Unsuitable(error) => write!(f, "{error}"),
        }
    }
}

/// One file to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub file: PathBuf,
    /// Empty where the name of the directory does not tell.
    pub variant: String,
    pub named: Named,
}

/// Whether OLLMLX_MLX_PATH led here, which decides how loud a failure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    No,
    Exactly,
    /// As one of the variants in a named directory: that the machine lacks the device of one is no surprise.
    AmongOthers,
}

impl Candidate {
    fn new(file: PathBuf, variant: &str) -> Candidate {
        Candidate { file, variant: variant.to_owned(), named: Named::No }
    }

    /// What the tree says of itself; none where it has no manifest.
    pub fn manifest_version(&self) -> Option<String> {
        Some(manifest(&self.file)?["mlx"].as_str()?.to_owned())
    }
}

pub fn candidates() -> Vec<Candidate> {
    let named = env::var_os("OLLMLX_MLX_PATH").filter(|path| !path.is_empty());
    let executable = env::current_exe().and_then(fs::canonicalize).ok();
    let only = env::var("OLLAMA_LLM_LIBRARY").ok().filter(|name| !name.is_empty());
    list(named.as_deref(), executable.as_deref(), only.as_deref())
}

fn list(named: Option<&OsStr>, executable: Option<&Path>, only: Option<&str>) -> Vec<Candidate> {
    let mut found = named.map(|path| named_by_user(Path::new(path))).unwrap_or_default();
    found.push(Candidate::new(file_name().into(), ""));
    for directory in executable.map(directories).unwrap_or_default() {
        found.extend(variants_in(&directory));
    }
    let wanted = only.map(variant_name);
    let fits =
        |c: &Candidate| c.variant.is_empty() || wanted.as_ref().is_none_or(|w| &c.variant == w);
    found.retain(|candidate| candidate.named != Named::No || fits(candidate));
    let mut seen = Vec::new();
    found.retain(|candidate| {
        !seen.contains(&candidate.file) && {
            seen.push(candidate.file.clone());
            true
        }
    });
    found
}

/// A file, the directory it lies in, the directory of one variant, or one of several variants.
fn named_by_user(path: &Path) -> Vec<Candidate> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exactly = |file: PathBuf| {
        let variant = variant_of(&file).unwrap_or_default();
        vec![Candidate { file, variant, named: Named::Exactly }]
    };
    if path.is_file() {
        return exactly(path);
    }
    let beneath = [path.join(file_name()), path.join("lib").join(file_name())];
    if let Some(file) = beneath.into_iter().find(|file| file.exists()) {
        return exactly(file);
    }
    let several = variants_in(&path).into_iter().filter(|c| c.file.exists());
    let several: Vec<_> = several.map(|c| Candidate { named: Named::AmongOthers, ..c }).collect();
    if several.is_empty() { exactly(path.join(file_name())) } else { several }
}

fn variants_in(directory: &Path) -> Vec<Candidate> {
    let file = |variant: &&str| directory.join(variant).join("lib").join(file_name());
    VARIANTS.iter().map(|variant| Candidate::new(file(variant), variant)).collect()
}

/// Beside the executable, `../lib/ollmlx`, and the build tree: the nearest directory above that has `lib/ollmlx`.
fn directories(executable: &Path) -> Vec<PathBuf> {
    let Some(beside) = executable.parent() else { return Vec::new() };
    let mut places = vec![beside.to_owned(), beside.join("lib/ollmlx")];
    if let Some(above) = beside.parent() {
        places.push(above.join("lib/ollmlx"));
    }
    places.extend(
        beside.ancestors().skip(2).map(|dir| dir.join("lib/ollmlx")).find(|dir| dir.is_dir()),
    );
    places
}

/// `cuda_v13`, as Ollama spells it, is `cuda-13`.
fn variant_name(name: &str) -> String {
    name.to_lowercase().replace("_v", "-").replace('_', "-")
}

pub fn file_name() -> &'static str {
    if cfg!(target_os = "macos") { "libollmlx_mlx.dylib" } else { "libollmlx_mlx.so" }
}

/// The variant that the manifest above a library's file names.
pub fn variant_of(file: &Path) -> Option<String> {
    Some(manifest(file)?["variant"].as_str()?.to_owned())
}

/// `<variant>/lib/<file>` belongs to `<variant>/manifest.json`.
fn manifest(file: &Path) -> Option<Value> {
    let text = fs::read(file.parent()?.parent()?.join("manifest.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Nothing could be opened: where a version was in the way, that is the news.
pub fn versions_refused(attempts: &[Attempt]) -> OpenError {
    let refused = attempts.iter().find_map(|attempt| match &attempt.outcome {
        Outcome::WrongVersion(found) => Some((attempt.place.clone(), found.clone())),
        _ => None,
    });
    match refused {
        Some((place, found)) => OpenError::WrongVersion { place, found, wanted: MLX_VERSION },
        None => OpenError::NotFound,
    }
}

/// What `dladdr` fills in.
#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

unsafe extern "C" {
    // In the C library of Linux and macOS, which Rust's standard library links already.
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The file that an address was loaded from.
pub fn file_of(address: *const c_void) -> Option<PathBuf> {
    let mut info = DlInfo {
        file: std::ptr::null(),
        base: std::ptr::null_mut(),
        symbol: std::ptr::null(),
        address: std::ptr::null_mut(),
    };
    // SAFETY: `info` is laid out as the C library's `Dl_info` and is ours.
    if unsafe { dladdr(address, &mut info) } == 0 || info.file.is_null() {
        return None;
    }
    // SAFETY: the loader's name of the file, which lives as long as the library: for ever.
    let name = unsafe { CStr::from_ptr(info.file) }.to_string_lossy().into_owned();
    Some(fs::canonicalize(&name).unwrap_or_else(|_| name.into()))
}
