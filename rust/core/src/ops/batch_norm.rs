//! Batch normalisation with running statistics (Ioffe & Szegedy 2015, inference form):
//!
//! `y = (x - mean[c]) / sqrt(variance[c] + epsilon) * weight[c] + bias[c]`
//!
//! which is `x * scale[c] + shift[c]` with both computed once, in float64. A channel of variance 0 without epsilon is NaN,
//! as it is in Keras.
//!
//! Training takes mean and variance from the batch, `m` values of each channel, and moves the running ones towards them.
//! What follows, a sum and an activation `f`, is part of the same passes. With `x̂ = (x - mean) / σ`, `σ² = variance + epsilon`
//! and `d_z = d_y f'(y)`:
//!
//! `d_bias = Σ d_z`, `d_weight = Σ d_z x̂`, `d_x = weight / σ * (d_z - d_bias / m - x̂ * d_weight / m)`
//!
//! because `Σ x̂ = 0` and `Σ x̂² = m` make the mean's and the variance's part the projections of `d_z` on 1 and on `x̂`. One pass
//! finds the sums, one writes `d_x` and the gradient of the sum's other term, which is `d_z`. A norm whose weight and bias
//! are both frozen stays with the running statistics, and `d_x = weight / σ * d_z`.

use super::activation::Activation;
use super::affine::{Affine, Pass, repeats};
use super::affine_backward::{BackwardPass, Norm};
use super::channel_sums::{ChannelSums, Terms};
use super::epilogue::Epilogue;
use super::lanes::load;
use super::{
    Attributes, Backward, Compile, Forward, Keeps, Op, Parameter, Role, Signature, Step, TrainStep, Wants,
    expect_inputs,
};
use crate::buffer::align_up;
use crate::parallel::Pool;
use crate::shape::Shape;
use crate::simd::{Isa, Simd};

/// Batch normalisation over everything but channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// The share of the old running statistics that training keeps (Keras's convention; PyTorch's is 1 minus this).
    pub momentum: f32,
    /// Whether the running variance is moved towards the unbiased variance (PyTorch) or the biased one (Keras).
    pub unbiased: bool,
}

impl BatchNorm {
    /// The number of its parameters: weight, bias, running_mean, running_var.
    pub const PARAMETERS: usize = 4;

    pub(super) fn parse(attributes: &mut Attributes) -> Result<Box<dyn Op>, String> {
        let (epsilon, momentum) = (attributes.number("epsilon")?, attributes.number("momentum")?);
        if epsilon < 0.0 {
            return Err(format!("attribute \"epsilon\": expected a number >= 0, got {epsilon}"));
        }
        if !(0.0..=1.0).contains(&momentum) {
            return Err(format!("attribute \"momentum\": expected a number from 0 to 1, got {momentum}"));
        }
        let unbiased = attributes.flag_or("unbiased", false)?;
        Ok(Box::new(Self { epsilon, momentum, unbiased }))
    }

    /// Scale and shift of every channel, from weight, bias, running mean and running variance.
    pub fn scale_shift(&self, parameters: &[&[f32]]) -> (Vec<f32>, Vec<f32>) {
        let &[weight, bias, mean, variance] = parameters else {
            unreachable!("batch_norm has {} parameters, got {}", Self::PARAMETERS, parameters.len())
        };
        (0..weight.len())
            .map(|c| {
                let scale = f64::from(weight[c]) / (f64::from(variance[c]) + f64::from(self.epsilon)).sqrt();
                (scale as f32, (f64::from(bias[c]) - f64::from(mean[c]) * scale) as f32)
            })
            .unzip()
    }

    fn alone(self) -> Epilogue {
        Epilogue { norm: Some(self), ..Epilogue::default() }
    }
}

