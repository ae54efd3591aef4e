//! Lists the tensors of a safetensors file without reading their data. Everything in the file is distrusted: a header
//! that passes here names each tensor once, with a known type, a size that follows from its shape, and a place of its
//! own, and the places fill the file exactly.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::error::Doing;
use crate::{Error, Result};

/// Longest header, as in the format's own library. Price: a few times this memory for a hostile file.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A file's tensors in the order of their data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SafetensorsHeader {
    pub tensors: Vec<StoredTensor>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    pub name: String,
    /// As the file says it: `BF16`, `U32` …
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Its bytes in the file.
    pub data: Range<u64>,
}

impl SafetensorsHeader {
    pub fn read(path: &Path) -> Result<SafetensorsHeader> {
        let mut file = File::open(path).doing("cannot open", path)?;
        let file_bytes = file.metadata().doing("cannot look at", path)?.len();
        let damaged = |detail| Error::Damaged { path: path.to_owned(), detail };
        let mut prefix = [0; 8];
        if file_bytes < prefix.len() as u64 {
            return Err(damaged(format!(
                "it has {file_bytes} bytes, too few for a safetensors file"
            )));
        }
        file.read_exact(&mut prefix).doing("cannot read", path)?;
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > HEADER_BYTES_MAX || header_bytes > file_bytes - 8 {
            let rest = file_bytes - 8;
            return Err(damaged(format!(
                "its header claims {header_bytes} bytes, {rest} follow and {HEADER_BYTES_MAX} is the limit"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).doing("cannot read", path)?;
        parse(&header, 8 + header_bytes..file_bytes).map_err(damaged)
    }
}

impl StoredTensor {
    pub fn size_bytes(&self) -> u64 {
        self.data.end - self.data.start
    }
}

/// `data`: where the tensors lie in the file.
fn parse(header: &[u8], data: Range<u64>) -> Result<SafetensorsHeader, String> {
    let Entries { mut tensors, metadata } = serde_json::from_slice(header)
        .map_err(|error| format!("its header is no list of tensors: {error}"))?;
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut end = 0;
    let mut checked = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let [from, to] = tensor.data_offsets;
        if from < end {
            return Err(format!("tensor `{name}` overlaps another one at byte {from} of the data"));
        }
        if from > end {
            return Err(format!("bytes {end} to {from} of the data belong to no tensor"));
        }
        if to < from || to > data.end - data.start {
            let there = data.end - data.start;
            return Err(format!("tensor `{name}` ends at byte {to} of {there} bytes of data"));
        }
        let needed = tensor.size_bytes(&name)?;
        if needed != to - from {
            let (dtype, shape, got) = (tensor.dtype, tensor.shape, to - from);
            return Err(format!(
                "tensor `{name}` ({dtype} {shape:?}) needs {needed} bytes and has {got}"
            ));
        }
        end = to;
        let data = data.start + from..data.start + to;
        checked.push(StoredTensor { name, dtype: tensor.dtype, shape: tensor.shape, data });
    }
    match data.end - data.start - end {
        0 => Ok(SafetensorsHeader { tensors: checked, metadata }),
        more => Err(format!("{more} bytes at its end belong to no tensor")),
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Entry {
    fn size_bytes(&self, name: &str) -> Result<u64, String> {
        let bits = bits_of(&self.dtype)
            .ok_or_else(|| format!("tensor `{name}` has the unknown type `{}`", self.dtype))?;
        let total = self.shape.iter().try_fold(bits, |bits, &length| bits.checked_mul(length));
        match total {
            Some(bits) if bits % 8 == 0 => Ok(bits / 8),
            _ => Err(format!("tensor `{name}` has the impossible shape {:?}", self.shape)),
        }
    }
}

/// Bits of one element.
fn bits_of(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// The header's object, which may not name a tensor twice.
#[derive(Default)]
struct Entries {
    tensors: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Entries, D::Error> {
        from.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries::default();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` is there twice")));
            }
            match name.as_str() {
                "" => return Err(A::Error::custom("a tensor has no name")),
                "__metadata__" => {
                    let found: Option<BTreeMap<String, String>> = map.next_value()?;
                    entries.metadata = found.unwrap_or_default();
                }
                _ => entries.tensors.push((name, map.next_value()?)),
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this header and so many bytes of data.
    fn read(header: &str, data_bytes: usize) -> Result<SafetensorsHeader> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.safetensors");
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(&path, [&length, header.as_bytes(), &vec![7; data_bytes]].concat()).unwrap();
        SafetensorsHeader::read(&path)
    }

    fn check_bad(header: &str, data_bytes: usize, detail: &str) {
        match read(header, data_bytes) {
            Err(Error::Damaged { detail: got, .. }) => assert!(got.contains(detail), "{got}"),
            other => panic!("{other:?} for {header}"),
        }
    }

    #[test]
    fn tensors_and_their_places() {
        let header = r#"{"__metadata__":{"format":"mlx"},"b":{"dtype":"U32","shape":[2,1],"data_offsets":[4,12]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"none":{"dtype":"F32","shape":[0,3],"data_offsets":[12,12]}}   "#;
        let got = read(header, 12).unwrap();
        let start = 8 + header.len() as u64;
        let listed: Vec<_> =
            got.tensors.iter().map(|t| (t.name.as_str(), t.data.clone())).collect();
        assert_eq!(
            listed,
            [
                ("a", start..start + 4),
                ("b", start + 4..start + 12),
                ("none", start + 12..start + 12)
            ]
        );
        assert_eq!(got.metadata["format"], "mlx");
        assert_eq!(
            (got.tensors[1].dtype.as_str(), &got.tensors[1].shape[..]),
            ("U32", &[2, 1][..])
        );
    }

    #[test]
    fn lies_are_found() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        check_bad(&one("F32", "[2]", "[0,8]"), 4, "ends at byte 8 of 4 bytes");
        check_bad(&one("F32", "[2]", "[0,8]"), 9, "1 bytes at its end belong to no tensor");
        check_bad(&one("F32", "[3]", "[0,8]"), 8, "needs 12 bytes and has 8");
        check_bad(&one("BF16", "[2]", "[0,8]"), 8, "needs 4 bytes and has 8");
        check_bad(&one("F33", "[2]", "[0,8]"), 8, "the unknown type `F33`");
        check_bad(&one("F32", "[2]", "[8,0]"), 8, "bytes 0 to 8");
        check_bad(&one("F32", "[2]", "[0,18446744073709551615]"), 8, "ends at byte");
        check_bad(&one("F32", "[4294967296,4294967296]", "[0,8]"), 8, "impossible shape");
        check_bad(&one("F4", "[3]", "[0,1]"), 1, "impossible shape");
        check_bad(&one("F32", "[-1]", "[0,8]"), 8, "no list of tensors");
        check_bad(&one("F32", "[2]", "[4,12]"), 12, "bytes 0 to 4 of the data belong to no tensor");
        let two = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
        check_bad(two, 6, "tensor `b` overlaps another one at byte 2");
        check_bad(&two.replace("\"b\"", "\"a\""), 6, "`a` is there twice");
        check_bad("[]", 0, "no list of tensors");
        check_bad("{", 0, "no list of tensors");
        check_bad("", 0, "no list of tensors");
        check_bad(r#"{"__metadata__":{"a":1}}"#, 0, "no list of tensors");
    }

    #[test]
    fn cut_off_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.safetensors");
        let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let whole = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"data"].concat();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let got = SafetensorsHeader::read(&path);
            assert!(matches!(got, Err(Error::Damaged { .. })), "cut at {cut}: {got:?}");
        }
        std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
        assert!(matches!(SafetensorsHeader::read(&path), Err(Error::Damaged { .. })));
    }
}
