//! Dense weights as the loops see them: bytes of one of four float types, perhaps with a scale to 32 columns.

use crate::element::Floats;
use crate::quantized::scales::Scales;
use crate::rows::Rows;
use crate::simd::Simd;

/// Columns to a scale, where there are scales.
pub(crate) const GROUP: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Type {
    F32,
    Bf16,
    F16,
    /// 4 exponent bits, 3 of mantissa, with scales.
    Float8,
}

impl Type {
    /// Bytes of one weight.
    pub fn size(self) -> usize {
        match self {
            Type::F32 => 4,
            Type::Bf16 | Type::F16 => 2,
            Type::Float8 => 1,
        }
    }
}

/// One matrix. Its memory is `bytes`; row `i` begins at `i * row_bytes`.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub kind: Type,
    pub bytes: &'a [u8],
    pub row_bytes: usize,
    pub columns: usize,
    pub scales: Option<(Scales<'a>, f32)>,
}

impl<'a> Weights<'a> {
    pub fn float8(bytes: &'a [u8], columns: usize, scales: Scales<'a>, factor: f32) -> Weights<'a> {
        // The loops read these floats divided by 256.
        let scales = Some((scales, factor * 256.0));
        Weights { kind: Type::Float8, bytes, row_bytes: columns, columns, scales }
    }

    pub fn new(w: &Rows<'a>) -> Weights<'a> {
        w.check();
        let (kind, start, len) = match w.data {
            Floats::F32(s) => (Type::F32, s.as_ptr().cast::<u8>(), size_of_val(s)),
            Floats::Bf16(s) => (Type::Bf16, s.as_ptr().cast(), size_of_val(s)),
            Floats::F16(s) => (Type::F16, s.as_ptr().cast(), size_of_val(s)),
        };
        // SAFETY: the slice's own memory, for the slice's lifetime; floats have no padding.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        Weights { kind, bytes, row_bytes: w.stride * kind.size(), columns: w.columns, scales: None }
    }

    /// One weight; for the scalar path.
    pub fn get(&self, row: usize, column: usize) -> f32 {
        let at = |size: usize| &self.bytes[row * self.row_bytes + column * size..][..size];
        match self.kind {
            Type::F32 => f32::from_ne_bytes(at(4).try_into().unwrap_or_default()),
            Type::Bf16 => half(at(2), half::bf16::from_bits),
            Type::F16 => half(at(2), half::f16::from_bits),
            Type::Float8 => {
                let scale = self.scales.map_or(1.0, |(scales, factor)| {
                    scales.get((row * self.columns + column) / GROUP) * factor
                });
                crate::quantized::e4m3(at(1)[0]) / 256.0 * scale
            }
        }
    }
}

fn half<T: Into<f32>>(bytes: &[u8], from: fn(u16) -> T) -> f32 {
    from(u16::from_ne_bytes(bytes.try_into().unwrap_or_default())).into()
}

/// A float type in a loop.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Float: 'static {
    const BYTES: usize;
    const SCALED: bool = false;
    /// Columns in the 4 bytes that move together when weights are turned: 1 where they are floats by then.
    const TURNED: usize = 1;
    unsafe fn load<V: Simd>(p: *const u8) -> V::F;
}

pub(crate) struct AsF32;
pub(crate) struct AsBf16;
pub(crate) struct AsF16;
pub(crate) struct AsFloat8;

impl Float for AsF32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::load(p.cast()) }
    }
}

impl Float for AsBf16 {
    const BYTES: usize = 2;
    const TURNED: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(p.cast()) }
    }
}

impl Float for AsF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(p.cast()) }
    }
}

impl Float for AsFloat8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::load_e4m3(p) }
    }
}
