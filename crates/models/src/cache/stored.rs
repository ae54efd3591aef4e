//! How lanes store keys and values: as they are computed, or in MLX's groups of 8 or 4 bits. Either way they are a few
//! arrays `[lanes, heads, positions, …]`, which are written, cut and joined alike; attention reads numbers of full width,
//! which are made of fewer bits for each layer when it attends (docs/decisions/0021-lanes.md).

use std::ops::Range;

use mlx::{Array, Dtype, Mode, Quantized};

use super::KvType;
use super::layer::KvShape;
use crate::error::Result;

/// Numbers that share a scale and a bias.
const GROUP: i32 = 32;

/// Strides of a slice that leaves nothing out.
const ONE: [i32; 4] = [1; 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    shape: KvShape,
    /// Of keys and values as they are computed, of scales and biases.
    dtype: Dtype,
    /// None: as they are computed.
    bits: Option<i32>,
}

/// The keys and values of some positions.
#[derive(Clone)]
pub(super) struct Stored {
    encoding: Encoding,
    /// Keys, then values; or of both codes, then scales, then biases. Where keys and values have one width, the heads of
    /// both are one tensor: half as many calls.
    arrays: Vec<Array>,
}

impl Encoding {
    /// Heads that are no whole groups are stored as they are.
    pub fn new(shape: KvShape, dtype: Dtype, kv_type: KvType) -> Encoding {
        let whole = [shape.key_dim, shape.value_dim].iter().all(|dim| dim % GROUP == 0);
        let bits = match kv_type {
            KvType::Q8 if whole => Some(8),
            KvType::Q4 if whole => Some(4),
            _ => None,
        };
        Encoding { shape, dtype, bits }
    }

    pub fn is_full(self) -> bool {
        self.bits.is_none()
    }

    /// Both are `[lanes, kv_heads, positions, dim]`.
    pub fn encode(self, keys: &Array, values: &Array) -> Stored {
        let arrays = match self.bits {
            None => vec![keys.clone(), values.clone()],
            Some(bits) if self.is_one() => self.codes(&mlx::concatenate(&[keys, values], 1), bits),
            Some(bits) => [self.codes(keys, bits), self.codes(values, bits)].concat(),
        };
        Stored { encoding: self, arrays }
    }

    fn is_one(self) -> bool {
        self.shape.key_dim == self.shape.value_dim
    }

    fn codes(self, x: &Array, bits: i32) -> Vec<Array> {
        let (codes, scales, biases) = mlx::quantize(&x.cast(self.dtype), GROUP, bits, Mode::Affine);
        [Some(codes), Some(scales), biases].into_iter().flatten().collect()
    }

    /// Of the keys and values of so many positions.
    pub fn bytes(self, positions: usize) -> usize {
        let row =
            |(heads, width, dtype): (i32, i32, Dtype)| (heads * width) as usize * dtype.size();
        positions * self.parts().into_iter().map(row).sum::<usize>()
    }

    /// Of the keys and values of so many positions as they are computed.
    pub fn full_bytes(self, positions: usize) -> usize {
        Encoding { bits: None, ..self }.bytes(positions)
    }

    /// What [`Stored::to_bytes`] made of so many positions.
    pub fn stored(self, bytes: &[u8], positions: usize) -> Stored {
        let mut rest = bytes;
        let array = |(heads, width, dtype): (i32, i32, Dtype)| {
            let shape = [1, heads, positions as i32, width];
            let (own, after) = rest.split_at(shape.iter().product::<i32>() as usize * dtype.size());
            rest = after;
            Array::from_bytes(own, &shape, dtype)
        };
        Stored { encoding: self, arrays: self.parts().into_iter().map(array).collect() }
    }

    /// Heads, numbers for each and dtype of each array.
    fn parts(self) -> Vec<(i32, i32, Dtype)> {
        let KvShape { heads, key_dim, value_dim } = self.shape;
        let Some(bits) = self.bits else {
            return vec![(heads, key_dim, self.dtype), (heads, value_dim, self.dtype)];
        };
        let tensor = |heads: i32, dim: i32| {
            let group = (heads, dim / GROUP, self.dtype);
            vec![(heads, dim * bits / 32, Dtype::U32), group, group]
        };
        match self.is_one() {
            true => tensor(2 * heads, key_dim),
            false => [tensor(heads, key_dim), tensor(heads, value_dim)].concat(),
        }
    }
}

impl Stored {
    pub fn lanes(&self) -> i32 {
        self.arrays[0].dim(0)
    }

    pub fn positions(&self) -> i32 {
        self.arrays[0].dim(2)
    }

