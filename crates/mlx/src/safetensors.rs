//! Safetensors: the header checked completely before anything is believed, tensors handed to MLX where they lie.
//!
//! A file is eight bytes of length, that many bytes of JSON, and the tensors' bytes. Each tensor must name a known type,
//! and a range inside the file whose size fits its shape; ranges may not overlap, and the last one ends with the file.
//!
//! Arrays are made over a private mapping: the system reads pages when they are used, and drops them under pressure. MLX
//! may reuse the memory of an array that nothing else refers to, so pages can be written, which stays in this process and
//! never reaches the file. For that reason only the first array of a tensor lies in that mapping; later ones are copies
//! of the file. A file must not be truncated while it is in use.

use crate::array::byte_len;
use crate::device::stream_for;
use crate::ffi::mlx_array;
use crate::{Array, Dtype, error};
use memmap2::{Mmap, MmapOptions, MmapRaw};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use thiserror::Error;

/// The format's own limit on the JSON; a larger one is a lie or an attack.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Dimensions of a tensor. MLX takes more; no checkpoint has them.
const DIMENSIONS_MAX: usize = 16;

/// The length that stands before the JSON.
const PREFIX_BYTES: usize = 8;

#[derive(Debug, Error)]
#[error("`{}`: {problem}\nhint: the file is damaged or incomplete; fetch or convert it again", file.display())]
pub struct Error {
    pub file: PathBuf,
    pub problem: Problem,
}

#[derive(Debug, Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0} bytes are too few for a safetensors file")]
    TooShort(u64),
    #[error("its header claims {claimed} bytes, more than the {limit} allowed")]
    HeaderTooLong { claimed: u64, limit: u64 },
    #[error("its header claims {claimed} bytes and the file has {available} after the length")]
    HeaderBeyondEnd { claimed: u64, available: u64 },
    #[error("its header is not the JSON object it should be: {0}")]
    HeaderNotJson(String),
    #[error("tensor `{0}` stands in the header twice")]
    Duplicate(String),
    #[error("tensor `{tensor}`: {what}")]
    BadEntry { tensor: String, what: String },
    #[error("tensor `{tensor}` has the type `{dtype}`, which is not known")]
    UnknownDtype { tensor: String, dtype: String },
    #[error(
        "tensor `{tensor}` lies at {begin}..{end} and the file has {available} bytes of tensors"
    )]
    OutOfRange { tensor: String, begin: u64, end: u64, available: u64 },
    #[error("tensor `{tensor}` has {found} bytes and its shape and type need {needed}")]
    WrongSize { tensor: String, found: u64, needed: u64 },
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap { first: String, second: String },
    #[error("{unclaimed} bytes belong to no tensor")]
    Unclaimed { unclaimed: u64 },
    #[error("there is no tensor `{0}`")]
    NoTensor(String),
}

/// What the header says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub dtype: Dtype,
    /// The type as the file spells it: `F8_E4M3` and its like are held as bytes.
    pub stored: String,
    pub shape: Vec<i32>,
    /// In the file.
    range: Range<usize>,
}

impl Tensor {
    pub fn nbytes(&self) -> usize {
        self.range.len()
    }
}

/// An open file: names, shapes and metadata at once, values when asked for.
pub struct SafeTensors {
    path: PathBuf,
    file: Mmap,
    writable: Arc<MmapRaw>,
    tensors: BTreeMap<String, (Tensor, AtomicBool)>,
    metadata: BTreeMap<String, String>,
}

impl SafeTensors {
    pub fn open(path: impl AsRef<Path>) -> Result<SafeTensors, Error> {
        let path = path.as_ref();
        open(path).map_err(|problem| Error { file: path.into(), problem })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name, in alphabetical order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, (tensor, _))| (name.as_str(), tensor))
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name).map(|(tensor, _)| tensor)
    }

    /// The `__metadata__` of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The bytes of a tensor as they are in the file.
    pub fn bytes(&self, name: &str) -> Result<&[u8], Error> {
        let (tensor, _) = self.find(name)?;
        Ok(&self.file[tensor.range.clone()])
    }

    /// The tensor as an array: over the mapping where its place in the file is aligned and nobody asked before, else a copy.
    pub fn array(&self, name: &str) -> Result<Array, Error> {
        let (tensor, taken) = self.find(name)?;
        let aligned = tensor.range.start.is_multiple_of(tensor.dtype.size().min(8));
        if tensor.range.is_empty() || !aligned || taken.swap(true, Ordering::Relaxed) {
            return Ok(Array::from_bytes(
                &self.file[tensor.range.clone()],
                &tensor.shape,
                tensor.dtype,
            ));
        }
        Ok(over(&self.writable, tensor))
    }

    fn find(&self, name: &str) -> Result<&(Tensor, AtomicBool), Error> {
        let missing =
            || Error { file: self.path.clone(), problem: Problem::NoTensor(name.to_owned()) };
        self.tensors.get(name).ok_or_else(missing)
    }
}

