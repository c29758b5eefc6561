//! A block of points, turned so that lanes are points: one vector for each channel.
//!
//! Outputs are channels-last, and a loss works across the channels of a point. With few channels vectors along a row would
//! be mostly empty; with lanes as points every operation is whole for any number of channels.

use crate::simd::slices::load;
use crate::simd::{Simd, math};

/// A multiple of the lanes of every instruction set: the length of a column.
pub(super) const POINTS: usize = 16;

/// `c` columns of [`POINTS`] floats.
pub(super) struct Block {
    columns: Vec<[f32; POINTS]>,
}

impl Block {
    pub(super) fn new(c: usize) -> Self {
        Self { columns: vec![[0.0; POINTS]; c] }
    }

    /// Makes everything 0.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.columns.fill([0.0; POINTS]);
    }

    /// Takes the points of `rows`, at most [`POINTS`] of them; zeros after them.
    #[inline(always)]
    pub(super) fn read(&mut self, rows: &[f32]) {
        let c = self.columns.len();
        if rows.len() < c * POINTS {
            self.clear();
        }
        for (point, row) in rows.chunks_exact(c).enumerate() {
            for (column, &value) in self.columns.iter_mut().zip(row) {
                column[point] = value;
            }
        }
    }

    /// Puts the points into `rows`.
    #[inline(always)]
    pub(super) fn write(&self, rows: &mut [f32]) {
        for (point, row) in rows.chunks_exact_mut(self.columns.len()).enumerate() {
            for (value, column) in row.iter_mut().zip(&self.columns) {
                *value = column[point];
            }
        }
    }

    /// The channels, each of [`POINTS`] points.
    #[inline(always)]
    pub(super) fn columns(&self) -> &[[f32; POINTS]] {
        &self.columns
    }

    /// As [`Block::columns`], to be written.
    #[inline(always)]
    pub(super) fn columns_mut(&mut self) -> &mut [[f32; POINTS]] {
        &mut self.columns
    }
}

/// How the probabilities of a point follow from a network's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// `p = y`
    Identity,
    /// `p = 1 / (1 + e^-y)`, each channel by itself.
    Sigmoid,
    /// `p[k] = e^y[k] / sum of e^y`
    Softmax,
    /// `p[k] = y[k] / sum of y`: what Keras does to probabilities before it takes their logarithms.
    Normalise,
}

impl Link {
    /// Turns outputs into probabilities in place. Returns, for each point, what [`Link::backward`] wants to know (the sum
    /// that was divided by) and, for a softmax, the logarithm of the sum of the exponentials.
    #[inline(always)]
    pub(super) fn forward<S: Simd>(self, s: S, block: &mut Block) -> Sums {
        let mut sums = Sums::ONE;
        match self {
            Self::Identity => {}
            Self::Sigmoid => {
                for column in block.columns_mut() {
                    for at in lanes::<S>() {
                        let p = math::sigmoid(s, load(s, &column[at..]));
                        store(s, column, at, p);
                    }
                }
            }
            Self::Softmax => {
                for at in lanes::<S>() {
                    let mut largest = s.splat(f32::NEG_INFINITY);
                    for column in block.columns() {
                        largest = s.max_or_nan(largest, load(s, &column[at..]));
                    }
                    let mut sum = s.splat(0.0);
                    for column in block.columns_mut() {
                        let power = math::exp(s, s.sub(load(s, &column[at..]), largest));
                        sum = s.add(sum, power);
                        store(s, column, at, power);
                    }
                    divide(s, block, at, sum);
                    store(s, &mut sums.divisor, at, sum);
                    store(s, &mut sums.largest, at, largest);
                }
            }
            Self::Normalise => {
                for at in lanes::<S>() {
                    let mut sum = s.splat(0.0);
                    for column in block.columns() {
                        sum = s.add(sum, load(s, &column[at..]));
                    }
                    divide(s, block, at, sum);
                    store(s, &mut sums.divisor, at, sum);
                }
            }
        }
        sums
    }

    /// Turns `d_p` into `d_y` in place: with `p` as [`Link::forward`] left it,
    /// sigmoid `d_y = d_p p (1 - p)`, softmax `d_y[k] = p[k] (d_p[k] - sum of d_p p)`, normalisation
    /// `d_y[k] = (d_p[k] - sum of d_p p) / sum of y`.
    #[inline(always)]
    pub(super) fn backward<S: Simd>(self, s: S, p: &Block, sums: &Sums, d: &mut Block) {
        match self {
            Self::Identity => {}
            Self::Sigmoid => {
                for (d, p) in d.columns_mut().iter_mut().zip(p.columns()) {
                    for at in lanes::<S>() {
                        let p = load(s, &p[at..]);
                        let slope = s.mul(p, s.sub(s.splat(1.0), p));
                        store(s, d, at, s.mul(load(s, &d[at..]), slope));
                    }
                }
            }
            Self::Softmax | Self::Normalise => {
                for at in lanes::<S>() {
                    let mut mean = s.splat(0.0);
                    for (d, p) in d.columns().iter().zip(p.columns()) {
                        mean = s.fma(load(s, &d[at..]), load(s, &p[at..]), mean);
                    }
                    let divisor = load(s, &sums.divisor[at..]);
                    for (d, p) in d.columns_mut().iter_mut().zip(p.columns()) {
                        let difference = s.sub(load(s, &d[at..]), mean);
                        let d_y = if self == Self::Softmax {
                            s.mul(load(s, &p[at..]), difference)
                        } else {
                            s.div(difference, divisor)
                        };
                        store(s, d, at, d_y);
                    }
                }
            }
        }
    }
}

/// What is known of each point of a block besides its probabilities.
pub(super) struct Sums {
    /// The sum that was divided by.
    pub(super) divisor: [f32; POINTS],
    /// The largest output, for a softmax.
    pub(super) largest: [f32; POINTS],
}

impl Sums {
    /// Of links that divide by nothing.
    pub(super) const ONE: Self = Self { divisor: [1.0; POINTS], largest: [0.0; POINTS] };
}

/// The starts of the vectors of a column. No closure: it would be a function of its own, without the instruction set.
#[inline(always)]
pub(super) fn lanes<S: Simd>() -> impl Iterator<Item = usize> {
    (0..POINTS).step_by(S::LANES)
}

#[inline(always)]
pub(super) fn store<S: Simd>(s: S, column: &mut [f32; POINTS], at: usize, v: S::V) {
    crate::simd::slices::store(s, &mut column[at..], v);
}

#[inline(always)]
fn divide<S: Simd>(s: S, block: &mut Block, at: usize, sum: S::V) {
    for column in block.columns_mut() {
        store(s, column, at, s.div(load(s, &column[at..]), sum));
    }
}
