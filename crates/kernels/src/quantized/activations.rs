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

// Loops over arrays of a constant length say by numbers what the compiler is to make vectors of.
#![allow(clippy::needless_range_loop)]

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
/// `to` is good for that many bytes, all written before, and aligned to 4; the processor has `isa`.
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
    // SAFETY: the caller's promise; the parts are apart from each other.
    unsafe {
        clear_rest(layout, to);
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

/// Zeros where no span writes, and where sums begin.
#[inline(always)]
unsafe fn clear_rest(layout: &Layout, to: *mut u8) {
    // A block of codes that is not full has them in all its planes.
    let block = 4 * layout.lanes * layout.planes;
    let codes = layout.columns / block * block;
    let scales = layout.code_bytes + layout.columns / (4 * layout.planes) * 4;
    // SAFETY: the caller's promise.
    unsafe {
        to.add(codes).write_bytes(0, layout.code_bytes - codes);
        to.add(scales).write_bytes(0, layout.row_bytes() - scales);
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
    let (lanes, part) = const { (SPAN / 4 / P, SPAN / P) };
    let shift = layout.group.trailing_zeros();
    let mut write = |span: usize, values: &[f32; SPAN]| {
        let (all, scale) = quantize_span(values);
        let lane = span * lanes;
        let start = lane / layout.lanes * layout.lanes * 4 * P + lane % layout.lanes * 4;
        for plane in 0..P {
            let to = &mut codes[start + plane * layout.lanes * 4..][..part];
            for i in 0..part {
                to[i] = all[i * P + plane] as u8;
            }
        }
        scales[lane..][..lanes].fill(scale);
        for half in 0..2 {
            let sum: i32 = all[half * SPAN / 2..][..SPAN / 2].iter().sum();
            sums[(span * SPAN + half * SPAN / 2) >> shift] += sum as f32 * scale;
        }
    };
    // Whole spans by themselves: where lengths are constants, everything becomes vectors.
    let (whole, rest) = row.as_chunks::<SPAN>();
    for (span, from) in whole.iter().enumerate() {
        let mut values = [0f32; SPAN];
        for i in 0..SPAN {
            values[i] = from[i].to_f32();
        }
        write(span, &values);
    }
    if !rest.is_empty() {
        let mut values = [0f32; SPAN];
        for (to, from) in values.iter_mut().zip(rest) {
            *to = from.to_f32();
        }
        write(whole.len(), &values);
    }
}

/// The rule itself: codes and their scale.
#[inline(always)]
pub(crate) fn quantize_span(values: &[f32; SPAN]) -> ([i32; SPAN], f32) {
    // Compared as integers, infinity and then NaN are the largest: they end in the scale and so in the result.
    let mut most = [0u32; SPAN / 2];
    for i in 0..SPAN / 2 {
        let [a, b] = [values[i], values[i + SPAN / 2]].map(|value| value.to_bits() & 0x7fff_ffff);
        most[i] = a.max(b);
    }
    let max = f32::from_bits(most.into_iter().fold(0, u32::max));
    let scale = max / 127.0;
    let inverse = if max > TINY { 127.0 / max } else { 0.0 };
    let mut codes = [0i32; SPAN];
    for i in 0..SPAN {
        // Adding this constant rounds to the nearest integer, ties to even, in the low bits.
        let shifted = values[i] * inverse + 12_582_912.0;
        codes[i] = i32::from((shifted.to_bits() as i32).wrapping_sub(0x4b40_0000) as i8);
    }
    (codes, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every part of a row by its definition in the module's head, over memory that held something else.
    fn check(columns: usize, planes: usize, lanes: usize, group: usize) {
        let layout = Layout::new(columns, planes, lanes, group);
        let value = |i: usize| ((i * 7919 + i / 32 * 31) % 1013) as f32 / 500.0 - 1.0;
        let row: Vec<f32> = (0..columns).map(value).collect();
        let mut memory = vec![f32::from_bits(0x4141_4141); layout.row_bytes() / 4];
        let to = memory.as_mut_ptr().cast::<u8>();
        // SAFETY: as long as the layout says.
        unsafe { quantize(Floats::F32(&row), &layout, to) };
        let activations = Activations { base: to, layout };
        let Row { codes, scales, sums } = activations.row(0);
        // SAFETY: all of the row is there.
        let code = |at: usize| i32::from(unsafe { *codes.add(at) } as i8);
        // SAFETY: as above.
        let number = |part: *const f32, at: usize| unsafe { *part.add(at) };
        let mut wanted = vec![0f64; columns.div_ceil(group)];
        let mut seen = 0;
        for (i, &x) in row.iter().enumerate() {
            let span = &row[i / SPAN * SPAN..(i / SPAN * SPAN + SPAN).min(columns)];
            let max = span.iter().fold(0f32, |max, x| max.max(x.abs()));
            let (lane, place) = (i / (4 * planes), i % (4 * planes));
            let block = lane / lanes * lanes * planes;
            let at = (block + place % planes * lanes + lane % lanes) * 4 + place / planes;
            let scale = number(scales, lane);
            assert_eq!(scale, max / 127.0);
            let off = (f64::from(x) - f64::from(scale) * f64::from(code(at))).abs();
            assert!(off <= 0.5001 * f64::from(scale), "{i} of {columns}: {off} of {scale}");
            wanted[i / group] += f64::from(scale) * f64::from(code(at));
            seen += i32::from(code(at) != 0);
        }
        for (group, want) in wanted.iter().enumerate() {
            assert!((f64::from(number(sums, group)) - want).abs() < 1e-5);
        }
        let all = (0..layout.code_bytes).filter(|&at| code(at) != 0).count();
        assert_eq!(all as i32, seen, "what pads {columns} columns is zero");
    }

    #[test]
    fn rows_are_laid_out_by_the_definition() {
        for (planes, lanes) in [(1, 16), (2, 16), (4, 8), (1, 4), (2, 8)] {
            for columns in [32, 64, 96, 1024, 1120] {
                for group in [32, 64, 128].into_iter().filter(|group| columns % group == 0) {
                    check(columns, planes, lanes, group);
                }
            }
            check(16, planes, lanes, 16);
            check(1136, planes, lanes, 16);
        }
    }

    #[test]
    fn what_is_no_number_is_seen() {
        let mut values = [1f32; SPAN];
        assert_eq!(quantize_span(&[0.0; SPAN]), ([0; SPAN], 0.0));
        assert_eq!(quantize_span(&values), ([127; SPAN], 1.0 / 127.0));
        values[20] = f32::NEG_INFINITY;
        assert_eq!(quantize_span(&values).1, f32::INFINITY);
        values[3] = f32::NAN;
        assert!(quantize_span(&values).1.is_nan());
    }
}
