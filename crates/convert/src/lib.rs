//! Import of checkpoints into a store: safetensors directories, as Hugging Face and MLX lay them out.
//!
//! Sources are checked in full before the first byte is written; blobs are streamed, one per tensor (a quantised
//! tensor with its scales), their data on a 64-byte boundary so that they can be mapped. Knows no architecture: a model
//! that no runner can run is still imported faithfully.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::{Convert, ConvertProgress, Converted, Failure};

/// Imports the job's files into the store's blobs. The caller writes the manifest.
pub fn import(
    job: &Convert,
    progress: &mut dyn FnMut(ConvertProgress),
) -> Result<Converted, Failure> {
    let _ = (job, progress);
    unimplemented!()
}

/// Imports a directory and writes the manifest: how the builtin store is made.
pub fn bundle(
    source: &Path,
    store_root: &Path,
    name: &str,
    progress: &mut dyn FnMut(ConvertProgress),
) -> Result<(), Failure> {
    let _ = (source, store_root, name, progress);
    unimplemented!()
}

/// The files of a model directory that an import needs, by their relative name. Symbolic links may not lead out of it.
pub fn source_files(directory: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let _ = directory;
    unimplemented!()
}
