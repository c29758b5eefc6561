//! The one-dimensional transforms, `y = Aᵀ [(G g) ⊙ (Bᵀ x)]`, in one place for every axis and every rank.
//!
//! F(m) computes m outputs of a kernel of r taps from m + r - 1 inputs with as many products. It is the transpose of
//! multiplying polynomials by their values at as many points, here `0, ±p ..., ∞`. With `P(x)` the product of all
//! `x - p` over the finite points,
//!
//! - row p of Bᵀ holds the coefficients of `P(x) / (x - p)`, that of ∞ those of `P(x)`;
//! - row p of G is `(1, p, p² ...) / P'(p)`, that of ∞ is `(0, ..., 0, 1)`;
//! - column p of Aᵀ is `(1, p, p² ...)`, that of ∞ is `(0, ..., 0, 1)`.
//!
//! Bᵀ depends on the points alone: 4 outputs of 3 taps and 3 outputs of 4 taps share it.
//!
//! The points decide the accuracy. F(2) has `0, ±1, ∞` and rounds less than the direct sum does. F(4) has
//! `0, ±11/16, ±3/2, ∞`: about twice the error of the direct sum, where the usual `0, ±1, ±2, ∞` have five times. In
//! three dimensions single elements are off by less than with 5/8, whose mean error is the same.

use crate::simd::{Simd, for_rows};

/// How an axis is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// A kernel of one tap: nothing to transform.
    One,
    /// 3 taps, tiles of 2 outputs.
    F2,
    /// 3 taps, tiles of 4 outputs.
    F4,
    /// 4 taps, tiles of 3 outputs.
    F3,
    /// 3 taps over a map whose cells are each read twice, tiles of 2 outputs: those of a cell. Both see it through the sum of
    /// all taps, and how its neighbour differs from it through the first or the last: 3 products.
    U2,
    /// The same, tiles of 6 outputs. Each parity of the outputs sees 2 taps of the map itself, and has tiles of 3 outputs
    /// from 4 products; the two share one of their points.
    U6,
}

/// The squares of the points of F(4) and F(3), their sum and their product: all of them exact.
const P: f32 = 0.6875;
const Q: f32 = 1.5;
const PP: f32 = P * P;
const QQ: f32 = Q * Q;

/// The derivatives of P at the points.
const ZERO_SLOPE: f64 = PP as f64 * QQ as f64;
const P_SLOPE: f64 = 2.0 * PP as f64 * (PP as f64 - QQ as f64);
const Q_SLOPE: f64 = 2.0 * QQ as f64 * (QQ as f64 - PP as f64);

impl Axis {
    /// Taps of the kernel.
    pub(super) fn taps(self) -> usize {
        match self {
            Axis::One => 1,
            Axis::F2 | Axis::F4 | Axis::U2 | Axis::U6 => 3,
            Axis::F3 => 4,
        }
    }

    /// Whether the cells of the map are each read twice.
    pub(super) fn enlarges(self) -> bool {
        matches!(self, Axis::U2 | Axis::U6)
    }

    /// Outputs of a tile.
    pub(super) fn outputs(self) -> usize {
        match self {
            Axis::One => 1,
            Axis::F2 | Axis::U2 => 2,
            Axis::F3 => 3,
            Axis::F4 => 4,
            Axis::U6 => 6,
        }
    }

    /// Inputs between tiles.
    pub(super) fn step(self) -> usize {
        self.outputs() / if self.enlarges() { 2 } else { 1 }
    }

    /// Inputs of a tile.
    pub(super) fn inputs(self) -> usize {
        if self.enlarges() { self.step() + 2 } else { self.points() }
    }

    /// Points at which the inputs are evaluated.
    pub(super) fn points(self) -> usize {
        match self {
            Axis::One => 1,
            Axis::U2 => 3,
            Axis::F2 => 4,
            Axis::F3 | Axis::F4 => 6,
            Axis::U6 => 7,
        }
    }

    /// Products of a tile.
    pub(super) fn products(self) -> usize {
        match self {
            Axis::One => 1,
            Axis::U2 => 3,
            Axis::F2 => 4,
            Axis::F3 | Axis::F4 => 6,
            Axis::U6 => 8,
        }
    }

    /// The point that a product is of.
    pub(super) fn point(self, product: usize) -> usize {
        if self == Axis::U6 && product >= 4 { product - 1 } else { product }
    }
}

