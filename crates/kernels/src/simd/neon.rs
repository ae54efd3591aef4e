//! 128-bit NEON registers, and `sdot` and `smmla` where the processor has them.

use std::arch::aarch64::*;

use super::{Dot, Simd, Spread, each};

#[derive(Clone, Copy)]
pub(crate) struct Neon;

// SAFETY, for all of it: see the module above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Neon {
    const LANES: usize = 4;
    type F = float32x4_t;
    type I = int32x4_t;
    type B = uint8x16_t;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(value) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: float32x4_t) {
        unsafe {
            let bits = vreinterpretq_u32_f32(v);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            let number = vceqq_f32(v, v);
            vst1_u16(p, vshrn_n_u32::<16>(vbslq_u32(number, rounded, quiet)));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: float32x4_t) {
        unsafe {
            let mut floats = [0f32; 4];
            vst1q_f32(floats.as_mut_ptr(), v);
            for (i, &value) in floats.iter().enumerate() {
                *p.add(i) = half::f16::from_f32(value).to_bits();
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> float32x4_t {
        unsafe {
            // The fields are moved up and the exponent's offset corrected, as in `Element::to_f32`.
            let bits = vmovl_u16(vld1_u16(p));
            let magnitude = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff)));
            let offset = vreinterpretq_f32_u32(vdupq_n_u32(0x7780_0000));
            let finite = vreinterpretq_u32_f32(vmulq_f32(vreinterpretq_f32_u32(magnitude), offset));
            let special = vorrq_u32(magnitude, vdupq_n_u32(0x7f80_0000));
            let large = vcgeq_u32(magnitude, vdupq_n_u32(0x0f80_0000));
            let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
            vreinterpretq_f32_u32(vorrq_u32(vbslq_u32(large, special, finite), sign))
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> float32x4_t {
        unsafe {
            let bits = vdupq_n_u32(p.cast::<u32>().read_unaligned());
            let bits = vshlq_u32(bits, vld1q_s32([0, -8, -16, -24].as_ptr()));
            let magnitude = vshlq_n_u32::<20>(vandq_u32(bits, vdupq_n_u32(0x7f)));
            // 2^120 corrects the exponent, less the 256 that the trait asks for.
            let offset = vreinterpretq_f32_u32(vdupq_n_u32(0x7780_0000));
            let value = vmulq_f32(vreinterpretq_f32_u32(magnitude), offset);
            let sign = vshlq_n_u32::<24>(vandq_u32(bits, vdupq_n_u32(0x80)));
            vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(value), sign))
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> float32x4_t {
        unsafe {
            let bytes = vdupq_n_u32(p.cast::<u32>().read_unaligned());
            let bytes = vshlq_u32(bytes, vld1q_s32([0, -8, -16, -24].as_ptr()));
            let power = vshlq_n_u32::<23>(vandq_u32(bytes, vdupq_n_u32(0xff)));
            vreinterpretq_f32_u32(vmaxq_u32(power, vdupq_n_u32(0x40_0000)))
        }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn sum(v: float32x4_t) -> f32 {
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, preserves_flags, readonly));
        }
    }

    #[inline(always)]
    unsafe fn zero_ints() -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn add_ints(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(v: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(v) }
    }

    #[inline(always)]
    unsafe fn part_sums(rows: *mut int32x4_t, halves: bool) {
        unsafe {
            let low = vpaddq_s32(*rows, *rows.add(1));
            let high = vpaddq_s32(*rows.add(2), *rows.add(3));
            if halves {
                *rows = vuzp1q_s32(low, high);
                *rows.add(1) = vuzp2q_s32(low, high);
            } else {
                *rows = vpaddq_s32(low, high);
            }
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> uint8x16_t {
        unsafe { vld1q_u8(p) }
    }
    #[inline(always)]
    unsafe fn as_floats(v: uint8x16_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u8(v) }
    }
    #[inline(always)]
    unsafe fn as_bytes(v: float32x4_t) -> uint8x16_t {
        unsafe { vreinterpretq_u8_f32(v) }
    }
    #[inline(always)]
    unsafe fn widen_pairs(v: uint8x16_t) -> [float32x4_t; 2] {
        unsafe {
            let v = vreinterpretq_u32_u8(v);
            let high = vandq_u32(v, vdupq_n_u32(0xffff_0000));
            [vreinterpretq_f32_u32(vshlq_n_u32::<16>(v)), vreinterpretq_f32_u32(high)]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: uint8x16_t) {
        unsafe { vst1q_u8(p, v) }
    }
    #[inline(always)]
    unsafe fn splat_byte(value: u8) -> uint8x16_t {
        unsafe { vdupq_n_u8(value) }
    }
    #[inline(always)]
    unsafe fn splat_dword(p: *const u8) -> uint8x16_t {
        unsafe { vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn and(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        unsafe { vandq_u8(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        unsafe { veorq_u8(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(v: uint8x16_t) -> uint8x16_t {
        unsafe {
            let v = vreinterpretq_u16_u8(v);
            vreinterpretq_u8_u16(match BITS {
                2 => vshrq_n_u16::<2>(v),
                4 => vshrq_n_u16::<4>(v),
                _ => vshrq_n_u16::<6>(v),
            })
        }
    }
    #[inline(always)]
    unsafe fn load_table(p: *const u8) -> uint8x16_t {
        unsafe { vld1q_u8(p) }
    }
    #[inline(always)]
    unsafe fn look_up(table: uint8x16_t, index: uint8x16_t) -> uint8x16_t {
        unsafe { vqtbl1q_u8(table, index) }
    }
    #[inline(always)]
    unsafe fn spread<const BITS: usize>(p: *const u8) -> uint8x16_t {
        unsafe {
            let v = vld1q_u8(p);
            let table = const { Spread::new(BITS) };
            let part = |i: usize| {
                let pairs = vqtbl1q_u8(v, vld1q_u8(table.shuffle[i].as_ptr()));
                let factor = vld1q_u16(table.factor[i].as_ptr());
                let top = vmulq_u16(vreinterpretq_u16_u8(pairs), factor);
                vmovn_u16(match BITS {
                    3 => vshrq_n_u16::<13>(top),
                    5 => vshrq_n_u16::<11>(top),
                    _ => vshrq_n_u16::<10>(top),
                })
            };
            vcombine_u8(part(0), part(1))
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: *mut uint8x16_t) {
        unsafe { Self::transpose_floats(rows.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose_floats(rows: *mut float32x4_t) {
        unsafe {
            let r: [float32x4_t; 4] = each(|i| *rows.add(i));
            let low = |a, b| vreinterpretq_f64_f32(vtrn1q_f32(a, b));
            let high = |a, b| vreinterpretq_f64_f32(vtrn2q_f32(a, b));
            let (a, b) = (low(r[0], r[1]), low(r[2], r[3]));
            let (c, d) = (high(r[0], r[1]), high(r[2], r[3]));
            *rows = vreinterpretq_f32_f64(vtrn1q_f64(a, b));
            *rows.add(1) = vreinterpretq_f32_f64(vtrn1q_f64(c, d));
            *rows.add(2) = vreinterpretq_f32_f64(vtrn2q_f64(a, b));
            *rows.add(3) = vreinterpretq_f32_f64(vtrn2q_f64(c, d));
        }
    }
}

/// `sdot`; codes of 8 bits are shifted by 128 to be signed.
pub(crate) struct Sdot<const SHIFT: u8>;

/// Products in 16 bits, added in pairs; codes as in [`Sdot`].
pub(crate) struct Mull<const SHIFT: u8>;

#[allow(clippy::undocumented_unsafe_blocks)]
impl<const SHIFT: u8> Dot<Neon> for Sdot<SHIFT> {
    const STEPS: usize = 8;
    const FUSED: bool = true;
    const FLIP: u8 = SHIFT;
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        let mut sum = sum;
        unsafe {
            std::arch::asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.16b",
                sum = inout(vreg) sum,
                codes = in(vreg) codes,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}

/// `smmla`: two weight rows by two rows of activations, eight columns; for one row `sdot`. Codes as in [`Sdot`].
pub(crate) struct Smmla<const SHIFT: u8>;

#[allow(clippy::undocumented_unsafe_blocks)]
impl<const SHIFT: u8> Dot<Neon> for Smmla<SHIFT> {
    const STEPS: usize = 8;
    const FUSED: bool = true;
    const TWOS: bool = true;
    const FLIP: u8 = SHIFT;
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        unsafe { Sdot::<SHIFT>::dot(sum, codes, x) }
    }
    #[inline(always)]
    unsafe fn join(codes: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
        unsafe {
            let [a, b] = codes.map(|codes| vreinterpretq_u32_u8(codes));
            [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))]
        }
    }
    #[inline(always)]
    unsafe fn two_dots(
        sums: [int32x4_t; 2],
        codes: [uint8x16_t; 2],
        x: [*const u8; 2],
    ) -> [int32x4_t; 2] {
        unsafe {
            let x = vcombine_u8(vld1_u8(x[0]), vld1_u8(x[1]));
            each(|i| smmla(sums[i], codes[i], x))
        }
    }
    #[inline(always)]
    unsafe fn widen_two(sums: [int32x4_t; 2]) -> [int32x4_t; 2] {
        unsafe { [vuzp1q_s32(sums[0], sums[1]), vuzp2q_s32(sums[0], sums[1])] }
    }
}

/// `sum[i][j] += codes[i][..8] · x[j][..8]`
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
    // SAFETY: the processor has the instruction, by the caller's promise.
    unsafe {
        std::arch::asm!(
            ".arch_extension i8mm",
            "smmla {sum:v}.4s, {codes:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl<const SHIFT: u8> Dot<Neon> for Mull<SHIFT> {
    const STEPS: usize = 8;
    const FUSED: bool = false;
    const FLIP: u8 = SHIFT;
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        unsafe {
            let (codes, x) = (vreinterpretq_s8_u8(codes), vreinterpretq_s8_u8(x));
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
            let high = vmull_high_s8(codes, x);
            vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
        }
    }
}
