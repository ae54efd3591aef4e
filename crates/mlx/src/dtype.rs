//! Element types: MLX's enumeration and the Rust types that carry the same bits.

use half::{bf16, f16};
use std::fmt;

/// MLX's element types, with the numbers of `mlx_dtype`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Dtype {
    Bool = 0,
    U8 = 1,
    U16 = 2,
    U32 = 3,
    U64 = 4,
    I8 = 5,
    I16 = 6,
    I32 = 7,
    I64 = 8,
    F16 = 9,
    F32 = 10,
    F64 = 11,
    Bf16 = 12,
    Complex64 = 13,
}

const ALL: [Dtype; 14] = [
    Dtype::Bool,
    Dtype::U8,
    Dtype::U16,
    Dtype::U32,
    Dtype::U64,
    Dtype::I8,
    Dtype::I16,
    Dtype::I32,
    Dtype::I64,
    Dtype::F16,
    Dtype::F32,
    Dtype::F64,
    Dtype::Bf16,
    Dtype::Complex64,
];

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 | Dtype::Complex64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F16 | Dtype::F32 | Dtype::F64 | Dtype::Bf16)
    }

    pub(crate) fn from_raw(raw: u32) -> Dtype {
        ALL.get(raw as usize)
            .copied()
            .unwrap_or_else(|| panic!("MLX names a dtype {raw} that its headers lack"))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::Bool => "bool",
            Dtype::U8 => "uint8",
            Dtype::U16 => "uint16",
            Dtype::U32 => "uint32",
            Dtype::U64 => "uint64",
            Dtype::I8 => "int8",
            Dtype::I16 => "int16",
            Dtype::I32 => "int32",
            Dtype::I64 => "int64",
            Dtype::F16 => "float16",
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
            Dtype::Bf16 => "bfloat16",
            Dtype::Complex64 => "complex64",
        })
    }
}

/// A Rust type with the bits of an MLX element: plain data, any bit pattern valid (so `bool` is not one; read `u8`s).
///
/// # Safety
/// `DTYPE` has the size of the type, and every bit pattern of that size is a value of it.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    const DTYPE: Dtype;

    /// Whether an array of `dtype` can be read as this type.
    fn reads(dtype: Dtype) -> bool {
        dtype == Self::DTYPE
    }
}

macro_rules! elements {
    ($($ty:ty = $dtype:ident),*) => {$(
        // SAFETY: a number of exactly that width.
        unsafe impl Element for $ty {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}

elements!(u16 = U16, u32 = U32, u64 = U64, i8 = I8, i16 = I16, i32 = I32, i64 = I64);
elements!(f16 = F16, f32 = F32, f64 = F64, bf16 = Bf16);

// SAFETY: a byte. A `bool` array holds one byte per element, 0 or 1.
unsafe impl Element for u8 {
    const DTYPE: Dtype = Dtype::U8;

    fn reads(dtype: Dtype) -> bool {
        matches!(dtype, Dtype::U8 | Dtype::Bool)
    }
}
