//! Lists the tensors of a safetensors file without reading their data. Everything in the file is distrusted.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// As the file says it: `BF16`, `U32` …
    pub dtype: String,
    pub shape: Vec<u64>,
}

/// The tensors in the order of the file, and its `__metadata__`.
pub fn tensors_of_file(path: &Path) -> Result<(Vec<TensorInfo>, BTreeMap<String, String>)> {
    let _ = path;
    unimplemented!()
}
