//! Which sequences remember the same memory: those that begin alike share pages, and read them together.
//!
//! Nothing but addresses is compared. An order of sequences is found in which those that share most stand next to each
//! other; whoever shares with its neighbour is then known by blocks.

use std::ops::Range;

use super::{KEYS, Segment, Span, Stored};
use crate::attention::history::Cells;

impl Span<'_> {
    /// The same tokens in the same memory.
    fn is(&self, other: &Span<'_>) -> bool {
        self.tokens == other.tokens && self.keys.is(&other.keys) && self.values.is(&other.values)
    }
}

impl Stored<'_> {
    fn is(&self, other: &Stored<'_>) -> bool {
        let strides = |stored: &Stored<'_>| (stored.head_stride, stored.token_stride);
        let scales = |stored: &Stored<'_>| match stored.cells {
            Cells::Floats(_) => None,
            Cells::Bytes { scales, .. } | Cells::Nibbles { scales, .. } => Some(scales.as_ptr()),
        };
        self.address(0, 0) == other.address(0, 0)
            && strides(self) == strides(other)
            && scales(self) == scales(other)
            && std::mem::discriminant(&self.cells) == std::mem::discriminant(&other.cells)
    }
}

impl<'a> Segment<'a> {
    /// Pages from the first position that both have, and that position.
    fn common(&self, other: &Segment<'a>) -> Option<(&'a [Span<'a>], &'a [Span<'a>], usize)> {
        let (page, start) = (self.page, self.history_start.max(other.history_start));
        let apart = self.history_start.abs_diff(other.history_start);
        if page == 0 || page != other.page || !apart.is_multiple_of(page) {
            return None;
        }
        let from = |segment: &Segment<'a>| {
            segment.spans.get((start - segment.history_start) / page..).unwrap_or(&[])
        };
        Some((from(self), from(other), start))
    }

    /// How many pages are the same, if none is after one that is not: what orders sequences, no more.
    pub(super) fn pages_alike(&self, other: &Segment<'a>) -> usize {
        let Some((mine, theirs, _)) = self.common(other) else { return 0 };
        let both = mine.len().min(theirs.len());
        let alike = |page: usize| mine[page].is(&theirs[page]);
        // Most sequences share nothing, which the first page says.
        if both == 0 || !alike(0) {
            return 0;
        }
        let (mut low, mut high) = (1, both);
        while low < high {
            let middle = (low + high) / 2;
            (low, high) = if alike(middle) { (middle + 1, high) } else { (low, middle) };
        }
        low
    }

    /// Numbers of the blocks of keys that are the same for both: as many keys in the same memory.
    pub(super) fn blocks_shared(&self, other: &Segment<'a>) -> Range<usize> {
        let Some((mine, theirs, start)) = self.common(other) else { return 0..0 };
        let alike = mine.iter().zip(theirs).take_while(|(mine, theirs)| mine.is(theirs));
        let end = start + alike.map(|(span, _)| span.tokens).sum::<usize>();
        let begin_alike = self.history_start == other.history_start;
        let first = if begin_alike { start / KEYS } else { start.div_ceil(KEYS) };
        let end_alike = end == self.end() && end == other.end();
        let last = if end_alike { end.div_ceil(KEYS) } else { end / KEYS };
        first..last.max(first)
    }
}

/// Segments in an order in which those that begin alike stand together, those that share more nearer to each other:
/// each comes behind the last of those with which it shares most.
pub(super) fn order(
    segments: &[Segment<'_>],
    all: impl Iterator<Item = usize>,
    to: &mut Vec<usize>,
) {
    to.clear();
    for index in all {
        let (mut most, mut at) = (1, to.len());
        for (place, &other) in to.iter().enumerate() {
            let alike = segments[index].pages_alike(&segments[other]);
            if alike >= most {
                (most, at) = (alike, place + 1);
            }
        }
        to.insert(at, index);
    }
}
