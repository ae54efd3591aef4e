//! One vocabulary for the vector units, so that a product's loop is written once.
//!
//! [`Simd`] is a register width with its basic operations, [`Dot`] a way of multiplying bytes. A loop over them is
//! `#[inline(always)]` and has no instruction set of its own; the entry points that give it one (`target_feature`)
//! stand at the foot of the file that has the loop, made by [`entry_points`].
//!
//! Safety, for everything here: the caller runs inside an entry point of the right instruction set, and a pointer is
//! good for what the operation's name says it reads or writes.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

/// A vector unit. `F` is `LANES` f32, `I` is `LANES` i32, `B` is four times as many bytes.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Simd: Copy + 'static {
    const LANES: usize;
    const BYTES: usize = 4 * Self::LANES;
    type F: Copy;
    type I: Copy;
    type B: Copy;

    unsafe fn zero() -> Self::F;
    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn store_bf16(p: *mut u16, v: Self::F);
    unsafe fn store_f16(p: *mut u16, v: Self::F);
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// 8-bit floats (4 exponent bits, 3 of mantissa) divided by 256.
    unsafe fn load_e4m3(p: *const u8) -> Self::F;
    /// Powers of two: `2^(byte - 127)`, where byte 0 is 2^-127.
    unsafe fn load_e8m0(p: *const u8) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    unsafe fn sum(v: Self::F) -> f32;
    /// Asks for the cache line at `p`, which need not exist.
    unsafe fn prefetch(p: *const u8);

    unsafe fn zero_ints() -> Self::I;
    unsafe fn add_ints(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn to_f32(v: Self::I) -> Self::F;
    /// `LANES` vectors at `rows` become `LANES / 4` with a lane for each row: the sums of the row's first four lanes, of
    /// the next four, and so on. Where `halves`, `LANES / 2`: the sums of two lanes.
    unsafe fn part_sums(rows: *mut Self::I, halves: bool);

    unsafe fn load_bytes(p: *const u8) -> Self::B;
    unsafe fn as_floats(v: Self::B) -> Self::F;
    unsafe fn as_bytes(v: Self::F) -> Self::B;
    /// Pairs of bf16: the first ones, then the second ones.
    unsafe fn widen_pairs(v: Self::B) -> [Self::F; 2];
    unsafe fn store_bytes(p: *mut u8, v: Self::B);
    unsafe fn splat_byte(value: u8) -> Self::B;
    /// Every lane gets the four bytes at `p`.
    unsafe fn splat_dword(p: *const u8) -> Self::B;
    unsafe fn and(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn xor(a: Self::B, b: Self::B) -> Self::B;
    /// Shifts 16-bit units to the right by 2, 4 or 6.
    unsafe fn shift_right<const BITS: u32>(v: Self::B) -> Self::B;
    /// Sixteen bytes repeated in every 128 bits.
    unsafe fn load_table(p: *const u8) -> Self::B;
    /// Looks bytes below 16 up in a table made by `load_table`.
    unsafe fn look_up(table: Self::B, index: Self::B) -> Self::B;
    /// `BYTES` codes of 3, 5 or 6 bits in their order; reads up to `spread_reads::<BITS>()` bytes.
    unsafe fn spread<const BITS: usize>(p: *const u8) -> Self::B;

    /// `LANES` vectors at `rows`, seen as a square of 4-byte units, are transposed in place.
    unsafe fn transpose(rows: *mut Self::B);
    unsafe fn transpose_floats(rows: *mut Self::F);
}

/// How many bytes [`Simd::spread`] reads: each 128-bit part loads 16 bytes and uses the first `2 * bits` of them.
pub(crate) const fn spread_reads(bytes: usize, bits: usize) -> usize {
    (bytes / 16 - 1) * 2 * bits + 16
}

/// A way of multiplying codes (bytes 0 to some maximum) with signed bytes −127..=127 and adding fours of products.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Dot<V: Simd>: 'static {
    /// How many dots a sum takes before it must be widened.
    const STEPS: usize;
    /// Whether a dot is one instruction, which needs no register besides its operands.
    const FUSED: bool;
    /// Bits of codes that [`Self::dot`] takes turned: 128 where codes of 8 bits must be signed.
    const FLIP: u8 = 0;
    unsafe fn dot(sum: V::I, codes: V::B, x: V::B) -> V::I;
    #[inline(always)]
    unsafe fn prepare(codes: V::B) -> V::B {
        if const { Self::FLIP == 0 } {
            return codes;
        }
        // SAFETY: as in the module's head.
        unsafe { V::xor(codes, V::splat_byte(Self::FLIP)) }
    }
    /// A sum's lanes, where they are not 32 bits wide already.
    #[inline(always)]
    unsafe fn widen(sum: V::I) -> V::I {
        sum
    }

    /// Whether [`Self::two_dots`] is one operation.
    const TWOS: bool = false;
    /// Codes of two units of columns for [`Self::two_dots`].
    #[inline(always)]
    unsafe fn join(codes: [V::B; 2]) -> [V::B; 2] {
        codes
    }
    /// Two units of columns, which follow each other at `x`, for two rows of activations.
    #[inline(always)]
    unsafe fn two_dots(sums: [V::I; 2], codes: [V::B; 2], x: [*const u8; 2]) -> [V::I; 2] {
        // SAFETY: as in the module's head.
        each(|i| unsafe {
            let first = Self::dot(sums[i], codes[0], V::splat_dword(x[i]));
            Self::dot(first, codes[1], V::splat_dword(x[i].add(4)))
        })
    }
    /// What `two_dots` added, by row.
    #[inline(always)]
    unsafe fn widen_two(sums: [V::I; 2]) -> [V::I; 2] {
        // SAFETY: as above.
        each(|i| unsafe { Self::widen(sums[i]) })
    }
}