impl Op for BatchNorm {
    fn kind(&self) -> &'static str {
        "batch_norm"
    }

    fn signature(&self, channels: &[usize]) -> Result<Signature, String> {
        expect_inputs(channels, 1)?;
        let c = channels[0];
        let parameters = vec![
            Parameter::new("weight", &[c], Role::Scale),
            Parameter::new("bias", &[c], Role::Bias),
            Parameter::new("running_mean", &[c], Role::RunningMean),
            Parameter::new("running_var", &[c], Role::RunningVariance),
        ];
        Ok(Signature { channels: c, parameters })
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn absorb(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        Affine { epilogue: self.alone() }.absorb(next, slot)
    }

    fn compile(&self, context: &mut Compile<'_>) -> Box<dyn Step> {
        Affine { epilogue: self.alone() }.compile(context)
    }

    fn absorb_for_training(&self, next: &dyn Op, slot: usize) -> Option<Box<dyn Op>> {
        Affine { epilogue: self.alone() }.absorb_for_training(next, slot)
    }

    fn compile_for_training(&self, context: &mut Compile<'_>, wants: Wants<'_>) -> Box<dyn TrainStep> {
        self.training(context, wants, false, Activation::Linear)
    }
}

impl BatchNorm {
    /// Both directions of the norm, with the sum and the activation that follow.
    pub(super) fn training(
        self,
        context: &Compile<'_>,
        wants: Wants<'_>,
        residual: bool,
        activation: Activation,
    ) -> Box<dyn TrainStep> {
        let (isa, shape) = (context.isa, context.output);
        let batch = wants.parameters[0] || wants.parameters[1];
        Box::new(NormTraining {
            norm: self,
            isa,
            shape,
            sums: ChannelSums::new(isa, shape),
            batch,
            residual,
            activation,
        })
    }
}

/// A batch norm in both directions.
struct NormTraining {
    norm: BatchNorm,
    isa: Isa,
    shape: Shape,
    sums: ChannelSums,
    /// Whether the statistics are those of the batch.
    batch: bool,
    residual: bool,
    activation: Activation,
}

/// The statistics of a batch, in float64.
struct Moments {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl NormTraining {
    /// Values of a channel.
    fn count(&self) -> f64 {
        (self.shape.n * self.shape.spatial()) as f64
    }

    /// Mean and biased variance of every channel. Each slab sums the distances to its own first value, whose squares
    /// lose nothing where the mean is large; slabs are joined as in Chan, Golub & LeVeque 1979.
    fn moments(&self, x: &[f32], scratch: &mut [f32], pool: &Pool) -> Moments {
        let c = self.shape.c;
        self.sums.partial(&Distances(x), scratch, pool);
        let (mut mean, mut squares, mut count) = (vec![0.0; c], vec![0.0; c], 0.0);
        for slab in 0..self.sums.slabs() {
            let points = self.sums.range(slab);
            let (first, n) = (&x[points.start * c..][..c], points.len() as f64);
            let [sum, square] = [0, 1].map(|number| self.sums.row(scratch, 2, slab, number));
            for channel in 0..c {
                let (sum, square) = (f64::from(sum[channel]), f64::from(square[channel]));
                let distance = f64::from(first[channel]) + sum / n - mean[channel];
                mean[channel] += distance * n / (count + n);
                squares[channel] += square - sum * sum / n + distance * distance * count * n / (count + n);
            }
            count += n;
        }
        Moments { mean, variance: squares.iter().map(|square: &f64| (square / count).max(0.0)).collect() }
    }

    /// What `forward` saves: mean and variance of each channel.
    fn split<'a>(&self, saved: &'a [f32]) -> [&'a [f32]; 2] {
        let (mean, variance) = saved.split_at(align_up(self.shape.c));
        [&mean[..self.shape.c], &variance[..self.shape.c]]
    }

    fn row(&self, values: impl Iterator<Item = f64>) -> Vec<f32> {
        let row: Vec<f32> = values.map(|value| value as f32).collect();
        row.repeat(repeats(row.len()))
    }
}

impl TrainStep for NormTraining {
    fn keeps(&self) -> Keeps {
        let inputs = if self.batch { vec![0] } else { Vec::new() };
        Keeps { inputs, output: self.activation != Activation::Linear }
    }

    fn saved(&self) -> usize {
        if self.batch { 2 * align_up(self.shape.c) } else { 0 }
    }

