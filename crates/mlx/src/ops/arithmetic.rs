//! Element by element: arithmetic, comparisons, logic, bits.

use super::{op, op_options, raw_or_null};
use crate::cpu::rows;
use crate::meter::inside;
use crate::{Array, Dtype};
use kernels::Combine;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $function:ident),* $(,)?) => {
        impl Array {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self) -> Array {
                op!($function, [self], self.raw())
            }
        )*}
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $function:ident),* $(,)?) => {
        impl Array {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self, other: &Array) -> Array {
                op!($function, [self, other], self.raw(), other.raw())
            }
        )*}
    };
}

unary! {
    abs = mlx_abs, arccos = mlx_arccos, arcsin = mlx_arcsin, arctan = mlx_arctan, bitwise_invert = mlx_bitwise_invert,
    ceil = mlx_ceil, cos = mlx_cos, cosh = mlx_cosh, erf = mlx_erf, erfinv = mlx_erfinv, exp = mlx_exp, expm1 = mlx_expm1,
    floor = mlx_floor, isfinite = mlx_isfinite, isinf = mlx_isinf, isnan = mlx_isnan, log = mlx_log, log10 = mlx_log10,
    log1p = mlx_log1p, log2 = mlx_log2, logical_not = mlx_logical_not, negative = mlx_negative,
    reciprocal = mlx_reciprocal, rsqrt = mlx_rsqrt, sigmoid = mlx_sigmoid, sign = mlx_sign, sin = mlx_sin, sinh = mlx_sinh,
    sqrt = mlx_sqrt, square = mlx_square, tan = mlx_tan, tanh = mlx_tanh,
}

binary! {
    arctan2 = mlx_arctan2, bitwise_and = mlx_bitwise_and, bitwise_or = mlx_bitwise_or,
    bitwise_xor = mlx_bitwise_xor, divide = mlx_divide, equal = mlx_equal, floor_divide = mlx_floor_divide,
    greater = mlx_greater, greater_equal = mlx_greater_equal, left_shift = mlx_left_shift, less = mlx_less,
    less_equal = mlx_less_equal, logaddexp = mlx_logaddexp, logical_and = mlx_logical_and, logical_or = mlx_logical_or,
    maximum = mlx_maximum, minimum = mlx_minimum, not_equal = mlx_not_equal, power = mlx_power,
    remainder = mlx_remainder, right_shift = mlx_right_shift, subtract = mlx_subtract,
}

impl Array {
    #[track_caller]
    pub fn add(&self, other: &Array) -> Array {
        if let Some(result) = inside(|| rows::combine(Combine::Add, self, other)) {
            return result;
        }
        op!(mlx_add, [self, other], self.raw(), other.raw())
    }

    #[track_caller]
    pub fn multiply(&self, other: &Array) -> Array {
        if let Some(result) = inside(|| rows::combine(Combine::Multiply, self, other)) {
            return result;
        }
        op!(mlx_multiply, [self, other], self.raw(), other.raw())
    }

    /// To the nearest multiple of 10^-`decimals`, halves to even.
    #[track_caller]
    pub fn round(&self, decimals: i32) -> Array {
        op!(mlx_round, [self], self.raw(), decimals)
    }

    /// Into `[low, high]`, either of which may be open.
    #[track_caller]
    pub fn clip(&self, low: Option<&Array>, high: Option<&Array>) -> Array {
        op_options!(
            mlx_clip,
            [Some(self), low, high],
            self.raw(),
            raw_or_null(low),
            raw_or_null(high)
        )
    }

    #[track_caller]
    pub fn nan_to_num(&self, nan: f32, posinf: Option<f32>, neginf: Option<f32>) -> Array {
        op!(mlx_nan_to_num, [self], self.raw(), nan, posinf.into(), neginf.into())
    }

    /// x · sigmoid(x)
    #[track_caller]
    pub fn silu(&self) -> Array {
        self.multiply(&self.sigmoid())
    }

    #[track_caller]
    pub fn cast(&self, dtype: Dtype) -> Array {
        if dtype == self.dtype() {
            return self.clone();
        }
        op!(mlx_astype, [self], self.raw(), dtype as u32)
    }

    /// The same bits as another type; the last dimension grows or shrinks with the width.
    #[track_caller]
    pub fn view(&self, dtype: Dtype) -> Array {
        op!(mlx_view, [self], self.raw(), dtype as u32)
    }

    /// 8-bit floats (e4m3) held in `uint8`, widened.
    #[track_caller]
    pub fn from_fp8(&self, dtype: Dtype) -> Array {
        op!(mlx_from_fp8, [self], self.raw(), dtype as u32)
    }

    /// Rounded to 8-bit floats (e4m3), held in `uint8`.
    #[track_caller]
    pub fn to_fp8(&self) -> Array {
        op!(mlx_to_fp8, [self], self.raw())
    }
}

/// From `x` where `condition` holds, else from `y`.
#[track_caller]
pub fn where_(condition: &Array, x: &Array, y: &Array) -> Array {
    op!(mlx_where, [condition, x, y], condition.raw(), x.raw(), y.raw())
}