/// What multiplies codes up to some maximum, on processors that do not take any byte as it is.
pub(crate) trait Codes: 'static {
    /// [`Pairs`] or [`Signed`].
    #[cfg(target_arch = "x86_64")]
    type Pairs: Dot<avx2::Avx2> + Dot<avx512::Avx512>;
    #[cfg(target_arch = "aarch64")]
    type Mull: Dot<neon::Neon>;
    #[cfg(target_arch = "aarch64")]
    type Sdot: Dot<neon::Neon>;
    #[cfg(target_arch = "aarch64")]
    type Smmla: Dot<neon::Neon>;
}

/// Codes of fewer than 8 bits, `STEPS` of whose products may be added in 16 bits ([`pair_steps`]).
pub(crate) struct Small<const STEPS: usize>;
/// Codes of 8 bits.
pub(crate) struct Whole;

impl<const STEPS: usize> Codes for Small<STEPS> {
    #[cfg(target_arch = "x86_64")]
    type Pairs = Pairs<STEPS>;
    #[cfg(target_arch = "aarch64")]
    type Mull = neon::Mull<0>;
    #[cfg(target_arch = "aarch64")]
    type Sdot = neon::Sdot<0>;
    #[cfg(target_arch = "aarch64")]
    type Smmla = neon::Smmla<0>;
}

impl Codes for Whole {
    #[cfg(target_arch = "x86_64")]
    type Pairs = Signed;
    #[cfg(target_arch = "aarch64")]
    type Mull = neon::Mull<128>;
    #[cfg(target_arch = "aarch64")]
    type Sdot = neon::Sdot<128>;
    #[cfg(target_arch = "aarch64")]
    type Smmla = neon::Smmla<128>;
}

/// `[f(0), f(1), …]`. `std::array::from_fn` does the same and costs the compiler a dozen functions for each use, which
/// in loops that exist for many vectors and codes was half of the build.
#[inline(always)]
pub(crate) fn each<T: Copy, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut all = std::mem::MaybeUninit::<[T; N]>::uninit();
    let mut i = 0;
    while i < N {
        // SAFETY: inside the array.
        unsafe { all.as_mut_ptr().cast::<T>().add(i).write(f(i)) };
        i += 1;
    }
    // SAFETY: every element was written.
    unsafe { all.assume_init() }
}

/// `vpdpbusd`: any code, straight into 32 bits.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Direct;
/// Without it: pairs are added in 16 bits, `STEPS` times while codes are small enough.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Pairs<const STEPS: usize>;
/// Without it, for codes of 8 bits: shifted to be signed, and the sign moved to the other side.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Signed;

/// How often [`Pairs`] can add products of codes up to `max`.
pub(crate) const fn pair_steps(max: usize) -> usize {
    match 32_767 / (max * 254) {
        0 => 0,
        1 => 1,
        2..=3 => 2,
        4..=7 => 4,
        _ => 8,
    }
}

/// A table of the eight 16-bit factors and the shuffle that [`Simd::spread`] needs: value `i` of eight starts at bit
/// `i * bits`; its two bytes are brought into a 16-bit unit, multiplied so that it ends at the top, and shifted down.
pub(crate) struct Spread {
    pub shuffle: [[u8; 16]; 2],
    pub factor: [[u16; 8]; 2],
}

impl Spread {
    pub const fn new(bits: usize) -> Spread {
        let mut table = Spread { shuffle: [[0; 16]; 2], factor: [[0; 8]; 2] };
        let mut i = 0;
        while i < 16 {
            let (byte, bit) = (i * bits / 8, i * bits % 8);
            table.shuffle[i / 8][i % 8 * 2] = byte as u8;
            table.shuffle[i / 8][i % 8 * 2 + 1] = byte as u8 + 1;
            table.factor[i / 8][i % 8] = 1 << (16 - bits - bit);
            i += 1;
        }
        table
    }
}

