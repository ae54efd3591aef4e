//! Keys and values in 4 bits: 32 codes from -8 to 7 and a scale. Code `i` of the first 16 is in the lower half of byte `i`,
//! plus 8; code `16 + i` in the upper half, as it is. So a byte is one signed number, of which rounding gives the upper
//! half and the rest the lower, with what every vector can do.

use super::history::Cell;
use crate::vector::Vector;

/// Codes that share a scale.
pub(crate) const GROUP: usize = 32;

const HALF: usize = GROUP / 2;

/// A place among such codes.
#[derive(Clone, Copy)]
pub(super) struct Nibbles {
    codes: *const i8,
    scales: *const f32,
    /// In codes.
    at: usize,
}

impl Nibbles {
    pub fn new(codes: &[i8], scales: &[f32], at: usize) -> Nibbles {
        Nibbles { codes: codes.as_ptr(), scales: scales.as_ptr(), at }
    }
}

impl Cell for Nibbles {
    #[inline(always)]
    fn at(self, offset: usize) -> Nibbles {
        Nibbles { at: self.at + offset, ..self }
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(self, i: usize) -> V::F {
        let at = self.at + i;
        let (group, within) = (at / GROUP, at % GROUP);
        // SAFETY: as in `vector`; vectors are at most as long as half a group and begin at their multiples.
        unsafe {
            let bytes = V::load_i8(self.codes.add(group * HALF + within % HALF));
            let sixteenth = V::splat(1.0 / 16.0);
            let upper = V::round(V::fma(bytes, sixteenth, V::splat(-7.5 / 16.0)));
            let code = if within < HALF {
                V::sub(V::fma(upper, V::splat(-16.0), bytes), V::splat(8.0))
            } else {
                upper
            };
            V::mul(code, V::splat(*self.scales.add(group)))
        }
    }

    #[inline(always)]
    unsafe fn load_to<V: Vector>(self, i: usize, _end: usize) -> V::F {
        // SAFETY: heads are whole groups, and halves of groups whole vectors.
        unsafe { self.load::<V>(i) }
    }
}

/// Packs one group; what its codes are to be multiplied with. The largest number becomes -8 exactly.
pub(crate) fn pack(values: &[f32; GROUP], codes: &mut [i8; HALF]) -> f32 {
    let largest = values.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let scale = largest / -8.0;
    let inverse = if largest.abs() > 1e-30 { 1.0 / scale } else { 0.0 };
    let code = |x: f32| (x * inverse).round_ties_even().clamp(-8.0, 7.0) as i8;
    for (i, packed) in codes.iter_mut().enumerate() {
        *packed = (code(values[HALF + i]) << 4) | (code(values[i]) + 8);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa;
    use crate::vector::{Body, on};

    struct Unpack<'a> {
        cell: Nibbles,
        to: &'a mut [f32],
    }

    impl Body for Unpack<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            for i in (0..self.to.len()).step_by(V::LANES) {
                // SAFETY: whole groups.
                unsafe { V::store(self.to.as_mut_ptr().add(i), self.cell.load::<V>(i)) };
            }
        }
    }

    #[test]
    fn every_code_comes_back_and_others_are_off_by_a_step_at_most() {
        let exact: [f32; GROUP] = std::array::from_fn(|i| ((i * 7) % 16) as f32 - 8.0);
        let between: [f32; GROUP] = std::array::from_fn(|i| (i as f32 - 15.3) * 0.37);
        for isa in isa::available() {
            for (values, bound) in [(exact, 0.0), (between, 1.0), ([0.0; GROUP], 0.0)] {
                let mut codes = [0; 2 * HALF];
                let mut scales = [0.0; 2];
                for (half, scale) in codes.chunks_exact_mut(HALF).zip(&mut scales) {
                    *scale = pack(&values, half.try_into().unwrap());
                }
                let mut found = [0.0; 2 * GROUP];
                let cell = Nibbles::new(&codes, &scales, 0);
                // SAFETY: supported here.
                unsafe { on(isa, Unpack { cell, to: &mut found }) };
                for (found, value) in found.iter().zip(values.iter().chain(&values)) {
                    let off = (found - value).abs();
                    assert!(off <= bound * scales[0].abs(), "{found} for {value}");
                }
            }
        }
    }
}
