//! Matrices of activations as products see them: rows at a stride, of an element type known at run time.

use half::{bf16, f16};

use crate::element::{Element, Floats, FloatsMut};
use crate::isa::Isa;
use crate::simd::Simd;

/// Rows to read. Row `i` is `data[i * stride..][..columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub data: Floats<'a>,
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
}

/// Rows to write, as [`Rows`].
#[derive(Debug)]
pub struct RowsMut<'a> {
    pub data: FloatsMut<'a>,
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows without gaps.
    pub fn new(data: Floats<'a>, rows: usize, columns: usize) -> Rows<'a> {
        let rows = Rows { data, rows, columns, stride: columns };
        rows.check();
        rows
    }

    pub fn row(&self, row: usize) -> Floats<'a> {
        let range = row * self.stride..row * self.stride + self.columns;
        match self.data {
            Floats::F32(s) => Floats::F32(&s[range]),
            Floats::Bf16(s) => Floats::Bf16(&s[range]),
            Floats::F16(s) => Floats::F16(&s[range]),
        }
    }

    /// Some of the rows.
    pub(crate) fn part(&self, rows: std::ops::Range<usize>) -> Rows<'a> {
        let start = if rows.is_empty() { 0 } else { rows.start * self.stride };
        let data = match self.data {
            Floats::F32(s) => Floats::F32(&s[start..]),
            Floats::Bf16(s) => Floats::Bf16(&s[start..]),
            Floats::F16(s) => Floats::F16(&s[start..]),
        };
        Rows { data, rows: rows.len(), ..*self }
    }

    /// Panics when the slice is too short: the products read through pointers.
    pub(crate) fn check(&self) {
        check(self.data.len(), self.rows, self.columns, self.stride);
    }
}

impl<'a> RowsMut<'a> {
    /// Rows without gaps.
    pub fn new(data: FloatsMut<'a>, rows: usize, columns: usize) -> RowsMut<'a> {
        let rows = RowsMut { data, rows, columns, stride: columns };
        check(rows.data.len(), rows.rows, rows.columns, rows.stride);
        rows
    }

    /// The same rows as seen by several threads, each writing parts of its own.
    pub(crate) fn shared(&mut self) -> Out {
        check(self.data.len(), self.rows, self.columns, self.stride);
        let to = match &mut self.data {
            FloatsMut::F32(s) => To::F32(s.as_mut_ptr()),
            FloatsMut::Bf16(s) => To::Bf16(s.as_mut_ptr()),
            FloatsMut::F16(s) => To::F16(s.as_mut_ptr()),
        };
        Out { to, stride: self.stride }
    }
}

fn check(len: usize, rows: usize, columns: usize, stride: usize) {
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
    assert!(stride >= columns || rows < 2, "rows of {columns} at a stride of {stride} overlap");
    assert!(len >= needed, "{rows} rows of {columns} at a stride of {stride} in {len} elements");
}

/// A row in f32.
///
/// # Safety
/// The processor has `isa`.
pub(crate) unsafe fn widen(isa: Isa, row: Floats<'_>, to: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            if isa.has_avx512() {
                return widen_avx512(row, to);
            }
            if isa.has_avx2() {
                return widen_avx2(row, to);
            }
        }
        let _ = isa;
        widen_with(row, to);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen_avx2(row: Floats<'_>, to: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { widen_with(row, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn widen_avx512(row: Floats<'_>, to: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { widen_with(row, to) }
}

/// # Safety
/// None of its own; it is called as the others are.
#[inline(always)]
unsafe fn widen_with(row: Floats<'_>, to: &mut [f32]) {
    match row {
        Floats::F32(row) => to.copy_from_slice(row),
        Floats::Bf16(row) => to.iter_mut().zip(row).for_each(|(to, x)| *to = Element::to_f32(*x)),
        Floats::F16(row) => to.iter_mut().zip(row).for_each(|(to, x)| *to = Element::to_f32(*x)),
    }
}

#[derive(Clone, Copy)]
enum To {
    F32(*mut f32),
    Bf16(*mut bf16),
    F16(*mut f16),
}

/// Where products go; made by [`RowsMut::shared`].
#[derive(Clone, Copy)]
pub(crate) struct Out {
    to: To,
    stride: usize,
}

// SAFETY: threads write disjoint parts, which is the callers' duty (`write`).
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    /// Rows of f32 at `base`, which is good for what is written later.
    pub(crate) fn floats(base: *mut f32, stride: usize) -> Out {
        Out { to: To::F32(base), stride }
    }

    /// Rounds `values` to the element type and writes them to row `row` from `column` on.
    ///
    /// # Safety
    /// The row and columns exist, nobody else touches them now, and the processor has `isa`.
    pub(crate) unsafe fn write(&self, isa: Isa, row: usize, column: usize, values: &[f32]) {
        let at = row * self.stride + column;
        // SAFETY: the caller's promise.
        unsafe {
            match self.to {
                To::F32(p) => p.add(at).copy_from_nonoverlapping(values.as_ptr(), values.len()),
                To::Bf16(p) => write_as(isa, values, p.add(at)),
                To::F16(p) => write_as(isa, values, p.add(at)),
            }
        }
    }
}

unsafe fn write_as<T: Narrow>(isa: Isa, values: &[f32], to: *mut T) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            if isa.has_avx512() {
                return write_avx512(values, to);
            }
            if isa.has_avx2() {
                return write_avx2(values, to);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if isa.has_neon() {
            return write_with::<crate::simd::neon::Neon, T>(values, to);
        }
        let _ = isa;
        for (i, &value) in values.iter().enumerate() {
            *to.add(i) = T::from_f32(value);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn write_avx2<T: Narrow>(values: &[f32], to: *mut T) {
    // SAFETY: the caller's promise.
    unsafe { write_with::<crate::simd::avx2::Avx2, T>(values, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn write_avx512<T: Narrow>(values: &[f32], to: *mut T) {
    // SAFETY: the caller's promise.
    unsafe { write_with::<crate::simd::avx512::Avx512, T>(values, to) }
}

/// The two types that need rounding.
trait Narrow: Element {
    /// # Safety
    /// As in `crate::simd`.
    unsafe fn store<V: Simd>(to: *mut Self, v: V::F);
}

impl Narrow for bf16 {
    #[inline(always)]
    unsafe fn store<V: Simd>(to: *mut bf16, v: V::F) {
        // SAFETY: the caller's promise.
        unsafe { V::store_bf16(to.cast(), v) }
    }
}

impl Narrow for f16 {
    #[inline(always)]
    unsafe fn store<V: Simd>(to: *mut f16, v: V::F) {
        // SAFETY: the caller's promise.
        unsafe { V::store_f16(to.cast(), v) }
    }
}

#[inline(always)]
unsafe fn write_with<V: Simd, T: Narrow>(values: &[f32], to: *mut T) {
    let whole = values.len() - values.len() % V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        for i in (0..whole).step_by(V::LANES) {
            T::store::<V>(to.add(i), V::load(values.as_ptr().add(i)));
        }
        for (i, &value) in values.iter().enumerate().skip(whole) {
            *to.add(i) = T::from_f32(value);
        }
    }
}
