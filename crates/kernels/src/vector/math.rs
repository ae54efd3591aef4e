//! Exponentials and what is made of them.
//!
//! Measured against f64 over their whole ranges (the tests below): `exp` is off by at most 1.5 units in the last place
//! (flushed to 0 below −87.3, infinite from 88.03 on), `tanh` by 3, `sigmoid` by 3; `normal_cdf`, the gate of the exact
//! GELU, by 8 for positive arguments and by a relative 4e-6 in the vanishing tail of negative ones. NaN goes through.

use super::Vector;

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
unsafe fn polynomial<V: Vector, const N: usize>(x: V::F, coefficients: [f32; N]) -> V::F {
    // SAFETY: see `super`.
    unsafe {
        let mut sum = V::splat(coefficients[N - 1]);
        for i in (0..N - 1).rev() {
            sum = V::fma(sum, x, V::splat(coefficients[i]));
        }
        sum
    }
}

/// (e^r − 1 − r) / r² for |r| ≤ ln 2 / 2: Chebyshev's interpolation, its error 1e-8 of e^r.
const EXP: [f32; 5] = [0.5, 0.166_665_77, 0.041_666_463, 0.008_363_197, 0.001_393_367_6];

/// (tanh x / x − 1) / x² as a polynomial in x² up to 0.4; error 2e-8.
const TANH: [f32; 5] = [-0.333_333_3, 0.133_327_33, -0.053_844_99, 0.020_968_188, -0.006_053_697_4];

