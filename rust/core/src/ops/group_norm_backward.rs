//! Group normalisation backward.
//!
//! With `h` the normalised input and `d_z` the gradient before the activation: `d_bias = Σ d_z`,
//! `d_weight = Σ d_z * h`, and with `u = d_z * weight`, `d_x = (u - mean(u) - h * mean(u * h)) / deviation`, means over the group
//! and its points: sums over channels of `weight` times what the sample adds to `d_bias` and `d_weight`. One pass finds
//! the two sums of each channel, one writes `d_x`. Mean and deviation are kept.

use super::activation::Activation;
use super::affine::repeats;
use super::affine_backward::{BackwardPass, Norm};
use super::batch_norm::Products;
use super::channel_sums::ChannelSums;
use super::group_norm::GroupNormStep;
use super::{Backward, Forward, Gradient, Io, Keeps, TrainStep};
use crate::parallel::Pool;
use crate::shape::Shape;

/// Both directions.
pub(super) struct GroupNormTraining {
    step: GroupNormStep,
    /// Over one sample.
    sums: ChannelSums,
}

impl GroupNormTraining {
    pub(super) fn new(step: GroupNormStep) -> Self {
        let sums = ChannelSums::new(step.isa, Shape { n: 1, ..step.shape });
        Self { step, sums }
    }
}

impl TrainStep for GroupNormTraining {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: vec![0], output: self.step.op.activation != Activation::Linear }
    }

    fn saved(&self) -> usize {
        self.step.shape.n * self.step.statistics()
    }

    fn scratch(&self) -> [usize; 2] {
        [self.step.pieces().iter().sum(), self.sums.scratch(2)]
    }

    fn repack(&mut self, parameters: &[&[f32]], _: &Pool) {
        if let [weight, bias] = parameters {
            self.step.weight.copy_from_slice(weight);
            self.step.bias.copy_from_slice(bias);
        }
    }

    fn forward(&self, io: Forward<'_>) {
        let Forward { inputs, output, saved, scratch, pool, .. } = io;
        self.step.run(Io { inputs, output, in_place: false, scratch, pool }, saved);
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { inputs, output, d_output, saved, d_inputs, d_parameters, scratch, pool, .. } = io;
        let GroupNormStep { op, isa, shape, weight, .. } = &self.step;
        let (activation, sample) = (op.activation, shape.sample());
        let mut d_x = d_inputs[0].take();
        let (mut d_weight, mut d_bias) = (vec![0.0; shape.c], vec![0.0; shape.c]);
        for n in 0..shape.n {
            let part = n * sample..(n + 1) * sample;
            let (x, d_y, value) = (&inputs[0][part.clone()], &d_output[part.clone()], output.get(part.clone()));
            let value = value.unwrap_or(&[]);
            let statistics = &saved[n * self.step.statistics()..][..self.step.statistics()];
            let row = |of: &dyn Fn(usize) -> f64| -> Vec<f32> { (0..shape.c).map(|c| of(c) as f32).collect() };
            let group = |c: usize| c / (shape.c / op.groups);
            let inverse = |c: usize| 1.0 / f64::from(statistics[2 * group(c) + 1]);
            let mean = row(&|c| f64::from(statistics[2 * group(c)]));

            let terms = Products { d_y, activation, y: value, x, mean: &mean };
            let [sum, product] = self.sums.total(&terms, scratch, pool);
            let product: Vec<f64> = product.iter().enumerate().map(|(c, product)| product * inverse(c)).collect();
            d_weight.iter_mut().zip(&product).for_each(|(to, product)| *to += product);
            d_bias.iter_mut().zip(&sum).for_each(|(to, sum)| *to += sum);

            let Some(Gradient { values, plus }) = &mut d_x else { continue };
            // The means of `u` and of `u * h` over each group.
            let means = |sums: &[f64]| -> Vec<f64> {
                let width = shape.c / op.groups;
                let weighted = sums.iter().zip(weight).map(|(sum, &weight)| sum * f64::from(weight));
                let weighted: Vec<f64> = weighted.collect();
                let count = (width * shape.spatial()) as f64;
                weighted.chunks_exact(width).map(|sums| sums.iter().sum::<f64>() / count).collect()
            };
            let (mean_u, mean_uh) = (means(&sum), means(&product));
            let [factor, center, slope, offset] = [
                row(&|c| f64::from(weight[c]) * inverse(c)),
                mean.clone(),
                row(&|c| -inverse(c) * inverse(c) * mean_uh[group(c)]),
                row(&|c| -inverse(c) * mean_u[group(c)]),
            ]
            .map(|row| row.repeat(repeats(shape.c)));
            let norm = Some(Norm { x, center: &center, slope: &slope, offset: &offset });
            let pass = BackwardPass { isa: *isa, d_y, activation, value, factor: &factor, row: factor.len(), norm };
            let plus = plus.map(|plus| &plus[part.clone()]);
            pass.run(Some(Gradient { values: &mut values[part.clone()], plus }), None, pool);
        }
        for (to, from) in d_parameters.iter_mut().zip([d_weight, d_bias]) {
            if let Some(to) = to {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from as f32);
            }
        }
    }
}
