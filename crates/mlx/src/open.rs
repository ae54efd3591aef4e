//! Finding MLX and opening it, once per process.
//!
//! What is opened is our own library, `ollmlx_mlx`: it needs libmlxc and libmlx and brings them from beside itself, and
//! only our trees have it. So a foreign libmlxc on the loader's path is never loaded by accident, and one handle reaches
//! all symbols. Two libmlx in one process would share a soname and mix; therefore everything that can be known before
//! opening (the manifest's version, a CUDA driver with a device) is asked before, and a library found unsuitable after
//! opening ends the search.

mod driver;
mod farewell;
mod search;

pub use search::{Attempt, Outcome};

use crate::ffi::{Early, Functions};
use crate::{Device, MLX_VERSION, OpenError, device, error};
use search::{Candidate, Named};
use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

/// Freed memory that MLX keeps for reuse. Without a limit the list grows with every new shape; with a small one each
/// step returns its memory to the system and faults it in again. It counts against the model's budget.
const CACHE_BYTES_MAX: usize = 512 << 20;

/// MLX's switches on CUDA that are on unless told otherwise:
/// - Inputs of float32 products are rounded to tf32, ten bits of mantissa: a float32 model would be no better than a float16
///   one.
/// - A process that has seen some 800 kinds of steps refuses each further kind ("cache thrashing"): its cache of CUDA graphs
///   counts over the whole life of the process. Without, the oldest graphs go.
const SWITCHED_OFF: [&str; 2] = ["MLX_ENABLE_TF32", "MLX_ENABLE_CACHE_THRASHING_CHECK"];

/// What `native/primitive.h` promises; `ollmlx_native_version` returns it.
const NATIVE_VERSION: c_int = 1;

/// The opened library. It is never closed: arrays and threads of MLX live until the process ends.
pub struct Library {
    functions: Functions,
    device: Device,
    opened: Opened,
}

/// Which library was opened, for people.
#[derive(Clone, Debug)]
pub struct Opened {
    /// `cpu`, `cuda-13`, `cuda-12`, `metal`, or `unknown` for a library without a manifest.
    pub variant: String,
    pub version: String,
    pub device: Device,
    /// Each library with the file it came from.
    pub files: Vec<(&'static str, PathBuf)>,
}

/// Everything that was tried, and what came of it.
#[derive(Clone, Debug)]
pub struct Report {
    pub attempts: Vec<Attempt>,
    pub opened: Result<Opened, OpenError>,
}

static LIBRARY: OnceLock<Result<Library, OpenError>> = OnceLock::new();
static ATTEMPTS: Mutex<Vec<Attempt>> = Mutex::new(Vec::new());

/// Opens MLX, or returns what the first call came to.
pub fn open() -> Result<&'static Library, OpenError> {
    LIBRARY.get_or_init(find).as_ref().map_err(OpenError::clone)
}

/// What `open` did; opens first where nobody has.
pub fn report() -> Report {
    let opened = open().map(|library| library.opened.clone());
    let attempts = ATTEMPTS.lock().map(|list| list.clone()).unwrap_or_default();
    Report { attempts, opened }
}

/// The opened library, for the rest of this crate. Opens it where nobody has.
pub(crate) fn library() -> Result<&'static Library, &'static OpenError> {
    LIBRARY.get_or_init(find).as_ref()
}

impl Library {
    pub(crate) fn functions(&self) -> &Functions {
        &self.functions
    }

    /// The device that operations use where a thread names no other.
    pub fn device(&self) -> Device {
        self.device
    }

    pub fn opened(&self) -> &Opened {
        &self.opened
    }
}

fn find() -> Result<Library, OpenError> {
    switch_off();
    for candidate in search::candidates() {
        let outcome = match consider(&candidate) {
            Ok(library) => {
                note(&candidate, Outcome::Opened);
                return Ok(library);
            }
            Err(refusal) => refusal,
        };
        let last = matches!(outcome, Outcome::Unsuitable(_));
        note(&candidate, outcome.clone());
        if let (true, Outcome::Unsuitable(error)) = (last, outcome) {
            return Err(error);
        }
    }
    Err(search::versions_refused(&ATTEMPTS.lock().map(|list| list.clone()).unwrap_or_default()))
}

/// Float32 is float32 and a process may live long, unless the user has decided.
fn switch_off() {
    for variable in SWITCHED_OFF {
        if std::env::var_os(variable).is_none() {
            // SAFETY: once per process, under the standard library's lock. C code that reads the environment beside it has
            // to be of this process's own libraries; MLX and CUDA, which do, are opened after this.
            unsafe { std::env::set_var(variable, "0") };
        }
    }
}

/// Expected misses are for those who look; a path that the user named is worth a line.
fn note(candidate: &Candidate, outcome: Outcome) {
    let place = candidate.file.display();
    let quiet = match candidate.named {
        Named::No => true,
        Named::Exactly => false,
        Named::AmongOthers => matches!(outcome, Outcome::NoDevice(_)),
    };
    match &outcome {
        Outcome::Opened => tracing::debug!(%place, "opened MLX"),
        refusal if quiet => tracing::debug!(%place, "MLX not taken: {refusal}"),
        refusal => tracing::error!(%place, "OLLMLX_MLX_PATH cannot be used: {refusal}"),
    }
    if let Ok(mut list) = ATTEMPTS.lock() {
        list.push(Attempt { place: candidate.file.clone(), outcome });
    }
}

