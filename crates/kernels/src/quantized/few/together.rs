//! Several rows of activations: codes are turned once for all of them.
//!
//! Two vectors of weight rows meet up to eight rows of activations in a block: as many sums as let the processor multiply
//! without waiting for itself, and each activation is brought to all lanes once for both.

use super::{Few, Lines, Turned, WIDTH, blocks};
use crate::quantized::activations::Row;
use crate::quantized::codec::Codec;
use crate::simd::{Dot, Simd, each};
use crate::tasks::FEW_MAX;

/// The products of `W` vectors of weight rows, from `vector` on.
#[inline(always)]
pub(super) unsafe fn products<V: Simd, D: Dot<V>, C: Codec, const S: usize, const W: usize>(
    args: &Few<'_>,
    lines: &[Lines; W],
    turned: Turned,
    vector: usize,
    totals: &mut [[V::F; WIDTH]; FEW_MAX],
) {
    let step = const { blocks::<V, C>() };
    // SAFETY: as in `crate::simd`.
    unsafe {
        let mut lanes = [[V::splat_byte(0); 16]; W];
        for first in (0..lines[0].blocks::<V, C>()).step_by(step) {
            for (lanes, lines) in lanes.iter_mut().zip(lines) {
                for block in 0..step {
                    let lanes = lanes[block * V::LANES..][..V::LANES].as_mut_ptr();
                    lines.turn::<V, C>(first + block, lanes);
                }
            }
            let part = Part { lanes: &lanes, vector, first, columns: args.columns, turned };
            let mut x = 0;
            while x < args.x.len() {
                x += match args.x.len() - x {
                    1..=2 => part.add::<V, D, C, S, 2>(args.x, x, totals),
                    5..=6 if const { V::LANES == 16 } => {
                        part.add::<V, D, C, S, 6>(args.x, x, totals)
                    }
                    7.. if const { V::LANES == 16 } => part.add::<V, D, C, S, 8>(args.x, x, totals),
                    _ => part.add::<V, D, C, S, 4>(args.x, x, totals),
                };
            }
        }
    }
}

/// Turned codes of `W` vectors of weight rows.
struct Part<'a, B, const W: usize> {
    lanes: &'a [[B; 16]; W],
    /// Which is the first of them.
    vector: usize,
    /// Number of its first block.
    first: usize,
    /// Of the whole row.
    columns: usize,
    turned: Turned,
}

