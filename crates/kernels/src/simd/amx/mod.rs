//! Tiles (AMX): whether they may be used here, and the products that the loops ask of them.
//!
//! The processor has eight tiles of up to 16 rows of 64 bytes, and multiplies two of them in 16 cycles: C[m][n] +=
//! Σ A[m][4k + i] · B[k][4n + i] in [`bytes`], twos instead of fours in pairs of bf16 ([`pairs`]). What is in tiles the
//! compiler does not know, so a product is one block of assembly that begins and ends in memory. Each has an emulation
//! by the definition, so that everything around it is tested on processors without.
//!
//! The state of tiles is 8 KiB of a thread, which Linux keeps only for processes that ask for it.

pub(crate) mod bytes;
pub(crate) mod pairs;

use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile, and columns of the results.
pub(crate) const TILE_ROWS: usize = 16;

/// Whether the processor has tiles of bytes and of bf16, and the system keeps them for this process, which is asked once.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_keeps_tiles())
}

fn processor_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let wanted = TILE | INT8 | BF16;
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

/// As `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles of a thread in use, until this is dropped: results in 0 to 3, left sides in 4 and 5, right ones in 6 and 7.
struct Configured;

impl Configured {
    /// For left sides of `rows` rows (at most 16) of `bytes` bytes (at most 64, a multiple of four), and 16 columns.
    ///
    /// # Safety
    /// The processor has tiles, and the process their state.
    #[inline(always)]
    unsafe fn new(rows: usize, bytes: usize) -> Configured {
        let (m, k) = (rows as u8, (bytes / 4) as u8);
        let (all, part) = (64, bytes as u16);
        let shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [all, all, all, all, part, part, all, all, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [m, m, m, m, m, m, k, k, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        // SAFETY: 64 bytes that say what the instruction wants; the processor has it, by the caller's promise.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
        Configured
    }
}

impl Drop for Configured {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: made by `new`, so the processor has it. A thread without tiles is switched to faster.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