fn consider(candidate: &Candidate) -> Result<Library, Outcome> {
    if candidate.file.is_absolute() && !candidate.file.exists() {
        return Err(Outcome::Absent);
    }
    if let Some(found) = candidate.manifest_version().filter(|found| found != MLX_VERSION) {
        return Err(Outcome::WrongVersion(found));
    }
    if candidate.variant.starts_with("cuda") {
        driver::cuda_devices().map_err(Outcome::NoDevice)?;
    }
    // SAFETY: the library is ours by its name; its initialisers are those of MLX.
    let handle = unsafe { libloading::Library::new(&candidate.file) };
    let handle = handle.map_err(|error| Outcome::Refused(in_full(&error)))?;
    adopt(handle, &candidate.file).map_err(Outcome::Unsuitable)
}

/// libloading keeps the loader's own words in the source.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}

/// From an opened handle to a library that is known to compute.
fn adopt(handle: libloading::Library, place: &Path) -> Result<Library, OpenError> {
    // The handle is never closed: function pointers into it are about to be kept.
    let handle: &'static libloading::Library = Box::leak(Box::new(handle));
    let early = Early::resolve(handle).map_err(|names| missing(place, names))?;
    // Before any other call: mlx-c's own handler ends the process.
    // SAFETY: the handler is a function of this program and needs no data.
    unsafe { (early.mlx_set_error_handler)(Some(error::keep_message), std::ptr::null_mut(), None) };
    // A wrong version explains missing symbols, not the other way round.
    let version = version(&early);
    let wrong =
        |found: String| OpenError::WrongVersion { place: place.into(), found, wanted: MLX_VERSION };
    if version != MLX_VERSION {
        return Err(wrong(version));
    }
    let functions = Functions::resolve(handle).map_err(|names| missing(place, names))?;
    // SAFETY: no arguments, no preconditions.
    let native = unsafe { (functions.ollmlx_native_version)() };
    if native != NATIVE_VERSION {
        return Err(wrong(format!("{version} with native library {native}")));
    }
    let device = best_device(&functions)
        .map_err(|message| OpenError::Unusable { place: place.into(), message })?;
    if device == Device::Gpu {
        farewell::leave_at_once();
    }
    device::make_default(&functions, device);
    let mut before = 0;
    // SAFETY: the destination is ours.
    unsafe { (functions.mlx_set_cache_limit)(&mut before, CACHE_BYTES_MAX) };
    let files = files(handle, &early, &functions);
    let variant = files
        .first()
        .and_then(|(_, file)| search::variant_of(file))
        .unwrap_or_else(|| "unknown".to_owned());
    Ok(Library { functions, device, opened: Opened { variant, version, device, files } })
}

fn missing(place: &Path, names: Vec<&'static str>) -> OpenError {
    OpenError::MissingSymbols {
        place: place.into(),
        missing: names.into_iter().map(str::to_owned).collect(),
    }
}

/// Empty where the library does not say.
fn version(early: &Early) -> String {
    // SAFETY: one string handle, filled, copied and freed here.
    unsafe {
        let mut text = (early.mlx_string_new)();
        let filled = (early.mlx_version)(&mut text) == 0;
        let characters = if filled { (early.mlx_string_data)(text) } else { std::ptr::null() };
        let found = match characters.is_null() {
            true => String::new(),
            false => CStr::from_ptr(characters).to_string_lossy().into_owned(),
        };
        (early.mlx_string_free)(text);
        found
    }
}

/// The GPU where there is one that computes, else the CPU, which every build of MLX has.
fn best_device(f: &Functions) -> Result<Device, String> {
    if device::is_available(f, Device::Gpu) {
        match device::computes(f, Device::Gpu) {
            Ok(()) => return Ok(Device::Gpu),
            Err(message) => tracing::warn!("the GPU is not used: {message}"),
        }
    }
    device::computes(f, Device::Cpu).map(|()| Device::Cpu)
}

/// From which file each library came, in the loader's words.
fn files(
    handle: &libloading::Library,
    early: &Early,
    f: &Functions,
) -> Vec<(&'static str, PathBuf)> {
    let mut files = vec![
        ("ollmlx_mlx", search::file_of(f.ollmlx_native_version as *const c_void)),
        ("mlxc", search::file_of(early.mlx_version as *const c_void)),
    ];
    // `mlx::core::version()`, as the Itanium ABI spells it.
    // SAFETY: the address is looked up and not called.
    let core = unsafe { handle.get::<unsafe extern "C" fn()>(b"_ZN3mlx4core7versionEv") };
    files.push(("mlx", core.ok().and_then(|symbol| search::file_of(*symbol as *const c_void))));
    files.into_iter().filter_map(|(name, file)| Some((name, file?))).collect()
}