/// erfc(x) e^(x²) / t as a polynomial in t = 1 / (1 + x / 2), for x from 0 to 18; error 7e-8.
const ERFC: [f32; 9] = [
    0.282_086_2,
    0.282_370_1,
    0.243_214_6,
    0.201_948_36,
    -0.024_168_71,
    0.273_489_76,
    -0.482_349_38,
    0.281_842_83,
    -0.058_433_77,
];

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe fn exp<V: Vector>(x: V::F) -> V::F {
    // SAFETY: see `super`.
    unsafe {
        let (low, high) = (V::splat(-87.3), V::splat(88.03));
        let inside = V::min(high, V::max(low, x));
        let n = V::round(V::mul(inside, V::splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, of which the first times n is exact.
        let r = V::fma(n, V::splat(-0.693_359_4), inside);
        let r = V::fma(n, V::splat(2.121_944_4e-4), r);
        let tail = V::mul(r, r);
        let one_and_r = V::add(V::splat(1.0), r);
        let power = V::scale(V::fma(polynomial::<V, 5>(r, EXP), tail, one_and_r), n);
        let power = V::where_less(x, low, V::zero(), power);
        V::where_less(high, x, V::splat(f32::INFINITY), power)
    }
}

/// 1 / (1 + e^-x)
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe fn sigmoid<V: Vector>(x: V::F) -> V::F {
    // SAFETY: see `super`.
    unsafe {
        let one = V::splat(1.0);
        V::div(one, V::add(one, exp::<V>(V::sub(V::zero(), x))))
    }
}

#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe fn tanh<V: Vector>(x: V::F) -> V::F {
    // SAFETY: see `super`.
    unsafe {
        let one = V::splat(1.0);
        let square = V::mul(x, x);
        let small = V::fma(V::mul(polynomial::<V, 5>(square, TANH), square), x, x);
        // 1 − 2 / (e^2|x| + 1), with x's sign.
        let magnitude = V::abs(x);
        let power = exp::<V>(V::add(magnitude, magnitude));
        let large = V::sub(one, V::div(V::splat(2.0), V::add(power, one)));
        let large = V::where_less(x, V::zero(), V::sub(V::zero(), large), large);
        V::where_less(magnitude, V::splat(0.625), small, large)
    }
}

/// The share of a normal distribution below `x`.
#[inline(always)]
#[allow(clippy::missing_safety_doc)]
pub(crate) unsafe fn normal_cdf<V: Vector>(x: V::F) -> V::F {
    // SAFETY: see `super`.
    unsafe {
        let one = V::splat(1.0);
        let half = V::splat(0.5);
        let z = V::mul(V::abs(x), V::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = V::div(one, V::fma(z, half, one));
        let square = V::mul(V::mul(x, x), V::splat(-0.5));
        let tail = V::mul(V::mul(exp::<V>(square), polynomial::<V, 9>(t, ERFC)), V::mul(t, half));
        V::where_less(x, V::zero(), tail, V::sub(one, tail))
    }
}

/// x + ln(1 + e^-x) for positive x, ln(1 + e^x) for negative: in f64, for the few numbers that want it.
pub(crate) fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    (x.max(0.0) + (-x.abs()).exp().ln_1p()) as f32
}

#[cfg(test)]
mod tests {
    use super::super::{Body, on};
    use super::*;
    use crate::isa;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
        NormalCdf,
    }

    struct Map<'a>(Function, &'a mut [f32]);

    impl Body for Map<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            for chunk in self.1.chunks_exact_mut(V::LANES) {
                // SAFETY: as in `super`.
                unsafe {
                    let x = V::load(chunk.as_ptr());
                    let y = match self.0 {
                        Function::Exp => exp::<V>(x),
                        Function::Sigmoid => sigmoid::<V>(x),
                        Function::Tanh => tanh::<V>(x),
                        Function::NormalCdf => normal_cdf::<V>(x),
                    };
                    V::store(chunk.as_mut_ptr(), y);
                }
            }
        }
    }

    /// erfc by its continued fraction or its series, to about 1e-13.
    fn erfc(x: f64) -> f64 {
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let fraction = (1..200).rev().fold(x, |f, n| x + f64::from(n) / 2.0 / f);
        (-x * x).exp() / fraction / std::f64::consts::PI.sqrt()
    }

    fn exact(function: Function, x: f64) -> f64 {
        match function {
            Function::Exp => x.exp(),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Tanh => x.tanh(),
            Function::NormalCdf if x < 0.0 => erfc(-x / 2f64.sqrt()) / 2.0,
            Function::NormalCdf => 1.0 - erfc(x / 2f64.sqrt()) / 2.0,
        }
    }

    /// The largest error over a range, in units of the result's last place.
    fn check(function: Function, (from, to): (f32, f32), ulps_max: f64) {
        let count = 1 << 16;
        let xs: Vec<f32> =
            (0..count).map(|i| from + (to - from) * i as f32 / (count - 1) as f32).collect();
        let wanted: Vec<f64> = xs.iter().map(|&x| exact(function, f64::from(x))).collect();
        for isa in isa::available() {
            let mut ys = xs.clone();
            // SAFETY: `available` names what the processor has.
            unsafe { on(isa, Map(function, &mut ys)) };
            for ((&x, &y), &want) in xs.iter().zip(&ys).zip(&wanted) {
                let unit = (want.abs() as f32).max(f32::MIN_POSITIVE);
                let unit = f64::from(unit.next_up() - unit);
                let ulps = (f64::from(y) - want).abs() / unit;
                assert!(ulps <= ulps_max, "{} {function:?}({x}) = {y}, off by {ulps}", isa.name());
            }
        }
    }

    #[test]
    fn accuracy() {
        check(Function::Exp, (-87.0, 88.0), 1.5);
        check(Function::Exp, (-1.0, 1.0), 1.5);
        check(Function::Sigmoid, (-80.0, 80.0), 3.0);
        check(Function::Tanh, (-1.0, 1.0), 3.0);
        check(Function::Tanh, (-20.0, 20.0), 3.0);
        check(Function::NormalCdf, (0.0, 12.0), 8.0);
        check(Function::NormalCdf, (-2.0, 0.0), 10.0);
        check(Function::NormalCdf, (-10.0, 0.0), 64.0);
    }

    #[test]
    fn the_ends() {
        for isa in isa::available() {
            let end = |function, x: f32| {
                let mut ys = [x; 16];
                // SAFETY: `available` names what the processor has.
                unsafe { on(isa, Map(function, &mut ys)) };
                ys[3]
            };
            assert_eq!(end(Function::Exp, 0.0), 1.0);
            assert_eq!(end(Function::Exp, f32::NEG_INFINITY), 0.0);
            assert_eq!(end(Function::Exp, -1000.0), 0.0);
            assert_eq!(end(Function::Exp, f32::INFINITY), f32::INFINITY);
            assert_eq!(end(Function::Sigmoid, -1e30), 0.0);
            assert_eq!(end(Function::Tanh, -1e30), -1.0);
            assert_eq!(end(Function::NormalCdf, 1e10), 1.0);
            assert_eq!(end(Function::NormalCdf, -1e10), 0.0);
            for function in [Function::Exp, Function::Sigmoid, Function::Tanh, Function::NormalCdf]
            {
                assert!(end(function, f32::NAN).is_nan(), "{} {function:?}", isa.name());
            }
        }
    }
}
