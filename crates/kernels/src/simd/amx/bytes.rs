//! Tiles of bytes: one product of two tiles, from memory to memory.

use std::arch::asm;

use super::Configured;
#[cfg(test)]
use super::TILE_ROWS;

/// Tiles of a thread, from `configure` until they are dropped.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Tiles {
    /// For products of `rows` rows (at most 16) of `bytes` bytes (at most 64, a multiple of four).
    unsafe fn configure(rows: usize, bytes: usize) -> Self;

    /// `rows` rows of signed bytes at `a`, 64 bytes apart, times a matrix of unsigned bytes at `b`: rows of four bytes
    /// for each of 16 columns, `B_STRIDE` bytes apart. To `c`, `[rows][16]`.
    ///
    /// `SET` (0 to 3) is which of the processor's tiles are used: it does not begin with one that is in use.
    unsafe fn multiply<const SET: usize>(&self, a: *const u8, b: *const u8, c: *mut i32);
}

/// Two matrices lie side by side.
pub(crate) const B_STRIDE: usize = 128;

/// The processor's.
pub(crate) struct Hardware {
    _configured: Configured,
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure(rows: usize, bytes: usize) -> Hardware {
        // SAFETY: the caller's promise.
        Hardware { _configured: unsafe { Configured::new(rows, bytes) } }
    }

    #[inline(always)]
    unsafe fn multiply<const SET: usize>(&self, a: *const u8, b: *const u8, c: *mut i32) {
        macro_rules! multiply {
            ($c:literal, $a:literal, $b:literal) => {
                asm!(
                    concat!("tilezero tmm", $c),
                    concat!("tileloadd tmm", $a, ", [{a} + 1*{line}]"),
                    concat!("tileloadd tmm", $b, ", [{b} + 2*{line}]"),
                    concat!("tdpbsud tmm", $c, ", tmm", $a, ", tmm", $b),
                    concat!("tilestored [{c} + 1*{line}], tmm", $c),
                    a = in(reg) a,
                    b = in(reg) b,
                    c = in(reg) c,
                    line = in(reg) B_STRIDE / 2,
                    options(nostack),
                )
            };
        }
        // SAFETY: by the caller's promise, for the shapes of `configure`; only tiles and what `c` says is written.
        unsafe {
            match SET {
                0 => multiply!("0", "4", "6"),
                1 => multiply!("1", "5", "7"),
                2 => multiply!("2", "4", "6"),
                _ => multiply!("3", "5", "7"),
            }
        }
    }
}

/// By the definition of the instructions, one product of bytes after the other.
#[cfg(test)]
pub(crate) struct Emulated {
    rows: usize,
    bytes: usize,
}

#[cfg(test)]
impl Tiles for Emulated {
    unsafe fn configure(rows: usize, bytes: usize) -> Emulated {
        assert!(rows <= TILE_ROWS && bytes <= 64 && bytes.is_multiple_of(4));
        Emulated { rows, bytes }
    }

    unsafe fn multiply<const SET: usize>(&self, a: *const u8, b: *const u8, c: *mut i32) {
        for m in 0..self.rows {
            for n in 0..TILE_ROWS {
                let product = |i: usize| {
                    // SAFETY: by the caller's promise.
                    let (a, b) =
                        unsafe { (*a.add(m * 64 + i), *b.add(i / 4 * B_STRIDE + n * 4 + i % 4)) };
                    i32::from(a as i8) * i32::from(b)
                };
                let sum = (0..self.bytes).map(product).fold(0, i32::wrapping_add);
                // SAFETY: as above.
                unsafe { *c.add(m * TILE_ROWS + n) = sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// With each set of tiles, another matrix.
    fn products<T: Tiles>(rows: usize, bytes: usize, a: &[u8], b: &[u8]) -> [[i32; 256]; 4] {
        let mut c = [[0; 256]; 4];
        // SAFETY: all parts are as long as the largest shape.
        unsafe {
            let tiles = T::configure(rows, bytes);
            tiles.multiply::<0>(a.as_ptr(), b.as_ptr(), c[0].as_mut_ptr());
            tiles.multiply::<1>(a.as_ptr(), b[64..].as_ptr(), c[1].as_mut_ptr());
            tiles.multiply::<2>(a.as_ptr(), b[128..].as_ptr(), c[2].as_mut_ptr());
            tiles.multiply::<3>(a.as_ptr(), b[192..].as_ptr(), c[3].as_mut_ptr());
        }
        c
    }

    /// Says nothing where the processor has no tiles.
    #[test]
    fn the_processor_multiplies_by_the_definition() {
        let mut rng = StdRng::seed_from_u64(1);
        for (rows, bytes) in [(16, 64), (16, 32), (16, 16), (8, 32), (1, 4), (5, 12)] {
            let a: Vec<u8> = (0..16 * 64).map(|_| rng.random()).collect();
            let b: Vec<u8> = (0..18 * B_STRIDE).map(|_| rng.random()).collect();
            let want = products::<Emulated>(rows, bytes, &a, &b);
            assert!(want[0] != want[1]);
            if super::super::available() {
                assert!(products::<Hardware>(rows, bytes, &a, &b) == want, "{rows} by {bytes}");
            }
        }
    }

    #[test]
    fn a_product_worked_out_by_hand() {
        let mut a = [0u8; 16 * 64];
        let mut b = [0u8; 16 * B_STRIDE];
        // Row 1: −1 · 200 in column 2, and 3 · 100, of the next row of four.
        (a[64], a[64 + 5]) = (255, 3);
        (b[2 * 4], b[B_STRIDE + 2 * 4 + 1]) = (200, 100);
        // SAFETY: as long as the largest shape.
        let c = unsafe {
            let mut c = [0; 256];
            Emulated::configure(2, 32).multiply::<0>(a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            c
        };
        let place = 16 + 2;
        assert_eq!(c[place], 100);
        assert!(c.iter().enumerate().all(|(i, &c)| c == 0 || i == place));
    }
}