    fn scratch(&self) -> [usize; 2] {
        if self.batch { [self.sums.scratch(2); 2] } else { [0; 2] }
    }

    fn forward(&self, io: Forward<'_>) {
        if self.batch {
            let moments = self.moments(io.inputs[0], io.scratch, io.pool);
            let (mean, variance) = io.saved.split_at_mut(align_up(self.shape.c));
            mean.iter_mut().zip(&moments.mean).for_each(|(to, &from)| *to = from as f32);
            variance.iter_mut().zip(&moments.variance).for_each(|(to, &from)| *to = from as f32);
        }
        self.forward_again(io);
    }

    fn forward_again(&self, io: Forward<'_>) {
        let Forward { parameters, inputs, output, saved, pool, .. } = io;
        let (scale, shift) = if self.batch {
            let [mean, variance] = self.split(saved);
            self.norm.scale_shift(&[parameters[0], parameters[1], mean, variance])
        } else {
            self.norm.scale_shift(parameters)
        };
        let repeats = repeats(self.shape.c);
        let pass = Pass {
            isa: self.isa,
            x: inputs[0],
            residual: self.residual.then(|| inputs[1]),
            scale: &scale.repeat(repeats),
            shift: &shift.repeat(repeats),
            activation: self.activation,
        };
        pass.run(output, pool);
    }

    fn settle(&self, saved: &[f32], parameters: &mut [&mut [f32]]) {
        if !self.batch {
            return;
        }
        let [mean, variance] = self.split(saved);
        let (keep, count) = (f64::from(self.norm.momentum), self.count());
        let correction = if self.norm.unbiased { count / (count - 1.0).max(1.0) } else { 1.0 };
        let towards = |running: &mut f32, batch: f64| {
            *running = (f64::from(*running) * keep + batch * (1.0 - keep)) as f32;
        };
        parameters[2].iter_mut().zip(mean).for_each(|(running, &mean)| towards(running, f64::from(mean)));
        parameters[3]
            .iter_mut()
            .zip(variance)
            .for_each(|(running, &variance)| towards(running, f64::from(variance) * correction));
    }

    fn backward(&self, io: Backward<'_>) {
        let Backward { parameters, inputs, output, d_output, saved, d_inputs, d_parameters, scratch, pool, .. } = io;
        let Self { isa, activation, .. } = *self;
        let (d_x, d_residual) = match d_inputs {
            [d_x, d_residual] => (d_x.take(), d_residual.take()),
            d_inputs => (d_inputs[0].take(), None),
        };
        let pass =
            |factor, row, norm| BackwardPass { isa, d_y: d_output, activation, value: output, factor, row, norm };
        if !self.batch {
            let (scale, _) = self.norm.scale_shift(parameters);
            let factor = scale.repeat(repeats(self.shape.c));
            return pass(&factor, factor.len(), None).run(d_x, d_residual, pool);
        }
        let [mean, variance] = self.split(saved);
        let terms = Products { d_y: d_output, activation, y: output, x: inputs[0], mean };
        let [sum, product] = self.sums.total(&terms, scratch, pool);
        let inverse: Vec<f64> = variance
            .iter()
            .map(|&variance| (f64::from(variance) + f64::from(self.norm.epsilon)).sqrt().recip())
            .collect();
        if let Some(d_weight) = &mut d_parameters[0] {
            let gradients = product.iter().zip(&inverse);
            d_weight.iter_mut().zip(gradients).for_each(|(to, (product, inverse))| *to += (product * inverse) as f32);
        }
        if let Some(d_bias) = &mut d_parameters[1] {
            d_bias.iter_mut().zip(&sum).for_each(|(to, sum)| *to += *sum as f32);
        }
        let channels = || (0..self.shape.c).map(|c| (c, f64::from(parameters[0][c]) * inverse[c]));
        let count = self.count();
        let factor = self.row(channels().map(|(_, factor)| factor));
        let center = self.row(mean.iter().map(|&mean| f64::from(mean)));
        let slope = self.row(channels().map(|(c, factor)| -factor * inverse[c] * inverse[c] * product[c] / count));
        let offset = self.row(channels().map(|(c, factor)| -factor * sum[c] / count));
        let norm = Norm { x: inputs[0], center: &center, slope: &slope, offset: &offset };
        pass(&factor, factor.len(), Some(norm)).run(d_x, d_residual, pool);
    }
}

