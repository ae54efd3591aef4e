//! Products of many rows: a tile of the weights is unpacked once and used for all rows.
//!
//! A tile is two vectors of weight rows (lanes run across them) by up to [`SPAN_COLUMNS`] columns, so that it stays
//! in the first or second cache while the activations pass by. A register block is a few rows of activations by the
//! width of the tile: one broadcast of four activations multiplies two vectors of codes. Integers are collected over
//! a span of 32 columns (one activation scale), or over the weight group where that is smaller, then scaled into f32.

use super::activations::{Row, SPAN};
use super::codec::Codec;
use crate::simd::{Dot, Simd, entry_points};

/// Vectors of weight rows in a tile.
pub(crate) const WIDTH: usize = 2;

/// Columns of a tile: 32 rows of this many codes fill two thirds of a first-level cache of 48 KiB.
pub(crate) const TILE_COLUMNS: usize = 1024;

/// Codes of a tile, to be unpacked.
pub(crate) struct Pack {
    /// Codes of the tile's first row, at its first column; a multiple of 32 from the row's begin.
    pub codes: *const u8,
    pub codes_end: *const u8,
    pub row_bytes: usize,
    /// Weight rows, at most `WIDTH * LANES`; missing ones become zeros.
    pub rows: usize,
    pub columns: usize,
    /// `[columns / 4][WIDTH][LANES]` units of four codes, columns rounded up to whole blocks.
    pub tile: *mut u8,
}

/// One tile against rows of activations.
pub(crate) struct Many<'a> {
    pub tile: *const u8,
    /// First column of the tile; a multiple of the codec's block.
    pub first_column: usize,
    pub columns: usize,
    pub group: usize,
    /// `[groups][WIDTH * LANES]` of the tile's own groups.
    pub scales: *const f32,
    pub biases: *const f32,
    pub x: &'a [Row],
    /// `[x.len()][WIDTH * LANES]`: the products are added.
    pub sums: *mut f32,
}

entry_points! {
    pub(crate) fn pack_entry<C: Codec>(args: &Pack) = pack
}

entry_points! {
    pub(crate) fn entry<C: Codec>(args: &Many<'_>) = many
}

#[inline(always)]
unsafe fn pack<V: Simd, D: Dot<V>, C: Codec>(args: &Pack) {
    let block = C::block::<V>();
    let bytes = block * C::BITS / 8;
    let width = WIDTH * V::LANES;
    // SAFETY: as in `crate::simd`; rows below `args.rows` are read, all of the tile is written.
    unsafe {
        for b in 0..args.columns.div_ceil(block) {
            let left = (args.columns * C::BITS / 8 - b * bytes).min(bytes);
            for v in 0..WIDTH {
                let mut planes = [[V::splat_byte(0); 16]; 4];
                for lane in 0..V::LANES {
                    let row = v * V::LANES + lane;
                    if row >= args.rows {
                        break;
                    }
                    let from = args.codes.add(row * args.row_bytes + b * bytes);
                    let codes = unpack_within::<V, C>(from, left, args.codes_end);
                    for plane in 0..C::PLANES {
                        planes[plane][lane] = D::prepare(codes[plane]);
                    }
                }
                for plane in 0..C::PLANES {
                    V::transpose(planes[plane].as_mut_ptr());
                    for lane in 0..V::LANES {
                        let unit = (b * V::LANES + lane) * C::PLANES + plane;
                        let to = args.tile.add((unit * width + v * V::LANES) * 4);
                        V::store_bytes(to, planes[plane][lane]);
                    }
                }
            }
        }
    }
}

/// One block, of which `left` bytes exist, without reading past `end`.
#[inline(always)]
unsafe fn unpack_within<V: Simd, C: Codec>(
    from: *const u8,
    left: usize,
    end: *const u8,
) -> [V::B; 4] {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let whole = C::block::<V>() * C::BITS / 8;
        if left == whole && from as usize + C::reads::<V>() <= end as usize {
            return C::unpack::<V>(from);
        }
        let mut buffer = [0u8; 128];
        from.copy_to_nonoverlapping(buffer.as_mut_ptr(), left);
        C::unpack::<V>(buffer.as_ptr())
    }
}

