//! Tiles of bf16 pairs: a product of 32 weight rows with one or two panels of 16 rows, over many columns.
//!
//! Weight rows are the left side, as they lie in memory; activations the right one, a row of the tile for each pair of
//! columns. So an output's additions are the instruction's own, in the order of columns, whatever else is in the tiles:
//! of 32 columns the even and the odd ones are each added up by `fma`, from zero; then the two sums to each other, and
//! that to the total. Numbers too small to be normal count as zero, and become it.

use std::arch::asm;

use super::{Configured, TILE_ROWS};

/// Columns of a step.
pub(crate) const COLUMNS: usize = 32;

/// A panel's bytes in a step, and weight rows' beginnings: pairs of 32 columns of 16 rows.
pub(crate) const STEP_BYTES: usize = TILE_ROWS * COLUMNS * 2;

/// Floats of a tile of results.
pub(crate) const RESULTS: usize = TILE_ROWS * TILE_ROWS;

/// What to multiply.
pub(crate) struct Steps {
    /// First of 16 weight rows, twice; and how many bytes lie from a row to the next.
    pub weights: [(*const u8, usize); 2],
    /// `[steps][16 pairs][16 rows]` pairs of bf16; the second is not read for one panel.
    pub panels: [*const u8; 2],
    pub count: usize,
    /// What is asked for meanwhile when there is one panel, [`AHEAD_BYTES`] in a step.
    pub ahead: *const u8,
    /// `[2][panels][16 weight rows][16 rows]`: the products are added.
    pub results: *mut f32,
}

/// As many bytes as a step takes of the weights.
pub(crate) const AHEAD_BYTES: usize = 2 * STEP_BYTES;

/// Tiles of a thread, until they are dropped.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Tiles {
    unsafe fn configure() -> Self;
    unsafe fn multiply_one(&self, args: &Steps);
    unsafe fn multiply_two(&self, args: &Steps);
}

/// The processor's.
pub(crate) struct Hardware {
    _configured: Configured,
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure() -> Hardware {
        // SAFETY: the caller's promise.
        Hardware { _configured: unsafe { Configured::new(TILE_ROWS, COLUMNS * 2) } }
    }

