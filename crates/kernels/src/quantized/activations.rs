//! Rows of activations as signed bytes, one scale to 32 values: what the integer products read.
//!
//! A value becomes `round(x * 127 / max)` with `max` the largest magnitude among its 32. For normally distributed
//! values that is a relative error of about 0.5 % of a value's deviation, and of a product's too (the errors are
//! independent), whatever its length. Sums over a weight group, which a weight's bias multiplies, are taken of the
//! rounded values, so a product is exactly that of the rounded activations.
//!
//! Layout, for `planes` P and a vector of `LANES` 4-byte lanes: lane `l` of the whole row stands for the values
//! `4P·l .. 4P·(l + 1)`, of which plane `p` takes every P-th from `p`. A block is `LANES` lanes: plane 0 of all of
//! them, then plane 1, and so on. `scales` has one number for each lane.

use crate::element::{Element, Floats};
use crate::isa::Isa;
use crate::scratch::lines;

/// Values to a scale.
pub(crate) const SPAN: usize = 32;

/// Spans below this are zero; its inverse times 127 is still finite.
const TINY: f32 = 1e-30;

/// Where a row's parts lie in one stretch of memory.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub columns: usize,
    pub planes: usize,
    pub lanes: usize,
    /// Columns to a weight's scale.
    pub group: usize,
    pub code_bytes: usize,
    pub scale_bytes: usize,
    pub sum_bytes: usize,
}

impl Layout {
    pub fn new(columns: usize, planes: usize, lanes: usize, group: usize) -> Layout {
        let padded = columns.next_multiple_of(4 * lanes * planes);
        Layout {
            columns,
            planes,
            lanes,
            group,
            code_bytes: lines(padded),
            scale_bytes: lines(padded / planes),
            // Padded so that vectors may be read past the end.
            sum_bytes: lines(columns.div_ceil(group) * 4) + 64,
        }
    }

    pub fn row_bytes(&self) -> usize {
        self.code_bytes + self.scale_bytes + self.sum_bytes
    }
}

/// One row's parts.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub codes: *const u8,
    /// One for each lane.
    pub scales: *const f32,
    /// One for each weight group.
    pub sums: *const f32,
}

/// Quantised rows, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Activations {
    pub base: *const u8,
    pub layout: Layout,
}

// SAFETY: read-only while products run; the writer has finished by then.
unsafe impl Send for Activations {}
// SAFETY: as above.
unsafe impl Sync for Activations {}

impl Activations {
    #[inline(always)]
    pub fn row(&self, row: usize) -> Row {
        let codes = self.base.wrapping_add(row * self.layout.row_bytes());
        let scales = codes.wrapping_add(self.layout.code_bytes);
        Row {
            codes,
            scales: scales.cast(),
            sums: scales.wrapping_add(self.layout.scale_bytes).cast(),
        }
    }
}

/// Quantises one row of `layout.columns` values into `to`, `layout.row_bytes()` long.
///
/// # Safety
/// `to` is good for that many bytes, aligned to 4, and the processor has `isa`.
pub(crate) unsafe fn quantize_row(isa: Isa, row: Floats<'_>, layout: &Layout, to: *mut u8) {
    debug_assert_eq!(row.len(), layout.columns);
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            if isa.has_avx512() {
                return quantize_avx512(row, layout, to);
            }
            if isa.has_avx2() {
                return quantize_avx2(row, layout, to);
            }
        }
        let _ = isa;
        quantize(row, layout, to);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_avx2(row: Floats<'_>, layout: &Layout, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { quantize(row, layout, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn quantize_avx512(row: Floats<'_>, layout: &Layout, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { quantize(row, layout, to) }
}

#[inline(always)]
unsafe fn quantize(row: Floats<'_>, layout: &Layout, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        match row {
            Floats::F32(row) => quantize_as(row, layout, to),
            Floats::Bf16(row) => quantize_as(row, layout, to),
            Floats::F16(row) => quantize_as(row, layout, to),
        }
    }
}

#[inline(always)]
unsafe fn quantize_as<T: Element>(row: &[T], layout: &Layout, to: *mut u8) {
    // SAFETY: the caller's promise; all parts are initialised here before they are slices.
    unsafe {
        to.write_bytes(0, layout.row_bytes());
        let codes = std::slice::from_raw_parts_mut(to, layout.code_bytes);
        let scales = to.add(layout.code_bytes).cast::<f32>();
        let scales = std::slice::from_raw_parts_mut(scales, layout.scale_bytes / 4);
        let sums = to.add(layout.code_bytes + layout.scale_bytes).cast::<f32>();
        let sums = std::slice::from_raw_parts_mut(sums, layout.sum_bytes / 4);
        match layout.planes {
            1 => quantize_spans::<T, 1>(row, layout, codes, scales, sums),
            2 => quantize_spans::<T, 2>(row, layout, codes, scales, sums),
            _ => quantize_spans::<T, 4>(row, layout, codes, scales, sums),
        }
    }
}

#[inline(always)]
fn quantize_spans<T: Element, const P: usize>(
    row: &[T],
    layout: &Layout,
    codes: &mut [u8],
    scales: &mut [f32],
    sums: &mut [f32],
) {
    // Lanes, and bytes in one plane, that a span fills.
    let (lanes, part) = (SPAN / 4 / P, SPAN / P);
    for (span, from) in row.chunks(SPAN).enumerate() {
        let mut values = [0f32; SPAN];
        for (to, from) in values.iter_mut().zip(from) {
            *to = from.to_f32();
        }
        let (bytes, scale) = quantize_span(&values);
        let lane = span * lanes;
        let start = lane / layout.lanes * layout.lanes * 4 * P + lane % layout.lanes * 4;
        for plane in 0..P {
            let to = &mut codes[start + plane * layout.lanes * 4..][..part];
            for (i, to) in to.iter_mut().enumerate() {
                *to = bytes[i * P + plane] as u8;
            }
        }
        scales[lane..lane + lanes].fill(scale);
        for (half, bytes) in bytes.chunks_exact(SPAN / 2).enumerate() {
            let sum: i32 = bytes.iter().map(|&byte| i32::from(byte)).sum();
            sums[(span * SPAN + half * SPAN / 2) / layout.group] += sum as f32 * scale;
        }
    }
}

/// The rule itself: bytes and their scale.
#[inline(always)]
pub(crate) fn quantize_span(values: &[f32; SPAN]) -> ([i8; SPAN], f32) {
    // Compared as integers, infinity and then NaN are the largest: they end in the scale and so in the result.
    let max = values.iter().fold(0, |max, value| max.max(value.to_bits() & 0x7fff_ffff));
    let max = f32::from_bits(max);
    let scale = max / 127.0;
    let inverse = if max > TINY { 127.0 / max } else { 0.0 };
    let mut bytes = [0i8; SPAN];
    for (to, value) in bytes.iter_mut().zip(values) {
        // Adding this constant rounds to the nearest integer, ties to even, in the low bits.
        let shifted = value * inverse + 12_582_912.0;
        *to = (shifted.to_bits() as i32).wrapping_sub(0x4b40_0000) as i8;
    }
    (bytes, scale)
}
