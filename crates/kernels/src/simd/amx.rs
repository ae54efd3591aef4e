//! Tiles (AMX): whether they may be used here, and the one product that the loops ask of them.
//!
//! The processor has eight tiles of up to 16 rows of 64 bytes, and multiplies two of them in 16 cycles: C[m][n] +=
//! Σ A[m][4k + i] · B[k][4n + i]. What is in tiles the compiler does not know, so a product is one block of assembly
//! that begins and ends in memory. [`Emulated`] does the same by the definition, so that everything around it is
//! tested on processors without.
//!
//! The state of tiles is 8 KiB of a thread, which Linux keeps only for processes that ask for it.

use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile, and columns of the results.
pub(crate) const TILE_ROWS: usize = 16;

/// Whether the processor has tiles of bytes and the system keeps them for this process, which is asked once.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_keeps_tiles())
}

fn processor_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let wanted = TILE | INT8;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & wanted == wanted
}

/// Linux from 5.16 on; the permission holds for all threads of the process, those to come too.
#[cfg(target_os = "linux")]
fn system_keeps_tiles() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let mut result = ARCH_PRCTL as isize;
    // SAFETY: a system call that reads no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn system_keeps_tiles() -> bool {
    false
}

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
pub(crate) struct Hardware;

/// As `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn configure(rows: usize, bytes: usize) -> Hardware {
        let (m, k) = (rows as u8, (bytes / 4) as u8);
        let shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            // Results in 0 to 3, the left side in 4 and 5, the right one in 6 and 7.
            row_bytes: {
                let (all, k) = (64, bytes as u16);
                [all, all, all, all, k, k, all, all, 0, 0, 0, 0, 0, 0, 0, 0]
            },
            rows: [m, m, m, m, m, m, k, k, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        // SAFETY: 64 bytes that say what the instruction wants; the processor has it, by the caller's promise.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
        Hardware
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

impl Drop for Hardware {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: made by `configure`, so the processor has it. A thread without tiles is switched to faster.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
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
            if available() {
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
