//! The three element types of activations and dense weights, one by one and as slices of a type known at run time.

use half::{bf16, f16};

/// A float as it lies in memory; all arithmetic is done in f32.
pub trait Element: Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    const ZERO: Self;
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> f32 {
        value
    }
}

impl Element for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
}

impl Element for f16 {
    const ZERO: f16 = f16::ZERO;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        // By hand, because this form is vectorised: the fields are moved up and the exponent's offset corrected.
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let finite = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
        let special = f32::from_bits(magnitude | 0x7f80_0000);
        let value = if magnitude >= 0x0f80_0000 { special } else { finite };
        f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> f16 {
        f16::from_f32(value)
    }
}

/// A slice whose element type is known at run time.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// As [`Floats`], to be written.
#[derive(Debug)]
pub enum FloatsMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

impl Floats<'_> {
    pub fn len(&self) -> usize {
        match self {
            Floats::F32(s) => s.len(),
            Floats::Bf16(s) => s.len(),
            Floats::F16(s) => s.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element; for references and edges, not for inner loops.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Floats::F32(s) => s[index],
            Floats::Bf16(s) => s[index].to_f32(),
            Floats::F16(s) => s[index].to_f32(),
        }
    }
}

impl FloatsMut<'_> {
    pub fn len(&self) -> usize {
        match self {
            FloatsMut::F32(s) => s.len(),
            FloatsMut::Bf16(s) => s.len(),
            FloatsMut::F16(s) => s.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_reference_does() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let (ours, theirs) = (Element::to_f32(value), f16::to_f32(value));
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
            let value = bf16::from_bits(bits);
            let (ours, theirs) = (Element::to_f32(value), bf16::to_f32(value));
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
    }
}
