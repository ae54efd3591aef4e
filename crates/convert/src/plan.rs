//! Which blobs come out of a source: one per tensor, a quantised weight together with its scales and offsets.
//!
//! A part of a blob may be glued from several pieces of the source, one behind the other: where the experts of a layer
//! will be stacked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use protocol::Failure;
use serde_json::{Map, Value, json};

use crate::quantised::{Packed, Quantisation};
use crate::source::{Source, SourceTensor};

/// Data begins on a multiple of this, so that a mapped blob can be handed to the GPU as it is.
const ALIGNMENT_BYTES: usize = 64;

#[derive(Debug)]
pub struct Plan {
    /// By name.
    pub blobs: Vec<Blob>,
}

/// A safetensors file to be.
#[derive(Debug)]
pub struct Blob {
    pub name: String,
    parts: Vec<Part>,
    quantisation: Option<Quantisation>,
}

#[derive(Debug)]
struct Part {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    pieces: Vec<Piece>,
}

/// Bytes of a source file.
#[derive(Clone, Debug)]
pub struct Piece {
    pub shard: usize,
    pub data: Range<u64>,
}

impl Plan {
    pub fn of(source: &Source) -> Result<Plan, Failure> {
        let mut blobs = Vec::with_capacity(source.tensors.len());
        let mut taken = BTreeSet::new();
        for layer in source.tensors.keys().filter_map(|name| name.strip_suffix(".scales")) {
            let Some(packed) = Packed::find(source, layer) else {
                continue;
            };
            let quantisation = packed.quantisation(source, layer)?;
            blobs.push(Blob::quantised(&format!("{layer}.weight"), packed, quantisation));
            taken.extend(["weight", "scales", "biases"].map(|part| format!("{layer}.{part}")));
        }
        let plain = source.tensors.iter().filter(|(name, _)| !taken.contains(*name));
        blobs.extend(plain.map(|(name, tensor)| Blob::plain(name, tensor)));
        blobs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Plan { blobs })
    }

    /// Of blobs, and of the tensors in them.
    pub fn put_before_names(&mut self, prefix: &str) {
        for blob in &mut self.blobs {
            blob.name.insert_str(0, prefix);
            blob.parts.iter_mut().for_each(|part| part.name.insert_str(0, prefix));
        }
    }

    pub fn is_quantised(&self) -> bool {
        self.blobs.iter().any(|blob| blob.quantisation.is_some())
    }

    /// The quantisation, if all quantised weights have the same; without any, the type that most bytes have.
    pub fn file_type(&self) -> String {
        let found = self.blobs.iter().filter_map(|blob| blob.quantisation.as_ref());
        let kinds: BTreeSet<&str> = found.map(|quantisation| quantisation.kind.as_str()).collect();
        let mut kinds = kinds.into_iter();
        match (kinds.next(), kinds.next()) {
            (None, _) => self.usual_dtype(),
            (Some(only), None) => only.to_owned(),
            (Some(_), Some(_)) => String::new(),
        }
    }

    fn usual_dtype(&self) -> String {
        let mut bytes = BTreeMap::<&str, u64>::new();
        for part in self.blobs.iter().flat_map(|blob| &blob.parts) {
            *bytes.entry(&part.dtype).or_default() += part.size_bytes();
        }
        let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
        most.map_or_else(String::new, |(dtype, _)| dtype.to_owned())
    }

    pub fn parameter_count(&self) -> u64 {
        self.blobs.iter().map(Blob::parameter_count).fold(0, u64::saturating_add)
    }
}

impl Blob {
    fn plain(name: &str, tensor: &SourceTensor) -> Blob {
        let parts = vec![Part::whole(name.to_owned(), tensor)];
        Blob { name: name.to_owned(), parts, quantisation: None }
    }

    fn quantised(name: &str, packed: Packed<'_>, quantisation: Quantisation) -> Blob {
        let mut parts = vec![
            Part::whole(name.to_owned(), packed.weight),
            Part::whole(format!("{name}.scale"), packed.scales),
        ];
        parts.extend(packed.biases.map(|biases| Part::whole(format!("{name}.bias"), biases)));
        Blob { name: name.to_owned(), parts, quantisation: Some(quantisation) }
    }

    /// Length, JSON, and spaces up to where the data begins. The same for the same content, always.
    pub fn header(&self) -> Vec<u8> {
        let mut entries = Map::new();
        if let Some(Quantisation { kind, group_size, .. }) = &self.quantisation {
            let metadata = json!({"quant_type": kind, "group_size": group_size.to_string()});
            entries.insert("__metadata__".to_owned(), metadata);
        }
        let mut end = 0;
        for part in &self.parts {
            let begin = end;
            end += part.size_bytes();
            let entry = json!({
                "dtype": part.dtype, "shape": part.shape, "data_offsets": [begin, end],
            });
            entries.insert(part.name.clone(), entry);
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        json.resize((8 + json.len()).next_multiple_of(ALIGNMENT_BYTES) - 8, b' ');
        [&(json.len() as u64).to_le_bytes()[..], &json].concat()
    }

    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.parts.iter().flat_map(|part| &part.pieces)
    }

    pub fn size_bytes(&self) -> u64 {
        self.header().len() as u64 + self.parts.iter().map(Part::size_bytes).sum::<u64>()
    }

    /// A quantised weight counts what it stands for; scales count nothing.
    fn parameter_count(&self) -> u64 {
        let stored = self.parts.first().map_or(0, |part| part.shape.iter().product());
        self.quantisation.as_ref().map_or(stored, |quantised| stored * 32 / quantised.bits)
    }
}

impl Part {
    fn whole(name: String, tensor: &SourceTensor) -> Part {
        Part {
            name,
            dtype: tensor.stored.dtype.clone(),
            shape: tensor.shape().to_vec(),
            pieces: vec![Piece { shard: tensor.shard, data: tensor.stored.data.clone() }],
        }
    }

    fn size_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.data.end - piece.data.start).sum()
    }
}

impl SourceTensor {
    pub fn shape(&self) -> &[u64] {
        &self.stored.shape
    }
}
