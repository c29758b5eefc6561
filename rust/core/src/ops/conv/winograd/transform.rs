//! The one-dimensional transforms, `y = Aᵀ [(G g) ⊙ (Bᵀ x)]`, in one place for every axis and every rank.
//!
//! F(m) computes m outputs of a kernel of 3 taps from m + 2 inputs with m + 2 products. It is the transpose of
//! multiplying polynomials by their values at m + 2 points, here `0, ±p ..., ∞`. With `P(x)` the product of all
//! `x - p` over the finite points,
//!
//! - row p of Bᵀ holds the coefficients of `P(x) / (x - p)`, that of ∞ those of `P(x)`;
//! - row p of G is `(1, p, p²) / P'(p)`, that of ∞ is `(0, 0, 1)`;
//! - column p of Aᵀ is `(1, p, p², ...)`, that of ∞ is `(0, ..., 0, 1)`.
//!
//! The points decide the accuracy. F(2) has `0, ±1, ∞` and rounds less than the direct sum does. F(4) has
//! `0, ±5/8, ±3/2, ∞`: about twice the error of the direct sum, where the usual `0, ±1, ±2, ∞` have five times.

use crate::simd::{Simd, for_rows};

/// How an axis is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// A kernel of one tap: nothing to transform.
    One,
    /// Tiles of 2 outputs.
    F2,
    /// Tiles of 4 outputs.
    F4,
}

/// The squares of the points of F(4), their sum and their product: all of them exact.
const P: f32 = 0.625;
const Q: f32 = 1.5;
const PP: f32 = P * P;
const QQ: f32 = Q * Q;

/// A finite point's row of G.
const fn row(point: f64, derivative: f64) -> [f64; 3] {
    [1.0 / derivative, point / derivative, point * point / derivative]
}

const P_SLOPE: f64 = 2.0 * PP as f64 * (PP as f64 - QQ as f64);
const Q_SLOPE: f64 = 2.0 * QQ as f64 * (QQ as f64 - PP as f64);
const FILTER_2: [[f64; 3]; 4] = [row(0.0, -1.0), row(1.0, 2.0), row(-1.0, 2.0), [0.0, 0.0, 1.0]];
const FILTER_4: [[f64; 3]; 6] = [
    row(0.0, PP as f64 * QQ as f64),
    row(P as f64, P_SLOPE),
    row(-P as f64, P_SLOPE),
    row(Q as f64, Q_SLOPE),
    row(-Q as f64, Q_SLOPE),
    [0.0, 0.0, 1.0],
];

impl Axis {
    /// Taps of the kernel.
    pub(super) fn taps(self) -> usize {
        if self == Axis::One { 1 } else { 3 }
    }

    /// Outputs of a tile.
    pub(super) fn outputs(self) -> usize {
        match self {
            Axis::One => 1,
            Axis::F2 => 2,
            Axis::F4 => 4,
        }
    }

    /// Inputs of a tile, and its products.
    pub(super) fn points(self) -> usize {
        self.outputs() + self.taps() - 1
    }

    /// G; the row of a single tap is 1.
    pub(super) fn filter(self) -> &'static [[f64; 3]] {
        match self {
            Axis::One => &[[1.0, 0.0, 0.0]],
            Axis::F2 => &FILTER_2,
            Axis::F4 => &FILTER_4,
        }
    }
}

/// `Bᵀ x`, for 4 points or 6.
#[inline(always)]
pub(super) fn input<S: Simd, const POINTS: usize>(s: S, x: [S::V; POINTS]) -> [S::V; POINTS] {
    let mut y = x;
    if POINTS == 4 {
        y[0] = s.sub(x[2], x[0]);
        y[1] = s.add(x[2], x[1]);
        y[2] = s.sub(x[2], x[1]);
        y[3] = s.sub(x[3], x[1]);
    } else {
        let (sum, product) = (s.splat(-(PP + QQ)), s.splat(PP * QQ));
        y[0] = s.fma(x[0], product, s.fma(x[2], sum, x[4]));
        y[5] = s.fma(x[1], product, s.fma(x[3], sum, x[5]));
        (y[1], y[2]) = pair(s, [x[1], x[2], x[3], x[4]], P, QQ);
        (y[3], y[4]) = pair(s, [x[1], x[2], x[3], x[4]], Q, PP);
    }
    y
}

/// The rows of Bᵀ for `±point`, where `other` is the square of the other two points.
#[inline(always)]
fn pair<S: Simd>(s: S, x: [S::V; 4], point: f32, other: f32) -> (S::V, S::V) {
    let other = s.splat(-other);
    let (even, odd) = (s.fma(x[1], other, x[3]), s.fma(x[0], other, x[2]));
    (s.fma(odd, s.splat(point), even), s.fma(odd, s.splat(-point), even))
}

/// `Aᵀ x`, for 4 points or 6.
#[inline(always)]
pub(super) fn output<S: Simd, const POINTS: usize, const OUTPUTS: usize>(s: S, x: [S::V; POINTS]) -> [S::V; OUTPUTS] {
    let mut y = [x[0]; OUTPUTS];
    let (sum, difference) = (s.add(x[1], x[2]), s.sub(x[1], x[2]));
    if POINTS == 4 {
        y[0] = s.add(x[0], sum);
        y[1] = s.add(difference, x[3]);
    } else {
        let (sum_q, difference_q) = (s.add(x[3], x[4]), s.sub(x[3], x[4]));
        y[0] = s.add(x[0], s.add(sum, sum_q));
        y[1] = s.fma(difference_q, s.splat(Q), s.mul(difference, s.splat(P)));
        y[2] = s.fma(sum_q, s.splat(QQ), s.mul(sum, s.splat(PP)));
        y[3] = s.fma(difference_q, s.splat(Q * QQ), s.fma(difference, s.splat(P * PP), x[5]));
    }
    y
}

/// `Bᵀ` of vectors `from_stride` apart to vectors `to_stride` apart.
///
/// # Safety
/// `POINTS` vectors must be readable and writable at those places.
#[inline(always)]
pub(super) unsafe fn input_line<S: Simd, const POINTS: usize>(
    s: S,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: by this function's contract.
    let x = unsafe { read::<S, POINTS>(s, from, from_stride) };
    let y = input(s, x);
    for_rows!(POINTS, i, {
        // SAFETY: as above.
        unsafe { s.store(to.add(i * to_stride), y[i]) };
    });
}

/// `Aᵀ` of vectors `from_stride` apart to vectors `to_stride` apart.
///
/// # Safety
/// `POINTS` vectors must be readable, `OUTPUTS` writable at those places.
#[inline(always)]
pub(super) unsafe fn output_line<S: Simd, const POINTS: usize, const OUTPUTS: usize>(
    s: S,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: by this function's contract.
    let x = unsafe { read::<S, POINTS>(s, from, from_stride) };
    let y: [S::V; OUTPUTS] = output(s, x);
    for_rows!(OUTPUTS, i, {
        // SAFETY: as above.
        unsafe { s.store(to.add(i * to_stride), y[i]) };
    });
}

/// Vectors `stride` apart.
///
/// # Safety
/// They must be readable.
#[inline(always)]
pub(super) unsafe fn read<S: Simd, const COUNT: usize>(s: S, from: *const f32, stride: usize) -> [S::V; COUNT] {
    let mut x = [s.splat(0.0); COUNT];
    for_rows!(COUNT, i, {
        // SAFETY: by this function's contract.
        x[i] = unsafe { s.load(from.add(i * stride)) };
    });
    x
}
