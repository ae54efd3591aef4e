//! Floats of a type known at run time, as pointers that several threads may use.
//!
//! The branch on the type sits in the inner loop, where it is always predicted: cheaper than nine copies of each loop.

use half::{bf16, f16};

use super::{Body, LANES_MAX, Vector};
use crate::element::{Element, Floats, FloatsMut};
use crate::rows::{Rows, RowsMut};

/// Where to read.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    F32(*const f32),
    Bf16(*const u16),
    F16(*const u16),
}

/// Where to write.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    F32(*mut f32),
    Bf16(*mut u16),
    F16(*mut u16),
}

// SAFETY: kernels only read through it while the slice it came from is borrowed.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}
// SAFETY: threads write disjoint parts, which is the kernels' duty.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl From<Floats<'_>> for Source {
    fn from(floats: Floats<'_>) -> Source {
        match floats {
            Floats::F32(s) => Source::F32(s.as_ptr()),
            Floats::Bf16(s) => Source::Bf16(s.as_ptr().cast()),
            Floats::F16(s) => Source::F16(s.as_ptr().cast()),
        }
    }
}

impl From<&mut FloatsMut<'_>> for Target {
    fn from(floats: &mut FloatsMut<'_>) -> Target {
        match floats {
            FloatsMut::F32(s) => Target::F32(s.as_mut_ptr()),
            FloatsMut::Bf16(s) => Target::Bf16(s.as_mut_ptr().cast()),
            FloatsMut::F16(s) => Target::F16(s.as_mut_ptr().cast()),
        }
    }
}

#[allow(clippy::missing_safety_doc)]
impl Source {
    #[inline(always)]
    pub fn at(self, offset: usize) -> Source {
        match self {
            Source::F32(p) => Source::F32(p.wrapping_add(offset)),
            Source::Bf16(p) => Source::Bf16(p.wrapping_add(offset)),
            Source::F16(p) => Source::F16(p.wrapping_add(offset)),
        }
    }

    #[inline(always)]
    pub unsafe fn get(self, i: usize) -> f32 {
        // SAFETY: see the module above.
        unsafe {
            match self {
                Source::F32(p) => *p.add(i),
                Source::Bf16(p) => Element::to_f32(bf16::from_bits(*p.add(i))),
                Source::F16(p) => Element::to_f32(f16::from_bits(*p.add(i))),
            }
        }
    }

    /// A vector from element `i` on.
    #[inline(always)]
    pub unsafe fn load<V: Vector>(self, i: usize) -> V::F {
        // SAFETY: see the module above.
        unsafe {
            match self {
                Source::F32(p) => V::load(p.add(i)),
                Source::Bf16(p) => V::load_bf16(p.add(i)),
                Source::F16(p) => V::load_f16(p.add(i)),
            }
        }
    }

    /// As `load`, with zeros from element `end` on.
    #[inline(always)]
    pub unsafe fn load_to<V: Vector>(self, i: usize, end: usize) -> V::F {
        // SAFETY: see the module above.
        unsafe {
            if i + V::LANES <= end {
                return self.load::<V>(i);
            }
            let count = end - i;
            let mut buffer = [0u16; LANES_MAX];
            let narrow = |p: *const u16, buffer: &mut [u16; LANES_MAX]| {
                p.add(i).copy_to_nonoverlapping(buffer.as_mut_ptr(), count);
            };
            match self {
                Source::F32(p) => V::load_part(p.add(i), count),
                Source::Bf16(p) => {
                    narrow(p, &mut buffer);
                    V::load_bf16(buffer.as_ptr())
                }
                Source::F16(p) => {
                    narrow(p, &mut buffer);
                    V::load_f16(buffer.as_ptr())
                }
            }
        }
    }
}

#[allow(clippy::missing_safety_doc)]
impl Target {
    #[inline(always)]
    pub fn at(self, offset: usize) -> Target {
        match self {
            Target::F32(p) => Target::F32(p.wrapping_add(offset)),
            Target::Bf16(p) => Target::Bf16(p.wrapping_add(offset)),
            Target::F16(p) => Target::F16(p.wrapping_add(offset)),
        }
    }

    /// What was written here before.
    pub fn source(self) -> Source {
        match self {
            Target::F32(p) => Source::F32(p),
            Target::Bf16(p) => Source::Bf16(p),
            Target::F16(p) => Source::F16(p),
        }
    }

    /// Rounds to nearest, ties to even.
    #[inline(always)]
    pub unsafe fn store<V: Vector>(self, i: usize, v: V::F) {
        // SAFETY: see the module above.
        unsafe {
            match self {
                Target::F32(p) => V::store(p.add(i), v),
                Target::Bf16(p) => V::store_bf16(p.add(i), v),
                Target::F16(p) => V::store_f16(p.add(i), v),
            }
        }
    }

    /// As `store`, writing nothing from element `end` on.
    #[inline(always)]
    pub unsafe fn store_to<V: Vector>(self, i: usize, end: usize, v: V::F) {
        // SAFETY: see the module above.
        unsafe {
            if i + V::LANES <= end {
                return self.store::<V>(i, v);
            }
            let count = end - i;
            let mut buffer = [0u16; LANES_MAX];
            match self {
                Target::F32(p) => V::store_part(p.add(i), v, count),
                Target::Bf16(p) => {
                    V::store_bf16(buffer.as_mut_ptr(), v);
                    buffer.as_ptr().copy_to_nonoverlapping(p.add(i), count);
                }
                Target::F16(p) => {
                    V::store_f16(buffer.as_mut_ptr(), v);
                    buffer.as_ptr().copy_to_nonoverlapping(p.add(i), count);
                }
            }
        }
    }
}

/// Rows to read, by pointer.
#[derive(Clone, Copy)]
pub(crate) struct SourceRows {
    first: Source,
    stride: usize,
}

/// Rows to write, by pointer.
#[derive(Clone, Copy)]
pub(crate) struct TargetRows {
    first: Target,
    stride: usize,
}

impl SourceRows {
    pub fn new(first: Source, stride: usize) -> SourceRows {
        SourceRows { first, stride }
    }

    #[inline(always)]
    pub fn row(&self, row: usize) -> Source {
        self.first.at(row * self.stride)
    }
}

impl TargetRows {
    pub fn new(first: Target, stride: usize) -> TargetRows {
        TargetRows { first, stride }
    }

    #[inline(always)]
    pub fn row(&self, row: usize) -> Target {
        self.first.at(row * self.stride)
    }
}

impl From<&Rows<'_>> for SourceRows {
    fn from(rows: &Rows<'_>) -> SourceRows {
        rows.check();
        SourceRows { first: rows.data.into(), stride: rows.stride }
    }
}

impl From<&mut RowsMut<'_>> for TargetRows {
    fn from(rows: &mut RowsMut<'_>) -> TargetRows {
        // Checks lengths.
        let _ = rows.shared();
        TargetRows { first: (&mut rows.data).into(), stride: rows.stride }
    }
}

/// `count` values from one to the other, converted.
pub(crate) fn copy(from: Source, to: Target, count: usize) -> impl Body<Out = ()> {
    Copy { from, to, count }
}

struct Copy {
    from: Source,
    to: Target,
    count: usize,
}

impl Body for Copy {
    type Out = ();
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Copy { from, to, count } = self;
        // SAFETY: see the module above.
        unsafe {
            for i in (0..count).step_by(V::LANES) {
                to.store_to::<V>(i, count, from.load_to::<V>(i, count));
            }
        }
    }
}
