//! Normalisation of every point's channels by a number of their own: what layer norm and unit norm share.
//!
//! Backward, with `h = (x - centre) / divisor` and `u = d_y * weight`: `d_bias = Σ d_y`, `d_weight = Σ d_y * h` over points, and
//!
//! `d_x = (u - a - h * b) / divisor`
//!
//! where `b = mean(u * h)` comes from the deviation and `a = mean(u)` from the mean; with the length as divisor `a = 0` and
//! `b = Σ u * h`, or 0 where the divisor is the constant that vectors near zero have. Centre and divisor are found again
//! from `x`, which is all that is kept: a row is in the first cache.

use super::activation::Activation;
use super::channel_sums::ChannelSums;
use super::lanes::{load, store};
use super::{Backward, Compile, Forward, Gradient, Io, Keeps, Step, TrainStep};
use crate::buffer::align_up;
use crate::parallel::{Pool, SharedMut};
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

/// The least length that vectors are divided by.
const SHORTEST: f32 = 1e-12;

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
        let [centre, factor] = self.statistics(simd, x).map(|value| simd.splat(value));
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

impl PointNorm {
    /// Centre, and 1 divided by the divisor.
    #[inline(always)]
    fn statistics<S: Simd>(&self, simd: S, x: &[f32]) -> [f32; 2] {
        let c = x.len() as f32;
        let centre = match self.rule {
            Rule::Deviation { .. } => sum(simd, x, None) / c,
            Rule::Length => 0.0,
        };
        let squares = sum(simd, x, Some(simd.splat(centre)));
        let factor = match self.rule {
            Rule::Deviation { epsilon } => 1.0 / (squares / c + epsilon).sqrt(),
            Rule::Length => 1.0 / squares.sqrt().max(SHORTEST),
        };
        [centre, factor]
    }

    /// Both directions.
    pub(super) fn training(self, context: &Compile<'_>) -> Box<dyn TrainStep> {
        Box::new(PointNormTraining { norm: self, slabs: ChannelSums::new(context.isa, context.output) })
    }
}

struct PointNormTraining {
    norm: PointNorm,
    /// How the points are cut into tasks, each of which has sums of its own.
    slabs: ChannelSums,
}

impl TrainStep for PointNormTraining {
    fn keeps(&self) -> Keeps {
        Keeps::inputs(&[0])
    }

    fn scratch(&self) -> [usize; 2] {
        [0, self.slabs.scratch(2)]
    }

    fn repack(&mut self, parameters: &[&[f32]], _: &Pool) {
        if let [weight, bias] = parameters {
            self.norm.weight.copy_from_slice(weight);
            self.norm.bias.copy_from_slice(bias);
        }
    }

    fn forward(&self, io: Forward<'_>) {
        self.norm.forward(io.io());
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { inputs, d_output, d_inputs, d_parameters, scratch, pool, .. } = io;
        let (x, c) = (inputs[0], self.norm.weight.len());
        let d_x = d_inputs[0].take().map(|Gradient { values, plus }| (SharedMut::new(values), plus));
        let scratch = &mut scratch[..self.slabs.scratch(2)];
        pool.for_each_chunk(scratch, 2 * align_up(c), |slab, sums| {
            let points = self.slabs.range(slab);
            let range = points.start * c..points.end * c;
            let (d_weight, d_bias) = sums.split_at_mut(align_up(c));
            let d_x = d_x.as_ref().map(|(values, plus)| {
                // SAFETY: the points of different slabs do not overlap.
                (unsafe { values.slice_mut(range.clone()) }, plus.map(|plus| &plus[range.clone()]))
            });
            let sums = [&mut d_weight[..c], &mut d_bias[..c]];
            dispatch(
                self.norm.isa,
                BackwardPoints { norm: &self.norm, x: &x[range.clone()], d_y: &d_output[range.clone()], d_x, sums },
            );
        });
        let sums: [Vec<f64>; 2] = self.slabs.combine(scratch);
        for (to, from) in d_parameters.iter_mut().zip(sums) {
            if let Some(to) = to {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from as f32);
            }
        }
    }
}

