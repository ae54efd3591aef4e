//! Products of few rows: the weights stream through once.
//!
//! Two vectors of weight rows, lanes across them, are turned some columns at a time and meet their few rows of
//! activations at once. Every product is added up exactly as [`super::many`] does it, column after column in tiles, so
//! that its bits do not depend on how many rows there are.

use super::many::{Floats, Multiply, TILE_COLUMNS, WIDTH};
use super::weights::{Float, GROUP};
use crate::ahead::Ahead;
use crate::simd::{Simd, each, float_entry_points};
use crate::tasks::FEW_MAX;

/// Weight rows, and what to do with them.
pub(crate) struct Few<'a> {
    pub weights: *const u8,
    pub row_bytes: usize,
    /// Where this thread's reading goes on.
    pub ahead: Ahead,
    /// At most `WIDTH * LANES`.
    pub rows: usize,
    pub columns: usize,
    /// A row of `columns / GROUP` for each weight row, where the type has scales.
    pub scales: *const f32,
    /// Rows of floats, or of bf16 where the loop takes pairs.
    pub x: &'a [*const u8],
    /// `[x.len()][WIDTH * LANES]`
    pub out: *mut f32,
}

float_entry_points! {
    /// The loop for one type of weight on one instruction set.
    pub(crate) fn entry<C: Float>(args: &Few<'_>) = few
}

#[inline(always)]
unsafe fn few<V: Simd, C: Float>(args: &Few<'_>) {
    // SAFETY: the caller's promise.
    unsafe { stream::<V, Widened<C>>(args) }
}

/// How weights are turned: a vector of each of `LANES` rows, as a square of 4-byte units.
#[allow(clippy::missing_safety_doc)]
trait Turn<V: Simd> {
    type By: Multiply<V>;
    /// Bytes of a weight.
    const BYTES: usize;
    /// Columns in 4 bytes, and how many of the loop's units those are.
    const COLUMNS: usize;
    const UNITS: usize;
    const SCALED: bool;
    /// `LANES * COLUMNS` columns.
    unsafe fn load(p: *const u8, scale: f32) -> V::B;
    unsafe fn split(v: V::B) -> [<Self::By as Multiply<V>>::W; 2];
}

struct Widened<C>(std::marker::PhantomData<C>);

impl<V: Simd, C: Float> Turn<V> for Widened<C> {
    type By = Floats<V>;
    const BYTES: usize = C::BYTES;
    const COLUMNS: usize = C::TURNED;
    const UNITS: usize = C::TURNED;
    const SCALED: bool = C::SCALED;
    #[inline(always)]
    unsafe fn load(p: *const u8, scale: f32) -> V::B {
        // SAFETY: the caller's promise.
        unsafe {
            if C::TURNED > 1 {
                return V::load_bytes(p);
            }
            let weights = C::load::<V>(p);
            V::as_bytes(if C::SCALED { V::mul(weights, V::splat(scale)) } else { weights })
        }
    }
    #[inline(always)]
    unsafe fn split(v: V::B) -> [V::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            match C::TURNED {
                1 => [V::as_floats(v); 2],
                _ => V::widen_pairs(v),
            }
        }
    }
}

/// Weight rows in reach of the loop: where they are, and where reading goes on.
struct Lines {
    rows: [[*const u8; 16]; WIDTH],
    ahead: [[*const u8; 16]; WIDTH],
    scales: [[*const f32; 16]; WIDTH],
}

impl Lines {
    #[inline(always)]
    fn new<V: Simd>(args: &Few<'_>) -> Lines {
        let row = |v: usize, r: usize| (v * V::LANES + r).min(args.rows - 1);
        let at = |v, r| args.weights.wrapping_add(row(v, r) * args.row_bytes);
        let scale = |v, r| args.scales.wrapping_add(row(v, r) * (args.columns / GROUP));
        let ahead = |v, r| args.ahead.of(at(v, r), args.row_bytes, WIDTH * V::LANES);
        Lines {
            rows: each(|v| each(|r| at(v, r))),
            ahead: each(|v| each(|r| ahead(v, r))),
            scales: each(|v| each(|r| scale(v, r))),
        }
    }

    /// Columns `k..end` of all rows, at most a square. (`all` is one for all calls: returned, it would be copied.)
    #[inline(always)]
    unsafe fn turn<V: Simd, T: Turn<V>>(
        &self,
        k: usize,
        end: usize,
        all: &mut [[V::B; 16]; WIDTH],
    ) {
        // SAFETY: as in `crate::simd`; what is not there is not read.
        unsafe {
            for (v, square) in all.iter_mut().enumerate() {
                for (r, to) in square.iter_mut().enumerate().take(V::LANES) {
                    let from = self.rows[v][r].add(k * T::BYTES);
                    let scale = if T::SCALED { *self.scales[v][r].add(k / GROUP) } else { 1.0 };
                    if end - k >= V::LANES * T::COLUMNS {
                        V::prefetch(self.ahead[v][r].wrapping_add(k * T::BYTES));
                        *to = T::load(from, scale);
                    } else {
                        let mut buffer = [0u8; 64];
                        from.copy_to_nonoverlapping(buffer.as_mut_ptr(), (end - k) * T::BYTES);
                        *to = T::load(buffer.as_ptr(), scale);
                    }
                }
                V::transpose(square.as_mut_ptr());
            }
        }
    }
}

