//! One lane of portable Rust: the reference.

use half::{bf16, f16};

use super::Vector;
use crate::element::Element;

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

// SAFETY, for all of it: see the module above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Scalar {
    const LANES: usize = 1;
    const TILE_VECTORS: usize = 4;
    type F = f32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> f32 {
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> f32 {
        unsafe { Element::to_f32(bf16::from_bits(*p)) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u16) -> f32 {
        unsafe { f32::from_bits(u32::from(*p) | u32::from(*p.add(1)) << 16) }
    }
    #[inline(always)]
    unsafe fn split_bf16_pairs(v: f32) -> [f32; 2] {
        [f32::from_bits(v.to_bits() << 16), f32::from_bits(v.to_bits() & 0xffff_0000)]
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> f32 {
        unsafe { Element::to_f32(f16::from_bits(*p)) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> f32 {
        unsafe { f32::from(*p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: f32) {
        unsafe { *p = v }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: f32) {
        unsafe { *p = bf16::from_f32(v).to_bits() }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: f32) {
        unsafe { *p = f16::from_f32(v).to_bits() }
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn div(a: f32, b: f32) -> f32 {
        a / b
    }
    /// Not fused: without an instruction for it that would be a slow call.
    #[inline(always)]
    unsafe fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    unsafe fn min(a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    unsafe fn max(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    unsafe fn abs(v: f32) -> f32 {
        v.abs()
    }
    #[inline(always)]
    unsafe fn round(v: f32) -> f32 {
        v.round_ties_even()
    }
    #[inline(always)]
    unsafe fn scale(v: f32, n: f32) -> f32 {
        v * f32::from_bits(((n as i32 + 127) << 23) as u32)
    }
    #[inline(always)]
    unsafe fn where_less(a: f32, b: f32, x: f32, y: f32) -> f32 {
        if a < b { x } else { y }
    }
    #[inline(always)]
    unsafe fn greater(a: f32, b: f32) -> u32 {
        u32::from(a > b)
    }
    #[inline(always)]
    unsafe fn sum(v: f32) -> f32 {
        v
    }
    #[inline(always)]
    unsafe fn largest(v: f32) -> f32 {
        v
    }
    #[inline(always)]
    unsafe fn swap_pairs(v: f32) -> f32 {
        v
    }
    #[inline(always)]
    unsafe fn transpose(_: *mut f32) {}
}