/// Of all arrays that lie in files.
static MAPPED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// What arrays take that lie in files.
pub(crate) fn mapped_bytes() -> usize {
    MAPPED_BYTES.load(Ordering::Relaxed)
}

/// What an array over a mapping keeps.
struct Held {
    _map: Arc<MmapRaw>,
    bytes: usize,
}

impl Held {
    fn new(map: &Arc<MmapRaw>, bytes: usize) -> Held {
        MAPPED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        Held { _map: Arc::clone(map), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        MAPPED_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An array over a range of the mapping, which lives as long as the array's memory is in use.
#[track_caller]
fn over(map: &Arc<MmapRaw>, tensor: &Tensor) -> Array {
    unsafe extern "C" fn release(payload: *mut c_void) {
        // SAFETY: made below from a `Box`; called once.
        drop(unsafe { Box::from_raw(payload.cast::<Held>()) });
    }
    let (f, _) = stream_for("safetensors", &[]);
    let mut raw = mlx_array::NULL;
    let payload = Box::into_raw(Box::new(Held::new(map, tensor.nbytes()))).cast::<c_void>();
    // SAFETY: the range was checked to lie in the mapping, behind the header (so eight bytes are before it); the mapping
    // is writable and stays until `release`. The shape outlives the call.
    let status = unsafe {
        let data = map.as_mut_ptr().add(tensor.range.start).cast::<c_void>();
        let (shape, ndim) = (tensor.shape.as_ptr(), tensor.shape.len());
        (f.ollmlx_array_over)(
            &mut raw,
            data,
            shape,
            ndim,
            tensor.dtype as u32,
            payload,
            Some(release),
        )
    };
    if status != 0 {
        error::fail("safetensors", &[], error::take_message());
    }
    // SAFETY: the call succeeded.
    unsafe { Array::from_raw(raw) }
}

fn open(path: &Path) -> Result<SafeTensors, Problem> {
    let handle = File::open(path)?;
    let length = handle.metadata()?.len();
    if length < PREFIX_BYTES as u64 {
        return Err(Problem::TooShort(length));
    }
    // SAFETY: only read; the store does not change files once they have their name, as the module's head asks.
    let file = unsafe { Mmap::map(&handle) }?;
    // Private pages, reserved for nobody: checkpoints are larger than memory at times.
    // SAFETY: as above; writes stay in private pages.
    let writable =
        MmapRaw::from(unsafe { MmapOptions::new().no_reserve_swap().map_copy(&handle) }?);
    let (tensors, metadata) = parse(&file)?;
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| (name, (tensor, AtomicBool::new(false))))
        .collect();
    Ok(SafeTensors { path: path.into(), file, writable: Arc::new(writable), tensors, metadata })
}

type Contents = (BTreeMap<String, Tensor>, BTreeMap<String, String>);

fn parse(file: &[u8]) -> Result<Contents, Problem> {
    let (json, begin) = header(file)?;
    let entries: Entries =
        serde_json::from_slice(json).map_err(|e| Problem::HeaderNotJson(e.to_string()))?;
    let mut tensors = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for (name, entry) in entries.0 {
        if name == "__metadata__" {
            metadata = strings(entry)?;
            continue;
        }
        let tensor = tensor(&name, &entry, begin, file.len())?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(Problem::Duplicate(name));
        }
    }
    check_layout(&tensors, begin, file.len())?;
    Ok((tensors, metadata))
}

/// The JSON, and where the tensors begin.
fn header(file: &[u8]) -> Result<(&[u8], usize), Problem> {
    let Some((prefix, rest)) = file.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(Problem::TooShort(file.len() as u64));
    };
    let (claimed, available) = (u64::from_le_bytes(*prefix), rest.len() as u64);
    if claimed > HEADER_BYTES_MAX {
        return Err(Problem::HeaderTooLong { claimed, limit: HEADER_BYTES_MAX });
    }
    if claimed > available {
        return Err(Problem::HeaderBeyondEnd { claimed, available });
    }
    let json = &rest[..claimed as usize];
    if json.first() != Some(&b'{') {
        return Err(Problem::HeaderNotJson("it does not begin with `{`".to_owned()));
    }
    Ok((json, PREFIX_BYTES + claimed as usize))
}

