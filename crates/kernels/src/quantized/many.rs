//! Products of many rows: a tile of the weights is unpacked once and used for all rows.
//!
//! A tile is two vectors of weight rows (lanes run across them) by up to [`SPAN_COLUMNS`] columns, so that it stays
//! in the first or second cache while the activations pass by. A register block is a few rows of activations by the
//! width of the tile: one broadcast of four activations multiplies two vectors of codes. Integers are collected over
//! a span of 32 columns (one activation scale), or over the weight group where that is smaller, then scaled into f32.

use super::activations::{Row, SPAN};
use super::codec::Codec;
use super::scales::turn;
use crate::simd::{Dot, Simd, each, entry_points, float_entry_points};

/// Vectors of weight rows in a tile.
pub(crate) const WIDTH: usize = 2;

/// Columns of a tile: 32 rows of this many codes fill two thirds of a first-level cache of 48 KiB.
pub(crate) const TILE_COLUMNS: usize = 1024;

/// Codes of a tile, to be unpacked.
pub(crate) struct Pack {
    /// Codes of the tile's first row, at its first column; a multiple of 32 from the row's begin.
    pub codes: *const u8,
    pub codes_end: *const u8,
    /// What `Dot::prepare` would make of a code, as bits to change.
    pub flip: u8,
    pub row_bytes: usize,
    /// Weight rows, at most `WIDTH * LANES`; missing ones become zeros.
    pub rows: usize,
    pub columns: usize,
    /// `[columns / 4][WIDTH][LANES]` units of four codes, columns rounded up to whole blocks.
    pub tile: *mut u8,
    /// Prepared by [`super::scales`], from the tile's first group on: rows of `row_groups`.
    pub row_scales: *const f32,
    pub row_biases: *const f32,
    pub row_groups: usize,
    /// Groups in the tile.
    pub groups: usize,
    /// `[groups][WIDTH * LANES]`
    pub scales: *mut f32,
    pub biases: *mut f32,
}

/// A tile of weights, and what it has to give.
pub(crate) struct Tile {
    pub codes: *const u8,
    /// First column of the tile; a multiple of the codec's block.
    pub first_column: usize,
    pub columns: usize,
    pub group: usize,
    /// As [`Pack`] left them.
    pub scales: *const f32,
    pub biases: *const f32,
    /// `[rows][WIDTH * LANES]`, where rows may be filled up to whole panels: the products are added.
    pub sums: *mut f32,
}

/// One tile against rows of activations.
pub(crate) struct Many<'a> {
    pub tile: Tile,
    pub x: &'a [Row],
    pub units: Units,
    pub coming: Coming,
}

/// Codes that will probably be unpacked next. They are asked for while this tile is used, a few lines before each block of
/// rows: unpacking reads so many rows of weights at once that the processor does not see where it goes.
#[derive(Clone, Copy)]
pub(crate) struct Coming {
    pub codes: *const u8,
    pub row_bytes: usize,
    pub rows: usize,
    /// Of each row.
    pub bytes: usize,
}

/// What comes from memory at once.
const LINE_BYTES: usize = 64;

impl Coming {
    /// Asks for the next `lines` lines.
    #[inline(always)]
    unsafe fn ask<V: Simd>(&mut self, at: &mut usize, lines: usize) {
        for _ in 0..lines {
            if self.rows == 0 {
                return;
            }
            // SAFETY: as in `crate::simd`; asking reads nothing.
            unsafe { V::prefetch(self.codes.wrapping_add(*at)) };
            *at += LINE_BYTES;
            if *at >= self.bytes {
                *at = 0;
                self.rows -= 1;
                self.codes = self.codes.wrapping_add(self.row_bytes);
            }
        }
    }
}

/// A span's units of four columns.
#[derive(Clone, Copy)]
pub(crate) struct Units {
    pub count: usize,
    /// How many may be added before widening.
    pub steps: usize,
    /// Where in the activations' layout each lies, seen from the span's first.
    pub offsets: [usize; 8],
}

impl Units {
    pub fn new(group: usize, planes: usize, lanes: usize, steps_max: usize) -> Units {
        let count = SPAN.min(group) / 4;
        let offsets = each(|unit| (unit % planes * lanes + unit / planes) * 4);
        Units { count, steps: steps_max.min(count), offsets }
    }
}

float_entry_points! {
    pub(crate) fn pack_entry<C: Codec>(args: &Pack) = pack
}

