//! Pages as bytes, for a file: what they are made for, then what is in them, exactly.
//!
//! A header tells how the memory is arranged in which the bytes mean anything; a page of any other is refused.

use std::rc::Rc;

use mlx::pages::Block;
use mlx::{Array, Dtype};

use super::lanes::Lanes;
use super::layer::Store;
use super::{Cache, Layouts, Memory, Page, Part, State};
use crate::error::{Error, Result};

/// The first bytes of a page, and the version of what follows.
const MAGIC: &[u8; 8] = b"ollmkv\x00\x01";

/// Magic, arrangement, whether a window part is there.
const HEADER_BYTES: usize = 8 + 8 + 1;

impl Memory {
    /// A page as bytes; waits until everything in it is computed.
    pub fn export(&self, page: Page) -> Result<Vec<u8>> {
        let entry = self.table.entry(page);
        let cut;
        let (whole, window) = if entry.whole.is_some() || entry.window.is_some() {
            (entry.whole.as_ref(), entry.window.as_ref())
        } else {
            cut = self.cut(page);
            (cut.0.as_ref(), cut.1.as_ref())
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.arrangement().to_le_bytes());
        bytes.push(u8::from(window.is_some()));
        for part in [whole, window].into_iter().flatten() {
            bytes.extend(self.bytes_of(part)?);
        }
        Ok(bytes)
    }

    /// A page from bytes, held once by the caller.
    pub fn import(&mut self, bytes: &[u8]) -> Result<Page> {
        let wrong = |reason: String| Err(Error::Page { reason });
        let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return wrong(format!("{} bytes are no page", bytes.len()));
        };
        if header[..8] != *MAGIC || header[8..16] != self.arrangement().to_le_bytes() {
            return wrong("it is of another model, or another way to store keys and values".into());
        }
        let [whole, window] = self.part_bytes();
        let has_window = header[16] == 1;
        let expected = whole + if has_window { window } else { 0 };
        if body.len() != expected || header[16] > 1 {
            return wrong(format!("{} bytes where a page has {expected}", body.len()));
        }
        let (whole, window) = body.split_at(whole);
        let parts = (self.part_of(whole, false), self.part_of(window, true));
        Ok(self.table.insert(parts, has_window || self.table.window.is_none()))
    }

    /// Of everything that gives bytes their meaning.
    fn arrangement(&self) -> u64 {
        let layers: Vec<_> = self
            .layers
            .iter()
            .filter_map(Cache::as_key_value)
            .map(|kv| (kv.shape, kv.window))
            .collect();
        let tokens = self.table.tokens;
        let words = format!(
            "{layers:?} {:?} {:?} {tokens} {}",
            self.dtype,
            self.kv_type(),
            self.is_paged()
        );
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        words.bytes().fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// Of layers without and with a window.
    fn part_bytes(&self) -> [usize; 2] {
        match &self.pages {
            Some(Layouts { whole_bytes, window_bytes, .. }) => [*whole_bytes, *window_bytes],
            None => [false, true].map(|windowed| {
                let tokens = self.table.tokens;
                self.lanes_with(windowed).map(|lanes| lanes.encoding().bytes(tokens)).sum()
            }),
        }
    }

    /// Of the layers with a window, or of those without.
    fn lanes_with(&self, windowed: bool) -> impl Iterator<Item = &Lanes> {
        let layers = self.layers.iter().filter_map(Cache::as_key_value);
        let layers = layers.filter(move |kv| kv.window.is_some() == windowed);
        layers.filter_map(|kv| match &kv.store {
            Store::Lanes(lanes) => Some(lanes),
            Store::Pages(_) => None,
        })
    }

    fn bytes_of(&self, part: &Part) -> Result<Vec<u8>> {
        match (part, &self.pages) {
            (Part::Block(block), Some(pages)) => Ok(pages.receipts.read(block)?),
            (Part::Block(_), None) => panic!("a block without pages"),
            (Part::Lanes(layers), _) => {
                let mut bytes = Vec::new();
                for stored in layers.iter() {
                    bytes.extend(stored.to_bytes(self.table.tokens)?);
                }
                Ok(bytes)
            }
        }
    }

    /// None for no bytes.
    fn part_of(&self, bytes: &[u8], windowed: bool) -> Option<Part> {
        if bytes.is_empty() {
            return None;
        }
        if self.is_paged() {
            return Some(Part::Block(Block::of(bytes)));
        }
        let (mut rest, tokens) = (bytes, self.table.tokens);
        let layer = |lanes: &Lanes| {
            let (own, after) = rest.split_at(lanes.encoding().bytes(tokens));
            rest = after;
            lanes.encoding().stored(own, tokens)
        };
        Some(Part::Lanes(self.lanes_with(windowed).map(layer).collect()))
    }
}

