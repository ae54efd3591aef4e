//! 256-bit registers: AVX2 with FMA and F16C, and the VNNI instruction in its VEX form.

use std::arch::x86_64::*;

use super::{Direct, Dot, Pairs, Signed, Simd, Spread, each};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY, for all of it: see the module above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    const LANES: usize = 8;
    type F = __m256;
    type I = __m256i;
    type B = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: __m256) {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_add_epi32(bits, half);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let top = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            let packed = _mm256_packus_epi32(top, top);
            let packed = _mm256_permute4x64_epi64::<0x08>(packed);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: __m256) {
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> __m256 {
        unsafe {
            // As f16 with the same fields: its conversion takes subnormal numbers at full speed.
            let wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(p.cast()));
            let sign = _mm_and_si128(_mm_slli_epi16::<8>(wide), _mm_set1_epi16(-0x8000));
            let rest = _mm_slli_epi16::<7>(_mm_and_si128(wide, _mm_set1_epi16(0x7f)));
            _mm256_cvtph_ps(_mm_or_si128(sign, rest))
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            let power = _mm256_slli_epi32::<23>(wide);
            let least = _mm256_set1_epi32(0x40_0000);
            _mm256_castsi256_ps(_mm256_max_epu32(power, least))
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn zero_ints() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn add_ints(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(v: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn part_sums(rows: *mut __m256i, halves: bool) {
        unsafe {
            let uneven = |a, b| {
                let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
                let (even, odd) =
                    (_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
                (_mm256_castps_si256(even), _mm256_castps_si256(odd))
            };
            let pairs: [__m256i; 4] = each(|i| {
                let (even, odd) = uneven(*rows.add(2 * i), *rows.add(2 * i + 1));
                _mm256_add_epi32(even, odd)
            });
            let (low, high) = (uneven(pairs[0], pairs[1]), uneven(pairs[2], pairs[3]));
            if halves {
                *rows = _mm256_permute2x128_si256::<0x20>(low.0, high.0);
                *rows.add(1) = _mm256_permute2x128_si256::<0x20>(low.1, high.1);
                *rows.add(2) = _mm256_permute2x128_si256::<0x31>(low.0, high.0);
                *rows.add(3) = _mm256_permute2x128_si256::<0x31>(low.1, high.1);
            } else {
                let low = _mm256_add_epi32(low.0, low.1);
                let high = _mm256_add_epi32(high.0, high.1);
                *rows = _mm256_permute2x128_si256::<0x20>(low, high);
                *rows.add(1) = _mm256_permute2x128_si256::<0x31>(low, high);
            }
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn as_floats(v: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(v) }
    }
    #[inline(always)]
    unsafe fn as_bytes(v: __m256) -> __m256i {
        unsafe { _mm256_castps_si256(v) }
    }
    #[inline(always)]
    unsafe fn widen_pairs(v: __m256i) -> [__m256; 2] {
        unsafe {
            let high = _mm256_and_si256(v, _mm256_set1_epi32(-0x1_0000));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(v)), _mm256_castsi256_ps(high)]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn splat_byte(value: u8) -> __m256i {
        unsafe { _mm256_set1_epi8(value as i8) }
    }
    #[inline(always)]
    unsafe fn splat_dword(p: *const u8) -> __m256i {
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_xor_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(v: __m256i) -> __m256i {
        unsafe {
            match BITS {
                2 => _mm256_srli_epi16::<2>(v),
                4 => _mm256_srli_epi16::<4>(v),
                _ => _mm256_srli_epi16::<6>(v),
            }
        }
    }
    #[inline(always)]
    unsafe fn load_table(p: *const u8) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn look_up(table: __m256i, index: __m256i) -> __m256i {
        unsafe { _mm256_shuffle_epi8(table, index) }
    }
    #[inline(always)]
    unsafe fn spread<const BITS: usize>(p: *const u8) -> __m256i {
        unsafe {
            let low = _mm256_castsi128_si256(_mm_loadu_si128(p.cast()));
            let v = _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(p.add(2 * BITS).cast()));
            let table = const { Spread::new(BITS) };
            let part = |i: usize| {
                let shuffle = Self::load_table(table.shuffle[i].as_ptr());
                let factor = Self::load_table(table.factor[i].as_ptr().cast());
                let top = _mm256_mullo_epi16(_mm256_shuffle_epi8(v, shuffle), factor);
                match BITS {
                    3 => _mm256_srli_epi16::<13>(top),
                    5 => _mm256_srli_epi16::<11>(top),
                    _ => _mm256_srli_epi16::<10>(top),
                }
            };
            _mm256_packus_epi16(part(0), part(1))
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: *mut __m256i) {
        unsafe { Self::transpose_floats(rows.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose_floats(rows: *mut __m256) {
        unsafe {
            let r: [__m256; 8] = each(|i| *rows.add(i));
            let mut t = r;
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut u = t;
            for i in 0..2 {
                u[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
                u[4 * i + 1] = _mm256_shuffle_ps::<0xee>(t[4 * i], t[4 * i + 2]);
                u[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
                u[4 * i + 3] = _mm256_shuffle_ps::<0xee>(t[4 * i + 1], t[4 * i + 3]);
            }
            for i in 0..4 {
                *rows.add(i) = _mm256_permute2f128_ps::<0x20>(u[i], u[i + 4]);
                *rows.add(i + 4) = _mm256_permute2f128_ps::<0x31>(u[i], u[i + 4]);
            }
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<Avx2> for Direct {
    const STEPS: usize = 8;
    const FUSED: bool = true;
    #[inline(always)]
    unsafe fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(sum, codes, x) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl<const N: usize> Dot<Avx2> for Pairs<N> {
    const STEPS: usize = N;
    const FUSED: bool = false;
    #[inline(always)]
    unsafe fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x)) }
    }
    #[inline(always)]
    unsafe fn widen(sum: __m256i) -> __m256i {
        unsafe { _mm256_madd_epi16(sum, _mm256_set1_epi16(1)) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<Avx2> for Signed {
    const STEPS: usize = 8;
    const FUSED: bool = false;
    const FLIP: u8 = 128;
    #[inline(always)]
    unsafe fn dot(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        unsafe {
            // At most 128 · 127 · 2, which fits 16 bits.
            let x = _mm256_sign_epi8(x, codes);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}