/// `G g`: 3 taps to 3, 4, 6 or 8 products, 4 to 6, and a single one to itself.
///
/// An enlarged map's even outputs see 2 taps, `g0` and `g1 + g2`, its odd ones `g0 + g1` and `g2`: each pair has the points
/// of F(2).
#[inline(always)]
fn filter<S: Simd, const TAPS: usize, const PRODUCTS: usize>(s: S, g: [S::V; TAPS]) -> [S::V; PRODUCTS] {
    let mut y = [g[TAPS - 1]; PRODUCTS];
    let half = s.splat(0.5);
    if PRODUCTS == 3 {
        (y[0], y[1]) = (g[0], s.add(g[0], s.add(g[1], g[2])));
    } else if PRODUCTS == 4 {
        let (even, odd) = (s.mul(half, s.add(g[0], g[2])), s.mul(half, g[1]));
        y[0] = s.sub(s.splat(0.0), g[0]);
        (y[1], y[2]) = (s.add(even, odd), s.sub(even, odd));
    } else if PRODUCTS == 6 {
        y[0] = s.mul(g[0], s.splat((1.0 / ZERO_SLOPE) as f32));
        (y[1], y[2]) = filter_pair(s, g, P, P_SLOPE);
        (y[3], y[4]) = filter_pair(s, g, Q, Q_SLOPE);
    } else if PRODUCTS == 8 {
        for (at, [first, second]) in [(0, [g[0], s.add(g[1], g[2])]), (4, [s.add(g[0], g[1]), g[2]])] {
            let (even, odd) = (s.mul(half, first), s.mul(half, second));
            y[at] = s.sub(s.splat(0.0), first);
            (y[at + 1], y[at + 2]) = (s.add(even, odd), s.sub(even, odd));
            y[at + 3] = second;
        }
    }
    y
}

/// The rows of G for `±point`, at which P has the derivative `slope` and one of the same size.
#[inline(always)]
fn filter_pair<S: Simd, const TAPS: usize>(s: S, g: [S::V; TAPS], point: f32, slope: f64) -> (S::V, S::V) {
    let square = f64::from(point) * f64::from(point);
    let factors =
        [1.0, f64::from(point), square, square * f64::from(point)].map(|power| s.splat((power / slope) as f32));
    let even = s.fma(g[2], factors[2], s.mul(g[0], factors[0]));
    let mut odd = s.mul(g[1], factors[1]);
    if TAPS == 4 {
        odd = s.fma(g[3], factors[3], odd);
    }
    (s.add(even, odd), s.sub(even, odd))
}

/// `G` of lines of vectors: `(outer, taps, inner)`, one after the other, to `(outer, products, inner)`, `to.1` floats apart.
/// Asks for what is `AHEAD` floats after each vector that is written, if that is not 0.
///
/// # Safety
/// So many vectors must be readable and writable at those places.
#[inline(always)]
pub(super) unsafe fn filter_lines<S: Simd, const AHEAD: usize>(
    s: S,
    axis: Axis,
    [outer, inner]: [usize; 2],
    from: *const f32,
    to: (*mut f32, usize),
) {
    let (taps, products) = (axis.taps(), axis.products());
    for line in 0..outer * inner {
        let (i, j) = (line / inner, line % inner);
        let from = from.wrapping_add((i * taps * inner + j) * S::LANES);
        let (from, to) =
            ((from, inner * S::LANES), (to.0.wrapping_add((i * products * inner + j) * to.1), inner * to.1));
        // SAFETY: by this function's contract.
        unsafe {
            match axis {
                Axis::One => filter_line::<S, 1, 1, AHEAD>(s, from, to),
                Axis::F2 => filter_line::<S, 3, 4, AHEAD>(s, from, to),
                Axis::F4 => filter_line::<S, 3, 6, AHEAD>(s, from, to),
                Axis::F3 => filter_line::<S, 4, 6, AHEAD>(s, from, to),
                Axis::U2 => filter_line::<S, 3, 3, AHEAD>(s, from, to),
                Axis::U6 => filter_line::<S, 3, 8, AHEAD>(s, from, to),
            }
        }
    }
}

/// `G` of vectors to vectors: where each starts, and how far they are apart.
///
/// # Safety
/// `TAPS` vectors must be readable, `PRODUCTS` writable at those places.
#[inline(always)]
unsafe fn filter_line<S: Simd, const TAPS: usize, const PRODUCTS: usize, const AHEAD: usize>(
    s: S,
    from: (*const f32, usize),
    to: (*mut f32, usize),
) {
    // SAFETY: by this function's contract.
    let g = unsafe { read::<S, TAPS>(s, from.0, from.1) };
    let y: [S::V; PRODUCTS] = filter(s, g);
    for_rows!(PRODUCTS, i, {
        // SAFETY: as above.
        unsafe { s.store(to.0.add(i * to.1), y[i]) };
        if AHEAD > 0 {
            s.prefetch(to.0.wrapping_add(i * to.1 + AHEAD));
        }
    });
}

