//! Normalisation of every point's channels by a number of their own: what layer norm and unit norm share.

use super::activation::Activation;
use super::lanes::{load, store};
use super::{Io, Step};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// What a row is centred on and divided by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Its mean, and its deviation `sqrt(variance + epsilon)`.
    Deviation {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Nothing, and its length.
    Length,
}

/// `y[c] = activation((x[c] - centre) / divisor * weight[c] + bias[c])`
pub(super) struct PointNorm {
    pub(super) isa: Isa,
    pub(super) rule: Rule,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) activation: Activation,
}

impl Step for PointNorm {
    fn forward(&self, io: Io<'_>) {
        /// Elements of a task.
        const CHUNK: usize = 16 * 1024;
        let c = self.weight.len();
        let chunk = (CHUNK / c).max(1) * c;
        let x = io.inputs[0];
        io.pool.for_each_chunk(io.output, chunk, |task, y| {
            dispatch(self.isa, Points { norm: self, x: &x[task * chunk..][..y.len()], y });
        });
    }

    fn algorithm(&self) -> String {
        "point by point".into()
    }
}

struct Points<'a> {
    norm: &'a PointNorm,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Points<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let c = self.norm.weight.len();
        for (x, y) in self.x.chunks_exact(c).zip(self.y.chunks_exact_mut(c)) {
            self.norm.point(simd, x, y);
        }
    }
}

impl PointNorm {
    #[inline(always)]
    fn point<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let c = x.len();
        assert!(y.len() == c && self.weight.len() == c && self.bias.len() == c);
        let centre = match self.rule {
            Rule::Deviation { .. } => sum(simd, x, None) / c as f32,
            Rule::Length => 0.0,
        };
        let centre = simd.splat(centre);
        let squares = sum(simd, x, Some(centre));
        let factor = simd.splat(match self.rule {
            Rule::Deviation { epsilon } => 1.0 / (squares / c as f32 + epsilon).sqrt(),
            Rule::Length => 1.0 / squares.sqrt().max(1e-12),
        });
        for i in (0..c).step_by(S::LANES) {
            let tail = (i + S::LANES > c).then_some(simd.first(c - i));
            // SAFETY: a whole vector from `i`, or the tail that ends with all four.
            unsafe {
                let x = simd.mul(simd.sub(load(simd, x.as_ptr().add(i), tail), centre), factor);
                let weight = load(simd, self.weight.as_ptr().add(i), tail);
                let value = simd.fma(x, weight, load(simd, self.bias.as_ptr().add(i), tail));
                store(simd, y.as_mut_ptr().add(i), self.activation.apply(simd, value), tail);
            }
        }
    }
}

/// The sum of a row, or of its squared distances from `centre`.
#[inline(always)]
fn sum<S: Simd>(simd: S, row: &[f32], centre: Option<S::V>) -> f32 {
    let zero = simd.splat(0.0);
    let mut sums = [zero; 2];
    for (number, piece) in row.chunks(S::LANES).enumerate() {
        let tail = (piece.len() < S::LANES).then_some(simd.first(piece.len()));
        // SAFETY: the piece is a whole vector or as long as the mask.
        let x = unsafe { load(simd, piece.as_ptr(), tail) };
        let term = match centre {
            None => x,
            Some(centre) => {
                let distance = simd.sub(x, centre);
                // Lanes beyond the tail are at some distance as well.
                let distance = match tail {
                    Some(tail) => simd.select(tail, distance, zero),
                    None => distance,
                };
                simd.mul(distance, distance)
            }
        };
        sums[number % 2] = simd.add(sums[number % 2], term);
    }
    simd.reduce_add(simd.add(sums[0], sums[1]))
}