/// The points of a slab, backward.
struct BackwardPoints<'a> {
    norm: &'a PointNorm,
    x: &'a [f32],
    d_y: &'a [f32],
    /// The gradient, and what is added to it.
    d_x: Option<(&'a mut [f32], Option<&'a [f32]>)>,
    /// Of weight and bias.
    sums: [&'a mut [f32]; 2],
}

impl Kernel for BackwardPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let c = self.norm.weight.len();
        assert!(self.x.len() == self.d_y.len() && self.x.len().is_multiple_of(c));
        assert!(self.sums.iter().all(|sums| sums.len() == c));
        assert!(self.d_x.as_ref().is_none_or(|(values, plus)| {
            values.len() == self.x.len() && plus.is_none_or(|plus| plus.len() == values.len())
        }));
        self.sums.iter_mut().for_each(|sums| sums.fill(0.0));
        for start in (0..self.x.len()).step_by(c) {
            self.point(simd, start);
        }
    }
}

impl BackwardPoints<'_> {
    #[inline(always)]
    fn point<S: Simd>(&mut self, simd: S, start: usize) {
        let c = self.norm.weight.len();
        let x = &self.x[start..start + c];
        let [centre, inverse] = self.norm.statistics(simd, x);
        let (center, factor) = (simd.splat(centre), simd.splat(inverse));
        let weight = self.norm.weight.as_ptr();
        let tail = |i: usize| (i + S::LANES > c).then(|| simd.first(c - i));
        let mut sum_u = simd.splat(0.0);
        let mut sum_uh = sum_u;
        for i in (0..c).step_by(S::LANES) {
            let tail = tail(i);
            // SAFETY: a whole vector from `i`, or the tail that ends with the channels, which all rows have.
            unsafe {
                let h = simd.mul(simd.sub(load(simd, x.as_ptr().add(i), tail), center), factor);
                let d_y = load(simd, self.d_y.as_ptr().add(start + i), tail);
                let u = simd.mul(d_y, load(simd, weight.add(i), tail));
                sum_u = simd.add(sum_u, u);
                sum_uh = simd.fma(u, h, sum_uh);
                let [d_weight, d_bias] = self.sums.each_mut().map(|sums| sums.as_mut_ptr().add(i));
                store(simd, d_weight, simd.fma(d_y, h, load(simd, d_weight, tail)), tail);
                store(simd, d_bias, simd.add(d_y, load(simd, d_bias, tail)), tail);
            }
        }
        let Some((d_x, plus)) = &mut self.d_x else { return };
        let (sum_u, sum_uh) = (simd.reduce_add(sum_u), simd.reduce_add(sum_uh));
        let (a, b) = match self.norm.rule {
            Rule::Deviation { .. } => (sum_u / c as f32, sum_uh / c as f32),
            Rule::Length => (0.0, if inverse < 1.0 / SHORTEST { sum_uh } else { 0.0 }),
        };
        let (a, b) = (simd.splat(a), simd.splat(b));
        for i in (0..c).step_by(S::LANES) {
            let tail = tail(i);
            // SAFETY: as above.
            unsafe {
                let h = simd.mul(simd.sub(load(simd, x.as_ptr().add(i), tail), center), factor);
                let d_y = load(simd, self.d_y.as_ptr().add(start + i), tail);
                let u = simd.mul(d_y, load(simd, weight.add(i), tail));
                let mut value = simd.mul(simd.sub(simd.sub(u, a), simd.mul(h, b)), factor);
                if let Some(plus) = plus {
                    value = simd.add(value, load(simd, plus.as_ptr().add(start + i), tail));
                }
                store(simd, d_x.as_mut_ptr().add(start + i), value, tail);
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