/// Dtypes that states have, by their number in a file.
const STATE_DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

impl State {
    /// All of it as bytes; waits until it is computed. Length and number of layers, then for each layer its arrays: dtype,
    /// dimensions, elements.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.bytes() + 64);
        let number = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u32).to_le_bytes());
        number(&mut bytes, self.length);
        number(&mut bytes, self.layers.len());
        for arrays in self.layers.iter() {
            number(&mut bytes, arrays.len());
            for array in arrays.iter() {
                let dtype = STATE_DTYPES.iter().position(|dtype| *dtype == array.dtype());
                let reason = || format!("a state of {} cannot be kept", array.dtype());
                number(&mut bytes, dtype.ok_or_else(|| Error::Page { reason: reason() })?);
                number(&mut bytes, array.shape().len());
                array.shape().iter().for_each(|dim| number(&mut bytes, *dim as usize));
                bytes.extend(array.to_bytes()?);
            }
        }
        Ok(bytes)
    }

    /// None where these are no bytes of a state. Whose state it is the caller knows.
    pub fn from_bytes(bytes: &[u8]) -> Option<State> {
        let mut rest = bytes;
        let number = |rest: &mut &[u8]| {
            let (head, tail) = rest.split_first_chunk::<4>()?;
            *rest = tail;
            Some(u32::from_le_bytes(*head) as usize)
        };
        let (length, count) = (number(&mut rest)?, number(&mut rest)?);
        let mut layers = Vec::new();
        for _ in 0..count {
            let mut arrays = Vec::new();
            for _ in 0..number(&mut rest)? {
                let dtype = *STATE_DTYPES.get(number(&mut rest)?)?;
                let dims = number(&mut rest)?;
                let shape: Option<Vec<i32>> =
                    (0..dims).map(|_| i32::try_from(number(&mut rest)?).ok()).collect();
                let shape = shape?;
                let elements = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim as usize));
                let (own, after) = rest.split_at_checked(elements?.checked_mul(dtype.size())?)?;
                rest = after;
                arrays.push(Array::from_bytes(own, &shape, dtype));
            }
            layers.push(Rc::from(arrays));
        }
        rest.is_empty().then(|| State { length, layers: layers.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was() {
        mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
        let one = Array::from_slice(&[1.5f32, -2.0, 3.0, 4.0, 5.0, 6.0], &[1, 2, 3]);
        let other = one.cast(Dtype::Bf16).reshape(&[6]);
        let layers: [Vec<Array>; 3] = [vec![one.clone(), other], Vec::new(), vec![one]];
        let state = State { length: 77, layers: layers.into_iter().map(Rc::from).collect() };
        let bytes = state.to_bytes().unwrap();
        let back = State::from_bytes(&bytes).unwrap();
        assert_eq!((back.length, back.layers.len()), (77, 3));
        for (before, after) in state.arrays().iter().zip(back.arrays()) {
            assert_eq!((before.shape(), before.dtype()), (after.shape(), after.dtype()));
            assert_eq!(before.to_bytes().unwrap(), after.to_bytes().unwrap());
        }
        assert_eq!(back.to_bytes().unwrap(), bytes);
        for length in 0..bytes.len() {
            assert!(State::from_bytes(&bytes[..length]).is_none(), "{length} bytes");
        }
        assert!(State::from_bytes(&[&bytes[..], &[0]].concat()).is_none());
        let odd =
            State { length: 1, layers: [Rc::from([Array::from_slice(&[1u32], &[1])])].into() };
        assert!(odd.to_bytes().is_err());
    }
}
