//! Softmax over a list that comes in pieces (Milakov & Gimelshein 2018), with the weighted sum of values it is for.
//!
//! What a piece leaves behind, `width` queries side by side: a row of maxima, a row of sums of `exp(score - maximum)`,
//! and rows of values weighted by those exponentials. A later piece with a higher maximum scales all of it down.

use super::attention_mask::Visible;
use crate::simd::{Kernel, Simd, math};

/// Turns a block of scores into exponentials, and scales what earlier blocks left.
pub(super) struct Update<'a> {
    /// Keys as rows, `width` queries in each.
    pub(super) scores: &'a mut [f32],
    /// Maxima, then sums.
    pub(super) sums: &'a mut [f32],
    /// Rows of weighted values.
    pub(super) values: &'a mut [f32],
    pub(super) width: usize,
    /// Multiplies the scores first.
    pub(super) scale: f32,
    pub(super) visible: Option<Visible<'a>>,
    /// There are no earlier blocks: what is in `sums` and `values` is not defined.
    pub(super) first: bool,
}

/// The maximum to subtract: 0 where nothing is seen, so that the exponentials are 0 and not NaN.
#[inline(always)]
fn origin<S: Simd>(simd: S, maximum: S::V) -> S::V {
    simd.select(simd.less(maximum, simd.splat(f32::MIN)), simd.splat(0.0), maximum)
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        assert!(self.sums.len() == 2 * self.width && self.width.is_multiple_of(S::LANES));
        assert!(self.scores.len().is_multiple_of(self.width) && self.values.len().is_multiple_of(self.width));
        for column in (0..self.width).step_by(S::LANES) {
            // SAFETY: `column` is the start of a vector inside every row.
            unsafe { self.column(simd, column) };
        }
    }
}

impl Update<'_> {
    /// # Safety
    /// A vector from `column` must be inside the rows.
    #[inline(always)]
    unsafe fn column<S: Simd>(&mut self, simd: S, column: usize) {
        let width = self.width;
        let lowest = simd.splat(f32::NEG_INFINITY);
        let (scale, zero) = (simd.splat(self.scale), simd.splat(0.0));
        // SAFETY: by this function's contract, and the assertions of `run`.
        let (before, sum) = unsafe {
            match self.first {
                true => (lowest, zero),
                false => (simd.load(self.sums.as_ptr().add(column)), simd.load(self.sums.as_ptr().add(width + column))),
            }
        };
        let mut maximum = before;
        for (key, row) in self.scores.chunks_exact_mut(width).enumerate() {
            // SAFETY: as above.
            unsafe {
                let at = row.as_mut_ptr().add(column);
                let mut score = simd.mul(simd.load(at), scale);
                if let Some(visible) = &self.visible {
                    score = visible.apply(simd, score, key, column);
                }
                maximum = simd.max(maximum, score);
                simd.store(at, score);
            }
        }
        let origin = origin(simd, maximum);
        let correction = math::exp(simd, simd.sub(before, origin));
        let mut sum = simd.mul(sum, correction);
        for row in self.scores.chunks_exact_mut(width) {
            // SAFETY: as above.
            unsafe {
                let at = row.as_mut_ptr().add(column);
                let power = math::exp(simd, simd.sub(simd.load(at), origin));
                sum = simd.add(sum, power);
                simd.store(at, power);
            }
        }
        // SAFETY: as above.
        unsafe {
            simd.store(self.sums.as_mut_ptr().add(column), maximum);
            simd.store(self.sums.as_mut_ptr().add(width + column), sum);
        }
        for row in self.values.chunks_exact_mut(width) {
            // SAFETY: as above.
            unsafe {
                let at = row.as_mut_ptr().add(column);
                simd.store(at, if self.first { zero } else { simd.mul(simd.load(at), correction) });
            }
        }
    }
}

