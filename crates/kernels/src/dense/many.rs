//! Products of many rows: a tile of the weights is widened and turned once, and used for all rows.
//!
//! A tile is two vectors of weight rows (lanes run across them) by [`TILE_COLUMNS`] columns. A register block is six
//! rows of activations by the width of the tile: one activation, broadcast, multiplies two vectors of weights.

use super::weights::{Float, GROUP};
use crate::simd::{Simd, each, float_entry_points};

/// Vectors of weight rows in a tile.
pub(crate) const WIDTH: usize = 2;

/// Columns of a tile; with 32 rows in f32 that is 32 KiB.
pub(crate) const TILE_COLUMNS: usize = 256;

/// Weights of a tile, to be laid out for the loop.
pub(crate) struct Pack {
    /// The tile's first row, at its first column.
    pub weights: *const u8,
    pub row_bytes: usize,
    /// Weight rows, at most `WIDTH * LANES`; missing ones become zeros.
    pub rows: usize,
    pub columns: usize,
    /// Rows of `row_groups` scales from the tile's first column on, where the type has scales.
    pub scales: *const f32,
    pub row_groups: usize,
    /// `[columns][WIDTH * LANES]` floats, or pairs of bf16; columns rounded up to whole vectors.
    pub tile: *mut u8,
}

/// One tile against rows of activations.
pub(crate) struct Many<'a> {
    pub tile: *const u8,
    /// Units of the tile: columns, or pairs of them.
    pub units: usize,
    /// Each at the tile's first column.
    pub x: &'a [*const u8],
    /// `[x.len()][WIDTH * LANES]`: the products are added.
    pub sums: *mut f32,
}

float_entry_points! {
    pub(crate) fn pack_entry<C: Float>(args: &Pack) = pack
}

float_entry_points! {
    /// The loop over floats; `C` is of no use here.
    pub(crate) fn entry<C: Float>(args: &Many<'_>) = many
}

#[inline(always)]
unsafe fn pack<V: Simd, C: Float>(args: &Pack) {
    // SAFETY: as in `crate::simd`; rows below `args.rows` are read, all of the tile is written.
    unsafe {
        for k in (0..args.columns).step_by(V::LANES) {
            let left = (args.columns - k).min(V::LANES);
            for v in 0..WIDTH {
                let mut square = [V::zero(); 16];
                for (lane, to) in square.iter_mut().enumerate().take(V::LANES) {
                    let row = v * V::LANES + lane;
                    if row < args.rows {
                        *to = load_within::<V, C>(args, row, k, left);
                    }
                }
                V::transpose_floats(square.as_mut_ptr());
                for (i, &weights) in square.iter().enumerate().take(V::LANES) {
                    let to = args.tile.cast::<f32>().add(((k + i) * WIDTH + v) * V::LANES);
                    V::store(to, weights);
                }
            }
        }
    }
}

/// `left` columns of a row from column `k` of the tile on, the rest zeros.
#[inline(always)]
unsafe fn load_within<V: Simd, C: Float>(args: &Pack, row: usize, k: usize, left: usize) -> V::F {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let from = args.weights.add(row * args.row_bytes + k * C::BYTES);
        let weights = if left == V::LANES {
            C::load::<V>(from)
        } else {
            let mut buffer = [0u8; 64];
            from.copy_to_nonoverlapping(buffer.as_mut_ptr(), left * C::BYTES);
            C::load::<V>(buffer.as_ptr())
        };
        if !C::SCALED {
            return weights;
        }
        V::mul(weights, V::splat(*args.scales.add(row * args.row_groups + k / GROUP)))
    }
}

#[inline(always)]
unsafe fn many<V: Simd, C: Float>(args: &Many<'_>) {
    // SAFETY: the caller's promise.
    unsafe { blocks::<V, Floats<V>>(args) }
}

/// How a unit of the tile is multiplied and added.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Multiply<V: Simd> {
    type W: Copy;
    unsafe fn load(p: *const u8) -> Self::W;
    /// The four bytes at `p` in every lane.
    unsafe fn splat(p: *const u8) -> Self::W;
    unsafe fn add(sum: V::F, weights: Self::W, x: Self::W) -> V::F;
}

pub(super) struct Floats<V>(std::marker::PhantomData<V>);

impl<V: Simd> Multiply<V> for Floats<V> {
    type W = V::F;
    #[inline(always)]
    unsafe fn load(p: *const u8) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const u8) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::splat(p.cast::<f32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add(sum: V::F, weights: V::F, x: V::F) -> V::F {
        // SAFETY: the caller's promise.
        unsafe { V::fma(weights, x, sum) }
    }
}

#[inline(always)]
unsafe fn blocks<V: Simd, M: Multiply<V>>(args: &Many<'_>) {
    for first in (0..args.x.len()).step_by(ROWS) {
        // SAFETY: as in `crate::simd`.
        unsafe { block::<V, M, ROWS>(args, first) }
    }
}

