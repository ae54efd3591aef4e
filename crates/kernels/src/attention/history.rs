//! Keys and values as they are remembered: the types, and how loops read them.

use half::{bf16, f16};

use super::nibbles::GROUP;
use crate::element::Floats;
use crate::vector::{LANES_MAX, Source, Vector};

/// Numbers of a cache.
#[derive(Clone, Copy, Debug)]
pub enum Cells<'a> {
    Floats(Floats<'a>),
    /// `code * scale`, a scale for each `group` codes in the order of memory; a power of two from 16 on, by which heads
    /// and strides are divisible. 8 bits with a group of 32 are off by at most 0.4 % of the largest of the group.
    Bytes {
        codes: &'a [i8],
        scales: &'a [f32],
        group: usize,
    },
    /// `code * scale` with codes of 4 bits, as [`super::nibbles`] packs them, a scale for each 32.
    Nibbles {
        codes: &'a [i8],
        scales: &'a [f32],
    },
}

/// Heads of one span: number `i` of token `t` of head `h` is at `first + h * head_stride + t * token_stride + i`.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub cells: Cells<'a>,
    pub first: usize,
    pub head_stride: usize,
    pub token_stride: usize,
}

/// Tokens that lie at one stride: a whole growing buffer, or one page. Spans of at least 64 tokens are read fastest.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub keys: Stored<'a>,
    pub values: Stored<'a>,
    pub tokens: usize,
}

impl<'a> Stored<'a> {
    /// `[heads, capacity, dim]` without gaps.
    pub fn new(cells: Cells<'a>, capacity: usize, dim: usize) -> Stored<'a> {
        Stored { cells, first: 0, head_stride: capacity * dim, token_stride: dim }
    }

    /// Where a token's numbers of a head begin.
    pub(super) fn address(&self, head: usize, token: usize) -> *const u8 {
        let at = self.first + head * self.head_stride + token * self.token_stride;
        match self.cells {
            Cells::Floats(Floats::F32(data)) => data.as_ptr().wrapping_add(at).cast(),
            Cells::Floats(Floats::Bf16(data)) => data.as_ptr().wrapping_add(at).cast(),
            Cells::Floats(Floats::F16(data)) => data.as_ptr().wrapping_add(at).cast(),
            Cells::Bytes { codes, .. } => codes.as_ptr().wrapping_add(at).cast(),
            Cells::Nibbles { codes, .. } => codes.as_ptr().wrapping_add(at / 2).cast(),
        }
    }

    /// Memory of so many tokens of a head, if it lies in one piece.
    pub(super) fn soon(&self, head: usize, token: usize, tokens: usize, dim: usize) -> Soon {
        let bytes = |count: usize| match self.cells {
            Cells::Floats(Floats::F32(_)) => 4 * count,
            Cells::Floats(_) => 2 * count,
            Cells::Bytes { .. } => count,
            Cells::Nibbles { .. } => count / 2,
        };
        let at = self.address(head, token);
        let bytes = if self.token_stride == dim { bytes(tokens * dim) } else { 0 };
        Soon { at, end: at.wrapping_add(bytes) }
    }

    /// Panics when memory is too short: kernels read through pointers.
    pub(super) fn check(&self, heads: usize, tokens: usize, dim: usize) {
        if heads == 0 || tokens == 0 {
            return;
        }
        let last = (heads - 1) * self.head_stride + (tokens - 1) * self.token_stride;
        let end = self.first + last + dim;
        let len = match self.cells {
            Cells::Floats(floats) => floats.len(),
            Cells::Bytes { codes, scales, group } => {
                check_group(group, &[self.first, self.head_stride, self.token_stride, dim]);
                codes.len().min(scales.len() * group)
            }
            Cells::Nibbles { codes, scales } => {
                check_group(GROUP, &[self.first, self.head_stride, self.token_stride, dim]);
                (2 * codes.len()).min(scales.len() * GROUP)
            }
        };
        assert!(end <= len, "{heads} heads of {tokens} tokens end at {end} of {len}");
    }
}

pub(crate) fn check_group(group: usize, steps: &[usize]) {
    let whole = steps.iter().all(|step| step.is_multiple_of(group));
    let power = group.is_power_of_two() && group >= LANES_MAX;
    assert!(power && whole, "groups of {group} in steps of {steps:?}");
}

/// A place in a cache, with its type known to the compiler.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Cell: Copy {
    fn at(self, offset: usize) -> Self;
    unsafe fn load<V: Vector>(self, i: usize) -> V::F;
    /// With zeros from `end` on.
    unsafe fn load_to<V: Vector>(self, i: usize, end: usize) -> V::F;
    /// Whether numbers are bf16 and lie one after the other.
    const PAIRS: bool = false;
    /// Pairs of bf16, one to a lane.
    unsafe fn load_pairs<V: Vector>(self, i: usize) -> V::F {
        // SAFETY: nobody asks where `PAIRS` is false.
        unsafe { self.load::<V>(i) }
    }
}