    /// As they are computed, both `[lanes, kv_heads, positions, dim]`.
    pub fn decoded(&self) -> [Array; 2] {
        let Encoding { shape, bits, .. } = self.encoding;
        let full = |parts: &[Array]| match (parts, bits) {
            ([codes, scales, biases], Some(bits)) => {
                let (w, biases, mode) = (codes, Some(biases), Mode::Affine);
                let codes = Quantized { w, scales, biases, group_size: GROUP, bits, mode };
                mlx::dequantize(&codes, None)
            }
            _ => parts[0].clone(),
        };
        let tensors = self.arrays.chunks(if bits.is_some() { 3 } else { 1 }).map(full);
        match &tensors.collect::<Vec<_>>()[..] {
            [keys, values] => [keys.clone(), values.clone()],
            [both] => {
                let heads = shape.heads;
                [both.narrow(1, 0, heads), both.narrow(1, heads, 2 * heads)]
            }
            tensors => panic!("{} tensors of keys and values", tensors.len()),
        }
    }

    /// `past` (if any) followed by `room` empty positions, in the shape and dtype of `new`.
    pub fn with_room(past: Option<&Stored>, room: i32, new: &Stored) -> Stored {
        let array = |(index, new): (usize, &Array)| {
            let past = past.map(|past| &past.arrays[index]);
            let [lanes, heads, _, width] = dims(new);
            let length = past.map_or(0, |past| past.dim(2));
            let whole = mlx::unwritten(&[lanes, heads, length + room, width], new.dtype());
            match past {
                Some(past) => whole.write_unread(&past.cast(whole.dtype()), &[0; 4]),
                None => whole,
            }
        };
        let arrays = new.arrays.iter().enumerate().map(array).collect();
        Stored { encoding: new.encoding, arrays }
    }

    /// Writes at a position. Where nobody reads (`unread`) that is in place even while a GPU works on earlier steps;
    /// elsewhere MLX copies what somebody may still read.
    pub fn write(&mut self, position: i32, new: &Stored, unread: bool) {
        for (whole, new) in self.arrays.iter_mut().zip(&new.arrays) {
            let [lanes, heads, _, width] = dims(whole);
            let start = [0, 0, position, 0];
            *whole = match unread && new.dtype() == whole.dtype() {
                true => whole.write_unread(new, &start),
                false => {
                    let end = position + new.dim(2);
                    whole.slice_update(new, &start, &[lanes, heads, end, width], &ONE)
                }
            };
        }
    }

    pub fn lane(&self, lane: i32, positions: Range<i32>) -> Stored {
        self.each(|array| {
            let [_, heads, _, width] = dims(array);
            let (start, end) =
                ([lane, 0, positions.start, 0], [lane + 1, heads, positions.end, width]);
            array.slice(&start, &end, &ONE)
        })
    }

    /// Lanes beside each other (axis 0), or positions behind each other (axis 2).
    pub fn joined(pieces: &[Stored], axis: i32) -> Stored {
        let [first, rest @ ..] = pieces else { panic!("no pieces to join") };
        if rest.is_empty() {
            return first.clone();
        }
        let array = |index: usize| {
            let arrays: Vec<&Array> = pieces.iter().map(|piece| &piece.arrays[index]).collect();
            mlx::concatenate(&arrays, axis)
        };
        Stored { encoding: first.encoding, arrays: (0..first.arrays.len()).map(array).collect() }
    }

    /// So many positions, of which these are the last; nobody reads the others.
    pub fn filled_up(self, positions: i32) -> Stored {
        let room = positions - self.positions();
        match room {
            0 => self,
            _ => self.each(|array| array.pad(&[2], &[room], &[0], 0.0, mlx::Pad::Constant)),
        }
    }

    /// The first so many positions.
    pub fn first(&self, positions: i32) -> Stored {
        self.each(|array| array.narrow(2, 0, positions))
    }

    /// In memory of their own.
    pub fn contiguous(&self) -> Stored {
        self.each(Array::contiguous)
    }

    /// As bytes of so many positions, of which the last may be empty; waits until they are computed.
    pub fn to_bytes(&self, positions: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (array, (_, _, dtype)) in self.arrays.iter().zip(self.encoding.parts()) {
            let room = positions as i32 - array.dim(2);
            let array = array.pad(&[2], &[0], &[room], 0.0, mlx::Pad::Constant);
            bytes.extend(array.cast(dtype).to_bytes()?);
        }
        Ok(bytes)
    }

    pub fn nbytes(&self) -> usize {
        self.arrays.iter().map(Array::nbytes).sum()
    }

    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    fn each(&self, of: impl Fn(&Array) -> Array) -> Stored {
        Stored { encoding: self.encoding, arrays: self.arrays.iter().map(of).collect() }
    }
}

fn dims(array: &Array) -> [i32; 4] {
    array.shape().try_into().expect("keys and values have four dimensions")
}
