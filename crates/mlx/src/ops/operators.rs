//! `+ - * /` and `-x` on arrays and numbers. A number takes the array's dtype, so that it widens nothing; with integers
//! it becomes float32, as in MLX.

use crate::{Array, Dtype};
use std::ops::{Add, Div, Mul, Neg, Sub};

#[track_caller]
fn beside(number: f32, array: &Array) -> Array {
    let dtype = if array.dtype().is_float() { array.dtype() } else { Dtype::F32 };
    Array::scalar(f64::from(number), dtype)
}

macro_rules! operators {
    ($($trait:ident $method:ident = $operation:ident),*) => {$(
        operators!(@pair $trait $method $operation, &Array, &Array, |a, b| Array::$operation(a, b));
        operators!(@pair $trait $method $operation, Array, &Array, |a, b| Array::$operation(&a, b));
        operators!(@pair $trait $method $operation, &Array, Array, |a, b| Array::$operation(a, &b));
        operators!(@pair $trait $method $operation, Array, Array, |a, b| Array::$operation(&a, &b));
        operators!(@pair $trait $method $operation, &Array, f32, |a, b| Array::$operation(a, &beside(b, a)));
        operators!(@pair $trait $method $operation, Array, f32, |a, b| Array::$operation(&a, &beside(b, &a)));
        operators!(@pair $trait $method $operation, f32, &Array, |a, b| Array::$operation(&beside(a, b), b));
        operators!(@pair $trait $method $operation, f32, Array, |a, b| Array::$operation(&beside(a, &b), &b));
    )*};
    (@pair $trait:ident $method:ident $operation:ident, $left:ty, $right:ty, |$a:ident, $b:ident| $body:expr) => {
        impl $trait<$right> for $left {
            type Output = Array;

            #[track_caller]
            fn $method(self, other: $right) -> Array {
                let ($a, $b) = (self, other);
                $body
            }
        }
    };
}

operators!(Add add = add, Sub sub = subtract, Mul mul = multiply, Div div = divide);

impl Neg for &Array {
    type Output = Array;

    #[track_caller]
    fn neg(self) -> Array {
        self.negative()
    }
}

impl Neg for Array {
    type Output = Array;

    #[track_caller]
    fn neg(self) -> Array {
        self.negative()
    }
}