/// Makes `fn $name(isa) -> Option<$type>` (`None` for the scalar path): for each instruction set a function with its
/// target features that inlines `$body::<Vector, Dot...>`.
macro_rules! entry_points {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$C:ident: $bound:ident>($($arg:ident: $type:ty),*) = $body:ident) => {
        $(#[$doc])*
        $vis fn $name<$C: $bound>(isa: $crate::Isa) -> Option<unsafe fn($($type),*)> {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::simd::{Codes, Direct, avx2::Avx2, avx512::Avx512};
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn avx2<$C: $bound>($($arg: $type),*) {
                    // SAFETY: the caller's promise, and the features are enabled here.
                    unsafe { $body::<Avx2, <$C::Codes as Codes>::Pairs, $C>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
                unsafe fn avx_vnni<$C: $bound>($($arg: $type),*) {
                    // SAFETY: as above.
                    unsafe { $body::<Avx2, Direct, $C>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
                unsafe fn avx512<$C: $bound>($($arg: $type),*) {
                    // SAFETY: as above.
                    unsafe { $body::<Avx512, <$C::Codes as Codes>::Pairs, $C>($($arg),*) }
                }
                #[target_feature(
                    enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
                )]
                unsafe fn avx512_vnni<$C: $bound>($($arg: $type),*) {
                    // SAFETY: as above.
                    unsafe { $body::<Avx512, Direct, $C>($($arg),*) }
                }
                match isa {
                    $crate::Isa::Avx2 => Some(avx2::<$C>),
                    $crate::Isa::AvxVnni => Some(avx_vnni::<$C>),
                    $crate::Isa::Avx512 => Some(avx512::<$C>),
                    _ if isa.has_avx512() => Some(avx512_vnni::<$C>),
                    _ => None,
                }
            }
            #[cfg(target_arch = "aarch64")]
            {
                use $crate::simd::{Codes, neon::Neon};
                #[target_feature(enable = "neon")]
                unsafe fn neon<$C: $bound>($($arg: $type),*) {
                    // SAFETY: the caller's promise, and the features are enabled here.
                    unsafe { $body::<Neon, <$C::Codes as Codes>::Mull, $C>($($arg),*) }
                }
                #[target_feature(enable = "neon,dotprod")]
                unsafe fn dotprod<$C: $bound>($($arg: $type),*) {
                    // SAFETY: as above.
                    unsafe { $body::<Neon, <$C::Codes as Codes>::Sdot, $C>($($arg),*) }
                }
                #[target_feature(enable = "neon,dotprod,i8mm")]
                unsafe fn i8mm<$C: $bound>($($arg: $type),*) {
                    // SAFETY: as above.
                    unsafe { $body::<Neon, <$C::Codes as Codes>::Smmla, $C>($($arg),*) }
                }
                match isa {
                    $crate::Isa::Neon => Some(neon::<$C>),
                    $crate::Isa::Dotprod => Some(dotprod::<$C>),
                    $crate::Isa::I8mm => Some(i8mm::<$C>),
                    _ => None,
                }
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            {
                let _ = isa;
                None
            }
        }
    };
}
pub(crate) use entry_points;

/// As [`entry_points`], for loops that need no [`Dot`].
macro_rules! float_entry_points {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$C:ident: $bound:ident>($($arg:ident: $type:ty),*) = $body:ident) => {
        $(#[$doc])*
        $vis fn $name<$C: $bound>(isa: $crate::Isa) -> Option<unsafe fn($($type),*)> {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn avx2<$C: $bound>($($arg: $type),*) {
                    // SAFETY: the caller's promise, and the features are enabled here.
                    unsafe { $body::<$crate::simd::avx2::Avx2, $C>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
                unsafe fn avx512<$C: $bound>($($arg: $type),*) {
                    // SAFETY: as above.
                    unsafe { $body::<$crate::simd::avx512::Avx512, $C>($($arg),*) }
                }
                match isa {
                    _ if isa.has_avx512() => Some(avx512::<$C>),
                    _ if isa.has_avx2() => Some(avx2::<$C>),
                    _ => None,
                }
            }
            #[cfg(target_arch = "aarch64")]
            {
                #[target_feature(enable = "neon")]
                unsafe fn neon<$C: $bound>($($arg: $type),*) {
                    // SAFETY: the caller's promise, and the features are enabled here.
                    unsafe { $body::<$crate::simd::neon::Neon, $C>($($arg),*) }
                }
                isa.has_neon().then_some(neon::<$C>)
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            {
                let _ = isa;
                None
            }
        }
    };
}
pub(crate) use float_entry_points;