    #[inline(always)]
    unsafe fn multiply_one(&self, args: &Steps) {
        let [(first, first_stride), (second, second_stride)] = args.weights;
        // SAFETY: by the caller's promise; only tiles and what `results` says is written.
        unsafe {
            asm!(
                "tileloadd tmm0, [{c} + 1*{line}]",
                "tileloadd tmm2, [{c} + 1*{line} + 1024]",
                "2:",
                "tileloadd tmm6, [{b} + 1*{line}]",
                "tileloadd tmm4, [{a} + 1*{a_stride}]",
                "tileloadd tmm5, [{d} + 1*{d_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                ".rept 32",
                "prefetcht1 [{ahead}]",
                "add {ahead}, 64",
                ".endr",
                "add {a}, 64",
                "add {d}, 64",
                "add {b}, 1024",
                "dec {count}",
                "jnz 2b",
                "tilestored [{c} + 1*{line}], tmm0",
                "tilestored [{c} + 1*{line} + 1024], tmm2",
                a = inout(reg) first => _,
                a_stride = in(reg) first_stride,
                d = inout(reg) second => _,
                d_stride = in(reg) second_stride,
                b = inout(reg) args.panels[0] => _,
                ahead = inout(reg) args.ahead => _,
                count = inout(reg) args.count => _,
                c = in(reg) args.results,
                line = in(reg) 64usize,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    unsafe fn multiply_two(&self, args: &Steps) {
        let [(first, first_stride), (second, second_stride)] = args.weights;
        // SAFETY: as above.
        unsafe {
            asm!(
                "tileloadd tmm0, [{c} + 1*{line}]",
                "tileloadd tmm1, [{c} + 1*{line} + 1024]",
                "tileloadd tmm2, [{c} + 1*{line} + 2048]",
                "tileloadd tmm3, [{c} + 1*{line} + 3072]",
                "2:",
                "tileloadd tmm6, [{b} + 1*{line}]",
                "tileloadd tmm4, [{a} + 1*{a_stride}]",
                "tileloadd tmm7, [{e} + 1*{line}]",
                "tileloadd tmm5, [{d} + 1*{d_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 64",
                "add {d}, 64",
                "add {b}, 1024",
                "add {e}, 1024",
                "dec {count}",
                "jnz 2b",
                "tilestored [{c} + 1*{line}], tmm0",
                "tilestored [{c} + 1*{line} + 1024], tmm1",
                "tilestored [{c} + 1*{line} + 2048], tmm2",
                "tilestored [{c} + 1*{line} + 3072], tmm3",
                a = inout(reg) first => _,
                a_stride = in(reg) first_stride,
                d = inout(reg) second => _,
                d_stride = in(reg) second_stride,
                b = inout(reg) args.panels[0] => _,
                e = inout(reg) args.panels[1] => _,
                count = inout(reg) args.count => _,
                c = in(reg) args.results,
                line = in(reg) 64usize,
                options(nostack),
            );
        }
    }
}

/// By the definition of the instruction.
#[cfg(test)]
pub(crate) struct Emulated;

#[cfg(test)]
impl Tiles for Emulated {
    unsafe fn configure() -> Emulated {
        Emulated
    }
    #[inline(always)]
    unsafe fn multiply_one(&self, args: &Steps) {
        // SAFETY: the caller's promise.
        unsafe { emulate(args, 1) }
    }
    #[inline(always)]
    unsafe fn multiply_two(&self, args: &Steps) {
        // SAFETY: as above.
        unsafe { emulate(args, 2) }
    }
}

#[cfg(test)]
#[inline(always)]
unsafe fn emulate(args: &Steps, panels: usize) {
    // SAFETY: the caller's promise.
    let at = |p: *const u8, i: usize| unsafe { p.cast::<u16>().add(i).read_unaligned() };
    for step in 0..args.count {
        for (i, &(weights, stride)) in args.weights.iter().enumerate() {
            for (j, panel) in args.panels.iter().enumerate().take(panels) {
                let panel = panel.wrapping_add(step * STEP_BYTES);
                for m in 0..TILE_ROWS {
                    let row = weights.wrapping_add(m * stride + step * COLUMNS * 2);
                    for n in 0..TILE_ROWS {
                        let pair = |k: usize| {
                            [0, 1].map(|i| {
                                (at(row, 2 * k + i), at(panel, (k * TILE_ROWS + n) * 2 + i))
                            })
                        };
                        let place = ((i * panels + j) * TILE_ROWS + m) * TILE_ROWS + n;
                        // SAFETY: the caller's promise.
                        unsafe {
                            let total = args.results.add(place);
                            *total = add_pairs(*total, (0..COLUMNS / 2).map(pair));
                        }
                    }
                }
            }
        }
    }
}

/// One output's additions of a step: pairs of weights and activations.
#[cfg(test)]
#[inline(always)]
pub(crate) fn add_pairs(total: f32, pairs: impl Iterator<Item = [(u16, u16); 2]>) -> f32 {
    let flushed = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let widened = |bits: u16| flushed(half::bf16::from_bits(bits).to_f32());
    let mut sums = [0f32; 2];
    for pair in pairs {
        for (sum, (weight, x)) in sums.iter_mut().zip(pair) {
            *sum = flushed(widened(weight).mul_add(widened(x), *sum));
        }
    }
    flushed(flushed(total) + flushed(sums[0] + sums[1]))
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Products of two panels together, and of each alone.
    fn products<T: Tiles>(weights: &[bf16], panels: &[bf16], count: usize) -> Vec<u32> {
        let stride = count * COLUMNS * 2;
        let mut results = vec![1.5f32; 8 * RESULTS];
        let (two, alone) = results.split_at_mut(4 * RESULTS);
        let (first, second) = alone.split_at_mut(2 * RESULTS);
        let row = |row: usize| weights.as_ptr().cast::<u8>().wrapping_add(row * stride);
        let panel = |i: usize| panels.as_ptr().cast::<u8>().wrapping_add(i * count * STEP_BYTES);
        let steps = |panels, results: &mut [f32]| Steps {
            weights: [(row(0), stride), (row(TILE_ROWS), stride)],
            panels,
            count,
            ahead: weights.as_ptr().cast(),
            results: results.as_mut_ptr(),
        };
        // SAFETY: 32 rows of weights, two panels, and results for as many.
        unsafe {
            let tiles = T::configure();
            tiles.multiply_two(&steps([panel(0), panel(1)], two));
            tiles.multiply_one(&steps([panel(0), panel(0)], first));
            tiles.multiply_one(&steps([panel(1), panel(1)], second));
        }
        results.into_iter().map(f32::to_bits).collect()
    }

    /// Of the processor's tiles this says nothing where it has none.
    #[test]
    fn the_processor_multiplies_by_the_definition() {
        let mut rng = StdRng::seed_from_u64(1);
        for (count, least) in [(1, -1), (3, -40), (40, -70), (7, -133)] {
            let mut number = || {
                let size = 2f32.powi(rng.random_range(least..1));
                bf16::from_f32(rng.random_range(-1f32..1.0) * size)
            };
            let weights: Vec<bf16> = (0..32 * count * COLUMNS).map(|_| number()).collect();
            let panels: Vec<bf16> = (0..32 * count * COLUMNS).map(|_| number()).collect();
            let want = products::<Emulated>(&weights, &panels, count);
            // `[weights][panels]` beside `[panels][weights]`.
            let part = |i: usize| &want[i * RESULTS..][..RESULTS];
            for (together, alone) in [(0, 4), (1, 6), (2, 5), (3, 7)] {
                assert!(part(together) == part(alone));
            }
            assert!(part(0) != part(1) && part(0) != part(2));
            if super::super::available() {
                assert!(products::<Hardware>(&weights, &panels, count) == want, "{count} steps");
            }
        }
    }

    #[test]
    fn additions_worked_out_by_hand() {
        let bits = |x: f32| bf16::from_f32(x).to_bits();
        let check = |total: f32, pairs: &[[(f32, f32); 2]], want: f32| {
            let pairs = pairs.iter().map(|pair| pair.map(|(w, x)| (bits(w), bits(x))));
            assert_eq!(add_pairs(total, pairs).to_bits(), want.to_bits());
        };
        check(1.0, &[[(2.0, 3.0), (4.0, 5.0)]], 27.0);
        // In the order of columns the large numbers would swallow the small ones between them.
        let large = 2f32.powi(30);
        check(0.0, &[[(large, 1.0), (1.0, 1.0)], [(-large, 1.0), (1.0, 1.0)]], 2.0);
        // What was there is added last.
        check(large, &[[(1.0, 1.0), (0.0, 0.0)], [(1.0, 1.0), (0.0, 0.0)]], large);
        // A product too small to be normal, and a number.
        check(0.0, &[[(2f32.powi(-70), 2f32.powi(-60)), (0.0, 0.0)]], 0.0);
        check(0.0, &[[(2f32.powi(-130), large), (0.0, 0.0)]], 0.0);
    }
}
