//! What one forward pass computes: rows of tokens of several sequences, one after the other.
//!
//! Products and norms see rows, `[rows, width]`. Attention sees segments, through heads: [`Batch::split_heads`] makes every
//! row a batch entry of its own, `[rows, heads, 1, head_dim]`, and where keys and values lie in pages that is all there
//! is: every batch goes one way, whatever the lengths in it. Elsewhere (a GPU) segments of one length at one position (a
//! single sequence, or sequences in step) are `[batch, heads, length, head_dim]`, for MLX's fused attention.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use mlx::pages::Places;
use mlx::{Array, Dtype};

use crate::cache::{Memory, Slot};

/// The rows of one sequence: a chunk of its prompt, or the one token it decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub slot: Slot,
    /// Its first row.
    pub start: usize,
    /// Its rows; at least one.
    pub length: usize,
    /// Of its first token in the sequence.
    pub position: usize,
}

/// How the rows stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `count` segments of equal length at an equal position.
    Uniform {
        count: i32,
        length: i32,
        position: i32,
    },
    Ragged,
}

pub struct Batch {
    /// `[rows]`, u32 or i32; may be the still unevaluated result of the step before.
    pub tokens: Array,
    pub segments: Vec<Segment>,
    /// Where keys and values lie in pages: known when a pass has begun.
    pub(crate) pages: Option<PagesOf>,
    shape: Shape,
    rows: i32,
    positions: OnceCell<Array>,
    /// Of layers that see alike.
    masks: RefCell<Vec<(MaskOf, Array)>>,
}

/// A batch on its way through a model's layers.
pub struct Pass {
    pub(crate) batch: Batch,
    /// `[rows, hidden]`
    pub(crate) x: Array,
    pub(crate) layers: usize,
}

/// The pages of a batch's sequences, for layers that see all and for those with windows.
pub(crate) struct PagesOf {
    pub whole: Arc<Places>,
    pub window: Arc<Places>,
}

/// What each lane sees of so many positions, in the dtype of scores.
type MaskOf = (Vec<Range<i32>>, i32, Dtype);

impl Batch {
    /// `parts` are the sequences whose rows follow each other in `tokens`, with their lengths; each goes on where its
    /// slot's memory ends.
    pub fn new(tokens: Array, parts: &[(Slot, usize)], memory: &Memory) -> Batch {
        let mut segments = Vec::with_capacity(parts.len());
        let mut start = 0;
        for &(slot, length) in parts {
            assert!(length > 0, "a segment without rows");
            segments.push(Segment { slot, start, length, position: memory.length(slot) });
            start += length;
        }
        assert_eq!(tokens.shape(), [start as i32], "the tokens' shape, and the segments' rows");
        let shape = if memory.is_paged() { Shape::Ragged } else { shape(&segments) };
        Batch {
            tokens,
            segments,
            pages: None,
            shape,
            rows: start as i32,
            positions: OnceCell::new(),
            masks: RefCell::default(),
        }
    }

    pub fn rows(&self) -> i32 {
        self.rows
    }

    /// Where the rows' pages are.
    pub(crate) fn places(&self, of_windows: bool) -> &Arc<Places> {
        let Some(pages) = &self.pages else { panic!("keys and values outside of a pass") };
        if of_windows { &pages.window } else { &pages.whole }
    }