/// Memory that will be read soon. It is asked for line after line, a few at a time while something else is worked on:
/// a processor waits for the first of many requests before it takes more than it has places for.
pub(super) struct Soon {
    at: *const u8,
    end: *const u8,
}

/// Bytes that are asked for at once.
const LINE: usize = 64;

impl Soon {
    pub const NOTHING: Soon = Soon { at: std::ptr::null(), end: std::ptr::null() };

    /// Lines that are left.
    #[inline(always)]
    pub fn left(&self) -> usize {
        (self.end as usize).saturating_sub(self.at as usize).div_ceil(LINE)
    }

    #[inline(always)]
    pub fn lines(&mut self, count: usize) {
        for _ in 0..count {
            if self.at < self.end {
                prefetch(self.at);
                self.at = self.at.wrapping_add(LINE);
            }
        }
    }
}

/// To the second cache, from which more requests are under way than from the first.
#[inline(always)]
fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint for any address; every such processor has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

#[derive(Clone, Copy)]
pub(super) struct F32(*const f32);
#[derive(Clone, Copy)]
pub(super) struct Bf16(*const u16);
#[derive(Clone, Copy)]
pub(super) struct F16(*const u16);
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    codes: *const i8,
    scales: *const f32,
    at: usize,
    /// Of the group's logarithm.
    shift: u32,
}

macro_rules! float_cell {
    ($name:ident, $load:ident $(, $pairs:ident)?) => {
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Cell for $name {
            #[inline(always)]
            fn at(self, offset: usize) -> $name {
                $name(self.0.wrapping_add(offset))
            }
            #[inline(always)]
            unsafe fn load<V: Vector>(self, i: usize) -> V::F {
                // SAFETY: as in `vector`.
                unsafe { V::$load(self.0.add(i)) }
            }
            #[inline(always)]
            unsafe fn load_to<V: Vector>(self, i: usize, end: usize) -> V::F {
                // SAFETY: as in `vector`.
                unsafe { Source::$name(self.0).load_to::<V>(i, end) }
            }
            $(
                const PAIRS: bool = true;
                #[inline(always)]
                unsafe fn load_pairs<V: Vector>(self, i: usize) -> V::F {
                    // SAFETY: as in `vector`.
                    unsafe { V::$pairs(self.0.add(i)) }
                }
            )?
        }
    };
}
float_cell!(F32, load);
float_cell!(Bf16, load_bf16, load_bf16_pairs);
float_cell!(F16, load_f16);

impl Cell for Bytes {
    #[inline(always)]
    fn at(self, offset: usize) -> Bytes {
        Bytes { at: self.at + offset, ..self }
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(self, i: usize) -> V::F {
        let at = self.at + i;
        // SAFETY: as in `vector`; a vector never crosses groups.
        unsafe {
            let scale = V::splat(*self.scales.add(at >> self.shift));
            V::mul(V::load_i8(self.codes.add(at)), scale)
        }
    }
    #[inline(always)]
    unsafe fn load_to<V: Vector>(self, i: usize, _end: usize) -> V::F {
        // SAFETY: heads are whole groups, and groups whole vectors.
        unsafe { self.load::<V>(i) }
    }
}

impl Bytes {
    pub fn new(codes: &[i8], scales: &[f32], group: usize, at: usize) -> Bytes {
        Bytes { codes: codes.as_ptr(), scales: scales.as_ptr(), at, shift: group.ilog2() }
    }
}

pub(super) fn f32_cell(data: &[f32]) -> F32 {
    F32(data.as_ptr())
}
pub(super) fn bf16_cell(data: &[bf16]) -> Bf16 {
    Bf16(data.as_ptr().cast())
}
pub(super) fn f16_cell(data: &[f16]) -> F16 {
    F16(data.as_ptr().cast())
}

/// `$body` with `$cell` standing for the place of `$token` in `$head`, once for each type.
macro_rules! with_cell {
    ($stored:expr, $head:expr, $token:expr, |$cell:ident| $body:expr) => {{
        use $crate::attention::history::{Bytes, Cells, bf16_cell, f16_cell, f32_cell};
        use $crate::element::Floats;
        let stored = $stored;
        let at = stored.first + $head * stored.head_stride + $token * stored.token_stride;
        match stored.cells {
            Cells::Floats(Floats::F32(data)) => {
                let $cell = f32_cell(data).at(at);
                $body
            }
            Cells::Floats(Floats::Bf16(data)) => {
                let $cell = bf16_cell(data).at(at);
                $body
            }
            Cells::Floats(Floats::F16(data)) => {
                let $cell = f16_cell(data).at(at);
                $body
            }
            Cells::Bytes { codes, scales, group } => {
                let $cell = Bytes::new(codes, scales, group, at);
                $body
            }
            Cells::Nibbles { codes, scales } => {
                let $cell = $crate::attention::nibbles::Nibbles::new(codes, scales, at);
                $body
            }
        }
    }};
}
pub(super) use with_cell;