/// Makes one result of what several pieces left: rows of values divided by the sums, in place of the first piece's. In
/// place of its maxima and sums come what [`Probabilities`] wants: what to subtract from scores, and 1 divided by the sum.
pub(super) struct Combine<'a> {
    /// The pieces, `pitch` apart; in each, from `start`, the maxima, sums and values of this panel.
    pub(super) pieces: &'a mut [f32],
    pub(super) pitch: usize,
    pub(super) start: usize,
    /// Rows of values.
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Kernel for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { pieces, pitch, start, rows, width } = self;
        assert!(width.is_multiple_of(S::LANES) && start + (2 + rows) * width <= pitch);
        assert!(pieces.len().is_multiple_of(pitch));
        let count = pieces.len() / pitch;
        let zero = simd.splat(0.0);
        for column in (0..width).step_by(S::LANES) {
            let place = |piece: usize, row: usize| piece * pitch + start + row * width + column;
            let mut maximum = simd.splat(f32::NEG_INFINITY);
            for piece in 0..count {
                // SAFETY: the rows of a panel end inside its piece.
                maximum = simd.max(maximum, unsafe { simd.load(pieces.as_ptr().add(place(piece, 0))) });
            }
            let origin = origin(simd, maximum);
            let mut sum = zero;
            for piece in 0..count {
                // SAFETY: as above. The factor of a piece takes the place of its maximum.
                unsafe {
                    let at = pieces.as_mut_ptr().add(place(piece, 0));
                    let factor = math::exp(simd, simd.sub(simd.load(at), origin));
                    sum = simd.fma(simd.load(pieces.as_ptr().add(place(piece, 1))), factor, sum);
                    simd.store(at, factor);
                }
            }
            // A query that sees nothing has the sum 0 and gets 0; every other sum is 1 or more, or NaN.
            let inverse = simd.select(simd.less(sum, simd.splat(0.5)), zero, simd.div(simd.splat(1.0), sum));
            for row in 2..2 + rows {
                let mut value = zero;
                for piece in 0..count {
                    // SAFETY: as above.
                    unsafe {
                        let factor = simd.load(pieces.as_ptr().add(place(piece, 0)));
                        value = simd.fma(simd.load(pieces.as_ptr().add(place(piece, row))), factor, value);
                    }
                }
                // SAFETY: as above.
                unsafe { simd.store(pieces.as_mut_ptr().add(place(0, row)), simd.mul(value, inverse)) };
            }
            // SAFETY: as above.
            unsafe {
                simd.store(pieces.as_mut_ptr().add(place(0, 0)), origin);
                simd.store(pieces.as_mut_ptr().add(place(0, 1)), inverse);
            }
        }
    }
}

/// Backward through a block: turns scores into probabilities `p`, and what `p` is multiplied by into gradients of the scores
/// before they were scaled, `p * (product - share) * scale`.
pub(super) struct Probabilities<'a> {
    /// Keys as rows, a panel of queries in each.
    pub(super) scores: &'a mut [f32],
    /// The gradients of the probabilities, laid out as the scores.
    pub(super) products: &'a mut [f32],
    /// What [`Combine`] left: origins, then inverse sums.
    pub(super) statistics: &'a [f32],
    /// Of each query the sum of all `p * product`.
    pub(super) shares: &'a [f32],
    /// Multiplies the scores first.
    pub(super) scale: f32,
    pub(super) visible: Option<Visible<'a>>,
}

impl Kernel for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { scores, products, statistics, shares, scale, visible } = self;
        let (width, scale) = (shares.len(), simd.splat(scale));
        assert!(width.is_multiple_of(S::LANES) && statistics.len() == 2 * width);
        assert!(scores.len() == products.len() && scores.len().is_multiple_of(width));
        for column in (0..width).step_by(S::LANES) {
            // SAFETY: a vector from `column` is inside every row.
            let (origin, inverse, share) = unsafe {
                (
                    simd.load(statistics.as_ptr().add(column)),
                    simd.load(statistics.as_ptr().add(width + column)),
                    simd.load(shares.as_ptr().add(column)),
                )
            };
            let rows = scores.chunks_exact_mut(width).zip(products.chunks_exact_mut(width));
            for (key, (scores, products)) in rows.enumerate() {
                // SAFETY: as above.
                unsafe {
                    let mut score = simd.mul(simd.load(scores.as_ptr().add(column)), scale);
                    if let Some(visible) = &visible {
                        score = visible.apply(simd, score, key, column);
                    }
                    let p = simd.mul(math::exp(simd, simd.sub(score, origin)), inverse);
                    simd.store(scores.as_mut_ptr().add(column), p);
                    let distance = simd.sub(simd.load(products.as_ptr().add(column)), share);
                    simd.store(products.as_mut_ptr().add(column), simd.mul(simd.mul(p, distance), scale));
                }
            }
        }
    }
}
