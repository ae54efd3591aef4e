//! Float vectors: what norms, attention and their like are written in, once for all instruction sets.
//!
//! [`Vector`] is a register of f32 with its operations; the scalar reference is the same code with one lane. A kernel
//! is a [`Body`]: a struct of its arguments with one `#[inline(always)]` function over a `Vector`. [`on`] runs it in a
//! function that has the target features of the instruction set asked for. (`crate::simd` is the integer side.)
//!
//! Safety, for everything here: the caller runs inside [`on`] with the right instruction set, which the processor
//! has, and a pointer is good for what the operation's name says it reads or writes.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod io;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(crate) use io::{Source, SourceRows, Target, TargetRows, copy};

use crate::isa::Isa;

/// More lanes than any vector has: the size of buffers for tails.
pub(crate) const LANES_MAX: usize = 16;

#[allow(clippy::missing_safety_doc)]
pub(crate) trait Vector: Copy + 'static {
    const LANES: usize;
    /// Vectors side by side in the inner tile of a product of many rows, as registers allow.
    const TILE_VECTORS: usize;
    type F: Copy;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// Pairs of bf16, one to a lane: bits, not numbers.
    unsafe fn load_bf16_pairs(p: *const u16) -> Self::F;
    /// The first and the second of each such pair.
    unsafe fn split_bf16_pairs(v: Self::F) -> [Self::F; 2];
    unsafe fn load_f16(p: *const u16) -> Self::F;
    unsafe fn load_i8(p: *const i8) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn store_bf16(p: *mut u16, v: Self::F);
    unsafe fn store_f16(p: *mut u16, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `b` where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(v: Self::F) -> Self::F;
    /// To the nearest integer.
    unsafe fn round(v: Self::F) -> Self::F;
    /// `v * 2^n`, for whole `n` from −126 to 127.
    unsafe fn scale(v: Self::F, n: Self::F) -> Self::F;
    /// `x` where `a < b`, else `y`.
    unsafe fn where_less(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// A bit for each lane where `a > b`.
    unsafe fn greater(a: Self::F, b: Self::F) -> u32;
    unsafe fn sum(v: Self::F) -> f32;
    unsafe fn largest(v: Self::F) -> f32;
    /// Neighbours exchanged: lanes 1, 0, 3, 2, …; with one lane, itself.
    unsafe fn swap_pairs(v: Self::F) -> Self::F;
    /// `LANES` vectors at `rows`, seen as a square, are transposed in place.
    unsafe fn transpose(rows: *mut Self::F);

    #[inline(always)]
    unsafe fn zero() -> Self::F {
        // SAFETY: see above.
        unsafe { Self::splat(0.0) }
    }

    /// The first `count` lanes, at most `LANES`; the others are 0.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> Self::F {
        let mut buffer = [0f32; LANES_MAX];
        // SAFETY: see above.
        unsafe {
            p.copy_to_nonoverlapping(buffer.as_mut_ptr(), count);
            Self::load(buffer.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, count: usize) {
        let mut buffer = [0f32; LANES_MAX];
        // SAFETY: see above.
        unsafe {
            Self::store(buffer.as_mut_ptr(), v);
            buffer.as_ptr().copy_to_nonoverlapping(p, count);
        }
    }
}

/// A kernel with its arguments.
pub(crate) trait Body {
    type Out;
    /// # Safety
    /// Called by [`on`]; what the arguments promise holds. Implementations are `#[inline(always)]`.
    unsafe fn run<V: Vector>(self) -> Self::Out;
}

/// Runs `body` with the vectors of `isa`.
///
/// # Safety
/// The processor has `isa`, and the arguments are as the body wants them.
pub(crate) unsafe fn on<B: Body>(isa: Isa, body: B) -> B::Out {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn with_avx2<B: Body>(body: B) -> B::Out {
                // SAFETY: the caller's promise.
                unsafe { body.run::<avx2::Avx2>() }
            }
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn with_avx512<B: Body>(body: B) -> B::Out {
                // SAFETY: the caller's promise.
                unsafe { body.run::<avx512::Avx512>() }
            }
            if isa.has_avx512() {
                return with_avx512(body);
            }
            if isa.has_avx2() {
                return with_avx2(body);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            #[target_feature(enable = "neon")]
            unsafe fn with_neon<B: Body>(body: B) -> B::Out {
                // SAFETY: the caller's promise.
                unsafe { body.run::<neon::Neon>() }
            }
            if isa.has_neon() {
                return with_neon(body);
            }
        }
        let _ = isa;
        body.run::<scalar::Scalar>()
    }
}