/// The header's entries in order, a name twice included.
struct Entries(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

fn strings(entry: Value) -> Result<BTreeMap<String, String>, Problem> {
    let bad = || Problem::HeaderNotJson("`__metadata__` is not an object of texts".to_owned());
    let Value::Object(object) = entry else { return Err(bad()) };
    object
        .into_iter()
        .map(|(key, value)| Ok((key, value.as_str().ok_or_else(bad)?.to_owned())))
        .collect()
}

fn tensor(name: &str, entry: &Value, begin: usize, file_bytes: usize) -> Result<Tensor, Problem> {
    let bad = |what: &str| Problem::BadEntry { tensor: name.to_owned(), what: what.to_owned() };
    let entry: &Map<String, Value> =
        entry.as_object().ok_or_else(|| bad("its entry is no object"))?;
    let stored = entry
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(|| bad("its entry has no `dtype`"))?;
    let dtype = dtype(stored).ok_or_else(|| Problem::UnknownDtype {
        tensor: name.to_owned(),
        dtype: stored.to_owned(),
    })?;
    let shape =
        numbers(entry, "shape").ok_or_else(|| bad("its `shape` is no list of whole numbers"))?;
    if shape.len() > DIMENSIONS_MAX {
        return Err(bad("its `shape` has too many dimensions"));
    }
    let shape: Option<Vec<i32>> = shape.iter().map(|dim| i32::try_from(*dim).ok()).collect();
    let shape = shape.ok_or_else(|| bad("a dimension of its `shape` is too large"))?;
    let Some(&[from, to]) = numbers(entry, "data_offsets").as_deref() else {
        return Err(bad("its `data_offsets` are no two whole numbers"));
    };
    let available = (file_bytes - begin) as u64;
    if from > to || to > available {
        return Err(Problem::OutOfRange {
            tensor: name.to_owned(),
            begin: from,
            end: to,
            available,
        });
    }
    let needed = byte_len(&shape, dtype).ok_or_else(|| bad("its `shape` is too large"))? as u64;
    if to - from != needed {
        return Err(Problem::WrongSize { tensor: name.to_owned(), found: to - from, needed });
    }
    let range = begin + from as usize..begin + to as usize;
    Ok(Tensor { dtype, stored: stored.to_owned(), shape, range })
}

fn numbers(entry: &Map<String, Value>, key: &str) -> Option<Vec<u64>> {
    entry.get(key)?.as_array()?.iter().map(Value::as_u64).collect()
}

/// The types of the format. Small floats that MLX has no type for are bytes.
fn dtype(stored: &str) -> Option<Dtype> {
    Some(match stored {
        "BOOL" => Dtype::Bool,
        "U8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Dtype::U8,
        "U16" => Dtype::U16,
        "U32" => Dtype::U32,
        "U64" => Dtype::U64,
        "I8" => Dtype::I8,
        "I16" => Dtype::I16,
        "I32" => Dtype::I32,
        "I64" => Dtype::I64,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        "F32" => Dtype::F32,
        "F64" => Dtype::F64,
        "C64" => Dtype::Complex64,
        _ => return None,
    })
}

/// No overlap, no bytes between or behind the tensors.
fn check_layout(
    tensors: &BTreeMap<String, Tensor>,
    begin: usize,
    file_bytes: usize,
) -> Result<(), Problem> {
    let mut ordered: Vec<_> = tensors.iter().filter(|(_, t)| !t.range.is_empty()).collect();
    ordered.sort_by_key(|(_, tensor)| tensor.range.start);
    for pair in ordered.windows(2) {
        let [(first, a), (second, b)] = pair else { continue };
        if b.range.start < a.range.end {
            return Err(Problem::Overlap { first: first.to_string(), second: second.to_string() });
        }
    }
    let claimed: usize = ordered.iter().map(|(_, tensor)| tensor.range.len()).sum();
    match (file_bytes - begin) - claimed {
        0 => Ok(()),
        unclaimed => Err(Problem::Unclaimed { unclaimed: unclaimed as u64 }),
    }
}

#[cfg(test)]
mod tests;