#[inline(always)]
unsafe fn stream<V: Simd, T: Turn<V>>(args: &Few<'_>) {
    let lines = Lines::new::<V>(args);
    // SAFETY: as in `crate::simd`; there are at most `FEW_MAX` rows of activations.
    unsafe {
        let mut totals = [[V::zero(); WIDTH]; FEW_MAX];
        let mut turned = [[V::splat_byte(0); 16]; WIDTH];
        for tile in (0..args.columns).step_by(TILE_COLUMNS) {
            let end = (tile + TILE_COLUMNS).min(args.columns);
            let mut sums = [[V::zero(); WIDTH]; FEW_MAX];
            for k in (tile..end).step_by(V::LANES * T::COLUMNS) {
                lines.turn::<V, T>(k, end, &mut turned);
                let range = k..end.min(k + V::LANES * T::COLUMNS);
                let mut x = 0;
                while x < args.x.len() {
                    x += match args.x.len() - x {
                        1 => add::<V, T, 1>(args, x, &turned, &range, &mut sums),
                        2 => add::<V, T, 2>(args, x, &turned, &range, &mut sums),
                        left if const { V::LANES == 16 } && left > 4 => {
                            add::<V, T, 8>(args, x, &turned, &range, &mut sums)
                        }
                        _ => add::<V, T, 4>(args, x, &turned, &range, &mut sums),
                    };
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums).take(args.x.len()) {
                *total = each(|v| V::fma(sum[v], V::splat(1.0), total[v]));
            }
        }
        for (i, total) in totals.iter().enumerate().take(args.x.len()) {
            for (v, &total) in total.iter().enumerate() {
                V::store(args.out.add((i * WIDTH + v) * V::LANES), total);
            }
        }
    }
}

/// Adds the products of these columns with up to `N` rows of activations from `x` on to their sums; gives `N`. Where
/// fewer are left, the last is computed again: cheaper than a loop for each count, which all have to be compiled.
#[inline(always)]
unsafe fn add<V: Simd, T: Turn<V>, const N: usize>(
    args: &Few<'_>,
    x: usize,
    turned: &[[V::B; 16]; WIDTH],
    columns: &std::ops::Range<usize>,
    sums: &mut [[V::F; WIDTH]; FEW_MAX],
) -> usize {
    let last = args.x.len() - 1;
    let per_unit = T::COLUMNS / T::UNITS;
    let start = columns.start / per_unit * 4;
    let rows: [*const u8; N] = each(|i| args.x[(x + i).min(last)].wrapping_add(start));
    let all = sums.as_mut_ptr();
    let units = columns.len().div_ceil(per_unit);
    // SAFETY: as in `crate::simd`.
    unsafe {
        let mut sums: [[V::F; WIDTH]; N] = each(|i| *all.add((x + i).min(last)));
        for lane in 0..units / T::UNITS {
            for unit in 0..T::UNITS {
                multiply::<V, T, N>(turned, (lane, unit), &rows, &mut sums);
            }
        }
        for unit in 0..units % T::UNITS {
            multiply::<V, T, N>(turned, (units / T::UNITS, unit), &rows, &mut sums);
        }
        for (i, &sum) in sums.iter().enumerate() {
            *all.add((x + i).min(last)) = sum;
        }
    }
    N
}

/// One unit of one lane.
#[inline(always)]
unsafe fn multiply<V: Simd, T: Turn<V>, const N: usize>(
    turned: &[[V::B; 16]; WIDTH],
    (lane, unit): (usize, usize),
    rows: &[*const u8; N],
    sums: &mut [[V::F; WIDTH]; N],
) {
    // SAFETY: as in `crate::simd`.
    unsafe {
        let weights: [<T::By as Multiply<V>>::W; WIDTH] =
            each(|v| T::split(*turned[v].get_unchecked(lane))[unit]);
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x = T::By::splat(row.add((lane * T::UNITS + unit) * 4));
            for (sum, &weights) in sums.iter_mut().zip(&weights) {
                *sum = T::By::add(*sum, weights, x);
            }
        }
    }
}

/// Both sides in bf16, in pairs of columns.
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs {
    use super::super::many::pairs::Pairs;
    use super::{Few, Turn, stream};
    use crate::simd::Simd;
    use crate::simd::avx512::Avx512;

    struct Whole;

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Turn<Avx512> for Whole {
        type By = Pairs;
        const BYTES: usize = 2;
        const COLUMNS: usize = 2;
        const UNITS: usize = 1;
        const SCALED: bool = false;
        #[inline(always)]
        unsafe fn load(p: *const u8, _scale: f32) -> <Avx512 as Simd>::B {
            unsafe { Avx512::load_bytes(p) }
        }
        #[inline(always)]
        unsafe fn split(v: <Avx512 as Simd>::B) -> [<Avx512 as Simd>::B; 2] {
            [v; 2]
        }
    }

    /// # Safety
    /// The processor has the features, and `args` is as its fields say.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(crate) unsafe fn few(args: &Few<'_>) {
        // SAFETY: the caller's promise.
        unsafe { stream::<Avx512, Whole>(args) }
    }
}