/// `Bᵀ x`: 3 inputs to 3 points, 4 to 4, 6 to 6 or 5 to 7.
#[inline(always)]
pub(super) fn input<S: Simd, const INPUTS: usize, const POINTS: usize>(s: S, x: [S::V; INPUTS]) -> [S::V; POINTS] {
    let mut y = [x[0]; POINTS];
    if POINTS == 6 {
        let (sum, product) = (s.splat(-(PP + QQ)), s.splat(PP * QQ));
        y[0] = s.fma(x[0], product, s.fma(x[2], sum, x[4]));
        y[5] = s.fma(x[1], product, s.fma(x[3], sum, x[5]));
        (y[1], y[2]) = pair(s, [x[1], x[2], x[3], x[4]], P, QQ);
        (y[3], y[4]) = pair(s, [x[1], x[2], x[3], x[4]], Q, PP);
        return y;
    }
    if POINTS == 3 {
        (y[0], y[1], y[2]) = (s.sub(x[0], x[1]), x[1], s.sub(x[2], x[1]));
        return y;
    }
    y[0] = s.sub(x[2], x[0]);
    y[1] = s.add(x[2], x[1]);
    y[2] = s.sub(x[2], x[1]);
    y[3] = s.sub(x[3], x[1]);
    if POINTS == 7 {
        // The last point of the even outputs is the first of the odd ones, which start one input further on.
        y[4] = s.add(x[3], x[2]);
        y[5] = s.sub(x[3], x[2]);
        y[6] = s.sub(x[4], x[2]);
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

/// `Aᵀ x`: 3 or 4 products to 2 outputs, 6 to 3 or 4, 8 to 6.
#[inline(always)]
pub(super) fn output<S: Simd, const PRODUCTS: usize, const OUTPUTS: usize>(
    s: S,
    x: [S::V; PRODUCTS],
) -> [S::V; OUTPUTS] {
    let mut y = [x[0]; OUTPUTS];
    if PRODUCTS == 3 {
        (y[0], y[1]) = (s.add(x[1], x[0]), s.add(x[1], x[2]));
        return y;
    }
    let (sum, difference) = (s.add(x[1], x[2]), s.sub(x[1], x[2]));
    if PRODUCTS == 4 {
        y[0] = s.add(x[0], sum);
        y[1] = s.add(difference, x[3]);
    } else if PRODUCTS == 8 {
        let (sum_odd, difference_odd) = (s.add(x[5], x[6]), s.sub(x[5], x[6]));
        y[0] = s.add(x[0], sum);
        y[2] = difference;
        y[4] = s.add(sum, x[3]);
        y[1] = s.add(x[4], sum_odd);
        y[3] = difference_odd;
        y[5] = s.add(sum_odd, x[7]);
    } else {
        let (sum_q, difference_q) = (s.add(x[3], x[4]), s.sub(x[3], x[4]));
        y[0] = s.add(x[0], s.add(sum, sum_q));
        y[1] = s.fma(difference_q, s.splat(Q), s.mul(difference, s.splat(P)));
        if OUTPUTS == 3 {
            y[2] = s.fma(sum_q, s.splat(QQ), s.fma(sum, s.splat(PP), x[5]));
        } else {
            y[2] = s.fma(sum_q, s.splat(QQ), s.mul(sum, s.splat(PP)));
            y[3] = s.fma(difference_q, s.splat(Q * QQ), s.fma(difference, s.splat(P * PP), x[5]));
        }
    }
    y
}

/// `A y`, the transposed of [`output`]: 2 outputs to 4 products, 4 to 6, and a single one to itself.
#[inline(always)]
pub(super) fn spread<S: Simd, const OUTPUTS: usize, const PRODUCTS: usize>(
    s: S,
    y: [S::V; OUTPUTS],
) -> [S::V; PRODUCTS] {
    let mut x = [y[0]; PRODUCTS];
    if PRODUCTS == 4 {
        (x[1], x[2]) = (s.add(y[0], y[1]), s.sub(y[0], y[1]));
        x[3] = y[1];
    } else if PRODUCTS == 6 {
        (x[1], x[2]) = spread_pair(s, [y[0], y[1], y[2], y[3]], P, PP);
        (x[3], x[4]) = spread_pair(s, [y[0], y[1], y[2], y[3]], Q, QQ);
        x[5] = y[3];
    }
    x
}

/// The values at `±point` of the polynomial with these coefficients.
#[inline(always)]
fn spread_pair<S: Simd>(s: S, y: [S::V; 4], point: f32, square: f32) -> (S::V, S::V) {
    let square = s.splat(square);
    let (even, odd) = (s.fma(y[2], square, y[0]), s.fma(y[3], square, y[1]));
    (s.fma(odd, s.splat(point), even), s.fma(odd, s.splat(-point), even))
}

/// `Gᵀ u`, the transposed of the transform of weights: 4 or 6 products to 3 taps, and a single one to itself.
#[inline(always)]
fn fold<S: Simd, const PRODUCTS: usize, const TAPS: usize>(s: S, u: [S::V; PRODUCTS]) -> [S::V; TAPS] {
    let mut g = [u[0]; TAPS];
    if PRODUCTS == 1 {
        return g;
    }
    let (sum, difference) = (s.add(u[1], u[2]), s.sub(u[1], u[2]));
    if PRODUCTS == 4 {
        let half = s.splat(0.5);
        g[0] = s.fma(sum, half, s.sub(s.splat(0.0), u[0]));
        g[1] = s.mul(difference, half);
        g[2] = s.fma(sum, half, u[3]);
    } else {
        let (sum_q, difference_q) = (s.add(u[3], u[4]), s.sub(u[3], u[4]));
        let power = |point: f32, slope: f64, power: i32| s.splat((f64::from(point).powi(power) / slope) as f32);
        let [p, q] = [(P, P_SLOPE), (Q, Q_SLOPE)];
        let even = s.fma(sum_q, power(q.0, q.1, 0), s.mul(sum, power(p.0, p.1, 0)));
        g[0] = s.fma(u[0], s.splat((1.0 / ZERO_SLOPE) as f32), even);
        g[1] = s.fma(difference_q, power(q.0, q.1, 1), s.mul(difference, power(p.0, p.1, 1)));
        g[2] = s.fma(sum_q, power(q.0, q.1, 2), s.fma(sum, power(p.0, p.1, 2), u[5]));
    }
    g
}

/// `A` of vectors `from_stride` apart to vectors `to_stride` apart.
///
/// # Safety
/// `OUTPUTS` vectors must be readable, `PRODUCTS` writable at those places.
#[inline(always)]
pub(super) unsafe fn spread_line<S: Simd, const OUTPUTS: usize, const PRODUCTS: usize>(
    s: S,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: by this function's contract.
    let y = unsafe { read::<S, OUTPUTS>(s, from, from_stride) };
    let x: [S::V; PRODUCTS] = spread(s, y);
    for_rows!(PRODUCTS, i, {
        // SAFETY: as above.
        unsafe { s.store(to.add(i * to_stride), x[i]) };
    });
}

/// `Gᵀ` of vectors `from_stride` apart to vectors `to_stride` apart.
///
/// # Safety
/// `PRODUCTS` vectors must be readable, `TAPS` writable at those places.
#[inline(always)]
pub(super) unsafe fn fold_line<S: Simd, const PRODUCTS: usize, const TAPS: usize>(
    s: S,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: by this function's contract.
    let u = unsafe { read::<S, PRODUCTS>(s, from, from_stride) };
    let g: [S::V; TAPS] = fold(s, u);
    for_rows!(TAPS, i, {
        // SAFETY: as above.
        unsafe { s.store(to.add(i * to_stride), g[i]) };
    });
}

/// `Bᵀ` of vectors `from_stride` apart to vectors `to_stride` apart.
///
/// # Safety
/// `INPUTS` vectors must be readable, `POINTS` writable at those places.
#[inline(always)]
pub(super) unsafe fn input_line<S: Simd, const INPUTS: usize, const POINTS: usize>(
    s: S,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: by this function's contract.
    let x = unsafe { read::<S, INPUTS>(s, from, from_stride) };
    let y: [S::V; POINTS] = input(s, x);
    for_rows!(POINTS, i, {
        // SAFETY: as above.
        unsafe { s.store(to.add(i * to_stride), y[i]) };
    });
}

/// `Aᵀ` of vectors `from_stride` apart to vectors `to_stride` apart.
///
/// # Safety
/// `PRODUCTS` vectors must be readable, `OUTPUTS` writable at those places.
#[inline(always)]
pub(super) unsafe fn output_line<S: Simd, const PRODUCTS: usize, const OUTPUTS: usize>(
    s: S,
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: by this function's contract.
    let x = unsafe { read::<S, PRODUCTS>(s, from, from_stride) };
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
