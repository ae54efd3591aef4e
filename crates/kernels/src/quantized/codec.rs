//! How each kind of weight turns packed bits into codes: bytes 0 to `MAX`, four products to a lane.
//!
//! A vector of packed bytes gives one to four vectors of codes, the *planes*: with two codes to a byte the low halves
//! are one plane and the high halves another. Activations are laid out in the same order ([`super::activations`]),
//! so no shuffling is needed. A weight is `scale * (code - OFFSET) + bias`.

use crate::simd::{Codes, Simd, Small, Whole, pair_steps, spread_reads};

#[allow(clippy::missing_safety_doc)]
pub(crate) trait Codec: 'static {
    const BITS: usize;
    const PLANES: usize;
    /// The largest code.
    const MAX: usize;
    /// How they are multiplied.
    type Codes: Codes;
    const OFFSET: f32 = 0.0;
    /// Whether a scale may be that of fewer columns than an activation's.
    const SMALL_GROUPS: bool = false;

    /// Codes in one vector's planes.
    fn block<V: Simd>() -> usize {
        V::BYTES * Self::PLANES
    }
    /// Bytes that `load` may read.
    fn reads<V: Simd>() -> usize {
        V::BYTES
    }
    /// Packed bytes, or codes where they have no planes.
    ///
    /// # Safety
    /// `p` is good for `reads` bytes.
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::B {
        // SAFETY: the caller's promise.
        unsafe { V::load_bytes(p) }
    }
    /// The planes of what `load` gave. Works lane by lane: lanes may have been moved in between.
    ///
    /// # Safety
    /// As in `crate::simd`.
    unsafe fn split<V: Simd>(v: V::B) -> [V::B; 4];
}

pub(crate) struct Bits2;
pub(crate) struct Bits4;
pub(crate) struct Bits8;
pub(crate) type Bits3 = Odd<3, { pair_steps(7) }>;
pub(crate) type Bits5 = Odd<5, { pair_steps(31) }>;
pub(crate) type Bits6 = Odd<6, { pair_steps(63) }>;
/// 3, 5 and 6 bits: codes run over byte boundaries. `STEPS` is what `pair_steps` says of them.
pub(crate) struct Odd<const BITS: usize, const STEPS: usize>;
/// 4-bit floats, as twice their value plus 12.
pub(crate) struct Float4;

impl Codec for Bits2 {
    const BITS: usize = 2;
    const PLANES: usize = 4;
    const MAX: usize = 3;
    type Codes = Small<{ pair_steps(3) }>;
    #[inline(always)]
    unsafe fn split<V: Simd>(v: V::B) -> [V::B; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let mask = V::splat_byte(3);
            [
                V::and(v, mask),
                V::and(V::shift_right::<2>(v), mask),
                V::and(V::shift_right::<4>(v), mask),
                V::and(V::shift_right::<6>(v), mask),
            ]
        }
    }
}

impl Codec for Bits4 {
    const BITS: usize = 4;
    const PLANES: usize = 2;
    const MAX: usize = 15;
    type Codes = Small<{ pair_steps(15) }>;
    #[inline(always)]
    unsafe fn split<V: Simd>(v: V::B) -> [V::B; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let mask = V::splat_byte(15);
            let low = V::and(v, mask);
            [low, V::and(V::shift_right::<4>(v), mask), low, low]
        }
    }
}

impl Codec for Bits8 {
    const BITS: usize = 8;
    const PLANES: usize = 1;
    const MAX: usize = 255;
    type Codes = Whole;
    #[inline(always)]
    unsafe fn split<V: Simd>(v: V::B) -> [V::B; 4] {
        [v; 4]
    }
}

impl<const N: usize, const STEPS: usize> Codec for Odd<N, STEPS> {
    const BITS: usize = N;
    const PLANES: usize = 1;
    const MAX: usize = (1 << N) - 1;
    type Codes = Small<STEPS>;
    fn reads<V: Simd>() -> usize {
        spread_reads(V::BYTES, N)
    }
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::B {
        // SAFETY: the caller's promise.
        unsafe { V::spread::<N>(p) }
    }
    #[inline(always)]
    unsafe fn split<V: Simd>(v: V::B) -> [V::B; 4] {
        [v; 4]
    }
}

/// 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives.
static FLOAT4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl Codec for Float4 {
    const BITS: usize = 4;
    const PLANES: usize = 2;
    const MAX: usize = 24;
    type Codes = Small<{ pair_steps(24) }>;
    const OFFSET: f32 = 12.0;
    const SMALL_GROUPS: bool = true;
    #[inline(always)]
    unsafe fn split<V: Simd>(v: V::B) -> [V::B; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let table = V::load_table(FLOAT4.as_ptr());
            let [low, high, ..] = Bits4::split::<V>(v);
            let low = V::look_up(table, low);
            [low, V::look_up(table, high), low, low]
        }
    }
}