    /// Some of the segments by themselves, which follow each other, in a pass that has begun. Where keys and values lie in
    /// pages.
    pub(crate) fn of(&self, segments: Range<usize>) -> Batch {
        let Some(pages) = &self.pages else { panic!("a part of a batch that is not in pages") };
        let chosen = &self.segments[segments.clone()];
        let first = chosen.first().map_or(0, |segment| segment.start);
        let rows = chosen.iter().map(|segment| segment.length).sum::<usize>();
        let part = |places: &Places| Arc::new(places.of(segments.clone()));
        let segment = |segment: &Segment| Segment { start: segment.start - first, ..*segment };
        Batch {
            tokens: self.tokens.narrow(0, first as i32, (first + rows) as i32),
            segments: chosen.iter().map(segment).collect(),
            pages: Some(PagesOf { whole: part(&pages.whole), window: part(&pages.window) }),
            shape: Shape::Ragged,
            rows: rows as i32,
            positions: OnceCell::new(),
            masks: RefCell::default(),
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Each row's position in its sequence, `[rows]`, i32.
    pub fn positions(&self) -> &Array {
        self.positions.get_or_init(|| {
            let rows = |s: &Segment| (s.position..s.position + s.length).map(|p| p as i32);
            let positions: Vec<i32> = self.segments.iter().flat_map(rows).collect();
            Array::from_slice(&positions, &[self.rows])
        })
    }

    /// What to add to scores so that each lane sees these positions alone, `[lanes, 1, 1, positions]`; made once for all
    /// layers.
    pub(crate) fn mask(&self, seen: Vec<Range<i32>>, positions: i32, dtype: Dtype) -> Array {
        let wanted = (seen, positions, dtype);
        let mut masks = self.masks.borrow_mut();
        if let Some((_, mask)) = masks.iter().find(|(of, _)| *of == wanted) {
            return mask.clone();
        }
        let row = |seen: &Range<i32>| {
            let seen = seen.clone();
            (0..positions).map(move |i| if seen.contains(&i) { 0.0 } else { f32::NEG_INFINITY })
        };
        let numbers: Vec<f32> = wanted.0.iter().flat_map(row).collect();
        let shape = [wanted.0.len() as i32, 1, 1, positions];
        let mask = Array::from_slice(&numbers, &shape).cast(dtype);
        masks.push((wanted, mask.clone()));
        mask
    }

    /// `[rows, heads × head_dim]` → heads of segments (see above).
    pub fn split_heads(&self, x: &Array, heads: i32) -> Array {
        match self.shape {
            Shape::Uniform { count, length, .. } if length > 1 => {
                x.reshape(&[count, length, heads, -1]).swapaxes(1, 2)
            }
            _ => x.reshape(&[self.rows, heads, 1, -1]),
        }
    }

    /// The way back: `[rows, heads × head_dim]`.
    pub fn merge_heads(&self, x: &Array) -> Array {
        match self.shape {
            Shape::Uniform { length, .. } if length > 1 => {
                x.swapaxes(1, 2).reshape(&[self.rows, -1])
            }
            _ => x.reshape(&[self.rows, -1]),
        }
    }
}

impl Pass {
    /// How many it is through.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// What the next layer begins with: when it is computed, all before it is.
    pub fn hidden(&self) -> &Array {
        &self.x
    }

    /// The first `segments` go on by themselves, and so do the others; each of them is one at least. Where keys and values
    /// lie in pages.
    pub fn split(self, segments: usize) -> [Pass; 2] {
        let Pass { batch, x, layers } = self;
        let end = batch.segments.len();
        let row = batch.segments[segments].start as i32;
        let part = |segments: Range<usize>, rows: Range<i32>| Pass {
            batch: batch.of(segments),
            x: x.narrow(0, rows.start, rows.end),
            layers,
        };
        [part(0..segments, 0..row), part(segments..end, row..batch.rows)]
    }
}

fn shape(segments: &[Segment]) -> Shape {
    let Some(first) = segments.first() else { return Shape::Ragged };
    let alike = |s: &Segment| (s.length, s.position) == (first.length, first.position);
    if !segments.iter().all(alike) {
        return Shape::Ragged;
    }
    let (length, position) = (first.length as i32, first.position as i32);
    Shape::Uniform { count: segments.len() as i32, length, position }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a GPU, where rows stand together if they can.
    fn memory() -> Memory {
        mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
        Memory::new(mlx::Dtype::F32, []).in_lanes()
    }

    /// Slots at these positions take these lengths.
    fn batch(places: &[(usize, usize)]) -> Batch {
        let mut memory = memory();
        let slots: Vec<Slot> = places.iter().map(|_| memory.open()).collect();
        let pass = |memory: &mut Memory, parts: &[(Slot, usize)]| {
            let rows: usize = parts.iter().map(|(_, length)| length).sum();
            let mut batch = Batch::new(mlx::zeros(&[rows as i32], mlx::Dtype::U32), parts, memory);
            let _ = memory.step(&mut batch);
            batch
        };
        for (slot, (position, _)) in slots.iter().zip(places) {
            if *position > 0 {
                pass(&mut memory, &[(*slot, *position)]);
            }
        }
        let parts: Vec<_> = slots.iter().copied().zip(places.iter().map(|place| place.1)).collect();
        pass(&mut memory, &parts)
    }

    fn check(places: &[(usize, usize)], shape: Shape, positions: &[i32]) {
        let batch = batch(places);
        assert_eq!(batch.shape(), shape, "{places:?}");
        assert_eq!(batch.positions().to_vec::<i32>().unwrap(), positions, "{places:?}");
        let x = mlx::arange(0.0, f64::from(batch.rows() * 12), 1.0, mlx::Dtype::F32)
            .reshape(&[batch.rows(), 12]);
        let back = batch.merge_heads(&batch.split_heads(&x, 3));
        assert_eq!(back.to_vec::<f32>().unwrap(), x.to_vec::<f32>().unwrap(), "{places:?}");
    }

    #[test]
    fn equal_segments_make_a_uniform_batch() {
        let uniform = |count, length, position| Shape::Uniform { count, length, position };
        check(&[(7, 3)], uniform(1, 3, 7), &[7, 8, 9]);
        check(&[(4, 1), (4, 1)], uniform(2, 1, 4), &[4, 4]);
        check(&[(0, 2), (0, 2), (0, 2)], uniform(3, 2, 0), &[0, 1, 0, 1, 0, 1]);
        check(&[(4, 1), (5, 1)], Shape::Ragged, &[4, 5]);
        check(&[(4, 1), (4, 2)], Shape::Ragged, &[4, 4, 5]);
    }

    #[test]
    fn rows_of_pages_always_stand_alone() {
        let mut memory = mlx::with_device(mlx::Device::Cpu, || {
            mlx::open().unwrap_or_else(|error| panic!("{error}\nrun `cargo xtask mlx` first"));
            Memory::new(mlx::Dtype::F32, [])
        });
        let slot = memory.open();
        for length in [1, 5] {
            let tokens = mlx::zeros(&[length], mlx::Dtype::U32);
            let batch = Batch::new(tokens, &[(slot, length as usize)], &memory);
            assert_eq!(batch.shape(), Shape::Ragged);
            let heads = batch.split_heads(&mlx::zeros(&[length, 12], mlx::Dtype::F32), 3);
            assert_eq!(heads.shape(), [length, 3, 1, 4]);
        }
    }

    #[test]
    fn rows_go_by_heads() {
        let batch = batch(&[(0, 2), (0, 2)]);
        let x = mlx::arange(0.0, 16.0, 1.0, mlx::Dtype::F32).reshape(&[4, 4]);
        let heads = batch.split_heads(&x, 2);
        assert_eq!(heads.shape(), [2, 2, 2, 2]);
        let first_sequence_second_head = [2.0, 3.0, 6.0, 7.0];
        assert_eq!(heads.to_vec::<f32>().unwrap()[4..8], first_sequence_second_head);
    }

    #[test]
    #[should_panic(expected = "twice in a batch")]
    fn a_slot_stands_once_in_a_batch() {
        let mut memory = memory();
        let slot = memory.open();
        let mut batch =
            Batch::new(mlx::zeros(&[2], mlx::Dtype::U32), &[(slot, 1), (slot, 1)], &memory);
        let _ = memory.step(&mut batch);
    }

    #[test]
    #[should_panic(expected = "is not open")]
    fn a_closed_slot_has_no_length() {
        let mut memory = memory();
        let slot = memory.open();
        memory.close(slot);
        memory.length(slot);
    }
}