entry_points! {
    pub(crate) fn entry<C: Codec>(args: &Many<'_>) = many
}

#[inline(always)]
unsafe fn pack<V: Simd, C: Codec>(args: &Pack) {
    let block = C::block::<V>();
    let bytes = block * C::BITS / 8;
    let width = WIDTH * V::LANES;
    // SAFETY: as in `crate::simd`; rows below `args.rows` are read, all of the tile is written.
    unsafe {
        let flip = V::splat_byte(args.flip);
        for b in 0..args.columns.div_ceil(block) {
            let left = (args.columns * C::BITS / 8 - b * bytes).min(bytes);
            for v in 0..WIDTH {
                let mut lanes = [V::splat_byte(0); 16];
                for (lane, to) in lanes.iter_mut().enumerate().take(V::LANES) {
                    let row = v * V::LANES + lane;
                    if row < args.rows {
                        let from = args.codes.add(row * args.row_bytes + b * bytes);
                        *to = load_within::<V, C>(from, left, args.codes_end);
                    }
                }
                V::transpose(lanes.as_mut_ptr());
                for (lane, &packed) in lanes.iter().enumerate().take(V::LANES) {
                    let planes = C::split::<V>(packed);
                    for (plane, &codes) in planes.iter().enumerate().take(C::PLANES) {
                        let unit = (b * V::LANES + lane) * C::PLANES + plane;
                        let to = args.tile.add((unit * width + v * V::LANES) * 4);
                        V::store_bytes(to, V::xor(codes, flip));
                    }
                }
            }
        }
        for v in 0..WIDTH {
            let first = v * V::LANES;
            let rows = args.rows.saturating_sub(first).min(V::LANES);
            let all = [(args.row_scales, args.scales), (args.row_biases, args.biases)];
            for (from, to) in all {
                let from = (from.wrapping_add(first * args.row_groups), args.row_groups);
                turn::<V>(from, rows, args.groups, (to.add(first), width));
            }
        }
    }
}

/// One block, of which `left` bytes exist, without reading past `end`.
#[inline(always)]
unsafe fn load_within<V: Simd, C: Codec>(from: *const u8, left: usize, end: *const u8) -> V::B {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let whole = C::block::<V>() * C::BITS / 8;
        if left == whole && from as usize + C::reads::<V>() <= end as usize {
            return C::load::<V>(from);
        }
        let mut buffer = [0u8; 128];
        from.copy_to_nonoverlapping(buffer.as_mut_ptr(), left);
        C::load::<V>(buffer.as_ptr())
    }
}

#[inline(always)]
unsafe fn many<V: Simd, D: Dot<V>, C: Codec>(args: &Many<'_>) {
    // SAFETY: as in `crate::simd`; the caller's promise.
    unsafe {
        let (mut first, rows) = (0, args.x.len());
        let (mut coming, mut at) = (args.coming, 0);
        let lines = coming.rows * coming.bytes.div_ceil(LINE_BYTES);
        let lines = lines.div_ceil(rows.div_ceil(if V::LANES == 16 { 6 } else { 4 }).max(1));
        // As registers allow.
        if const { V::LANES == 16 } {
            while first + 4 < rows {
                coming.ask::<V>(&mut at, lines);
                rows_by_tile::<V, D, C, 6>(args, first);
                first += 6;
            }
        }
        while first < rows {
            coming.ask::<V>(&mut at, lines);
            rows_by_tile::<V, D, C, 4>(args, first);
            first += 4;
        }
    }
}

/// `R` rows of activations against the whole tile. Where fewer are left, the last is computed (and written) again,
/// which takes no longer: a block of fewer rows would wait for its own additions.
#[inline(always)]
unsafe fn rows_by_tile<V: Simd, D: Dot<V>, C: Codec, const R: usize>(
    args: &Many<'_>,
    first: usize,
) {
    let width = WIDTH * V::LANES;
    // Columns whose integers may be added: one scale on both sides.
    let span = SPAN.min(args.tile.group);
    let shift = args.tile.group.trailing_zeros();
    // SAFETY: as in `crate::simd`.
    unsafe {
        let last = args.x.len() - 1;
        let x: [Row; R] = each(|i| args.x[(first + i).min(last)]);
        let sums: [*mut f32; R] = each(|i| args.tile.sums.add((first + i).min(last) * width));
        let mut totals = [[V::zero(); WIDTH]; R];
        for (total, sums) in totals.iter_mut().zip(sums) {
            *total = each(|v| V::load(sums.add(v * V::LANES)));
        }
        for s in 0..args.tile.columns.div_ceil(span) {
            let column = args.tile.first_column + s * span;
            let tile = args.tile.codes.add(s * span * width);
            let dots = span_dots::<V, D, C, R>(args, tile, &x, column);
            let group = (s * span) >> shift;
            let starts = (s * span) & (args.tile.group - 1) == 0;
            let scales = args.tile.scales.add(group * width);
            let scale: [V::F; WIDTH] = each(|v| V::load(scales.add(v * V::LANES)));
            for r in 0..R {
                let x_scale = V::splat(*x[r].scales.add(column / (4 * C::PLANES)));
                for v in 0..WIDTH {
                    let scale = V::mul(scale[v], x_scale);
                    totals[r][v] = V::fma(V::to_f32(dots[r][v]), scale, totals[r][v]);
                }
            }
            if starts {
                let biases = args.tile.biases.add(group * width);
                let bias: [V::F; WIDTH] = each(|v| V::load(biases.add(v * V::LANES)));
                for r in 0..R {
                    let sum = V::splat(*x[r].sums.add(column >> shift));
                    for v in 0..WIDTH {
                        totals[r][v] = V::fma(bias[v], sum, totals[r][v]);
                    }
                }
            }
        }
        for (total, sums) in totals.iter().zip(sums) {
            for (v, &total) in total.iter().enumerate() {
                V::store(sums.add(v * V::LANES), total);
            }
        }
    }
}

