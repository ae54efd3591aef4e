//! How lanes store keys and values: as they are computed, or in MLX's groups of 8 or 4 bits. Either way a tensor is a few
//! arrays `[lanes, kv_heads, positions, …]`, which are written, cut and joined alike; attention reads numbers of full
//! width, which are made of fewer bits for each layer when it attends (docs/decisions/0021-lanes-in-fewer-bits.md).

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
    /// Of keys and values as they are computed, of scales and biases.
    dtype: Dtype,
    /// None: as they are computed.
    bits: Option<i32>,
}

/// The keys, or the values, of some positions.
#[derive(Clone)]
pub(super) struct Stored {
    encoding: Encoding,
    /// The numbers; or their codes, then scales, then biases.
    arrays: Vec<Array>,
}

impl Encoding {
    /// Heads that are no whole groups are stored as they are.
    pub fn new(shape: &KvShape, dtype: Dtype, kv_type: KvType) -> Encoding {
        let whole = [shape.key_dim, shape.value_dim].iter().all(|dim| dim % GROUP == 0);
        let bits = match kv_type {
            KvType::Q8 if whole => Some(8),
            KvType::Q4 if whole => Some(4),
            _ => None,
        };
        Encoding { dtype, bits }
    }

    pub fn is_full(self) -> bool {
        self.bits.is_none()
    }

    /// `x` is `[lanes, kv_heads, positions, dim]`.
    pub fn encode(self, x: &Array) -> Stored {
        let arrays = match self.bits {
            None => vec![x.clone()],
            Some(bits) => {
                let (codes, scales, biases) =
                    mlx::quantize(&x.cast(self.dtype), GROUP, bits, Mode::Affine);
                [Some(codes), Some(scales), biases].into_iter().flatten().collect()
            }
        };
        Stored { encoding: self, arrays }
    }

    /// Of the keys and values of so many positions.
    pub fn bytes(self, shape: &KvShape, positions: usize) -> usize {
        let parts = [shape.key_dim, shape.value_dim].into_iter().flat_map(|dim| self.parts(dim));
        let row: usize = parts.map(|(width, dtype)| width as usize * dtype.size()).sum();
        row * shape.heads as usize * positions
    }

    /// Takes from `bytes` what [`Stored::to_bytes`] made; there must be enough.
    pub fn take(self, bytes: &mut &[u8], heads: i32, dim: i32, positions: usize) -> Stored {
        let array = |(width, dtype): (i32, Dtype)| {
            let shape = [1, heads, positions as i32, width];
            let size = shape.iter().product::<i32>() as usize * dtype.size();
            let (own, rest) = bytes.split_at(size);
            *bytes = rest;
            Array::from_bytes(own, &shape, dtype)
        };
        Stored { encoding: self, arrays: self.parts(dim).into_iter().map(array).collect() }
    }

    /// Last dimension and dtype of each array that stores vectors of `dim` numbers.
    fn parts(self, dim: i32) -> Vec<(i32, Dtype)> {
        match self.bits {
            None => vec![(dim, self.dtype)],
            Some(bits) => {
                let group = (dim / GROUP, self.dtype);
                vec![(dim * bits / 32, Dtype::U32), group, group]
            }
        }
    }
}

impl Stored {
    pub fn positions(&self) -> i32 {
        self.arrays[0].dim(2)
    }

    /// As they are computed, `[lanes, kv_heads, positions, dim]`.
    pub fn decoded(&self) -> Array {
        match (&self.arrays[..], self.encoding.bits) {
            ([codes, scales, biases], Some(bits)) => {
                let (w, mode, biases) = (codes, Mode::Affine, Some(biases));
                mlx::dequantize(
                    &Quantized { w, scales, biases, group_size: GROUP, bits, mode },
                    None,
                )
            }
            ([numbers], _) => numbers.clone(),
            (arrays, _) => panic!("{} arrays of stored numbers", arrays.len()),
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
    pub fn joined(pieces: &[&Stored], axis: i32) -> Stored {
        let [first, rest @ ..] = pieces else { panic!("no pieces to join") };
        if rest.is_empty() {
            return (*first).clone();
        }
        let array = |index: usize| {
            let arrays: Vec<&Array> = pieces.iter().map(|piece| &piece.arrays[index]).collect();
            mlx::concatenate(&arrays, axis)
        };
        Stored { encoding: first.encoding, arrays: (0..first.arrays.len()).map(array).collect() }
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
        for (index, array) in self.arrays.iter().enumerate() {
            let numbers = self.encoding.is_full() && index == 0;
            let array = if numbers { array.cast(self.encoding.dtype) } else { array.clone() };
            let room = positions as i32 - array.dim(2);
            let array = array.pad(&[2], &[0], &[room], 0.0, mlx::Pad::Constant);
            bytes.extend(array.to_bytes()?);
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
