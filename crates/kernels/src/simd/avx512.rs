//! 512-bit registers: AVX-512 F, BW, VL and DQ, and the VNNI instruction.

use std::arch::x86_64::*;

use super::{Direct, Dot, Pairs, Signed, Simd, Spread, each};

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY, for all of it: see the module above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    const LANES: usize = 16;
    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: __m512) {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_add_epi32(bits, half);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let top = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(top));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> __m512 {
        unsafe {
            // As f16 with the same fields: its conversion takes subnormal numbers at full speed.
            let wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
            let sign = _mm256_and_si256(_mm256_slli_epi16::<8>(wide), _mm256_set1_epi16(-0x8000));
            let rest = _mm256_slli_epi16::<7>(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)));
            _mm512_cvtph_ps(_mm256_or_si256(sign, rest))
        }
    }
    #[inline(always)]
    unsafe fn load_e8m0(p: *const u8) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let power = _mm512_slli_epi32::<23>(wide);
            let least = _mm512_set1_epi32(0x40_0000);
            _mm512_castsi512_ps(_mm512_max_epu32(power, least))
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn zero_ints() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn add_ints(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn part_sums(rows: *mut __m512i, halves: bool) {
        unsafe {
            let uneven = |a, b| {
                let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
                let (even, odd) =
                    (_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
                (_mm512_castps_si512(even), _mm512_castps_si512(odd))
            };
            let pairs: [__m512i; 8] = each(|i| {
                let (even, odd) = uneven(*rows.add(2 * i), *rows.add(2 * i + 1));
                _mm512_add_epi32(even, odd)
            });
            // Of four rows each.
            let sums: [(__m512i, __m512i); 4] = each(|i| uneven(pairs[2 * i], pairs[2 * i + 1]));
            if halves {
                let (even, odd) = (each(|i| sums[i].0), each(|i| sums[i].1));
                let (even, odd) = (transpose_parts(even), transpose_parts(odd));
                for i in 0..4 {
                    *rows.add(2 * i) = even[i];
                    *rows.add(2 * i + 1) = odd[i];
                }
            } else {
                let sums = transpose_parts(each(|i| _mm512_add_epi32(sums[i].0, sums[i].1)));
                for (i, &sum) in sums.iter().enumerate() {
                    *rows.add(i) = sum;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn as_floats(v: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    unsafe fn as_bytes(v: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    unsafe fn widen_pairs(v: __m512i) -> [__m512; 2] {
        unsafe {
            let high = _mm512_and_si512(v, _mm512_set1_epi32(-0x1_0000));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)), _mm512_castsi512_ps(high)]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn splat_byte(value: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(value as i8) }
    }
    #[inline(always)]
    unsafe fn splat_dword(p: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right<const BITS: u32>(v: __m512i) -> __m512i {
        unsafe { _mm512_srli_epi16::<BITS>(v) }
    }
    #[inline(always)]
    unsafe fn load_table(p: *const u8) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn look_up(table: __m512i, index: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(table, index) }
    }
    #[inline(always)]
    unsafe fn spread<const BITS: usize>(p: *const u8) -> __m512i {
        unsafe {
            let quarter = |i: usize| _mm_loadu_si128(p.add(2 * BITS * i).cast());
            let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarter(0)), quarter(1));
            let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quarter(2)), quarter(3));
            let v = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            let table = const { Spread::new(BITS) };
            let part = |i: usize| {
                let shuffle = Self::load_table(table.shuffle[i].as_ptr());
                let factor = Self::load_table(table.factor[i].as_ptr().cast());
                let top = _mm512_mullo_epi16(_mm512_shuffle_epi8(v, shuffle), factor);
                match BITS {
                    3 => _mm512_srli_epi16::<13>(top),
                    5 => _mm512_srli_epi16::<11>(top),
                    _ => _mm512_srli_epi16::<10>(top),
                }
            };
            _mm512_packus_epi16(part(0), part(1))
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: *mut __m512i) {
        unsafe { Self::transpose_floats(rows.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose_floats(rows: *mut __m512) {
        unsafe {
            let r: [__m512; 16] = each(|i| *rows.add(i));
            let mut t = r;
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut u = t;
            for i in 0..4 {
                u[4 * i] = _mm512_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
                u[4 * i + 1] = _mm512_shuffle_ps::<0xee>(t[4 * i], t[4 * i + 2]);
                u[4 * i + 2] = _mm512_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
                u[4 * i + 3] = _mm512_shuffle_ps::<0xee>(t[4 * i + 1], t[4 * i + 3]);
            }
            // `u[4a + c]` holds, in part `l` of 128 bits, column `4l + c` of rows `4a..4a + 4`.
            for c in 0..4 {
                let even0 = _mm512_shuffle_f32x4::<0x88>(u[c], u[c + 4]);
                let odd0 = _mm512_shuffle_f32x4::<0xdd>(u[c], u[c + 4]);
                let even1 = _mm512_shuffle_f32x4::<0x88>(u[c + 8], u[c + 12]);
                let odd1 = _mm512_shuffle_f32x4::<0xdd>(u[c + 8], u[c + 12]);
                *rows.add(c) = _mm512_shuffle_f32x4::<0x88>(even0, even1);
                *rows.add(c + 4) = _mm512_shuffle_f32x4::<0x88>(odd0, odd1);
                *rows.add(c + 8) = _mm512_shuffle_f32x4::<0xdd>(even0, even1);
                *rows.add(c + 12) = _mm512_shuffle_f32x4::<0xdd>(odd0, odd1);
            }
        }
    }
}

/// A square of 128-bit parts.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn transpose_parts(v: [__m512i; 4]) -> [__m512i; 4] {
    unsafe {
        let even0 = _mm512_shuffle_i32x4::<0x88>(v[0], v[1]);
        let odd0 = _mm512_shuffle_i32x4::<0xdd>(v[0], v[1]);
        let even1 = _mm512_shuffle_i32x4::<0x88>(v[2], v[3]);
        let odd1 = _mm512_shuffle_i32x4::<0xdd>(v[2], v[3]);
        [
            _mm512_shuffle_i32x4::<0x88>(even0, even1),
            _mm512_shuffle_i32x4::<0x88>(odd0, odd1),
            _mm512_shuffle_i32x4::<0xdd>(even0, even1),
            _mm512_shuffle_i32x4::<0xdd>(odd0, odd1),
        ]
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<Avx512> for Direct {
    const STEPS: usize = 8;
    const FUSED: bool = true;
    #[inline(always)]
    unsafe fn dot(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, codes, x) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl<const N: usize> Dot<Avx512> for Pairs<N> {
    const STEPS: usize = N;
    const FUSED: bool = false;
    #[inline(always)]
    unsafe fn dot(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, x)) }
    }
    #[inline(always)]
    unsafe fn widen(sum: __m512i) -> __m512i {
        unsafe { _mm512_madd_epi16(sum, _mm512_set1_epi16(1)) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot<Avx512> for Signed {
    const STEPS: usize = 8;
    const FUSED: bool = false;
    const FLIP: u8 = 128;
    #[inline(always)]
    unsafe fn dot(sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        unsafe {
            // At most 128 · 127 · 2, which fits 16 bits.
            let negative = _mm512_movepi8_mask(codes);
            let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(codes), x);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}