/// The integer part: `units` units of four columns from `column` on.
///
/// The inner loop must stay a loop of one unit: unrolled, the compiler loads everything first, into registers that it
/// lacks. That is why its length and the offsets of its units come from memory.
#[inline(always)]
unsafe fn span_dots<V: Simd, D: Dot<V>, C: Codec, const R: usize>(
    args: &Many<'_>,
    tile: *const u8,
    x: &[Row; R],
    column: usize,
) -> [[V::I; WIDTH]; R] {
    // SAFETY: as in `crate::simd`.
    unsafe {
        // Where the span's first lane begins in the activations' layout.
        let lane = column / (4 * C::PLANES);
        let start = (lane / V::LANES * V::LANES * C::PLANES + lane % V::LANES) * 4;
        let x: [*const u8; R] = each(|r| x[r].codes.add(start));
        let mut wide = [[V::zero_ints(); WIDTH]; R];
        if const { D::TWOS } {
            span_dots_by_two::<V, D, C, R>(args, tile, &x, &mut wide);
            return wide;
        }
        let mut unit = 0;
        while unit < args.units.count {
            let mut sums = [[V::zero_ints(); WIDTH]; R];
            let end = unit + args.units.steps;
            while unit < end {
                let codes = tile.add(unit * WIDTH * V::BYTES);
                let codes: [V::B; WIDTH] = each(|v| V::load_bytes(codes.add(v * V::BYTES)));
                let offset = *args.units.offsets.get_unchecked(unit);
                for r in 0..R {
                    let x = V::splat_dword(x[r].add(offset));
                    for v in 0..WIDTH {
                        sums[r][v] = D::dot(sums[r][v], codes[v], x);
                    }
                }
                unit += 1;
            }
            for r in 0..R {
                for v in 0..WIDTH {
                    wide[r][v] = if D::STEPS == 8 {
                        D::widen(sums[r][v])
                    } else {
                        V::add_ints(wide[r][v], D::widen(sums[r][v]))
                    };
                }
            }
        }
        wide
    }
}

/// As [`span_dots`], two units of one plane and two rows at a time; there is an even number of rows.
#[inline(always)]
unsafe fn span_dots_by_two<V: Simd, D: Dot<V>, C: Codec, const R: usize>(
    args: &Many<'_>,
    tile: *const u8,
    x: &[*const u8; R],
    dots: &mut [[V::I; WIDTH]; R],
) {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let load = |unit: usize, v: usize| V::load_bytes(tile.add((unit * WIDTH + v) * V::BYTES));
        let mut sums = [[V::zero_ints(); WIDTH]; R];
        for first in (0..args.units.count).step_by(2 * C::PLANES) {
            for unit in first..first + C::PLANES {
                let codes: [[V::B; 2]; WIDTH] =
                    each(|v| D::join([load(unit, v), load(unit + C::PLANES, v)]));
                let offset = *args.units.offsets.get_unchecked(unit);
                for r in (0..R).step_by(2) {
                    let x = [x[r].add(offset), x[r + 1].add(offset)];
                    for v in 0..WIDTH {
                        [sums[r][v], sums[r + 1][v]] =
                            D::two_dots([sums[r][v], sums[r + 1][v]], codes[v], x);
                    }
                }
            }
        }
        for r in (0..R).step_by(2) {
            for v in 0..WIDTH {
                [dots[r][v], dots[r + 1][v]] = D::widen_two([sums[r][v], sums[r + 1][v]]);
            }
        }
    }
}