/// The distance of each element to that of the slab's first point, and its square.
struct Distances<'a>(&'a [f32]);

impl Terms<2> for Distances<'_> {
    #[inline(always)]
    unsafe fn terms<S: Simd>(&self, simd: S, at: usize, channel: usize, first: usize, tail: Option<S::M>) -> [S::V; 2] {
        // SAFETY: by this function's contract; the first point has the same channels.
        let (x, first) = unsafe {
            (load(simd, self.0.as_ptr().add(at), tail), load(simd, self.0.as_ptr().add(first + channel), tail))
        };
        let distance = simd.sub(x, first);
        [distance, simd.mul(distance, distance)]
    }
}

/// `d_z` and `d_z * (x - mean)`.
pub(super) struct Products<'a> {
    pub(super) d_y: &'a [f32],
    pub(super) activation: Activation,
    pub(super) y: &'a [f32],
    pub(super) x: &'a [f32],
    pub(super) mean: &'a [f32],
}

impl Terms<2> for Products<'_> {
    #[inline(always)]
    unsafe fn terms<S: Simd>(&self, simd: S, at: usize, channel: usize, _: usize, tail: Option<S::M>) -> [S::V; 2] {
        // SAFETY: by this function's contract; all maps have one shape, and the mean is a row of it.
        unsafe {
            let mut d_z = load(simd, self.d_y.as_ptr().add(at), tail);
            if self.activation != Activation::Linear {
                d_z = self.activation.backward(simd, load(simd, self.y.as_ptr().add(at), tail), d_z);
            }
            let x = load(simd, self.x.as_ptr().add(at), tail);
            let mean = load(simd, self.mean.as_ptr().add(channel), tail);
            [d_z, simd.mul(d_z, simd.sub(x, mean))]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::super::trial::{CHANNELS, Trial, naive_norm, norm, op, text, try_op};
    use super::*;

    #[test]
    fn alone_and_with_sum_and_activation() {
        for c in CHANNELS.into_iter().chain([100, 256, 2048]) {
            for dims in [[1, 1, 1], [1, 9, 13], [3, 7, 11]] {
                let shape = Shape::new(2, dims, c);
                let trial = Trial::new(norm(), &[shape]);
                let mut want = naive_norm(&trial.input(0), &trial.parameters);
                trial.check(&want);
                let trial = trial.absorb(&*op("add", &[]), &[shape]);
                want.iter_mut().zip(trial.input(1)).for_each(|(y, residual)| *y += residual);
                trial.check(&want);
                let trial = trial.absorb(&*op("activation", &[("function", text("relu"))]), &[]);
                want.iter_mut().for_each(|y| *y = y.max(0.0));
                trial.check(&want);
            }
        }
    }

    #[test]
    fn gradients() {
        for c in [1, 5, 16, 70] {
            for dims in [[1, 5, 7], [3, 4, 5]] {
                let shape = Shape::new(2, dims, c);
                Trial::new(norm(), &[shape]).check_gradients(1e-2, 2e-3);
                let trial = Trial::new(norm(), &[shape]).absorb_for_training(&*op("add", &[]), &[shape]);
                trial.check_gradients(1e-2, 2e-3);
                let relu = op("activation", &[("function", text("relu"))]);
                trial.absorb_for_training(&*relu, &[]).check_gradients(1e-4, 2e-2);
            }
        }
    }

    #[test]
    fn attributes_out_of_range_are_refused() {
        let with = |epsilon, momentum| {
            try_op("batch_norm", &[("epsilon", Value::Float(epsilon)), ("momentum", Value::Float(momentum))])
                .map(|_| ())
        };
        assert_eq!(with(0.0, 1.0), Ok(()));
        assert!(with(-1e-3, 0.9).unwrap_err().contains("epsilon"));
        assert!(with(1e-3, 1.5).unwrap_err().contains("momentum"));
    }
}