#[inline(always)]
unsafe fn many<V: Simd, D: Dot<V>, C: Codec>(args: &Many<'_>) {
    let mut first = 0;
    let rows = args.x.len();
    // SAFETY: as in `crate::simd`; `first + R` stays within the rows of activations.
    unsafe {
        if V::LANES == 16 {
            while rows - first >= 6 {
                rows_by_tile::<V, D, C, 6>(args, first);
                first += 6;
            }
        }
        while rows - first >= 4 {
            rows_by_tile::<V, D, C, 4>(args, first);
            first += 4;
        }
        if rows - first >= 2 {
            rows_by_tile::<V, D, C, 2>(args, first);
            first += 2;
        }
        if rows - first == 1 {
            rows_by_tile::<V, D, C, 1>(args, first);
        }
    }
}

/// `R` rows of activations against the whole tile.
#[inline(always)]
unsafe fn rows_by_tile<V: Simd, D: Dot<V>, C: Codec, const R: usize>(
    args: &Many<'_>,
    first: usize,
) {
    let width = WIDTH * V::LANES;
    // Columns whose integers may be added: one scale on both sides.
    let span = SPAN.min(args.group);
    // SAFETY: as in `crate::simd`.
    unsafe {
        let x: [Row; R] = std::array::from_fn(|i| args.x[first + i]);
        let sums = args.sums.add(first * width);
        let mut totals = [[V::zero(); WIDTH]; R];
        for (r, total) in totals.iter_mut().enumerate() {
            for (v, total) in total.iter_mut().enumerate() {
                *total = V::load(sums.add(r * width + v * V::LANES));
            }
        }
        for s in 0..args.columns.div_ceil(span) {
            let column = args.first_column + s * span;
            let tile = args.tile.add(s * span * width);
            let dots = if C::GROUP_MIN >= SPAN || span == SPAN {
                span_dots::<V, D, C, R, 8>(tile, &x, column)
            } else {
                span_dots::<V, D, C, R, 4>(tile, &x, column)
            };
            let group = s * span / args.group;
            let starts = s * span % args.group == 0;
            let scales = args.scales.add(group * width);
            let scale: [V::F; WIDTH] = std::array::from_fn(|v| V::load(scales.add(v * V::LANES)));
            for r in 0..R {
                let x_scale = V::splat(*x[r].scales.add(column / (4 * C::PLANES)));
                for v in 0..WIDTH {
                    let scale = V::mul(scale[v], x_scale);
                    totals[r][v] = V::fma(V::to_f32(dots[r][v]), scale, totals[r][v]);
                }
            }
            if starts {
                let biases = args.biases.add(group * width);
                let bias: [V::F; WIDTH] =
                    std::array::from_fn(|v| V::load(biases.add(v * V::LANES)));
                for r in 0..R {
                    let sum = V::splat(*x[r].sums.add(column / args.group));
                    for v in 0..WIDTH {
                        totals[r][v] = V::fma(bias[v], sum, totals[r][v]);
                    }
                }
            }
        }
        for (r, total) in totals.iter().enumerate() {
            for (v, &total) in total.iter().enumerate() {
                V::store(sums.add(r * width + v * V::LANES), total);
            }
        }
    }
}

/// The integer part: `UNITS` units of four columns from `column` on.
#[inline(always)]
unsafe fn span_dots<V: Simd, D: Dot<V>, C: Codec, const R: usize, const UNITS: usize>(
    tile: *const u8,
    x: &[Row; R],
    column: usize,
) -> [[V::I; WIDTH]; R] {
    // SAFETY: as in `crate::simd`.
    unsafe {
        // Where the span's first lane begins in the activations' layout.
        let lane = column / (4 * C::PLANES);
        let start = (lane / V::LANES * V::LANES * C::PLANES + lane % V::LANES) * 4;
        let mut wide = [[V::zero_ints(); WIDTH]; R];
        let steps = D::STEPS.min(UNITS);
        for part in 0..UNITS / steps {
            let mut sums = [[D::start(); WIDTH]; R];
            for step in 0..steps {
                let unit = part * steps + step;
                let codes: [V::B; WIDTH] =
                    std::array::from_fn(|v| V::load_bytes(tile.add((unit * WIDTH + v) * V::BYTES)));
                let offset = (unit % C::PLANES * V::LANES + unit / C::PLANES) * 4;
                for r in 0..R {
                    let x = V::splat_dword(x[r].codes.add(start + offset));
                    for v in 0..WIDTH {
                        sums[r][v] = D::dot(sums[r][v], codes[v], x);
                    }
                }
            }
            for r in 0..R {
                for v in 0..WIDTH {
                    let sum = D::widen(sums[r][v]);
                    wide[r][v] = if part == 0 { sum } else { V::add_ints(wide[r][v], sum) };
                }
            }
        }
        wide
    }
}