impl<B: Copy, const W: usize> Part<'_, B, W> {
    /// Adds the products with up to `N` rows of activations from `x` on to their totals; gives `N`. Where fewer are left,
    /// the last is computed again: cheaper than a loop for each count, which all have to be compiled.
    #[inline(always)]
    unsafe fn add<V: Simd<B = B>, D: Dot<V>, C: Codec, const S: usize, const N: usize>(
        &self,
        all: &[Row],
        x: usize,
        totals: &mut [[V::F; WIDTH]; FEW_MAX],
    ) -> usize {
        let count = N.min(all.len() - x);
        let rows: [Row; N] = each(|i| all[x + i.min(count - 1)]);
        // Lanes that make a span.
        let span = const { S / 4 / C::PLANES };
        let start = self.first * C::block::<V>();
        let spans = (self.columns - start).min(const { blocks::<V, C>() } * C::block::<V>()) / S;
        // SAFETY: as in `crate::simd`; activations are padded to whole blocks, and there are at most `FEW_MAX`.
        unsafe {
            let totals = totals.as_mut_ptr().add(x);
            // What is computed again goes nowhere.
            let mut spare = [V::zero(); WIDTH];
            let spare = &raw mut spare;
            let sums = each(|i| {
                let totals = if i < count { totals.add(i) } else { spare };
                totals.cast::<V::F>().add(self.vector).cast::<[V::F; W]>()
            });
            for s in 0..spans {
                let dots = self.dots::<V, D, C, N>(s * span, span, &rows);
                self.turned.add::<V, C, N, W>(sums, &dots, &rows, start + s * S);
            }
        }
        N
    }

    /// The integer part of a span: `count` lanes from `first` on.
    #[inline(always)]
    unsafe fn dots<V: Simd<B = B>, D: Dot<V>, C: Codec, const N: usize>(
        &self,
        first: usize,
        count: usize,
        rows: &[Row; N],
    ) -> [[V::I; W]; N] {
        // SAFETY: as in `crate::simd`.
        unsafe {
            if const { D::TWOS } {
                return self.two_dots::<V, D, C, N>(first, count, rows);
            }
            let mut wide = [[V::zero_ints(); W]; N];
            let mut sums = [[V::zero_ints(); W]; N];
            let mut added = 0;
            for lane in first..first + count {
                let planes = self.planes::<V, D, C>(lane);
                let at = self.at::<V, C>(lane);
                for (plane, codes) in planes.iter().enumerate().take(C::PLANES) {
                    for (sums, x) in sums.iter_mut().zip(rows) {
                        let x = V::splat_dword(x.codes.add(at + plane * V::BYTES));
                        for (sum, &codes) in sums.iter_mut().zip(codes) {
                            *sum = D::dot(*sum, codes, x);
                        }
                    }
                    added += 1;
                    if D::STEPS < 8 && added % D::STEPS == 0 {
                        for (wide, sums) in wide.iter_mut().zip(&mut sums) {
                            *wide = each(|v| V::add_ints(wide[v], D::widen(sums[v])));
                            *sums = [V::zero_ints(); W];
                        }
                    }
                }
            }
            if D::STEPS < 8 { wide } else { each(|i| each(|v| D::widen(sums[i][v]))) }
        }
    }

    /// As [`Self::dots`], two lanes and two rows at a time; there is an even number of both.
    #[inline(always)]
    unsafe fn two_dots<V: Simd<B = B>, D: Dot<V>, C: Codec, const N: usize>(
        &self,
        first: usize,
        count: usize,
        rows: &[Row; N],
    ) -> [[V::I; W]; N] {
        // SAFETY: as in `crate::simd`.
        unsafe {
            let mut sums = [[V::zero_ints(); W]; N];
            for lane in (first..first + count).step_by(2) {
                let [even, odd] = [lane, lane + 1].map(|lane| self.planes::<V, D, C>(lane));
                let at = self.at::<V, C>(lane);
                for (plane, (even, odd)) in even.iter().zip(&odd).enumerate().take(C::PLANES) {
                    let codes: [[V::B; 2]; W] = each(|v| D::join([even[v], odd[v]]));
                    for r in (0..N).step_by(2) {
                        let x = each(|i| rows[r + i].codes.add(at + plane * V::BYTES));
                        for v in 0..W {
                            [sums[r][v], sums[r + 1][v]] =
                                D::two_dots([sums[r][v], sums[r + 1][v]], codes[v], x);
                        }
                    }
                }
            }
            let mut wide = [[V::zero_ints(); W]; N];
            for r in (0..N).step_by(2) {
                for v in 0..W {
                    [wide[r][v], wide[r + 1][v]] = D::widen_two([sums[r][v], sums[r + 1][v]]);
                }
            }
            wide
        }
    }

    /// The planes of a lane, of all vectors each.
    #[inline(always)]
    unsafe fn planes<V: Simd<B = B>, D: Dot<V>, C: Codec>(&self, lane: usize) -> [[B; W]; 4] {
        // SAFETY: as in `crate::simd`.
        unsafe {
            let split: [[B; 4]; W] = each(|v| C::split::<V>(*self.lanes[v].get_unchecked(lane)));
            each(|plane| each(|v| D::prepare(split[v][plane])))
        }
    }

    /// Where a lane's first plane lies in a row of activations.
    #[inline(always)]
    fn at<V: Simd, C: Codec>(&self, lane: usize) -> usize {
        let (block, lane) = match const { blocks::<V, C>() } {
            1 => (0, lane),
            _ => (lane / V::LANES, lane % V::LANES),
        };
        ((self.first + block) * C::PLANES * V::LANES + lane) * 4
    }
}