/// Rows of activations in a block, as registers allow.
const ROWS: usize = 6;

/// `R` rows of activations against the whole tile. Where fewer are left, the last is computed again, which takes no
/// longer: a block of fewer rows would wait for its own additions.
#[inline(always)]
unsafe fn block<V: Simd, M: Multiply<V>, const R: usize>(args: &Many<'_>, first: usize) {
    let width = WIDTH * V::LANES;
    // SAFETY: as in `crate::simd`.
    unsafe {
        let count = R.min(args.x.len() - first);
        let x: [*const u8; R] = each(|r| args.x[first + r.min(count - 1)]);
        let out = args.sums.add(first * width);
        let mut sums = [[V::zero(); WIDTH]; R];
        for unit in 0..args.units {
            let tile = args.tile.add(unit * WIDTH * V::BYTES);
            let weights: [M::W; WIDTH] = each(|v| M::load(tile.add(v * V::BYTES)));
            for r in 0..R {
                let x = M::splat(x[r].add(unit * 4));
                for v in 0..WIDTH {
                    sums[r][v] = M::add(sums[r][v], weights[v], x);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate().take(count) {
            for (v, &sum) in sums.iter().enumerate() {
                let to = out.add(r * width + v * V::LANES);
                V::store(to, V::fma(sum, V::splat(1.0), V::load(to)));
            }
        }
    }
}

/// Both sides in bf16, in pairs of columns.
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs {
    use std::arch::x86_64::*;
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    use super::{Many, Multiply, Pack, WIDTH, blocks};
    use crate::Isa;
    use crate::dense::weights::AsF32;
    use crate::simd::Simd;
    use crate::simd::avx512::Avx512;

    pub(crate) struct Pairs;

    /// Whether pairs are faster than floats here: some processors do them at half the rate and gain nothing. Measured
    /// once, in some tens of microseconds.
    pub(crate) fn pay() -> bool {
        static PAY: OnceLock<bool> = OnceLock::new();
        *PAY.get_or_init(|| {
            const COLUMNS: usize = 128;
            let tile = vec![0f32; COLUMNS * WIDTH * 16];
            let row = [0f32; COLUMNS];
            let mut sums = [0f32; 12 * WIDTH * 16];
            let Some(floats) = super::entry::<AsF32>(Isa::Avx512Bf16) else { return true };
            let x = [row.as_ptr().cast(); 12];
            let mut time = |units: usize, many: unsafe fn(&Many<'_>)| {
                let start = Instant::now();
                let (tile, sums) = (tile.as_ptr().cast(), sums.as_mut_ptr());
                // SAFETY: this is asked only where the processor has both, and the parts are long enough.
                unsafe { many(&Many { tile, units, x: &x, sums }) };
                start.elapsed()
            };
            let mut best = [Duration::MAX; 2];
            for _ in 0..6 {
                best[0] = best[0].min(time(COLUMNS / 2, many));
                best[1] = best[1].min(time(COLUMNS, floats));
            }
            best[0] < best[1]
        })
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Multiply<Avx512> for Pairs {
        type W = __m512i;
        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m512i {
            unsafe { Avx512::load_bytes(p) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const u8) -> __m512i {
            unsafe { Avx512::splat_dword(p) }
        }
        #[inline(always)]
        unsafe fn add(sum: __m512, weights: __m512i, x: __m512i) -> __m512 {
            unsafe {
                let weights = std::mem::transmute::<__m512i, __m512bh>(weights);
                _mm512_dpbf16_ps(sum, weights, std::mem::transmute::<__m512i, __m512bh>(x))
            }
        }
    }

    /// # Safety
    /// The processor has the features, and `args` is as its fields say.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(crate) unsafe fn many(args: &Many<'_>) {
        // SAFETY: the caller's promise.
        unsafe { blocks::<Avx512, Pairs>(args) }
    }

    /// # Safety
    /// As [`many`].
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    pub(crate) unsafe fn pack(args: &Pack) {
        // SAFETY: rows below `args.rows` are read, all of the tile is written.
        unsafe {
            for k in (0..args.columns).step_by(32) {
                let bytes = (args.columns - k).min(32) * 2;
                for v in 0..WIDTH {
                    let mut square = [Avx512::splat_byte(0); 16];
                    for (lane, to) in square.iter_mut().enumerate() {
                        let row = v * 16 + lane;
                        if row < args.rows {
                            let from = args.weights.add(row * args.row_bytes + k * 2);
                            let mask = u32::MAX >> (32 - bytes / 2);
                            *to = _mm512_maskz_loadu_epi16(mask, from.cast());
                        }
                    }
                    Avx512::transpose(square.as_mut_ptr());
                    for (i, &weights) in square.iter().enumerate() {
                        let to = args.tile.add(((k / 2 + i) * WIDTH + v) * 64);
                        Avx512::store_bytes(to, weights);
                    }
                }
            }
        }
    }
}
