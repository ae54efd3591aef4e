//! Scales and biases of weight rows, brought to f32 for the product loops.
//!
//! The loops see a weight as `scale * code + bias`, where `code` may be shifted against the stored one; the shift
//! goes into the bias here, and the factors of the 8-bit scale types into the scale.

use crate::element::Floats;
use crate::isa::Isa;
use crate::simd::Simd;

/// Scales as they lie in memory.
#[derive(Clone, Copy, Debug)]
pub enum Scales<'a> {
    Floats(Floats<'a>),
    /// Powers of two (mxfp4, mxfp8).
    E8m0(&'a [u8]),
    /// 8-bit floats (nvfp4).
    E4m3(&'a [u8]),
}

impl Scales<'_> {
    pub fn len(&self) -> usize {
        match self {
            Scales::Floats(s) => s.len(),
            Scales::E8m0(s) | Scales::E4m3(s) => s.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One scale, without any global one; for references and edges.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Scales::Floats(s) => s.get(index),
            Scales::E8m0(s) => e8m0(s[index]),
            Scales::E4m3(s) => e4m3(s[index]),
        }
    }
}

/// `2^(byte - 127)`
pub fn e8m0(byte: u8) -> f32 {
    f32::from_bits((u32::from(byte) << 23).max(0x40_0000))
}

/// 4 exponent bits, 3 of mantissa; the pattern of NaN is read as 480, as MLX does.
pub fn e4m3(byte: u8) -> f32 {
    let magnitude = half::f16::from_bits(u16::from(byte & 0x7f) << 7).to_f32() * 256.0;
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// What to prepare: `rows * groups` scales from `first` on.
pub(crate) struct Prepare<'a> {
    pub scales: Scales<'a>,
    pub biases: Option<Floats<'a>>,
    /// Multiplies every scale.
    pub factor: f32,
    /// Added to the bias, in units of the scale.
    pub shift: f32,
    pub first: usize,
    pub count: usize,
    /// How many numbers further on the thread will read next, which are asked for ahead of time.
    pub ahead: isize,
}

/// Floats past the end of what `prepare` writes that it sets to zero, so that vectors may be read past the end.
pub(crate) const PADDING: usize = 16;

/// Writes `count` scales and biases to `scales` and `biases`, and `PADDING` zeros.
///
/// # Safety
/// Both are good for `count + PADDING` floats; the processor has `isa`.
pub(crate) unsafe fn prepare(isa: Isa, args: &Prepare<'_>, scales: *mut f32, biases: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        scales.add(args.count).write_bytes(0, PADDING);
        biases.add(args.count).write_bytes(0, PADDING);
        #[cfg(target_arch = "x86_64")]
        {
            if isa.has_avx512() {
                return prepare_avx512(args, scales, biases);
            }
            if isa.has_avx2() {
                return prepare_avx2(args, scales, biases);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if isa.has_neon() {
            return prepare_with::<crate::simd::neon::Neon>(args, scales, biases);
        }
        let _ = isa;
        prepare_slowly(args, 0, scales, biases);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn prepare_avx2(args: &Prepare<'_>, scales: *mut f32, biases: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { prepare_with::<crate::simd::avx2::Avx2>(args, scales, biases) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn prepare_avx512(args: &Prepare<'_>, scales: *mut f32, biases: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { prepare_with::<crate::simd::avx512::Avx512>(args, scales, biases) }
}

#[inline(always)]
unsafe fn prepare_with<V: Simd>(args: &Prepare<'_>, scales: *mut f32, biases: *mut f32) {
    let whole = args.count - args.count % V::LANES;
    let range = args.first..args.first + whole;
    // SAFETY: the caller's promise; the slices are cut to what is read.
    unsafe {
        let factor = V::splat(args.factor);
        match args.scales {
            Scales::Floats(floats) => {
                load_floats::<V>(cut(floats, range.clone()), factor, args.ahead, scales)
            }
            Scales::E8m0(bytes) => {
                let bytes = &bytes[range.clone()];
                for i in (0..whole).step_by(V::LANES) {
                    let value = V::load_e8m0(bytes.as_ptr().add(i));
                    V::store(scales.add(i), V::mul(value, factor));
                }
            }
            Scales::E4m3(bytes) => {
                let bytes = &bytes[range.clone()];
                let factor = V::mul(factor, V::splat(256.0));
                for i in (0..whole).step_by(V::LANES) {
                    let value = V::load_e4m3(bytes.as_ptr().add(i));
                    V::store(scales.add(i), V::mul(value, factor));
                }
            }
        }
        let shift = V::splat(args.shift);
        match args.biases {
            Some(floats) => load_floats::<V>(cut(floats, range), V::splat(1.0), args.ahead, biases),
            None => biases.write_bytes(0, whole),
        }
        if args.shift != 0.0 {
            for i in (0..whole).step_by(V::LANES) {
                let (scale, bias) = (V::load(scales.add(i)), V::load(biases.add(i)));
                V::store(biases.add(i), V::fma(scale, shift, bias));
            }
        }
        prepare_slowly(args, whole, scales, biases);
    }
}

fn cut<'a>(floats: Floats<'a>, range: std::ops::Range<usize>) -> Floats<'a> {
    match floats {
        Floats::F32(s) => Floats::F32(&s[range]),
        Floats::Bf16(s) => Floats::Bf16(&s[range]),
        Floats::F16(s) => Floats::F16(&s[range]),
    }
}

#[inline(always)]
unsafe fn load_floats<V: Simd>(from: Floats<'_>, factor: V::F, ahead: isize, to: *mut f32) {
    // SAFETY: `from` is a whole number of vectors long, and so is `to`.
    unsafe {
        for i in (0..from.len()).step_by(V::LANES) {
            let value = match from {
                Floats::F32(s) => {
                    V::prefetch(s.as_ptr().wrapping_add(i).wrapping_offset(ahead).cast());
                    V::load(s.as_ptr().add(i))
                }
                Floats::Bf16(s) => {
                    V::prefetch(s.as_ptr().wrapping_add(i).wrapping_offset(ahead).cast());
                    V::load_bf16(s.as_ptr().add(i).cast())
                }
                Floats::F16(s) => {
                    V::prefetch(s.as_ptr().wrapping_add(i).wrapping_offset(ahead).cast());
                    V::load_f16(s.as_ptr().add(i).cast())
                }
            };
            V::store(to.add(i), V::mul(value, factor));
        }
    }
}

/// From `start` on, one by one.
#[inline(always)]
unsafe fn prepare_slowly(args: &Prepare<'_>, start: usize, scales: *mut f32, biases: *mut f32) {
    for i in start..args.count {
        let scale = args.scales.get(args.first + i) * args.factor;
        let bias = args.biases.map_or(0.0, |biases| biases.get(args.first + i));
        // SAFETY: `i` is below `count`.
        unsafe {
            *scales.add(i) = scale;
            *biases.add(i) = bias + args.shift * scale;
        }
    }
}

/// From a row of groups for each of up to `LANES` weight rows to a vector of weight rows for each group, at `width`;
/// missing rows become zeros.
///
/// # Safety
/// As in `crate::simd`; rows of groups may be read to a whole vector.
#[inline(always)]
pub(crate) unsafe fn turn<V: Simd>(
    (from, stride): (*const f32, usize),
    rows: usize,
    groups: usize,
    (to, width): (*mut f32, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        for group in (0..groups).step_by(V::LANES) {
            let mut square = [V::zero(); 16];
            for (row, to) in square.iter_mut().enumerate().take(rows) {
                *to = V::load(from.add(row * stride + group));
            }
            V::transpose_floats(square.as_mut_ptr());
            for (g, &values) in square.iter().enumerate().take(V::LANES.min(groups - group)) {
                V::store(to.add((group + g) * width), values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats() {
        assert_eq!(
            [0x00, 0x01, 0x38, 0x7e, 0xb8].map(e4m3),
            [0.0, 0.001_953_125, 1.0, 448.0, -1.0]
        );
        assert_eq!([0, 1, 127, 130].map(e8m0), [2f32.powi(-127), 2f32.powi(-126), 1.0, 8.0]);
    }
}
