//! Transcendental functions on vectors. NaN stays NaN; infinities give the limits.

use std::f32::consts::FRAC_2_SQRT_PI;

use super::Simd;

/// `coefficients[0] + coefficients[1] x + ...`
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut sum = s.splat(coefficients[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.fma(sum, x, s.splat(coefficients[i]));
    }
    sum
}

/// Splits `x = n ln 2 + r` with |r| <= ln 2 / 2; returns `n` and `e^r - 1`.
#[inline(always)]
fn reduced_exponential<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    // The high part has so few bits that n times it is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Beyond these the result is 0 or infinity; the order of the operands keeps NaN.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    // The Taylor series: its remainder at ln 2 / 2 is 5e-9 of the result.
    let series = [1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    let tail = polynomial(s, r, series);
    (n, s.fma(s.mul(r, r), tail, r))
}

/// `e^x`
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let (n, minus_one) = reduced_exponential(s, x);
    // Two factors, so that neither leaves the range of exponents even where the result does.
    let half = s.floor(s.mul(n, s.splat(0.5)));
    let first = s.power_of_two(half);
    let second = s.power_of_two(s.sub(n, half));
    s.mul(s.mul(s.add(minus_one, s.splat(1.0)), first), second)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// The hyperbolic tangent, as `m / (m + 2)` with `m = e^2x - 1`, which keeps small arguments exact.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond 10 the result is 1; the square of e^20 is no overflow.
    let bounded = s.max(s.splat(-10.0), s.min(s.splat(10.0), x));
    let (n, minus_one) = reduced_exponential(s, s.add(bounded, bounded));
    let scale = s.power_of_two(n);
    let m = s.fma(minus_one, scale, s.sub(scale, s.splat(1.0)));
    s.div(m, s.add(m, s.splat(2.0)))
}

/// The error function.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    // Minimax fits: erf(x) / x in x² below 1, ln(1 - erf(x)) in x - 2 from 1 to 4.
    const SMALL: [f32; 7] =
        [FRAC_2_SQRT_PI, -0.376_126_26, 0.112_835_85, -0.026_853_812, 5.188_327_6e-3, -8.010_193e-4, 7.853_86e-5];
    const LARGE: [f32; 9] = [
        -5.364_941,
        -4.418_161,
        -0.923_751,
        -1.646_461e-2,
        3.571_142_7e-3,
        -7.335_687e-4,
        1.352_281_7e-4,
        -1.971_350_8e-5,
        1.602_249_7e-6,
    ];
    let one = s.splat(1.0);
    let magnitude = s.abs(x);
    let square = s.mul(x, x);
    let small = s.mul(x, polynomial(s, square, SMALL));
    let shifted = s.sub(s.min(s.splat(4.0), magnitude), s.splat(2.0));
    let large = s.sub(one, exp(s, polynomial(s, shifted, LARGE)));
    let large = s.select(s.less(x, s.splat(0.0)), s.sub(s.splat(0.0), large), large);
    s.select(s.less(magnitude, one), small, large)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, dispatch};

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
        Erf,
    }

    struct Map<'a>(Function, &'a mut [f32]);

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for chunk in self.1.chunks_mut(S::LANES) {
                let mask = s.first(chunk.len());
                // SAFETY: the mask covers the chunk.
                let x = unsafe { s.load_masked(chunk.as_ptr(), mask) };
                let y = match self.0 {
                    Function::Exp => exp(s, x),
                    Function::Sigmoid => sigmoid(s, x),
                    Function::Tanh => tanh(s, x),
                    Function::Erf => erf(s, x),
                };
                // SAFETY: the mask covers the chunk.
                unsafe { s.store_masked(chunk.as_mut_ptr(), y, mask) };
            }
        }
    }

    /// erf in double precision: the Maclaurin series, or the continued fraction of erfc.
    fn erf_f64(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            return sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let magnitude = x.abs();
        let fraction = (1..60).rev().fold(0.0, |f, n| n as f64 / 2.0 / (magnitude + f));
        let erfc = (-x * x).exp() / (magnitude + fraction) / std::f64::consts::PI.sqrt();
        (1.0 - erfc).copysign(x)
    }

    /// The largest error over `range` in units of the last place of the exact result.
    fn worst(function: Function, range: (f32, f32), exact: fn(f64) -> f64) -> f64 {
        let count = 40_001;
        let step = (range.1 - range.0) / (count - 1) as f32;
        let x: Vec<f32> = (0..count).map(|i| range.0 + i as f32 * step).collect();
        let mut worst = 0.0f64;
        for isa in Isa::available() {
            let mut y = x.clone();
            dispatch(isa, Map(function, &mut y));
            for (&x, &y) in x.iter().zip(&y) {
                let want = exact(f64::from(x));
                let ulp = f64::from(f32::EPSILON) * want.abs().max(f64::from(f32::MIN_POSITIVE));
                worst = worst.max((f64::from(y) - want).abs() / ulp);
            }
        }
        worst
    }

    #[test]
    fn close_to_double_precision() {
        let errors = [
            ("exp", worst(Function::Exp, (-87.0, 88.5), f64::exp), 1.5),
            ("exp near 0", worst(Function::Exp, (-1.0, 1.0), f64::exp), 1.5),
            ("sigmoid", worst(Function::Sigmoid, (-80.0, 80.0), |x| 1.0 / (1.0 + (-x).exp())), 3.0),
            ("tanh", worst(Function::Tanh, (-12.0, 12.0), f64::tanh), 4.0),
            ("tanh near 0", worst(Function::Tanh, (-0.5, 0.5), f64::tanh), 4.0),
            ("erf", worst(Function::Erf, (-6.0, 6.0), erf_f64), 3.0),
            ("erf near 0", worst(Function::Erf, (-0.1, 0.1), erf_f64), 3.0),
        ];
        for (name, error, limit) in errors {
            println!("{name}: {error:.2} ulp");
            assert!(error <= limit, "{name}: {error} ulp");
        }
    }

    #[test]
    fn limits() {
        let x = [f32::NEG_INFINITY, -200.0, -0.0, 0.0, 200.0, f32::INFINITY, f32::NAN];
        let apply = |isa, function| {
            let mut y = x;
            dispatch(isa, Map(function, &mut y));
            y
        };
        for isa in Isa::available() {
            let cases = [
                (Function::Exp, [0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]),
                (Function::Sigmoid, [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]),
                (Function::Tanh, [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]),
                (Function::Erf, [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]),
            ];
            for (function, want) in cases {
                let got = apply(isa, function);
                assert_eq!(got[..6], want);
                assert!(got[6].is_nan());
            }
        }
    }
}
